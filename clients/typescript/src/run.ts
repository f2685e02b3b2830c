/**
 * One run of a feature: what is between a start and its end.
 *
 * What is read while it goes on is billed when it is over, also when the code failed half-way: the tokens are used. With
 * nothing used its hold is given back. A model that was called and whose usage is missing or unreadable is never a free
 * run in silence: the end that was not billed goes to `onEndError`, or with `requireUsage` the caller gets a UsageError.
 */

import { randomUUID } from 'node:crypto';

import type { TokenProcess } from './client';
import { InsufficientTokensError, messageOf, TokenProcessError, UsageError, UsageMissingError } from './errors';
import type { SeenAnswer } from './errors';
import { streamed } from './stream';
import type { Usage, UsageReader } from './usage';
import { UsageMeter } from './usage/meter';
import type { Place, RunUsage } from './usage/meter';
import type {
  TTokenProcessEndPayload,
  TTokenProcessEndResponse,
  TTokenProcessStartData,
  TTokenProcessStartPayload,
} from './wire';

/** An end that was not billed, or not yet, with everything needed to bill it by hand. */
export interface UnbilledEnd extends TTokenProcessEndPayload {
  /** Of a UsageError: what there was of the answers that could not be counted. */
  seen?: readonly SeenAnswer[] | undefined;
}

export type OnEndError = (error: unknown, end: UnbilledEnd) => unknown;

export interface RunOptions {
  /** How to read usage from a result, or from each chunk of a stream: `providerUsage` unless given. */
  usage?: UsageReader | undefined;
  /** Usage that is missing or unreadable is thrown, once the feature has run, and nothing is billed. */
  requireUsage?: boolean | undefined;
  /** The feature costs nothing, whatever its results say. */
  free?: boolean | undefined;
  /** Told of an end that was not billed (`error.queued`: it waits in the outbox) instead of the console. */
  onEndError?: OnEndError | undefined;
}

export class TokenProcessRun {
  readonly idempotencyKey = randomUUID();
  private readonly meter: UsageMeter;
  private isFree: boolean;
  private settling: Promise<void> | undefined;

  constructor(
    private readonly client: TokenProcess,
    private readonly asked: TTokenProcessStartPayload,
    readonly started: TTokenProcessStartData,
    private readonly options: RunOptions = {},
  ) {
    this.meter = new UsageMeter(options.usage);
    this.isFree = options.free === true;
  }

  /** Starts a run, or throws InsufficientTokensError with the balance. */
  static async begin(client: TokenProcess, payload: TTokenProcessStartPayload, options: RunOptions): Promise<TokenProcessRun> {
    const { data } = await client.start(payload);
    if (data.status !== 'access-able') {
      const { user_id, feature_endpoint_id } = payload;
      throw new InsufficientTokensError({ token: data.token, user_id, feature_endpoint_id });
    }
    return new TokenProcessRun(client, payload, data, options);
  }

  /** What the user could spend at the start. */
  get token(): number {
    return this.started.token;
  }

  /**
   * Adds the usage that a result, or an event of a stream, reports. An answer with an id counts once. Never throws: what
   * can't be read is said when the run ends.
   */
  async read(value: unknown): Promise<void> {
    await this.meter.read(value, 'result');
  }

  /** Adds tokens that the feature itself counted. Throws UsageUnreadableError for what is no count. */
  use(usage: Usage): void {
    this.meter.use(usage);
  }

  /** What is read from now on belongs to another answer, where no id says so. */
  nextAnswer(): void {
    this.meter.nextAnswer();
  }

  /** This run costs nothing, whatever was or will be read. */
  free(): void {
    this.isFree = true;
  }

  /** Passes the chunks on and reads their usage; the run is over when they are, or when the stream is left. */
  stream<T extends object>(source: T): T {
    const stream = streamed(this, source);
    if (!stream) throw new TypeError('run.stream needs a stream: a ReadableStream or something to iterate');
    return stream as T;
  }

  /**
   * Bills what was read, or `usage` where it is given. May be called again: it carries the same key and bills once.
   * Undefined for a run without usage, whose hold is given back. Throws what a call throws, and with `requireUsage`
   * UsageMissingError or UsageUnreadableError.
   */
  async end(usage?: Usage): Promise<TTokenProcessEndResponse | undefined> {
    if (this.isFree) return this.endWithout();
    if (usage) return this.bill({ ...usage, input_token: usage.input_token || 0, output_token: usage.output_token || 0 });
    return this.bill(await this.counted(false));
  }

  /** The run failed: gives its hold back. */
  async cancel(): Promise<void> {
    const { process_id } = this.started;
    if (process_id !== undefined) await this.client.cancel({ user_id: this.asked.user_id, process_id });
  }

  /** What the wrapper and its streams meet. */
  observe(value: unknown, place: Place): void | Promise<void> {
    return this.meter.read(value, place);
  }

  /**
   * The run is over, and its end or its hold is settled, once. Throws nothing but the UsageError of `requireUsage`, and that
   * only of a run that came to its own end.
   */
  settle(how: { leftEarly: boolean }): Promise<void> {
    return (this.settling ??= this.settleOnce(how));
  }

  private async settleOnce(how: { leftEarly: boolean }): Promise<void> {
    const usage = await this.counted(how.leftEarly);
    try {
      if (how.leftEarly && isNothing(usage)) await this.giveBack();
      else await (this.isFree ? this.endWithout() : this.bill(usage));
    } catch (error) {
      await this.report(error, usage);
    }
  }

  /** The end of this run as it would be sent. */
  endOf(usage: Usage & { requests?: number | undefined }): TTokenProcessEndPayload {
    return {
      user_id: this.asked.user_id,
      feature_endpoint_id: this.asked.feature_endpoint_id,
      input_token: usage.input_token || 0,
      output_token: usage.output_token || 0,
      model: usage.model,
      ...(usage.cachedInputToken ? { cached_input_token: usage.cachedInputToken } : {}),
      ...(usage.cacheWriteToken ? { cache_write_token: usage.cacheWriteToken } : {}),
      ...(usage.reasoningToken ? { reasoning_token: usage.reasoningToken } : {}),
      ...((usage.requests ?? 0) > 1 ? { requests: usage.requests } : {}),
      process_id: this.started.process_id,
      idempotency_key: this.idempotencyKey,
    };
  }

  /** Reports what could not be counted, and answers what could. */
  private async counted(leftEarly: boolean): Promise<RunUsage> {
    if (this.isFree) return { input_token: 0, output_token: 0, requests: 0 };
    const { usage, error, known } = this.meter.outcome(leftEarly);
    if (this.options.requireUsage && !leftEarly && (error || !known)) {
      await this.endWithout();
      throw error ?? new UsageMissingError('Nothing says what this run used');
    }
    if (error) await this.report(error, usage);
    return usage;
  }

  private async bill(usage: Usage & { input_token: number; output_token: number }): Promise<TTokenProcessEndResponse | undefined> {
    // Not "nothing > 0": a count that is negative or no number at all is the server's to refuse, not ours to hide.
    return isNothing(usage) ? this.endWithout() : this.client.end(this.endOf(usage));
  }

  /** A free run has no end. */
  private async endWithout(): Promise<undefined> {
    if (this.asked.hold_token !== undefined) await this.giveBack();
    return undefined;
  }

  /** A hold that could not be given back runs out by itself, so nobody needs to hear of it but the log. */
  private async giveBack(): Promise<void> {
    try {
      await this.cancel();
    } catch (error) {
      console.warn('[Token Process] A hold was not given back and will expire:', messageOf(error));
    }
  }

  private async report(error: unknown, usage: RunUsage): Promise<void> {
    const end: UnbilledEnd = this.endOf(usage);
    if (error instanceof UsageError) end.seen = error.seen;
    try {
      await (this.options.onEndError ?? reportEndError)(error, end);
    } catch (failure) {
      console.error('[Token Process] onEndError failed:', failure);
    }
  }
}

function isNothing(usage: { input_token: number; output_token: number }): boolean {
  return usage.input_token === 0 && usage.output_token === 0;
}

function reportEndError(error: unknown, end: UnbilledEnd): void {
  if (error instanceof TokenProcessError && error.queued) {
    console.warn('[Token Process] The end waits in the outbox:', error.message, JSON.stringify(end));
    return;
  }
  // Everything needed to bill it by hand, with the same key.
  console.error('[Token Process] End error:', error, JSON.stringify(end));
}
