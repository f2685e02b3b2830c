/**
 * Everything this package throws of its own.
 *
 * TokenProcessError
 *  ├─ ConfigurationError             a setting is wrong; nothing was sent
 *  ├─ AuthenticationError       401  the server API key is missing or wrong
 *  ├─ WalletNotFoundError       404  the user has no wallet (start: none that is active with a package)
 *  ├─ FeatureNotAvailableError  403  the feature endpoint is not in the user's package
 *  ├─ InsufficientTokensError        start answered not-access-able: `token` is the balance
 *  │   └─ HoldRefusedError           a hold was not extended; it is as it was
 *  ├─ HoldNotFoundError         404  there is no open hold to extend: it has expired, or there never was one
 *  ├─ ReversalRefusedError      403, 409  this run can't be taken back (any more)
 *  ├─ ValidationError           400, 405, 413, 415, 422  `errors` names the fields; also a key no header can carry
 *  ├─ ConflictError             409  this idempotency key was used with another body
 *  ├─ UnavailableError          5xx, no connection, time-out: retried until the time limit
 *  ├─ UsageError                     what a run used can't be told, so it isn't billed: `seen` is what there was
 *  │   ├─ UsageMissingError          a model was called and nothing said what that took
 *  │   └─ UsageUnreadableError       what was said is no count, or doesn't add up
 *  └─ OutboxError                    the outbox can't be opened, read or written
 *      ├─ OutboxFullError            it holds as many ends as it may
 *      └─ OutboxUnsupportedError     this Node has no node:sqlite
 *
 * An error that came from an answer carries that answer in `response`, where code written for axios looks for it. The
 * error of a call carries what to repeat, and under which key. `JSON.stringify(error)` keeps all of it, and
 * `TokenProcessError.fromJSON` makes it the same error again, in another process.
 */

import type {
  TTokenProcessCancelPayload,
  TTokenProcessEndPayload,
  TTokenProcessHoldExtendPayload,
  TTokenProcessReversePayload,
  TTokenProcessStartPayload,
} from './wire';

export interface TokenProcessErrorResponse {
  status: number;
  statusText: string;
  headers: Record<string, string>;
  /** The parsed body, or its text if it was not JSON. Untyped, as it was in axios. */
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  data: any;
}

/** A call that failed: `client.repeat(it)` makes it again, under the same key. */
export type RepeatableCall =
  | { call: 'start'; payload: TTokenProcessStartPayload }
  | { call: 'end'; payload: TTokenProcessEndPayload }
  | { call: 'endBatch'; payload: TTokenProcessEndPayload[] }
  | { call: 'estimate'; payload: TTokenProcessEndPayload }
  | { call: 'reverse'; payload: TTokenProcessReversePayload }
  | { call: 'cancel'; payload: TTokenProcessCancelPayload }
  | { call: 'extendHold'; payload: TTokenProcessHoldExtendPayload };

export interface TokenProcessErrorOptions {
  code?: string | undefined;
  response?: TokenProcessErrorResponse | undefined;
  cause?: unknown;
}

export class TokenProcessError extends Error {
  /** Stable and snake_case: the server's own code where it gave one. */
  readonly code: string;
  /** Absent when no answer came. */
  readonly response?: TokenProcessErrorResponse;
  readonly status?: number;
  /** The token server itself refused this very body: sent again unchanged, it would be refused again. */
  readonly refused: boolean;
  /** Names the call in the server's logs. */
  readonly requestId?: string;
  /** The key the call was sent with: the same call again with it bills, or holds, nothing twice. */
  idempotencyKey?: string;
  /** The call that failed, with its key. Absent where there was none, as for a setting that is wrong from the start. */
  repeat?: RepeatableCall;
  /** The end is on disk and will be sent again; nothing is lost and nothing needs to be done. */
  queued = false;

  constructor(message: string, options: TokenProcessErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = new.target.name;
    const { response } = options;
    const body: unknown = response?.data;
    const said = isRecord(body) ? body : {};
    const serverCode = said['code'];
    this.code = typeof serverCode === 'string' ? serverCode : (options.code ?? 'token_process_error');
    const status = response?.status ?? 0;
    // "not_found" is said of a path, not of the body that was sent there.
    this.refused = said['success'] === false && serverCode !== 'not_found' && [400, 403, 404, 409].includes(status);
    if (response) {
      this.response = response;
      this.status = response.status;
      const requestId = said['request_id'] ?? response.headers['x-request-id'];
      if (typeof requestId === 'string') this.requestId = requestId;
    }
  }

  /** All of the error but its stack, and but what JSON can't carry; its cause as text. */
  toJSON(): Record<string, unknown> {
    const cause = this.cause === undefined ? {} : { cause: messageOf(this.cause) };
    return { ...Object.fromEntries(Object.entries(this).filter(([, value]) => isJson(value))), message: this.message, ...cause };
  }

  /** The error that `toJSON` was asked of. Anything else becomes a TokenProcessError with the text of it. */
  static fromJSON(value: unknown): TokenProcessError {
    const said = isRecord(value) ? value : { message: String(value) };
    const { name, message, cause, ...fields } = said;
    const error = new TokenProcessError(String(message ?? name ?? 'Unknown error'), cause === undefined ? {} : { cause });
    const kind = KINDS.find((known) => known.name === name);
    if (kind) Object.setPrototypeOf(error, kind.prototype as object);
    return Object.assign(error, fields, { name: kind?.name ?? error.name });
  }
}

export class ConfigurationError extends TokenProcessError {
  constructor(message: string, options: TokenProcessErrorOptions = {}) {
    super(message, { code: 'configuration_error', ...options });
  }
}

export class AuthenticationError extends TokenProcessError {}

export class WalletNotFoundError extends TokenProcessError {}

export class FeatureNotAvailableError extends TokenProcessError {}

export class InsufficientTokensError extends TokenProcessError {
  /** What the user can spend now. */
  readonly token: number;
  readonly user_id: string;
  readonly feature_endpoint_id: string;

  constructor(balance: { token: number; user_id: string; feature_endpoint_id: string }, code = 'insufficient_tokens') {
    super(`Insufficient tokens. Available: ${balance.token}`, { code });
    this.token = balance.token;
    this.user_id = balance.user_id;
    this.feature_endpoint_id = balance.feature_endpoint_id;
  }
}

export class HoldRefusedError extends InsufficientTokensError {
  constructor(balance: { token: number; user_id: string; feature_endpoint_id: string }) {
    super(balance, 'hold_refused');
  }
}

export class HoldNotFoundError extends TokenProcessError {
  constructor(message: string, options: TokenProcessErrorOptions = {}) {
    super(message, { code: 'hold_not_found', ...options });
  }
}

/** `code`: reversal_not_allowed (too late, or the feature allows none), exceeds_original (nothing is left), written_off. */
export class ReversalRefusedError extends TokenProcessError {}

export class ValidationError extends TokenProcessError {
  /** Field to reasons, as the server names them. */
  readonly errors: Record<string, string[]>;

  constructor(message: string, options: TokenProcessErrorOptions & { errors?: Record<string, string[]> } = {}) {
    super(message, options);
    const body: unknown = options.response?.data;
    const errors = isRecord(body) ? body['errors'] : undefined;
    this.errors = isRecord(errors) ? (errors as Record<string, string[]>) : (options.errors ?? {});
  }
}

export class ConflictError extends TokenProcessError {}

export class UnavailableError extends TokenProcessError {
  /** What the server asked for with Retry-After. */
  readonly retryAfterSeconds?: number;
  /** How often the call was sent before it was given up. */
  attempts = 1;

  constructor(message: string, options: TokenProcessErrorOptions & { retryAfterSeconds?: number | undefined } = {}) {
    super(message, { code: 'unavailable', ...options });
    if (options.retryAfterSeconds !== undefined) this.retryAfterSeconds = options.retryAfterSeconds;
  }
}

/** What was seen of one answer whose usage is missing or unreadable: counts and ids, never the text. */
export interface SeenAnswer {
  answer_id?: string;
  model?: string;
  /** Pieces of output that flowed. */
  pieces?: number;
  /** Chunks of bare text or bytes that flowed. */
  texts?: number;
  /** The provider's report, as it came. */
  usage?: unknown;
  why: string;
}

export class UsageError extends TokenProcessError {
  /** At most 10 answers. */
  readonly seen: readonly SeenAnswer[];
  /** What the function returned, where `requireUsage` threw this in its place. */
  result?: unknown;

  constructor(message: string, options: TokenProcessErrorOptions & { seen?: readonly SeenAnswer[] } = {}) {
    super(message, { code: 'usage_error', ...options });
    this.seen = options.seen ?? [];
  }
}

export class UsageMissingError extends UsageError {
  constructor(message: string, options: TokenProcessErrorOptions & { seen?: readonly SeenAnswer[] } = {}) {
    super(message, { code: 'usage_missing', ...options });
  }
}

export class UsageUnreadableError extends UsageError {
  constructor(message: string, options: TokenProcessErrorOptions & { seen?: readonly SeenAnswer[] } = {}) {
    super(message, { code: 'usage_unreadable', ...options });
  }
}

export class OutboxError extends TokenProcessError {
  constructor(message: string, options: TokenProcessErrorOptions = {}) {
    super(message, { code: 'outbox_error', ...options });
  }

  /** The same failure, for one end that could not be sent without the outbox either. */
  of(cause: unknown): OutboxError {
    const Kind = this.constructor as new (message: string, options: TokenProcessErrorOptions) => OutboxError;
    return new Kind(this.message, { code: this.code, cause });
  }
}

export class OutboxFullError extends OutboxError {
  constructor(message: string, options: TokenProcessErrorOptions = {}) {
    super(message, { code: 'outbox_full', ...options });
  }
}

export class OutboxUnsupportedError extends OutboxError {
  constructor(message: string, options: TokenProcessErrorOptions = {}) {
    super(message, { code: 'outbox_unsupported', ...options });
  }
}

const KINDS: { name: string; prototype: unknown }[] = [
  ConfigurationError,
  AuthenticationError,
  WalletNotFoundError,
  FeatureNotAvailableError,
  InsufficientTokensError,
  HoldRefusedError,
  HoldNotFoundError,
  ReversalRefusedError,
  ValidationError,
  ConflictError,
  UnavailableError,
  UsageError,
  UsageMissingError,
  UsageUnreadableError,
  OutboxError,
  OutboxFullError,
  OutboxUnsupportedError,
];

const REFUSALS_OF_REVERSALS = ['reversal_not_allowed', 'exceeds_original', 'written_off'];

/** The error of an answer that is not a success. The status decides: a code may be newer than this client. */
export function errorFromResponse(response: TokenProcessErrorResponse, retryAfterSeconds?: number): TokenProcessError {
  const { status } = response;
  const body: unknown = response.data;
  const enveloped = isRecord(body) && body['success'] === false && typeof body['message'] === 'string';
  const message = enveloped ? String(body['message']) : `The token server answered HTTP ${status}`;
  const options = { response };
  if (status >= 500) return new UnavailableError(message, { response, retryAfterSeconds });
  if (status === 401) return new AuthenticationError(message, { ...options, code: 'unauthorized' });
  const code = isRecord(body) ? body['code'] : undefined;
  if (enveloped && REFUSALS_OF_REVERSALS.includes(String(code))) return new ReversalRefusedError(message, options);
  if (status === 409) return new ConflictError(message, { ...options, code: 'idempotency_conflict' });
  if ([400, 405, 413, 415, 422].includes(status)) {
    return new ValidationError(message, { ...options, code: 'validation_failed' });
  }
  // A proxy, another server or a wrong path at this address is answered 403 and 404 too, which says nothing about a
  // wallet or a feature.
  if (enveloped && code === 'hold_not_found') return new HoldNotFoundError(message, options);
  const missing = code === 'not_found';
  if (enveloped && status === 404 && !missing) return new WalletNotFoundError(message, { ...options, code: 'wallet_not_found' });
  if (enveloped && status === 403) {
    return new FeatureNotAvailableError(message, { ...options, code: 'feature_not_available' });
  }
  if (status >= 300 && status < 400) {
    return new TokenProcessError(
      `The token server redirects to ${response.headers['location'] ?? 'elsewhere'}: set TOKEN_SERVER_URL to its final address`,
      { ...options, code: 'redirected' },
    );
  }
  return new TokenProcessError(enveloped ? message : `${message}. Is TOKEN_SERVER_URL right?`, {
    ...options,
    code: `http_${status}`,
  });
}

/** Not of a cycle, a BigInt, or something whose own toJSON throws: a result that a UsageError carries may be anything. */
function isJson(value: unknown): boolean {
  try {
    return JSON.stringify(value) !== undefined;
  } catch {
    return false;
  }
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
