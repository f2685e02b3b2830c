/**
 * Sends what stands in an outbox: alone where there is one end, through the batch call where there are more.
 *
 * An end leaves the outbox only when the server has acknowledged it. One that the server itself refuses stays, with the
 * reason, for a person to look at. Everything else (no answer, 5xx, a wrong API key) waits and is sent again.
 */

import { errorFromResponse, isRecord, TokenProcessError, UnavailableError } from './errors';
import type { Outbox, QueuedEnd } from './outbox';
import { backoffMs, sleep } from './transport';
import type { Transport } from './transport';
import type { TTokenProcessBatchResponse } from './wire';

/** Half of what the server takes in one call: a batch that has to be sent again is not lost time for long. */
const BATCH_ENDS_MAX = 500;
const BATCH_BYTES_MAX = 900_000;
const LEASE_SLACK_MS = 5_000;
const POSTPONE_BASE_MS = 1_000;
const POSTPONE_MAX_MS = 60_000;
/** However little time is left for a flush, a call that it makes has a fair chance to be answered. */
const CALL_MS_MIN = 1_000;
const RETRY_AFTER_MAX_MS = 3_600_000;
const POLL_MS = 1_000;
const STOP_PATIENCE_MS = 1_000;

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
  /** How long a caller waits for the answer to an end that is on disk already. */
  readonly waitMs: number;
  private round: Promise<unknown> | undefined;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private stopped = false;

  constructor(
    private readonly outbox: Outbox,
    private readonly transport: Transport,
    outboxWaitMs: number,
  ) {
    this.waitMs = Math.min(outboxWaitMs, transport.policy.totalTimeoutMs);
  }

  startInBackground(): void {
    this.schedule(0);
  }

  async stop(): Promise<void> {
    this.stopped = true;
    clearTimeout(this.timer);
    // A call that hangs is left behind: what it was to send is on disk.
    if (this.round) await Promise.race([this.round, sleep(STOP_PATIENCE_MS)]);
  }

  /** On disk, and leased for as long as the caller will try to send it. Throws an OutboxError. */
  put(key: string, body: string): void {
    this.outbox.put(key, body, this.waitMs + LEASE_SLACK_MS);
  }

  /** Never throws: a row that could not be removed is sent once more, and not billed again. */
  acknowledge(key: string): void {
    this.quietly(() => this.outbox.acknowledge([key]));
  }

  /** Notes why an end is still in the outbox. True: it will be sent again. */
  keep(ends: readonly Pick<QueuedEnd, 'idempotency_key' | 'attempts'>[], error: TokenProcessError): boolean {
    // When even this fails, the lease runs out by itself and the ends are due then.
    this.quietly(() => {
      const keys = ends.map((end) => end.idempotency_key);
      if (error.refused) {
        for (const key of keys) this.outbox.refuse(key, error.message);
        return;
      }
      const attempts = ends.reduce((most, end) => Math.max(most, end.attempts), 0) + 1;
      const asked = error instanceof UnavailableError ? (error.retryAfterMs ?? 0) : 0;
      const delayMs = Math.max(
        backoffMs(attempts, POSTPONE_BASE_MS, POSTPONE_MAX_MS),
        Math.min(asked, RETRY_AFTER_MAX_MS),
      );
      this.outbox.postpone(keys, error.message, delayMs);
    });
    return !error.refused;
  }

  /** Sends all that waits, back-offs or not, for `timeoutMs` at most. `postponed` still waits. */
  async flush(timeoutMs: number): Promise<FlushReport> {
    const deadline = Date.now() + timeoutMs;
    const report: FlushReport = { sent: 0, refused: 0, postponed: 0 };
    for (let failed = 0; ; ) {
      const sentBefore = report.sent;
      await this.sendRound(report, true, deadline);
      report.postponed = this.outbox.status().pending;
      if (report.postponed === 0 || Date.now() >= deadline || this.stopped) return report;
      if (report.sent > sentBefore) continue;
      // Nothing got through, or what is left is in another sender's hands until its lease runs out.
      failed += 1;
      const { baseDelayMs, maxDelayMs } = this.transport.policy;
      await sleep(Math.min(backoffMs(failed, baseDelayMs, maxDelayMs), Math.max(0, deadline - Date.now())));
    }
  }

  private async sendRound(report: FlushReport, early: boolean, deadline = Infinity): Promise<void> {
    const { timeoutMs, totalTimeoutMs } = this.transport.policy;
    const queued = this.outbox.claim({
      limit: BATCH_ENDS_MAX,
      bytesMax: BATCH_BYTES_MAX,
      leaseMs: totalTimeoutMs + timeoutMs + LEASE_SLACK_MS,
      early,
    });
    if (queued.length > 0) await this.send(queued, report, deadline);
  }

  private async send(queued: readonly QueuedEnd[], report: FlushReport, deadline: number): Promise<void> {
    let errors: (TokenProcessError | undefined)[];
    try {
      errors = await this.sendTogether(queued, deadline);
    } catch (error) {
      if (!(error instanceof TokenProcessError)) throw error;
      errors = queued.map(() => error);
    }
    const sent = queued.filter((_, index) => errors[index] === undefined);
    this.outbox.acknowledge(sent.map((end) => end.idempotency_key));
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
  }

  /** For every end undefined or why it was not taken. Throws when the call as a whole failed. */
  private async sendTogether(queued: readonly QueuedEnd[], deadline: number): Promise<(TokenProcessError | undefined)[]> {
    if (queued.length > 1) {
      try {
        return await this.sendBatch(queued, deadline);
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
          await this.transport.postText('/api/token-process/end', end.body, {
            idempotencyKey: end.idempotency_key,
            totalTimeoutMs: this.leftMs(deadline),
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

  private async sendBatch(queued: readonly QueuedEnd[], deadline: number): Promise<(TokenProcessError | undefined)[]> {
    // Spliced as text: the bodies are JSON already, and stay the very bodies of the single call.
    const ends = queued.map(
      ({ body, idempotency_key }) => `${body.slice(0, -1)}, "idempotency_key": ${JSON.stringify(idempotency_key)}}`,
    );
    const answer = await this.transport.postText<TTokenProcessBatchResponse>(
      '/api/token-process/end/batch',
      `{"ends": [${ends.join(', ')}]}`,
      { totalTimeoutMs: this.leftMs(deadline) },
    );
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

  private leftMs(deadline: number): number {
    return Math.min(this.transport.policy.totalTimeoutMs, Math.max(CALL_MS_MIN, deadline - Date.now()));
  }

  private schedule(delayMs: number): void {
    if (this.stopped) return;
    this.timer = setTimeout(() => {
      const report: FlushReport = { sent: 0, refused: 0, postponed: 0 };
      this.round = this.sendRound(report, false)
        .catch((error: unknown) => {
          if (!this.stopped) console.error('[Token Process] Outbox error:', error);
        })
        .finally(() => {
          this.round = undefined;
          this.schedule(report.sent > 0 && report.postponed === 0 ? 0 : POLL_MS);
        });
    }, delayMs);
    // What is left is on disk: it must not keep a finished program alive.
    this.timer.unref();
  }

  private quietly(act: () => void): void {
    try {
      act();
    } catch (error) {
      console.error('[Token Process] Outbox error:', error);
    }
  }
}
