/**
 * The client: start, end and cancel calls, and `begin` for a run whose code isn't one function.
 *
 * With an outbox, an end is on disk before it is first sent and is taken off when it is acknowledged. When the server
 * can't be reached the call still throws, with `queued` set: the end is safe, only its answer is missing.
 */

import { randomUUID } from 'node:crypto';

import {
  AuthenticationError,
  ConfigurationError,
  OutboxError,
  TokenProcessError,
  UnavailableError,
  ValidationError,
} from './errors';
import { Outbox } from './outbox';
import type { OutboxOptions } from './outbox';
import { TokenProcessRun } from './run';
import type { RunOptions } from './run';
import { OutboxSender } from './sender';
import type { FlushReport } from './sender';
import { DEFAULT_RETRY_POLICY, Transport } from './transport';
import type { Address, RetryPolicy } from './transport';
import { endBody } from './wire';
import type {
  TTokenProcessBatchResponse,
  TTokenProcessCancelPayload,
  TTokenProcessCancelResponse,
  TTokenProcessEndPayload,
  TTokenProcessEndResponse,
  TTokenProcessStartPayload,
  TTokenProcessStartResponse,
} from './wire';

export interface TokenProcessOptions extends Partial<RetryPolicy> {
  /** TOKEN_SERVER_URL unless given, else http://localhost:5000. */
  url?: string | undefined;
  /** SERVER_API_KEY unless given. */
  apiKey?: string | undefined;
  /** Keep ends on disk until they are acknowledged: the file's path, or a path with its bounds. */
  outbox?: string | OutboxOptions | undefined;
  /** With an outbox the end is safe already, so the caller waits this long at most for its answer: 5,000 unless given. */
  outboxWaitMs?: number | undefined;
  /** Sends what the outbox holds and is due, once a second. On unless false; `flush()` sends it in any case. */
  sendInBackground?: boolean | undefined;
}

/** A hold runs out by itself, so giving it back is not worth a caller's half minute. */
const CANCEL_TIME_LIMIT_MS = 5_000;
const OUTBOX_WAIT_MS = 5_000;
const FLUSH_TIMEOUT_MS = 60_000;

export class TokenProcess {
  private readonly address: () => Address;
  private readonly transport: Transport;
  private readonly outbox: Outbox | undefined;
  private readonly sender: OutboxSender | undefined;

  /** Throws an OutboxError when an outbox is asked for and can't be had: never silently without it. */
  constructor(options: TokenProcessOptions = {}) {
    const { url, apiKey, outbox, outboxWaitMs = OUTBOX_WAIT_MS, sendInBackground = true, ...policy } = options;
    this.address = () => addressOf(url, apiKey);
    this.transport = new Transport(this.address, { ...DEFAULT_RETRY_POLICY, ...policy });
    if (outbox !== undefined) {
      this.outbox = new Outbox(typeof outbox === 'string' ? { path: outbox } : outbox);
      this.sender = new OutboxSender(this.outbox, this.transport, outboxWaitMs);
      if (sendInBackground) this.sender.startInBackground();
    }
  }

  async start(payload: TTokenProcessStartPayload): Promise<TTokenProcessStartResponse> {
    const { user_id, feature_endpoint_id, hold_token, hold_seconds } = payload;
    const body = { user_id, feature_endpoint_id, hold_token, hold_seconds };
    return this.explained(this.transport.post('/api/token-process/start', body));
  }

  /** Bills one run, once, however often it has to be sent. */
  async end(payload: TTokenProcessEndPayload): Promise<TTokenProcessEndResponse> {
    const key = keyOf(payload.idempotency_key);
    const body = JSON.stringify(endBody(payload));
    const { sender } = this;
    if (!sender) return this.sendEnd(key, body);
    try {
      sender.put(key, body);
    } catch (error) {
      if (!(error instanceof OutboxError)) throw error;
      return this.sendEndWithoutOutbox(key, body, error);
    }
    try {
      const answer = await this.sendEnd(key, body, sender.waitMs);
      sender.acknowledge(key);
      return answer;
    } catch (error) {
      if (error instanceof TokenProcessError) {
        error.queued = sender.keep([{ idempotency_key: key, attempts: 0 }], error);
      }
      throw error;
    }
  }

  /** Up to 1,000 ends in one call; each is answered for itself, in order. Bypasses the outbox. */
  async endBatch(ends: readonly TTokenProcessEndPayload[]): Promise<TTokenProcessBatchResponse> {
    // Made once, before the first attempt, so that a repeated batch is the same batch.
    const keyed = ends.map((end) => ({ ...endBody(end), idempotency_key: keyOf(end.idempotency_key) }));
    return this.explained(this.transport.post('/api/token-process/end/batch', { ends: keyed }));
  }

  /** Gives a hold back when the feature failed. May be repeated. */
  async cancel(payload: TTokenProcessCancelPayload): Promise<TTokenProcessCancelResponse> {
    const { user_id, process_id } = payload;
    const totalTimeoutMs = Math.min(CANCEL_TIME_LIMIT_MS, this.transport.policy.totalTimeoutMs);
    return this.explained(
      this.transport.post('/api/token-process/cancel', { user_id, process_id }, { totalTimeoutMs }),
    );
  }

  /** Starts a run, or throws InsufficientTokensError with the balance. */
  begin(payload: TTokenProcessStartPayload, options: RunOptions = {}): Promise<TokenProcessRun> {
    return TokenProcessRun.begin(this, payload, options);
  }

  /** Sends all that waits in the outbox, back-offs or not. Gives up after `timeoutMs`: 60,000 unless given. */
  async flush(options: { timeoutMs?: number } = {}): Promise<FlushReport> {
    if (!this.sender) throw new ConfigurationError('There is no outbox: give its path, or set TOKENTILL_OUTBOX');
    return this.sender.flush(options.timeoutMs ?? FLUSH_TIMEOUT_MS);
  }

  /** Stops the background sending and closes the outbox file. What is left in it stays for the next start. */
  async close(): Promise<void> {
    await this.sender?.stop();
    this.outbox?.close();
  }

  private sendEnd(key: string, body: string, totalTimeoutMs?: number): Promise<TTokenProcessEndResponse> {
    return this.explained(
      this.transport.postText('/api/token-process/end', body, { idempotencyKey: key, totalTimeoutMs }),
    );
  }

  /** Full, or no disk: the end is still worth every attempt. Only if that fails too is it the caller's. */
  private async sendEndWithoutOutbox(key: string, body: string, disk: OutboxError): Promise<TTokenProcessEndResponse> {
    try {
      return await this.sendEnd(key, body);
    } catch (error) {
      if (!(error instanceof UnavailableError)) throw error;
      disk.idempotencyKey = key;
      disk.cause ??= error;
      throw disk;
    }
  }

  private async explained<T>(answer: Promise<T>): Promise<T> {
    try {
      return await answer;
    } catch (error) {
      if (error instanceof AuthenticationError && this.address().apiKey === '') {
        error.message += ' (is SERVER_API_KEY set?)';
      }
      throw error;
    }
  }
}

const VISIBLE_ASCII = /^[\x20-\x7e]*$/;

function keyOf(given: string | undefined): string {
  if (given === undefined) return randomUUID();
  if (given.length < 1 || given.length > 255 || !VISIBLE_ASCII.test(given)) {
    const reason = 'Must be 1 to 255 printable ASCII characters.';
    throw new ValidationError('idempotency_key is not usable', { code: 'validation_failed', errors: { idempotency_key: [reason] } });
  }
  return given;
}

function addressOf(givenUrl: string | undefined, givenKey: string | undefined): Address {
  const url = (givenUrl || process.env['TOKEN_SERVER_URL'] || 'http://localhost:5000').replace(/\/+$/, '');
  const apiKey = (givenKey ?? process.env['SERVER_API_KEY'] ?? '').trim();
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
