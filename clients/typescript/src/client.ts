/**
 * The client: the calls of the token process, and `begin` for a run whose code isn't one function.
 *
 * With an outbox, an end is on disk before it is first sent and is taken off when it is acknowledged. When the server
 * can't be reached the call still throws, with `queued` set: the end is safe, only its answer is missing.
 */

import { AwayRuns } from './away';
import type { AwayReport } from './away';
import {
  AuthenticationError,
  ConfigurationError,
  messageOf,
  OutboxError,
  TokenProcessError,
  UnavailableError,
  ValidationError,
} from './errors';
import { disabledFetch, isDisabled } from './disabled';
import type { RepeatableCall } from './errors';
import type { Hooks } from './hooks';
import type { OutboxOptions } from './outbox';
import { environment, randomUuid } from './platform';
import type { Fetch } from './platform';
import { TokenProcessRun } from './run';
import type { RunOptions } from './run';
import { OutboxSender } from './sender';
import type { FlushReport } from './sender';
import { settingsOf } from './settings';
import type { GivenSettings, Settings } from './settings';
import { Transport } from './transport';
import type { Address } from './transport';
import { endBody } from './wire';
import { runToTheEnd } from './wrapper';
import type {
  TTokenProcessBatchResponse,
  TTokenProcessCancelPayload,
  TTokenProcessCancelResponse,
  TTokenProcessEndPayload,
  TTokenProcessEndResponse,
  TTokenProcessEstimateResponse,
  TTokenProcessHoldExtendPayload,
  TTokenProcessHoldExtendResponse,
  TTokenProcessReversePayload,
  TTokenProcessReverseResponse,
  TTokenProcessStartPayload,
  TTokenProcessStartResponse,
} from './wire';

export interface TokenProcessOptions extends GivenSettings {
  /** TOKEN_SERVER_URL unless given, else http://localhost:5000. */
  url?: string | undefined;
  /** SERVER_API_KEY unless given. */
  apiKey?: string | undefined;
  /** Keep ends on disk until they are acknowledged: the file's path, or a path with its bounds. */
  outbox?: string | OutboxOptions | undefined;
  /** Sends what the outbox holds and is due, once a second. On unless false; `flush()` sends it in any case. */
  sendInBackground?: boolean | undefined;
  /** What to tell of calls, repetitions and the outbox. */
  hooks?: Hooks | undefined;
  /** Every start is access-able and nothing is sent: TOKENTILL_DISABLED unless given. */
  disabled?: boolean | undefined;
  /** Takes the calls in the place of the network: a `MemoryTokentill` of tokentill/testing, or anything with a `fetch`. */
  transport?: { fetch: Fetch } | undefined;
}

export interface CallOptions {
  /** Aborted, the call ends at once with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** A hold runs out by itself, so giving it back is not worth a caller's half minute. */
const CANCEL_TIMEOUT_SECONDS = 5;
const FLUSH_TIMEOUT_SECONDS = 60;

export class TokenProcess {
  readonly settings: Settings;
  private readonly isOff: boolean;
  private readonly address: () => Address;
  private readonly transport: Transport;
  private readonly sender: OutboxSender | undefined;
  private readonly awayRuns: AwayRuns;
  private readonly behind = new Set<Promise<unknown>>();

  /** Throws a ConfigurationError for settings that can't work. An outbox that can't be used is logged, and tried again. */
  constructor(options: TokenProcessOptions = {}) {
    const { url, apiKey, sendInBackground = true, hooks, transport, disabled } = options;
    const isOff = isDisabled(disabled);
    const outbox = isOff ? undefined : options.outbox;
    this.settings = settingsOf(options);
    this.isOff = isOff;
    this.address = isOff ? () => NOWHERE : () => addressOf(url, apiKey);
    this.transport = new Transport(this.address, this.settings, hooks, isOff ? disabledFetch : transport?.fetch);
    this.awayRuns = new AwayRuns(this.settings);
    this.transport.onAnswered = () => this.awayRuns.answered();
    if (outbox !== undefined) {
      this.sender = new OutboxSender(typeof outbox === 'string' ? { path: outbox } : outbox, this.transport);
      // Opened now, so that what is wrong with it is said now, and not with the first end.
      this.sender.problem();
      if (sendInBackground) this.sender.startInBackground();
    }
  }

  async start(payload: TTokenProcessStartPayload, options: CallOptions = {}): Promise<TTokenProcessStartResponse> {
    const keyed = { ...payload, idempotency_key: keyOf(payload.idempotency_key) };
    return this.repeatable({ call: 'start', payload: keyed }, async () => {
      try {
        return await this.sendStart(keyed, options.signal);
      } catch (error) {
        if (error instanceof UnavailableError) return this.startWithoutServer(payload, error);
        throw error;
      }
    });
  }

  /** Bills one run, once, however often it has to be sent. */
  async end(payload: TTokenProcessEndPayload): Promise<TTokenProcessEndResponse> {
    const key = keyOf(payload.idempotency_key);
    const fields = endBody(payload);
    const body = JSON.stringify(fields);
    return this.repeatable({ call: 'end', payload: { ...fields, idempotency_key: key } }, async () => {
      const { sender } = this;
      if (!sender) return this.sendEnd(key, body);
      try {
        sender.put(key, body);
      } catch (error) {
        if (!(error instanceof OutboxError)) throw error;
        return this.sendEndWithoutOutbox(key, body, error);
      }
      try {
        const answer = await this.sendEnd(key, body, this.settings.outboxWaitSeconds);
        sender.acknowledge(key);
        return answer;
      } catch (error) {
        if (error instanceof TokenProcessError) {
          error.queued = sender.queue(key, error);
          if (error instanceof UnavailableError) this.awayRuns.queued(payload.input_token + payload.output_token);
        }
        throw error;
      }
    });
  }

  /** Up to 1,000 ends in one call; each is answered for itself, in order. Bypasses the outbox. */
  async endBatch(ends: readonly TTokenProcessEndPayload[]): Promise<TTokenProcessBatchResponse> {
    // Made once, before the first attempt, so that a repeated batch is the same batch.
    const keyed = ends.map((end) => ({ ...endBody(end), idempotency_key: keyOf(end.idempotency_key) }));
    return this.repeatable({ call: 'endBatch', payload: keyed }, () =>
      this.transport.send({
        operation: 'endBatch',
        body: JSON.stringify({ ends: keyed }),
        limitSeconds: this.settings.endTimeoutSeconds,
        insistent: true,
      }),
    );
  }

  /** What `end` would answer now, by the same payload. Nothing changes, and a key isn't looked up. */
  async estimate(payload: TTokenProcessEndPayload): Promise<TTokenProcessEstimateResponse> {
    const body = endBody(payload);
    return this.repeatable({ call: 'estimate', payload: body }, () =>
      this.transport.send({ operation: 'estimate', body: JSON.stringify(body), limitSeconds: this.settings.startTimeoutSeconds }),
    );
  }

  /** Gives a hold back when the feature failed. May be repeated. */
  async cancel(payload: TTokenProcessCancelPayload): Promise<TTokenProcessCancelResponse> {
    const { user_id, process_id } = payload;
    return this.repeatable({ call: 'cancel', payload: { user_id, process_id } }, () =>
      this.transport.send({
        operation: 'cancel',
        body: JSON.stringify({ user_id, process_id }),
        limitSeconds: Math.min(CANCEL_TIMEOUT_SECONDS, this.settings.totalTimeoutSeconds),
      }),
    );
  }

  /**
   * Takes back a run that was billed, at most once under its reference. ReversalRefusedError: its feature endpoint allows
   * that for so long only, if at all, or nothing is left to give back. An end that still waits in the outbox has to be sent
   * first: until then the answer is a 404.
   */
  async reverse(payload: TTokenProcessReversePayload): Promise<TTokenProcessReverseResponse> {
    const { user_id, process_id, idempotency_key, reference, reason } = payload;
    const body = { user_id, process_id, idempotency_key, reference, reason };
    return this.repeatable({ call: 'reverse', payload: body }, () =>
      this.transport.send({
        operation: 'reverse',
        body: JSON.stringify(body),
        limitSeconds: this.settings.endTimeoutSeconds,
      }),
    );
  }

  /** Adds to an open hold, to its life, or to both. `data.status` not-access-able: the hold is as it was. */
  async extendHold(payload: TTokenProcessHoldExtendPayload): Promise<TTokenProcessHoldExtendResponse> {
    const { user_id, process_id, hold_token, hold_seconds } = payload;
    const body = { user_id, process_id, hold_token, hold_seconds };
    const idempotencyKey = keyOf(payload.idempotency_key);
    return this.repeatable({ call: 'extendHold', payload: { ...body, idempotency_key: idempotencyKey } }, () =>
      this.transport.send({
        operation: 'extendHold',
        body: JSON.stringify(body),
        idempotencyKey,
        limitSeconds: this.settings.startTimeoutSeconds,
      }),
    );
  }

  /** Makes the call again that an error carries in `repeat`, under the key it had. */
  async repeat(call: RepeatableCall): Promise<unknown> {
    switch (call.call) {
      case 'start':
        return this.start(call.payload);
      case 'end':
        return this.end(call.payload);
      case 'endBatch':
        return this.endBatch(call.payload);
      case 'estimate':
        return this.estimate(call.payload);
      case 'reverse':
        return this.reverse(call.payload);
      case 'cancel':
        return this.cancel(call.payload);
      case 'extendHold':
        return this.extendHold(call.payload);
    }
  }

  /** Starts a run, or throws InsufficientTokensError with the balance. */
  begin(payload: TTokenProcessStartPayload, options: RunOptions = {}): Promise<TokenProcessRun> {
    return TokenProcessRun.begin(this, payload, options);
  }

  /**
   * Begins a run, hands it to `act`, and settles it: what `act` reads in it and returns is billed, and what it had read until
   * then where it fails. Its result, or its stream, is the answer.
   */
  async run<R>(config: TTokenProcessStartPayload & RunOptions, act: (run: TokenProcessRun) => R): Promise<Awaited<R>> {
    const { user_id, feature_endpoint_id, hold_token, hold_seconds, model, idempotency_key, ...options } = config;
    const payload = Object.entries({ user_id, feature_endpoint_id, hold_token, hold_seconds, model, idempotency_key });
    const given = payload.filter(([, value]) => value !== undefined);
    const run = await this.begin(Object.fromEntries(given) as unknown as TTokenProcessStartPayload, options);
    return (await runToTheEnd(run, () => act(run))) as Awaited<R>;
  }

  /** How it stands with a server that is away, and with the runs that `whenAway: "open"` let begin. */
  awayReport(): AwayReport {
    return this.awayRuns.report(this.transport.breaker);
  }

  /** Sends all that waits in the outbox, back-offs or not. Gives up after `timeoutSeconds`: 60 unless given. */
  async flush(options: { timeoutSeconds?: number } = {}): Promise<FlushReport> {
    if (this.isOff) return { sent: 0, refused: 0, postponed: 0 };
    if (!this.sender) throw new ConfigurationError('There is no outbox: give its path, or set TOKENTILL_OUTBOX');
    return this.sender.flush(options.timeoutSeconds ?? FLUSH_TIMEOUT_SECONDS);
  }

  /**
   * Waits for the ends that are still sent behind callers who have gone, stops the background sending and closes the outbox
   * file. What is left in it stays for the next start.
   */
  async close(): Promise<void> {
    await Promise.all(this.behind);
    await this.sender?.stop();
  }

  /** Something that never rejects and that nobody may wait for to the end: `close` does. */
  sendBehind(work: Promise<void>): void {
    this.behind.add(work);
    void work.finally(() => this.behind.delete(work));
  }

  /** A start that was aborted, or not answered, may have made a hold: its key finds it again. Never rejects. */
  async undoStart(asked: TTokenProcessStartPayload): Promise<void> {
    try {
      const { process_id } = (await this.sendStart(asked)).data;
      if (process_id !== undefined) await this.cancel({ user_id: asked.user_id, process_id });
    } catch (error) {
      // Still no answer: whoever wanted the start has heard of that.
      if (error instanceof UnavailableError) return;
      console.warn('[Token Process] A hold that may have been made will expire:', messageOf(error));
    }
  }

  private sendStart(payload: TTokenProcessStartPayload, signal?: AbortSignal): Promise<TTokenProcessStartResponse> {
    const { user_id, feature_endpoint_id, hold_token, hold_seconds, model, idempotency_key } = payload;
    return this.transport.send({
      operation: 'start',
      body: JSON.stringify({ user_id, feature_endpoint_id, hold_token, hold_seconds, model }),
      idempotencyKey: idempotency_key,
      limitSeconds: this.settings.startTimeoutSeconds,
      signal,
    });
  }

  private sendEnd(key: string, body: string, waitSeconds?: number): Promise<TTokenProcessEndResponse> {
    return this.transport.send({
      operation: 'end',
      body,
      idempotencyKey: key,
      limitSeconds: waitSeconds ?? this.settings.endTimeoutSeconds,
      // What the outbox holds will be sent; what it doesn't hold is worth every attempt.
      insistent: waitSeconds === undefined,
    });
  }

  /** Full, or no disk: the end is still worth every attempt. Only if that fails too is it the caller's. */
  private async sendEndWithoutOutbox(key: string, body: string, disk: OutboxError): Promise<TTokenProcessEndResponse> {
    try {
      return await this.sendEnd(key, body);
    } catch (error) {
      if (!(error instanceof UnavailableError)) throw error;
      // Not the error itself: one failure of the disk may be the answer to many ends.
      throw disk.of(error);
    }
  }

  private startWithoutServer(payload: TTokenProcessStartPayload, error: UnavailableError): TTokenProcessStartResponse {
    const refusal = this.awayRuns.refusal(() => this.sender?.problem());
    if (refusal !== undefined) {
      if (this.settings.whenAway === 'open') error.message += ` (and the run may not begin without it: ${refusal})`;
      throw error;
    }
    const data = { user_id: payload.user_id, token: 0, status: 'access-able' as const, away: true };
    return { success: true, message: `Begun without the token server: ${error.message}`, data };
  }

  /** Gives the error of a call what is needed to make it again. */
  private async repeatable<T>(call: RepeatableCall, act: () => Promise<T>): Promise<T> {
    try {
      return await act();
    } catch (error) {
      if (error instanceof TokenProcessError) {
        error.repeat ??= call;
        if ('idempotency_key' in call.payload) error.idempotencyKey ??= call.payload.idempotency_key as string;
      }
      if (error instanceof AuthenticationError && this.address().apiKey === '') {
        error.message += ' (is SERVER_API_KEY set?)';
      }
      throw error;
    }
  }
}

/** Where a disabled client sends its calls, whatever its settings say. */
const NOWHERE: Address = { url: 'http://disabled.tokentill.invalid', apiKey: '' };

const VISIBLE_ASCII = /^[\x20-\x7e]*$/;

function keyOf(given: string | undefined): string {
  if (given === undefined) return randomUuid();
  if (given.length < 1 || given.length > 255 || !VISIBLE_ASCII.test(given)) {
    const reason = 'Must be 1 to 255 printable ASCII characters.';
    throw new ValidationError('idempotency_key is not usable', { code: 'validation_failed', errors: { idempotency_key: [reason] } });
  }
  return given;
}

function addressOf(givenUrl: string | undefined, givenKey: string | undefined): Address {
  const url = (givenUrl || environment('TOKEN_SERVER_URL') || 'http://localhost:5000').replace(/\/+$/, '');
  const apiKey = (givenKey ?? environment('SERVER_API_KEY') ?? '').trim();
  if (!/^https?:\/\/[^/]/.test(url) || !canParse(url)) {
    throw new ConfigurationError(`TOKEN_SERVER_URL must be an http or https URL, not ${JSON.stringify(url)}`);
  }
  if (!VISIBLE_ASCII.test(apiKey)) {
    throw new ConfigurationError('SERVER_API_KEY holds characters that no HTTP header can carry');
  }
  return { url, apiKey };
}

function canParse(url: string): boolean {
  try {
    return new URL(url).host !== '';
  } catch {
    return false;
  }
}
