/**
 * One POST to the token server, repeated until it is answered or the time is up.
 *
 * Repeated: no connection, a connection that broke, a time-out, 5xx, an answer that is not the server's. Not repeated:
 * 4xx, which would be answered the same again. The caller's idempotency key goes with every attempt, so an attempt
 * that was accepted but not heard of is answered, not billed, when it is repeated.
 */

import { errorFromResponse, isRecord, TokenProcessError, UnavailableError } from './errors';
import type { TokenProcessErrorResponse } from './errors';
import { VERSION } from './version';

export interface RetryPolicy {
  /** How long one attempt may take. */
  timeoutMs: number;
  /** How long all attempts and the waits between them may take. */
  totalTimeoutMs: number;
  /** The wait before the first repetition; it doubles with every further one ... */
  baseDelayMs: number;
  /** ... up to this. */
  maxDelayMs: number;
}

export const DEFAULT_RETRY_POLICY: RetryPolicy = {
  timeoutMs: 10_000,
  totalTimeoutMs: 30_000,
  baseDelayMs: 100,
  maxDelayMs: 2_000,
};

/** With less time left no attempt is made: it would only put a time-out in the place of what really went wrong. */
const ATTEMPT_MS_MIN = 50;

export interface Address {
  url: string;
  apiKey: string;
}

export interface PostOptions {
  idempotencyKey?: string | undefined;
  totalTimeoutMs?: number | undefined;
}

export class Transport {
  /** `address` is asked at every call: a service may load its environment after it imported this package. */
  constructor(
    private readonly address: () => Address,
    readonly policy: RetryPolicy,
  ) {}

  post<T>(path: string, body: object, options: PostOptions = {}): Promise<T> {
    return this.postText(path, JSON.stringify(body), options);
  }

  async postText<T>(path: string, payload: string, options: PostOptions = {}): Promise<T> {
    const { idempotencyKey } = options;
    const deadline = Date.now() + (options.totalTimeoutMs ?? this.policy.totalTimeoutMs);
    for (let attempt = 1; ; attempt += 1) {
      const timeoutMs = Math.max(1, Math.min(this.policy.timeoutMs, deadline - Date.now()));
      try {
        return (await this.attempt(path, payload, timeoutMs, idempotencyKey)) as T;
      } catch (error) {
        if (!(error instanceof TokenProcessError)) throw error;
        if (idempotencyKey !== undefined) error.idempotencyKey = idempotencyKey;
        if (!(error instanceof UnavailableError)) throw error;
        error.attempts = attempt;
        const { baseDelayMs, maxDelayMs } = this.policy;
        const delayMs = Math.max(backoffMs(attempt, baseDelayMs, maxDelayMs), error.retryAfterMs ?? 0);
        if (Date.now() + delayMs + ATTEMPT_MS_MIN > deadline) throw error;
        await sleep(delayMs);
      }
    }
  }

  private async attempt(path: string, payload: string, timeoutMs: number, key?: string): Promise<unknown> {
    // Not one that can be mended by trying again: it is thrown as it is.
    const { url, apiKey } = this.address();
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), timeoutMs);
    let status: number;
    let statusText: string;
    let headers: Record<string, string>;
    let text: string;
    try {
      const answer = await fetch(`${url}${path}`, {
        method: 'POST',
        headers: {
          'Content-Type': 'application/json',
          Accept: 'application/json',
          'User-Agent': `tokentill-typescript/${VERSION}`,
          'x-server-api-key': apiKey,
          ...(key === undefined ? {} : { 'Idempotency-Key': key }),
        },
        body: payload,
        signal: abort.signal,
        // Followed, a redirect would turn the POST into a GET and hand the API key to another host.
        redirect: 'manual',
      });
      ({ status, statusText } = answer);
      headers = Object.fromEntries(answer.headers);
      text = await answer.text();
    } catch (error) {
      throw connectionError(error, url, abort.signal.aborted ? timeoutMs : undefined);
    } finally {
      clearTimeout(timer);
    }
    const response: TokenProcessErrorResponse = { status, statusText, headers, data: parse(text) };
    if (status < 200 || status >= 300) throw errorFromResponse(response, retryAfterMs(headers['retry-after']));
    if (!isRecord(response.data) || response.data['success'] !== true) {
      // Only the server's own success may take an end off the books; a proxy's page may not.
      throw new UnavailableError(`HTTP ${status} from ${url} is not an answer of the token server`, { response });
    }
    return headers['idempotent-replayed'] === 'true' ? { ...response.data, replayed: true } : response.data;
  }
}

/** The wait after the given failed attempt: doubling, capped, with jitter so that callers spread. */
export function backoffMs(attempt: number, baseMs: number, maxMs: number): number {
  return Math.min(maxMs, baseMs * 2 ** Math.min(attempt - 1, 30)) * (0.5 + Math.random() / 2);
}

/** Seconds or an HTTP date; undefined when it is neither. */
export function retryAfterMs(header: string | undefined, now = Date.now()): number | undefined {
  if (header === undefined) return undefined;
  const text = header.trim();
  if (/^\d+(\.\d+)?$/.test(text)) return Number(text) * 1000;
  const at = Date.parse(text);
  return Number.isNaN(at) ? undefined : Math.max(0, at - now);
}

function connectionError(error: unknown, url: string, timedOutAfterMs: number | undefined): UnavailableError {
  if (timedOutAfterMs !== undefined) {
    return new UnavailableError(`No answer from ${url} within ${timedOutAfterMs} ms`, { code: 'timeout', cause: error });
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

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
