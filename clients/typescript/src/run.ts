/**
 * One run of a feature: what is between a start and its end.
 *
 * What is read while it goes on is billed when it is over, also when the code failed half-way: the tokens are used. With
 * nothing used its hold is given back. A model that was called and whose usage is missing or unreadable is never a free
 * run in silence: the end that was not billed goes to `onEndError`, or with `requireUsage` the caller gets a UsageError.
 */

import type { TokenProcess } from './client';
import { inRun } from './context';
import { HoldNotFoundError, HoldRefusedError, InsufficientTokensError, messageOf, TokenProcessError, UnavailableError, UsageError, UsageMissingError } from './errors';
import type { SeenAnswer } from './errors';
import { KEPT_HOLD_SECONDS, keepHold } from './hold';
import { atMost, quietly } from './hooks';
import { RunPart } from './part';
import { randomUuid, weakly } from './platform';
import { streamed } from './sources';
import type { Settling, Stoppable, StreamedRun } from './stream';
import type { Usage, UsageReader } from './usage';
import { UsageMeter } from './usage/meter';
import { checked } from './usage/model';
import type { Lane, Place, RunUsage } from './usage/meter';
import type {
  TTokenProcessEndPayload,
  TTokenProcessEndResponse,
  TTokenProcessHoldExtendData,
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
  /** Told of an end that was not billed (`error.queued`: it waits in the outbox) instead of the console. Waited for if it is async. */
  onEndError?: OnEndError | undefined;
  /** Extend the hold by itself before it expires, for as long as the run lasts. */
  keepHold?: boolean | undefined;
  /** Aborted: the caller has gone. A stream is closed at its source, and what flowed until then is billed. */
  signal?: AbortSignal | undefined;
  /**
   * Called, when the run has begun, with a promise that is resolved when it is settled. For edge runtimes, which stop what is
   * under way when the response is sent or its reader has gone: `(settled) => ctx.waitUntil(settled)`.
   */
  waitUntil?: ((settled: Promise<void>) => void) | undefined;
}

export class TokenProcessRun implements StreamedRun {
  readonly idempotencyKey = randomUuid();
  /** The answer to its end, once it was billed. */
  ended: TTokenProcessEndResponse | undefined;
  /** Why its end was not billed, or not yet. */
  endError: unknown;
  /** What of its usage could not be counted. */
  usageError: UsageError | undefined;
  private readonly meter: UsageMeter;
  /** Made when somebody asks for the signal: most runs never stop early, and a signal costs as much as a small call. */
  private stopping: AbortController | undefined;
  private stopped: { reason: unknown } | undefined;
  private isFree: boolean;
  private isSettledByHand = false;
  private settling: Promise<void> | undefined;
  /** A function is under way that is to end it, or the stream that this function returned. */
  private isLed = false;
  /** What `stream` has made, as long as it is under way. */
  private readonly parts = new Set<RunPart>();
  /** To tell what is read when it is over. */
  private countedAtEnd: { input_token: number; output_token: number } = NOTHING;
  /** Held weakly: a stream that nobody iterates any more may be collected, and settles the run then. */
  private watched: { deref(): Stoppable | undefined } | undefined;
  private readonly letGo: () => void;
  private isOverFor: () => void = () => undefined;

  constructor(
    private readonly client: TokenProcess,
    private readonly asked: TTokenProcessStartPayload,
    readonly started: TTokenProcessStartData,
    private readonly options: RunOptions = {},
  ) {
    this.meter = new UsageMeter(options.usage);
    this.isFree = options.free === true;
    const { signal: caller } = options;
    const stop = (): void => this.stop(caller?.reason);
    caller?.addEventListener('abort', stop, { once: true });
    const isHeld = asked.hold_token !== undefined && started.process_id !== undefined;
    const dropHold = options.keepHold === true && isHeld ? keepHold(this, asked.hold_seconds ?? KEPT_HOLD_SECONDS) : undefined;
    this.letGo = () => {
      caller?.removeEventListener('abort', stop);
      dropHold?.();
    };
    const { waitUntil } = options;
    if (waitUntil) {
      const settled = new Promise<void>((resolve) => (this.isOverFor = resolve));
      void quietly('waitUntil', () => waitUntil(settled));
    }
    if (caller?.aborted) stop();
  }

  /** Starts a run, or throws InsufficientTokensError with the balance. */
  static async begin(client: TokenProcess, payload: TTokenProcessStartPayload, options: RunOptions): Promise<TokenProcessRun> {
    const { signal, keepHold: isKept } = options;
    signal?.throwIfAborted();
    const { hold_token } = payload;
    const asked = { ...payload, idempotency_key: payload.idempotency_key ?? randomUuid() };
    // How long a kept hold lives must be known here, and not only at the server.
    if (isKept && hold_token !== undefined) asked.hold_seconds ??= KEPT_HOLD_SECONDS;
    let data: TTokenProcessStartData;
    try {
      ({ data } = await client.start(asked, { signal }));
    } catch (error) {
      const unanswered = error instanceof UnavailableError && error.attempts > 0;
      // Whoever gave a key may come again with it, and find the hold.
      if (hold_token !== undefined && payload.idempotency_key === undefined && (signal?.aborted || unanswered)) {
        client.sendBehind(client.undoStart(asked));
        if (unanswered) error.repeat = { call: 'start', payload };
      }
      throw error;
    }
    if (data.away && hold_token !== undefined) client.sendBehind(client.undoStart(asked));
    if (data.status === 'access-able') return new TokenProcessRun(client, asked, data, options);
    const { user_id, feature_endpoint_id } = payload;
    const error = new InsufficientTokensError({ token: data.token, user_id, feature_endpoint_id });
    error.idempotencyKey = asked.idempotency_key;
    // A refusal is decided anew under its key.
    error.repeat = { call: 'start', payload: asked };
    throw error;
  }

  /** What the user could spend at the start. */
  get token(): number {
    return this.started.token;
  }

  /** Aborted when this run should stop: its stream was closed, its caller has gone, or its hold was refused. For the provider. */
  get signal(): AbortSignal {
    this.stopping ??= new AbortController();
    if (this.stopped) this.stopping.abort(this.stopped.reason);
    return this.stopping.signal;
  }

  /**
   * Adds the usage that a result, or an event of a stream, reports. An answer with an id counts once. Never throws: what
   * can't be read is said when the run ends. What comes later than that is not billed, and reported.
   */
  async read(value: unknown): Promise<void> {
    await this.meter.read(value, 'result');
    await this.reportLateUsage();
  }

  /** Adds tokens that the feature itself counted. Throws UsageUnreadableError for what is no count. */
  use(usage: Usage): void {
    this.meter.use(usage);
    void this.reportLateUsage();
  }

  /** What is read from now on belongs to another answer, where no id says so. */
  nextAnswer(): void {
    this.meter.nextAnswer();
    for (const { lane } of this.parts) this.meter.nextAnswer(lane);
  }

  /** This run costs nothing, whatever was or will be read. */
  free(): void {
    this.isFree = true;
  }

  /**
   * Passes the chunks on and reads their usage. There may be several, one after the other or at once: a run that its function
   * ends goes on beside them, and is over when that and they are. One by hand is over when the last of them is, also where it
   * is left.
   */
  stream<T extends object>(source: T): T {
    if (this.isSettledByHand || this.settling) throw new TypeError('This run is over: what the stream uses would not be billed');
    const stream = streamed(new RunPart(this), source);
    if (!stream) throw new TypeError('run.stream needs a stream: a ReadableStream or something to iterate');
    return stream as T;
  }

  /** Adds to the hold, to its life, or to both. Refused, the run and its stream are stopped and HoldRefusedError is thrown. */
  async extendHold(more: { token?: number; seconds?: number }): Promise<TTokenProcessHoldExtendData> {
    const { process_id } = this.started;
    if (process_id === undefined) throw new HoldNotFoundError('This run has no hold: it began without the server');
    const { user_id, feature_endpoint_id } = this.asked;
    const idempotency_key = randomUuid();
    const payload = { user_id, process_id, hold_token: more.token, hold_seconds: more.seconds, idempotency_key };
    const { data } = await this.client.extendHold(payload);
    if (data.status === 'access-able') return data;
    const error = new HoldRefusedError({ token: data.token, user_id, feature_endpoint_id });
    error.idempotencyKey = idempotency_key;
    error.repeat = { call: 'extendHold', payload };
    this.stop(error);
    throw error;
  }

  /**
   * Bills what was read, or `usage` where it is given. May be called again: it carries the same key and bills once.
   * Undefined for a run without usage, whose hold is given back. Throws what a call throws, UsageUnreadableError where
   * `usage` has what is no count, and with `requireUsage` what is wrong with what was read.
   */
  async end(usage?: Usage): Promise<TTokenProcessEndResponse | undefined> {
    const given = usage && { input_token: 0, output_token: 0, ...checked(usage), model: usage.model };
    this.isSettledByHand = true;
    this.letGo();
    try {
      if (this.isFree) return await this.endWithout();
      return await this.bill(given ?? (await this.counted(false)));
    } finally {
      this.isOverFor();
    }
  }

  /** The run failed: gives its hold back. */
  async cancel(): Promise<void> {
    this.isSettledByHand = true;
    this.letGo();
    await this.cancelHold().finally(this.isOverFor);
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

  // ── what the wrapper and its streams meet ──────────────────────────────────────────────────────────────────────

  /** The signal of whoever called, where there is one. */
  get caller(): AbortSignal | undefined {
    return this.options.signal;
  }

  /** How long whoever has left is kept waiting. */
  get patienceSeconds(): number {
    return this.client.settings.cancelledEndTimeoutSeconds;
  }

  get run(): TokenProcessRun {
    return this;
  }

  /** Somebody will call `settle`: the run isn't over with its streams. */
  lead(): void {
    this.isLed = true;
  }

  /** A stream is under way that calls `settle` when it is over. */
  get isLedByStream(): boolean {
    return this.watched !== undefined;
  }

  within<R>(act: () => R): R {
    return inRun(this, act);
  }

  observe(value: unknown, place: Place, lane?: Lane): void | Promise<void> {
    if (place === 'chunk' && this.meter.isPassedOn(value)) return;
    return this.meter.read(value, place, lane);
  }

  /** The answer that goes on in `lane` was left, and the run goes on. */
  wasLeft(lane: Lane): void {
    this.meter.wasLeft(lane);
  }

  watch(stream: Stoppable): void {
    this.watched = weakly(stream);
    if (this.stopped) stream.stop(this.stopped.reason);
  }

  /** Tells the function, through `signal`, and the streams that it is enough. */
  stop(reason: unknown): void {
    if (this.stopped) return;
    this.stopped = { reason };
    this.stopping?.abort(reason);
    this.watched?.deref()?.stop(reason);
    for (const part of this.parts) part.stopStream(reason);
  }

  /**
   * The run is over, as soon as its other streams are, and its end or its hold is settled, once. Throws nothing but the
   * UsageError of `requireUsage`, and that only of a run that came to its own end. Whoever has `gone` is kept waiting for a
   * moment only: the end is sent on behind. `unheard`: there is nobody to throw it to, so it is reported like any other.
   */
  async settle(how: Settling): Promise<void> {
    this.isLed = false;
    const { leftEarly, gone = false, unheard = false } = how;
    if (!leftEarly && this.parts.size > 0) return;
    // What was asked of a provider under this signal is for nobody any more.
    if (leftEarly) this.stop(new DOMException('The run is over', 'AbortError'));
    this.settling ??= this.settleOnce(leftEarly, unheard).finally(this.isOverFor);
    if (!gone && !this.caller?.aborted) return this.settling;
    const behind = this.settling.catch(() => undefined);
    this.client.sendBehind(behind);
    await atMost(behind, this.patienceSeconds);
  }

  // ── what its other streams meet: see RunPart ───────────────────────────────────────────────────────────────────

  /** Nothing goes on in this run but `part`. */
  isOnly(part: RunPart): boolean {
    return !this.isLed && [...this.parts].every((other) => other === part);
  }

  begins(part: RunPart): void {
    this.parts.add(part);
    if (this.stopped) part.stopStream(this.stopped.reason);
  }

  observePart(part: RunPart, value: unknown, place: Place): void | Promise<void> {
    // What a generator returns is about the run only where it is all of it.
    if (place === 'end') return this.meter.read(value, this.isOnly(part) ? 'end' : 'result', part.lane);
    return this.meter.readInside(value, part.lane);
  }

  async isOver(part: RunPart, how: Settling): Promise<void> {
    this.parts.delete(part);
    if (this.isOnly(part)) return this.settle(how);
    if (how.leftEarly) this.meter.wasLeft(part.lane);
  }

  private async settleOnce(leftEarly: boolean, unheard: boolean): Promise<void> {
    this.letGo();
    if (this.isSettledByHand) return;
    this.countedAtEnd = this.meter.counted;
    const usage = await this.counted(leftEarly, unheard);
    try {
      if (leftEarly && isNothing(usage)) await this.giveBack();
      else await (this.isFree ? this.endWithout() : this.bill(usage));
    } catch (error) {
      await this.report(error, usage);
    }
  }

  /** Reports what could not be counted, and answers what could. */
  private async counted(leftEarly: boolean, unheard = false): Promise<RunUsage> {
    if (this.isFree) return NOTHING;
    const { usage, error, known } = this.meter.outcome(leftEarly);
    if (this.options.requireUsage && !leftEarly && (error || !known)) {
      const failure = error ?? new UsageMissingError('Nothing says what this run used');
      if (unheard) {
        await this.report(failure, usage);
        return NOTHING;
      }
      await this.endWithout();
      throw this.carrying(failure, this.endOf(usage));
    }
    if (error) await this.report(error, usage);
    return usage;
  }

  private async bill(usage: Usage & { input_token: number; output_token: number }): Promise<TTokenProcessEndResponse | undefined> {
    if (isNothing(usage)) return this.endWithout();
    this.ended = await this.client.end(this.endOf(usage));
    return this.ended;
  }

  /** A free run has no end. */
  private async endWithout(): Promise<undefined> {
    if (this.asked.hold_token !== undefined) await this.giveBack();
    return undefined;
  }

  /** A hold that could not be given back runs out by itself, so nobody needs to hear of it but the log. */
  private async giveBack(): Promise<void> {
    try {
      await this.cancelHold();
    } catch (error) {
      console.warn('[Token Process] A hold was not given back and will expire:', messageOf(error));
    }
  }

  private async cancelHold(): Promise<void> {
    const { process_id } = this.started;
    if (process_id !== undefined) await this.client.cancel({ user_id: this.asked.user_id, process_id });
  }

  private async report(error: unknown, usage: RunUsage): Promise<void> {
    if (error instanceof UsageError) this.usageError = error;
    else this.endError = error;
    await this.reportEnd(error, this.endOf(usage));
  }

  private async reportEnd(error: unknown, payload: TTokenProcessEndPayload): Promise<void> {
    const end: UnbilledEnd = { ...payload, ...(error instanceof UsageError ? { seen: error.seen } : {}) };
    this.carrying(error, payload);
    await quietly('onEndError', () => (this.options.onEndError ?? reportEndError)(error, end));
  }

  /** What comes when all is settled needs an end of its own, under another key: `repeat` of the error has it. */
  private async reportLateUsage(): Promise<void> {
    if (!this.settling || this.isSettledByHand || this.isFree) return;
    await this.settling.catch(() => undefined);
    const { counted } = this.meter;
    const late = this.endOf({
      input_token: Math.max(0, counted.input_token - this.countedAtEnd.input_token),
      output_token: Math.max(0, counted.output_token - this.countedAtEnd.output_token),
    });
    if (isNothing(late)) return;
    this.countedAtEnd = counted;
    const error = new UsageError('Usage was read when its run was over already: it is not billed');
    await this.reportEnd(error, { ...late, process_id: undefined, idempotency_key: randomUuid() });
  }

  /** What to repeat, once somebody has found out what was used or why it was refused. */
  private carrying<E>(error: E, end: TTokenProcessEndPayload): E {
    if (error instanceof TokenProcessError) {
      error.idempotencyKey ??= this.idempotencyKey;
      error.repeat ??= { call: 'end', payload: end };
    }
    return error;
  }
}

const NOTHING: RunUsage = { input_token: 0, output_token: 0, requests: 0 };

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
