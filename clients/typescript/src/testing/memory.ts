/**
 * A Tokentill server in memory, for tests of services: same answers, real prices and balances, no network.
 *
 *     const memory = new MemoryTokentill({ features: ['chat'], wallets: { 'user-1': 1000 }, profitPercentage: 10 });
 *     const client = memory.client();
 *
 * It takes the place of the network, so the client that is tested is the real one, with its retries, keys and outbox. What
 * it doesn't have: the admin API, and anything that survives it.
 */

import { TokenProcess } from '../client';
import type { TokenProcessOptions } from '../client';
import { randomUuid } from '../platform';
import type { Fetch } from '../platform';
import { checkedBody, invalid, Refusal } from './requests';
import type { Body } from './requests';
import { costOf, micros, tokens } from './prices';
import type { Cost, Price, ProfitRule, UsageOfRun } from './prices';
import { Wallet } from './wallet';
import type { Hold } from './wallet';

const URL_OF_MEMORY = 'http://memory.tokentill.test';
const API_KEY = 'memory-key';
const HOLD_SECONDS = 900;
const HOLDS_MAX = 1_000;
const BATCH_ENDS_MAX = 1_000;

export interface MemoryOptions {
  features?: readonly string[];
  /** Each user's tokens. */
  wallets?: Readonly<Record<string, number>>;
  /** Of every run that no other rule is for. */
  profitPercentage?: number;
}

/** An end as it was billed. Amounts in tokens. */
export interface MemoryEnd extends UsageOfRun {
  user_id: string;
  process_id?: string;
  idempotency_key?: string;
  base_cost: number;
  profit: number;
  cost: number;
  price_id: number | null;
}

/** Tokens that an open run has reserved. */
export interface MemoryHold {
  process_id: string;
  token: number;
  expires_at: Date;
}

/** One call as it came in. */
export interface MemoryCall {
  path: string;
  body: unknown;
  headers: Record<string, string>;
}

interface Feature {
  minMicros: bigint;
  refusesUnpriced: boolean;
  reversalSeconds: number;
}

/** What a run has cost, to be taken back. */
interface Account {
  end: MemoryEnd;
  costMicros: bigint;
  acceptedAtMs: number;
  /** By reference. */
  reversals: Map<string, Done>;
}

interface Answer {
  status: number;
  body: object;
  isReplayed?: boolean;
}

/** What a key or a process was used for. */
interface Done {
  fingerprint: string;
  answer: Answer;
}

export class MemoryTokentill {
  readonly ends: MemoryEnd[] = [];
  readonly calls: MemoryCall[] = [];
  /** No connection: as when the server, or the network, is away. */
  away = false;
  private readonly features = new Map<string, Feature>();
  private readonly packages = new Map<string, readonly string[] | 'all'>([['default', 'all']]);
  private readonly wallets = new Map<string, Wallet>();
  private readonly prices: Price[] = [];
  private readonly profits: ProfitRule[] = [];
  private readonly starts = new Map<string, Done>();
  private readonly extensions = new Map<string, Done>();
  private readonly ended = new Map<string, Done>();
  /** By idempotency key and by process id. */
  private readonly accounts = new Map<string, Account>();
  private readonly owners = new Map<string, string>();
  private readonly failures: number[] = [];
  private answersToLose = 0;
  private passedMs = 0;

  constructor({ features = [], wallets = {}, profitPercentage }: MemoryOptions = {}) {
    for (const id of features) this.addFeature(id);
    for (const [user_id, token] of Object.entries(wallets)) this.addWallet(user_id, { token });
    if (profitPercentage !== undefined) this.addProfit({ percentage: profitPercentage });
  }

  // ── what there is ──────────────────────────────────────────────────────────────────────────────────────────────

  /** `unpriced: "refuse"`: no start with a model that no price covers. For `reversal_seconds` its runs can be reversed. */
  addFeature(
    feature_endpoint_id: string,
    options: { min_token?: number; unpriced?: 'default' | 'refuse'; reversal_seconds?: number } = {},
  ): void {
    const { min_token = 1, unpriced, reversal_seconds: reversalSeconds = 0 } = options;
    const refusesUnpriced = unpriced === 'refuse';
    this.features.set(feature_endpoint_id, { minMicros: micros(min_token), refusesUnpriced, reversalSeconds });
  }

  /** A package of these features only; the package `default` has them all. */
  addPackage(package_id: string, features: readonly string[]): void {
    this.packages.set(package_id, features);
  }

  addWallet(user_id: string, options: { token?: number; package_id?: string; overdraft_limit_token?: number } = {}): void {
    const { token = 0, package_id = 'default', overdraft_limit_token = 0 } = options;
    if (!this.packages.has(package_id)) throw new RangeError(`There is no package ${package_id}`);
    const wallet = new Wallet(package_id, micros(overdraft_limit_token));
    wallet.post(micros(token));
    this.wallets.set(user_id, wallet);
  }

  /** A percentage for a feature, a model, both, or all. */
  addProfit(rule: ProfitRule): void {
    this.profits.push({ ...rule, id: rule.id ?? this.profits.length + 1 });
  }

  /** Answers its id. */
  addPrice(price: Price): number {
    const id = price.id ?? this.prices.length + 1;
    this.prices.push({ ...price, id });
    return id;
  }

  /** Pays in; debts are paid first, the oldest first. */
  topUp(user_id: string, token: number): void {
    this.walletOf(user_id).post(micros(token));
  }

  /** No more starts; ends are billed all the same. */
  suspend(user_id: string): void {
    this.walletOf(user_id).isActive = false;
  }

  // ── what has become of it ──────────────────────────────────────────────────────────────────────────────────────

  /** What the user can spend now. */
  token(user_id: string): number {
    return tokens(this.walletOf(user_id).spendableMicros);
  }

  /** Costs that are not paid yet. */
  debt(user_id: string): number {
    return tokens(this.walletOf(user_id).debtMicros);
  }

  /** The open holds, the oldest first. */
  holds(user_id: string): MemoryHold[] {
    return [...this.walletOf(user_id).holds.values()].map(({ process_id, amountMicros, expiresAtMs }) => {
      return { process_id, token: tokens(amountMicros), expires_at: new Date(expiresAtMs) };
    });
  }

  // ── clients and faults ─────────────────────────────────────────────────────────────────────────────────────────

  /** A client of this server. For the one that the functions share: `configureTokenProcess({ transport: memory })`. */
  client(options: TokenProcessOptions = {}): TokenProcess {
    return new TokenProcess({ url: URL_OF_MEMORY, apiKey: API_KEY, transport: this, disabled: false, ...options });
  }

  /** Answers the next calls with this status, without carrying them out. */
  failNext(status: number, times = 1): void {
    for (let i = 0; i < times; i += 1) this.failures.push(status);
  }

  /** Carries the next calls out, and loses their answers. */
  loseAnswers(times = 1): void {
    this.answersToLose += times;
  }

  /** Lets time pass: holds expire. */
  advance(seconds: number): void {
    this.passedMs += seconds * 1000;
  }

  /** What a client calls in the place of the platform's `fetch`. */
  readonly fetch: Fetch = async (url, init) => {
    init.signal.throwIfAborted();
    if (this.away) throw new TypeError('fetch failed', { cause: new Error('MemoryTokentill is away') });
    const path = new URL(url).pathname.replace('/api/token-process/', '');
    const headers = Object.fromEntries(new Headers(init.headers));
    const body: unknown = JSON.parse(init.body);
    this.calls.push({ path, body, headers });
    const status = this.failures.shift();
    const answer = status === undefined ? this.answered(path, body, headers['idempotency-key']) : failed(status);
    if (this.answersToLose > 0) {
      this.answersToLose -= 1;
      throw new TypeError('fetch failed', { cause: new Error('The answer was lost') });
    }
    return new Response(JSON.stringify(answer.body), {
      status: answer.status,
      headers: {
        'content-type': 'application/json',
        ...(answer.isReplayed ? { 'idempotent-replayed': 'true' } : {}),
        ...(answer.status === 503 ? { 'retry-after': '0' } : {}),
      },
    });
  };

  private answered(path: string, body: unknown, key: string | undefined): Answer {
    try {
      switch (path) {
        case 'start':
          return this.start(checkedBody('start', body), key);
        case 'end':
          return this.end(checkedBody('end', body), key);
        case 'end/batch':
          return this.endBatch(body);
        case 'estimate':
          return this.estimate(checkedBody('end', body));
        case 'end/reverse':
          return this.reverse(checkedBody('reverse', body));
        case 'cancel':
          return this.cancel(checkedBody('cancel', body));
        case 'hold/extend':
          return this.extend(checkedBody('extend', body), key);
        default:
          throw new Refusal(404, 'not_found', 'Not Found');
      }
    } catch (error) {
      if (error instanceof Refusal) return { status: error.status, body: error.body };
      throw error;
    }
  }

  private start(body: Body, key: string | undefined): Answer {
    const { user_id, feature_endpoint_id, hold_token = 0, hold_seconds = HOLD_SECONDS, model } = body as {
      user_id: string;
      feature_endpoint_id: string;
      hold_token?: number;
      hold_seconds?: number;
      model?: string;
    };
    const before = this.starts.get(`${user_id} ${key}`);
    if (key !== undefined && before) return repeated(before, body);
    const refusesUnpriced = this.features.get(feature_endpoint_id)?.refusesUnpriced === true;
    if (model !== undefined && refusesUnpriced && this.cost({ feature_endpoint_id, model }).priceId === null) {
      throw new Refusal(403, 'model_not_priced', 'No price covers this model', { data: { user_id, status: 'not-access-able' } });
    }
    const wallet = this.walletOf(user_id);
    if (!wallet.isActive) throw noWallet();
    const feature = this.featureOf(user_id, feature_endpoint_id, wallet);
    const holdMicros = micros(hold_token);
    if (holdMicros > 0n && wallet.holds.size >= HOLDS_MAX) throw new Refusal(429, 'too_many_holds', 'The wallet has too many open holds');
    if (!wallet.grants(feature.minMicros, holdMicros)) {
      return this.remembered(this.starts, [`${user_id} ${key}`], key, body, success('Token process started', denied(user_id, wallet)));
    }
    const process_id = randomUuid();
    this.owners.set(process_id, user_id);
    const hold = { process_id, amountMicros: holdMicros, expiresAtMs: this.nowMs() + hold_seconds * 1000 };
    if (holdMicros > 0n) wallet.holds.set(process_id, hold);
    const data = { user_id, token: tokens(wallet.spendableMicros), status: 'access-able', process_id };
    const answer = success('Token process started', holdMicros > 0n ? { ...data, ...dataOf(hold) } : data);
    return this.remembered(this.starts, [`${user_id} ${key}`], key, body, answer);
  }

  private end(body: Body, key: string | undefined): Answer {
    const { user_id, process_id } = body as { user_id: string; process_id?: string };
    const names = [key, process_id].filter((name) => name !== undefined);
    for (const name of names) {
      const before = this.ended.get(name);
      if (before) return repeated(before, body);
    }
    this.checkOwner(user_id, process_id);
    const usage = usageOf(body);
    this.checkFeature(usage.feature_endpoint_id);
    const wallet = this.walletOf(user_id);
    const isFree = usage.input_token === 0 && usage.output_token === 0 && usage.requests === 0;
    const cost = this.cost(usage);
    const costMicros = cost.baseMicros + cost.profitMicros;
    const isPaid = wallet.charge(costMicros, process_id);
    const status = isPaid ? 'return-able' : 'not-return-able';
    const answer = success('Token process ended', { user_id, token: tokens(wallet.spendableMicros), cost: tokens(costMicros), status });
    if (isFree) return answer;
    const billed: MemoryEnd = {
      user_id,
      ...usage,
      ...(process_id === undefined ? {} : { process_id }),
      ...(key === undefined ? {} : { idempotency_key: key }),
      base_cost: tokens(cost.baseMicros),
      profit: tokens(cost.profitMicros),
      cost: tokens(costMicros),
      price_id: cost.priceId,
    };
    this.ends.push(billed);
    const account = { end: billed, costMicros, acceptedAtMs: this.nowMs(), reversals: new Map<string, Done>() };
    if (key !== undefined) this.accounts.set(`key ${key}`, account);
    if (process_id !== undefined) this.accounts.set(`process ${process_id}`, account);
    return this.remembered(this.ended, names, key ?? process_id, body, answer);
  }

  private endBatch(body: unknown): Answer {
    const ends: unknown = (body as Body | null)?.['ends'];
    if (!Array.isArray(ends) || ends.length < 1 || ends.length > BATCH_ENDS_MAX) {
      throw invalid({ ends: [`Must be a list of 1 to ${BATCH_ENDS_MAX} ends.`] });
    }
    const results = ends.map((end: unknown) => {
      try {
        const { idempotency_key, ...rest } = checkedBody('end', end);
        const { body: answer, isReplayed } = this.end(rest, idempotency_key as string | undefined);
        return { ...answer, status: 200, ...(isReplayed ? { idempotent_replayed: true } : {}) };
      } catch (error) {
        if (error instanceof Refusal) return error.body;
        throw error;
      }
    });
    return success('Token processes ended', { results });
  }

  private estimate(body: Body): Answer {
    const { user_id, process_id } = body as { user_id: string; process_id?: string };
    const usage = usageOf(body);
    this.checkFeature(usage.feature_endpoint_id);
    const wallet = this.walletOf(user_id);
    const { baseMicros, profitMicros, priceId, profitRuleId } = this.cost(usage);
    const costMicros = baseMicros + profitMicros;
    const ownHoldMicros = wallet.ownHoldMicros(process_id);
    return success('Token process estimated', {
      cost: tokens(costMicros),
      base_cost: tokens(baseMicros),
      profit: tokens(profitMicros),
      price_id: priceId,
      profit_rule_id: profitRuleId,
      token: tokens(wallet.spendableMicros + ownHoldMicros - costMicros),
      status: wallet.covers(costMicros, ownHoldMicros) ? 'return-able' : 'not-return-able',
    });
  }

  private reverse(body: Body): Answer {
    const { user_id, process_id, idempotency_key, reference, reason } = body as Record<string, string | undefined>;
    const named = [
      ...(process_id === undefined ? [] : [this.accounts.get(`process ${process_id}`)]),
      ...(idempotency_key === undefined ? [] : [this.accounts.get(`key ${idempotency_key}`)]),
    ];
    const [account] = named;
    if (!account || account.end.user_id !== user_id || named.some((each) => each !== account)) {
      throw new Refusal(404, 'not_found', 'End not found');
    }
    const before = account.reversals.get(String(reference));
    if (before) return repeated(before, { reason });
    const { reversalSeconds = 0 } = this.features.get(account.end.feature_endpoint_id) ?? {};
    if (reversalSeconds === 0 || this.nowMs() - account.acceptedAtMs > reversalSeconds * 1000) {
      throw new Refusal(403, 'reversal_not_allowed', "This run can't be reversed by its service any more");
    }
    if (account.reversals.size > 0) throw new Refusal(409, 'exceeds_original', 'This run has nothing left to give back');
    const token = tokens(account.costMicros);
    const wasOwed = this.walletOf(user_id).giveBack(account.costMicros);
    const data = { user_id, token, posted_token: wasOwed ? 0 : token, debt_token: wasOwed ? -token : 0, reference };
    const answer = success('Token process reversed', data);
    return { ...this.remembered(account.reversals, [String(reference)], reference, { reason }, answer), status: 201 };
  }

  private cancel(body: Body): Answer {
    const { user_id, process_id } = body as { user_id: string; process_id: string };
    this.checkOwner(user_id, process_id);
    const wallet = this.walletOf(user_id);
    if (this.ended.has(process_id)) throw new Refusal(409, 'already_ended', 'This run has ended');
    wallet.holds.delete(process_id);
    return success('Token process cancelled', { user_id, process_id, token: tokens(wallet.spendableMicros) });
  }

  private extend(body: Body, key: string | undefined): Answer {
    const { user_id, process_id, hold_token = 0, hold_seconds = 0 } = body as {
      user_id: string;
      process_id: string;
      hold_token?: number;
      hold_seconds?: number;
    };
    this.checkOwner(user_id, process_id);
    const wallet = this.walletOf(user_id);
    const before = this.extensions.get(`${user_id} ${key}`);
    if (key !== undefined && before) return repeated(before, body);
    const hold = wallet.holds.get(process_id);
    if (!hold) throw new Refusal(404, 'hold_not_found', 'No open hold');
    const isGranted = hold_token === 0 || wallet.grants(0n, micros(hold_token));
    if (isGranted) {
      hold.amountMicros += micros(hold_token);
      hold.expiresAtMs += hold_seconds * 1000;
    }
    const status = isGranted ? 'access-able' : 'not-access-able';
    const data = { user_id, process_id, token: tokens(wallet.spendableMicros), ...dataOf(hold), status };
    const answer = success(isGranted ? 'Hold extended' : 'Hold not extended', data);
    return this.remembered(this.extensions, [`${user_id} ${key}`], key, body, answer);
  }

  /** The same call again is answered the same. */
  private remembered(to: Map<string, Done>, names: readonly string[], key: string | undefined, body: Body, answer: Answer): Answer {
    if (key !== undefined) for (const name of names) to.set(name, { fingerprint: fingerprintOf(body), answer });
    return answer;
  }

  private walletOf(user_id: string): Wallet {
    const wallet = this.wallets.get(user_id);
    if (!wallet) throw noWallet();
    wallet.expire(this.nowMs());
    return wallet;
  }

  private featureOf(user_id: string, id: string, wallet: Wallet): Feature {
    const feature = this.features.get(id);
    const named = this.packages.get(wallet.package_id);
    if (feature && named && (named === 'all' || named.includes(id))) return feature;
    throw noFeature(denied(user_id, wallet));
  }

  /** An end is billed whatever has become of the package meanwhile. */
  private checkFeature(id: string): void {
    if (!this.features.has(id)) throw noFeature();
  }

  private checkOwner(user_id: string, process_id: string | undefined): void {
    const owner = process_id === undefined ? undefined : this.owners.get(process_id);
    if (owner !== undefined && owner !== user_id) {
      throw new Refusal(409, 'process_id_of_another_user', 'This process_id was given to another user');
    }
  }

  private cost(usage: Partial<UsageOfRun> & { feature_endpoint_id: string }): Cost {
    return costOf({ ...NO_USAGE, ...usage }, this.prices, this.profits, new Date(this.nowMs()));
  }

  private nowMs(): number {
    return Date.now() + this.passedMs;
  }
}

const NO_USAGE = { input_token: 0, output_token: 0, cached_input_token: 0, cache_write_token: 0, reasoning_token: 0, requests: 1 };

function usageOf(body: Body): UsageOfRun {
  const given = Object.fromEntries(Object.entries(NO_USAGE).map(([name, unless]) => [name, Number(body[name] ?? unless)]));
  const counts = given as typeof NO_USAGE;
  // Who doesn't count requests has made one, if anything was used.
  if (body['requests'] == null && counts.input_token + counts.output_token === 0) counts.requests = 0;
  return {
    ...counts,
    feature_endpoint_id: String(body['feature_endpoint_id']),
    ...(typeof body['model'] === 'string' ? { model: body['model'] } : {}),
  };
}

function repeated({ fingerprint, answer }: Done, body: Body): Answer {
  if (fingerprint === fingerprintOf(body)) return { ...answer, isReplayed: true };
  throw new Refusal(409, 'idempotency_conflict', 'This key was used with another body');
}

function fingerprintOf(body: Body): string {
  return JSON.stringify(Object.entries(body).sort());
}

function dataOf(hold: Hold): { hold_token: number; expires_at: string } {
  return { hold_token: tokens(hold.amountMicros), expires_at: new Date(hold.expiresAtMs).toISOString() };
}

function denied(user_id: string, wallet: Wallet): object {
  return { user_id, token: tokens(wallet.spendableMicros), status: 'not-access-able' };
}

function success(message: string, data: object): Answer {
  return { status: 200, body: { success: true, message, data } };
}

function failed(status: number): Answer {
  const code = status >= 500 ? 'temporarily_unavailable' : 'refused';
  return { status, body: new Refusal(status, code, 'As the test wants it').body };
}

function noWallet(): Refusal {
  return new Refusal(404, 'wallet_not_found', 'User wallet not found');
}

function noFeature(data?: object): Refusal {
  const message = 'Feature endpoint is not available in your package';
  return new Refusal(403, 'feature_not_available', message, data ? { data } : {});
}
