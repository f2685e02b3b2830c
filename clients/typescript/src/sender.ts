/**
 * Puts ends into an outbox and sends what stands in it: alone where there is one end, through the batch call where there
 * are more.
 *
 * An end leaves the outbox only when the server has acknowledged it. One that the server itself refuses stays, with the
 * reason, for a person to look at. Everything else (no answer, 5xx, a wrong API key) waits and is sent again.
 *
 * An outbox that can't be used is an OutboxError to whoever needs it, is logged, and is tried again a little later. Ends
 * don't wait for it: they are sent without.
 */

import { outsideOfRuns } from './context';
import { errorFromResponse, isRecord, OutboxError, OutboxFullError, OutboxUnsupportedError, TokenProcessError, UnavailableError } from './errors';
import { tell } from './hooks';
import type { OutboxEvent } from './hooks';
import { Outbox } from './outbox';
import type { OutboxOptions, QueuedEnd } from './outbox';
import { outsideOfTraces } from './tracing';
import { backoffSeconds, sleep } from './transport';
import type { Transport } from './transport';
import type { TTokenProcessBatchResponse } from './wire';

/** Half of what the server takes in one call: a batch that has to be sent again is not lost time for long. */
const BATCH_ENDS_MAX = 500;
const BATCH_BYTES_MAX = 900_000;
const LEASE_SLACK_SECONDS = 5;
const POSTPONE_BASE_SECONDS = 1;
const POSTPONE_MAX_SECONDS = 60;
/** However little time is left for a flush, a call that it makes has a fair chance to be answered. */
const CALL_SECONDS_MIN = 1;
const RETRY_AFTER_MAX_SECONDS = 3_600;
const POLL_SECONDS = 1;
const STOP_PATIENCE_SECONDS = 1;
/** An outbox that failed is left alone so long: a locked or dying disk may block the whole process at every try. */
const UNUSABLE_SECONDS = 5;
const LOG_AGAIN_SECONDS = 60;

export interface FlushReport {
  /** Acknowledged and removed. */
  sent: number;
  /** Refused by the server; kept for a person. */
  refused: number;
  /** Still waiting, to be sent again. */
  postponed: number;
  /** What the last refused or postponed end failed with. */
  error?: TokenProcessError;
}

export class OutboxSender {
  private opened: Outbox | undefined;
  private failure: { error: OutboxError; untilMs: number } | undefined;
  private logged: { message: string; againMs: number } | undefined;
  private round: Promise<unknown> | undefined;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private stopped = false;

  constructor(
    private readonly options: OutboxOptions,
    private readonly transport: Transport,
  ) {}

  startInBackground(): void {
    if (this.failure?.error instanceof OutboxUnsupportedError) return;
    // The client may be made in the middle of a request: what it sends later is not that request's.
    outsideOfTraces(() => outsideOfRuns(() => this.schedule(0)));
  }

  async stop(): Promise<void> {
    this.stopped = true;
    clearTimeout(this.timer);
    // A call that hangs is left behind: what it was to send is on disk.
    if (this.round) await Promise.race([this.round, sleep(STOP_PATIENCE_SECONDS)]);
    this.opened?.close();
  }

  /** Why no end can be put into the outbox now; undefined when one can. */
  problem(): string | undefined {
    try {
      const { pending, refused, ends_max } = this.use((outbox) => outbox.status());
      return pending + refused >= ends_max ? `The outbox ${this.options.path} is full` : undefined;
    } catch (error) {
      return (error as Error).message;
    }
  }

  /** On disk, and leased for as long as the caller will try to send it. Throws an OutboxError. */
  put(key: string, body: string): void {
    this.use((outbox) => outbox.put(key, body, this.transport.settings.outboxWaitSeconds + LEASE_SLACK_SECONDS));
  }

  /** Never throws: a row that could not be removed is sent once more, and not billed again. */
  acknowledge(key: string): void {
    this.quietly(() => this.use((outbox) => outbox.acknowledge([key])));
  }

  /** Notes why an end of ours is still in the outbox. True: it will be sent again. */
  queue(key: string, error: TokenProcessError): boolean {
    const queued = this.keep([{ idempotency_key: key, attempts: 0 }], error);
    this.tell({ queued: queued ? 1 : 0 });
    return queued;
  }

  private keep(ends: readonly Pick<QueuedEnd, 'idempotency_key' | 'attempts'>[], error: TokenProcessError): boolean {
    // When even this fails, the lease runs out by itself and the ends are due then.
    this.quietly(() => {
      const keys = ends.map((end) => end.idempotency_key);
      if (error.refused) {
        for (const key of keys) this.use((outbox) => outbox.refuse(key, error.message));
        return;
      }
      const attempts = ends.reduce((most, end) => Math.max(most, end.attempts), 0) + 1;
      const asked = error instanceof UnavailableError ? (error.retryAfterSeconds ?? 0) : 0;
      const delaySeconds = Math.max(
        backoffSeconds(attempts, POSTPONE_BASE_SECONDS, POSTPONE_MAX_SECONDS),
        Math.min(asked, RETRY_AFTER_MAX_SECONDS),
      );
      this.use((outbox) => outbox.postpone(keys, error.message, delaySeconds));
    });
    return !error.refused;
  }

  /** Sends all that waits, back-offs or not, for `timeoutSeconds` at most. `postponed` still waits. Throws an OutboxError. */
  async flush(timeoutSeconds: number): Promise<FlushReport> {
    const deadlineMs = performance.now() + timeoutSeconds * 1000;
    const report: FlushReport = { sent: 0, refused: 0, postponed: 0 };
    for (let failed = 0; ; ) {
      const sentBefore = report.sent;
      await this.sendRound(report, true, deadlineMs);
      report.postponed = this.use((outbox) => outbox.status().pending);
      if (report.postponed === 0 || performance.now() >= deadlineMs || this.stopped) return report;
      if (report.sent > sentBefore) continue;
      // Nothing got through, or what is left is in another sender's hands until its lease runs out.
      failed += 1;
      const { baseDelaySeconds, maxDelaySeconds } = this.transport.settings;
      const leftSeconds = Math.max(0, deadlineMs - performance.now()) / 1000;
      await sleep(Math.min(backoffSeconds(failed, baseDelaySeconds, maxDelaySeconds), leftSeconds));
    }
  }

  private async sendRound(report: FlushReport, early: boolean, deadlineMs = Infinity): Promise<void> {
    const { timeoutSeconds, totalTimeoutSeconds } = this.transport.settings;
    const queued = this.use((outbox) =>
      outbox.claim({
        limit: BATCH_ENDS_MAX,
        bytesMax: BATCH_BYTES_MAX,
        leaseSeconds: totalTimeoutSeconds + timeoutSeconds + LEASE_SLACK_SECONDS,
        early,
      }),
    );
    if (queued.length > 0) await this.send(queued, report, deadlineMs);
  }

  private async send(queued: readonly QueuedEnd[], report: FlushReport, deadlineMs: number): Promise<void> {
    let errors: (TokenProcessError | undefined)[];
    try {
      errors = await this.sendTogether(queued, deadlineMs);
    } catch (error) {
      if (!(error instanceof TokenProcessError)) throw error;
      errors = queued.map(() => error);
    }
    const sent = queued.filter((_, index) => errors[index] === undefined);
    this.use((outbox) => outbox.acknowledge(sent.map((end) => end.idempotency_key)));
    report.sent += sent.length;
    const postponed: QueuedEnd[] = [];
    let reason: TokenProcessError | undefined;
    queued.forEach((end, index) => {
      const error = errors[index];
      if (!error) return;
      report.error = error;
      if (error.refused) {
        this.keep([end], error);
        report.refused += 1;
      } else {
        postponed.push(end);
        reason ??= error;
      }
    });
    if (reason) this.keep(postponed, reason);
    report.postponed += postponed.length;
    this.tell({ sent: sent.length, postponed: postponed.length });
  }

  /** For every end undefined or why it was not taken. Throws when the call as a whole failed. */
  private async sendTogether(queued: readonly QueuedEnd[], deadlineMs: number): Promise<(TokenProcessError | undefined)[]> {
    if (queued.length > 1) {
      try {
        return await this.sendBatch(queued, deadlineMs);
      } catch (error) {
        // A server without the batch call, or one end that no batch survives: each for itself.
        const alone = error instanceof TokenProcessError && [400, 404, 405, 413].includes(error.status ?? 0);
        if (!alone) throw error;
      }
    }
    const errors: (TokenProcessError | undefined)[] = [];
    let unanswered: TokenProcessError | undefined;
    for (const end of queued) {
      if (!unanswered) {
        try {
          await this.transport.send({
            operation: 'end',
            body: end.body,
            idempotencyKey: end.idempotency_key,
            limitSeconds: this.leftSeconds(deadlineMs),
            insistent: true,
          });
          errors.push(undefined);
          continue;
        } catch (error) {
          if (!(error instanceof TokenProcessError)) throw error;
          errors.push(error);
          if (!error.refused) unanswered = error;
          continue;
        }
      }
      errors.push(unanswered);
    }
    return errors;
  }

  private async sendBatch(queued: readonly QueuedEnd[], deadlineMs: number): Promise<(TokenProcessError | undefined)[]> {
    // Spliced as text: the bodies are JSON already, and stay the very bodies of the single call.
    const ends = queued.map(
      ({ body, idempotency_key }) => `${body.slice(0, -1)}, "idempotency_key": ${JSON.stringify(idempotency_key)}}`,
    );
    const answer = await this.transport.send<TTokenProcessBatchResponse>({
      operation: 'endBatch',
      body: `{"ends": [${ends.join(', ')}]}`,
      limitSeconds: this.leftSeconds(deadlineMs),
      insistent: true,
    });
    const results: unknown = answer.data?.results;
    if (!Array.isArray(results) || results.length !== queued.length) {
      throw new UnavailableError("The answer to end/batch doesn't match its ends");
    }
    return results.map((result: unknown) => {
      if (isRecord(result) && result['success'] === true) return undefined;
      const status = isRecord(result) && typeof result['status'] === 'number' ? result['status'] : 500;
      return errorFromResponse({ status, statusText: '', headers: {}, data: result });
    });
  }

  private leftSeconds(deadlineMs: number): number {
    const left = (deadlineMs - performance.now()) / 1000;
    return Math.min(this.transport.settings.totalTimeoutSeconds, Math.max(CALL_SECONDS_MIN, left));
  }

  private schedule(delaySeconds: number): void {
    if (this.stopped) return;
    this.timer = setTimeout(() => {
      const report: FlushReport = { sent: 0, refused: 0, postponed: 0 };
      this.round = this.sendRound(report, false)
        .catch((error: unknown) => this.log(error))
        .finally(() => {
          this.round = undefined;
          this.schedule(report.sent > 0 && report.postponed === 0 ? 0 : POLL_SECONDS);
        });
    }, delaySeconds * 1000);
    // What is left is on disk: it must not keep a finished program alive.
    this.timer.unref?.();
  }

  /** The one way to the file: opens it where it isn't open, and leaves it alone for a while after it has failed. */
  private use<R>(act: (outbox: Outbox) => R): R {
    if (this.failure && performance.now() < this.failure.untilMs) throw this.failure.error;
    try {
      if (this.stopped) return actOnce(this.options, act);
      this.opened ??= new Outbox(this.options);
      const result = act(this.opened);
      this.failure = undefined;
      return result;
    } catch (error) {
      if (error instanceof OutboxError && !(error instanceof OutboxFullError)) this.fail(error);
      throw error;
    }
  }

  private fail(error: OutboxError): void {
    // A Node without SQLite won't have it later.
    const seconds = error instanceof OutboxUnsupportedError ? Infinity : UNUSABLE_SECONDS;
    this.failure = { error, untilMs: performance.now() + seconds * 1000 };
    try {
      this.opened?.close();
    } catch {
      // It was broken anyway.
    }
    this.opened = undefined;
    this.log(error);
    tell(this.transport.hooks.onOutbox, { queued: 0, sent: 0, postponed: 0, error });
  }

  private tell(event: Partial<OutboxEvent>): void {
    const { onOutbox } = this.transport.hooks;
    if (!onOutbox) return;
    let counts: { depth?: number; refused?: number } = {};
    this.quietly(() => {
      const { pending, refused } = this.use((outbox) => outbox.status());
      counts = { depth: pending, refused };
    });
    tell(onOutbox, { queued: 0, sent: 0, postponed: 0, ...counts, ...event });
  }

  private quietly(act: () => void): void {
    try {
      act();
    } catch (error) {
      this.log(error);
    }
  }

  /** The same trouble once a minute: the background looks every second. */
  private log(error: unknown): void {
    if (this.stopped) return;
    const message = error instanceof Error ? error.message : String(error);
    if (this.logged?.message === message && performance.now() < this.logged.againMs) return;
    this.logged = { message, againMs: performance.now() + LOG_AGAIN_SECONDS * 1000 };
    console.error('[Token Process] Outbox error:', error);
  }
}

/** For what comes after the end: nobody would close it any more. */
function actOnce<R>(options: OutboxOptions, act: (outbox: Outbox) => R): R {
  const outbox = new Outbox(options);
  try {
    return act(outbox);
  } finally {
    outbox.close();
  }
}
