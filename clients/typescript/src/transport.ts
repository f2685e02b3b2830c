/**
 * One call to the token server, repeated until it is answered or the time is up.
 *
 * Repeated: no connection, a connection that broke, a time-out, 5xx, an answer that is not the server's. Not repeated:
 * 4xx, which would be answered the same again. The caller's idempotency key goes with every attempt, so an attempt
 * that was accepted but not heard of is answered, not billed, when it is repeated.
 *
 * The time limit of a call is the whole of it, however slowly an answer drips in. While the circuit breaker is open a call
 * fails at once with the code `server_away`, unless it is `insistent`.
 */

import { CircuitBreaker } from './breaker';
import type { Outcome } from './breaker';
import { errorFromResponse, isRecord, TokenProcessError, UnavailableError } from './errors';
import type { TokenProcessErrorResponse } from './errors';
import { tell } from './hooks';
import type { Hooks, Operation } from './hooks';
import { platformFetch } from './platform';
import type { Settings } from './settings';
import { spanOf } from './tracing';
import type { CallSpan } from './tracing';
import { VERSION } from './version';

const PATHS: Record<Operation, string> = {
  start: '/api/token-process/start',
  end: '/api/token-process/end',
  endBatch: '/api/token-process/end/batch',
  estimate: '/api/token-process/estimate',
  reverse: '/api/token-process/end/reverse',
  cancel: '/api/token-process/cancel',
  extendHold: '/api/token-process/hold/extend',
};

/** With less time left no attempt is made: it would only put a time-out in the place of what really went wrong. */
const ATTEMPT_MS_MIN = 50;

export interface Address {
  url: string;
  apiKey: string;
}

export interface Call {
  operation: Operation;
  /** JSON. */
  body: string;
  idempotencyKey?: string | undefined;
  limitSeconds: number;
  /** Aborted, the call ends at once with the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Sent even while the server counts as away: for what nothing else would bring there. */
  insistent?: boolean;
}

interface Progress {
  began: number;
  attempts: number;
  span: CallSpan;
}

export class Transport {
  readonly breaker: CircuitBreaker;
  /** Told whenever the server has answered. */
  onAnswered: () => void = () => undefined;

  /** `address` is asked at every call: a service may load its environment after it imported this package. */
  constructor(
    private readonly address: () => Address,
    readonly settings: Settings,
    readonly hooks: Hooks = {},
    private readonly fetch = platformFetch,
  ) {
    this.breaker = new CircuitBreaker(settings.breakerFailures, settings.breakerSeconds);
  }

  async send<T>(call: Call): Promise<T> {
    const { operation, idempotencyKey } = call;
    const progress: Progress = { began: performance.now(), attempts: 0, span: spanOf(operation, idempotencyKey) };
    let error: Error | undefined;
    let status: number | undefined;
    try {
      const answer = await progress.span.within(() => this.sendWithBreaker<T>(call, progress));
      status = 200;
      return answer;
    } catch (failure) {
      error = failure instanceof Error ? failure : new Error(String(failure));
      status = failure instanceof TokenProcessError ? failure.status : undefined;
      throw failure;
    } finally {
      const { began, attempts, span } = progress;
      span.end({ status, attempts, error });
      tell(this.hooks.onCall, { operation, status, latencySeconds: (performance.now() - began) / 1000, attempts, idempotencyKey, error });
    }
  }

  private async sendWithBreaker<T>(call: Call, progress: Progress): Promise<T> {
    const leave = this.breaker.enter(call.insistent === true);
    if (!leave) throw this.awayError(call);
    let outcome: Outcome = 'unknown';
    try {
      const answer = await this.sendRepeatedly<T>(call, progress);
      outcome = 'answered';
      return answer;
    } catch (error) {
      if (error instanceof UnavailableError) outcome = 'unanswered';
      else if (error instanceof TokenProcessError && error.response) outcome = 'answered';
      throw error;
    } finally {
      leave(outcome);
      if (outcome === 'answered') this.onAnswered();
    }
  }

  private async sendRepeatedly<T>(call: Call, progress: Progress): Promise<T> {
    const { timeoutSeconds, baseDelaySeconds, maxDelaySeconds } = this.settings;
    const deadline = progress.began + call.limitSeconds * 1000;
    for (;;) {
      const timeoutMs = Math.max(1, Math.min(timeoutSeconds * 1000, deadline - performance.now()));
      progress.attempts += 1;
      try {
        return (await this.attempt(call, timeoutMs, progress.span)) as T;
      } catch (error) {
        if (error instanceof TokenProcessError && call.idempotencyKey !== undefined) error.idempotencyKey = call.idempotencyKey;
        if (!(error instanceof UnavailableError)) throw error;
        error.attempts = progress.attempts;
        const backoff = backoffSeconds(progress.attempts, baseDelaySeconds, maxDelaySeconds);
        const pauseSeconds = Math.max(backoff, error.retryAfterSeconds ?? 0);
        if (performance.now() + pauseSeconds * 1000 + ATTEMPT_MS_MIN > deadline) throw error;
        tell(this.hooks.onRetry, { operation: call.operation, attempt: progress.attempts, pauseSeconds, error });
        await sleep(pauseSeconds, call.signal);
      }
    }
  }

  private async attempt(call: Call, timeoutMs: number, span: CallSpan): Promise<unknown> {
    // Not one that can be mended by trying again: it is thrown as it is.
    const { url, apiKey } = this.address();
    const { idempotencyKey, signal } = call;
    signal?.throwIfAborted();
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), timeoutMs);
    const giveUp = (): void => abort.abort();
    signal?.addEventListener('abort', giveUp, { once: true });
    let status: number;
    let statusText: string;
    let headers: Record<string, string>;
    let text: string;
    try {
      const answer = await this.fetch(`${url}${PATHS[call.operation]}`, {
        method: 'POST',
        headers: {
          'Content-Type': 'application/json',
          Accept: 'application/json',
          'User-Agent': `tokentill-typescript/${VERSION}`,
          ...span.headers,
          'x-server-api-key': apiKey,
          ...(idempotencyKey === undefined ? {} : { 'Idempotency-Key': idempotencyKey }),
        },
        body: call.body,
        signal: abort.signal,
        // Followed, a redirect would turn the POST into a GET and hand the API key to another host.
        redirect: 'manual',
        // Frameworks keep what was fetched, a POST too: a start that is answered from a cache asks nobody.
        cache: 'no-store',
      });
      ({ status, statusText } = answer);
      headers = Object.fromEntries(answer.headers);
      text = await answer.text();
    } catch (error) {
      signal?.throwIfAborted();
      throw connectionError(error, url, abort.signal.aborted ? timeoutMs : undefined);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', giveUp);
    }
    const response: TokenProcessErrorResponse = { status, statusText, headers, data: parse(text) };
    if (status < 200 || status >= 300) throw errorFromResponse(response, retryAfterSeconds(headers['retry-after']));
    if (!isRecord(response.data) || response.data['success'] !== true) {
      // Only the server's own success may take an end off the books; a proxy's page may not.
      throw new UnavailableError(`HTTP ${status} from ${url} is not an answer of the token server`, { response });
    }
    return headers['idempotent-replayed'] === 'true' ? { ...response.data, replayed: true } : response.data;
  }

  private awayError(call: Call): UnavailableError {
    const { breakerFailures } = this.settings;
    const error = new UnavailableError(`The token server is away: ${breakerFailures} calls in a row found no answer`, {
      code: 'server_away',
      retryAfterSeconds: this.breaker.secondsLeft,
    });
    error.attempts = 0;
    if (call.idempotencyKey !== undefined) error.idempotencyKey = call.idempotencyKey;
    return error;
  }
}

/** The wait after the given failed attempt: doubling, capped, with jitter so that callers spread. */
export function backoffSeconds(attempt: number, baseSeconds: number, maxSeconds: number): number {
  return Math.min(maxSeconds, baseSeconds * 2 ** Math.min(attempt - 1, 30)) * (0.5 + Math.random() / 2);
}

/** Seconds or an HTTP date; undefined when it is neither. */
export function retryAfterSeconds(header: string | undefined, nowMs = Date.now()): number | undefined {
  if (header === undefined) return undefined;
  const text = header.trim();
  if (/^\d+(\.\d+)?$/.test(text)) return Number(text);
  const atMs = Date.parse(text);
  return Number.isNaN(atMs) ? undefined : Math.max(0, atMs - nowMs) / 1000;
}

function connectionError(error: unknown, url: string, timedOutAfterMs: number | undefined): UnavailableError {
  if (timedOutAfterMs !== undefined) {
    const seconds = Math.round(timedOutAfterMs) / 1000;
    return new UnavailableError(`No answer from ${url} within ${seconds} s`, { code: 'timeout', cause: error });
  }
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const reason = isRecord(cause) && typeof cause['code'] === 'string' ? cause['code'] : String(cause);
  return new UnavailableError(`No connection to ${url}: ${reason}`, { code: 'connection_failed', cause: error });
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Rejects with the signal's reason when that is aborted. */
export function sleep(seconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal?.reason as Error);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      resolve();
    }, seconds * 1000);
    if (signal?.aborted) stop();
    else signal?.addEventListener('abort', stop, { once: true });
  });
}
