/**
 * The shapes on the wire, named as the token process guide names them. Fields that the guide doesn't have are
 * optional, so a value typed after the guide fits every one of these types.
 */

export interface TTokenProcessStartPayload {
  user_id: string;
  feature_endpoint_id: string;
  /** Tokens to reserve for this run: granted in full, or the start is not access-able. */
  hold_token?: number;
  /** How long the reservation lasts: 15 minutes unless said, at most 24 hours. */
  hold_seconds?: number;
  /** Of a feature that refuses models without a price: FeatureNotAvailableError, code `model_not_priced`. */
  model?: string | undefined;
  /** A start that is repeated under the same key is the same run, its hold included. Made by the client unless given. */
  idempotency_key?: string | undefined;
}

export interface TTokenProcessStartData {
  user_id: string;
  /** What the user can spend now. */
  token: number;
  status: 'access-able' | 'not-access-able';
  /** The server's id for this run; given to the end, it releases the run's hold. */
  process_id?: string;
  hold_token?: number;
  expires_at?: string;
  /** Not the server's answer: it is away, and `whenAway: "open"` let the run begin. `token` is unknown then, and 0. */
  away?: boolean;
}

export interface TTokenProcessStartResponse {
  success: boolean;
  message: string;
  data: TTokenProcessStartData;
}

export interface TTokenProcessEndPayload {
  user_id: string;
  feature_endpoint_id: string;
  input_token: number;
  output_token: number;
  model?: string | undefined;
  /** Read from the provider's cache: part of `input_token`. */
  cached_input_token?: number | undefined;
  /** Written to the provider's cache: part of `input_token`. */
  cache_write_token?: number | undefined;
  /** Part of `output_token`. */
  reasoning_token?: number | undefined;
  /** Answers of models that this run added up: 1 unless said. */
  requests?: number | undefined;
  process_id?: string | undefined;
  /** At most 255 characters; made by the client for every call that brings none. */
  idempotency_key?: string | undefined;
}

export interface TTokenProcessEndData {
  user_id: string;
  /** What the user can spend once this end is deducted. */
  token: number;
  /** output_token / 4 and the profit on top. */
  cost: number;
  /** not-return-able: recorded in full, but the wallet doesn't cover it; it stands as debt until it is paid. */
  status: 'return-able' | 'not-return-able';
}

export interface TTokenProcessEndResponse {
  success: boolean;
  message: string;
  data: TTokenProcessEndData;
  /** The server had billed this end before: this is the first answer again. */
  replayed?: boolean;
}

/** What an end would answer now; nothing has changed. */
export interface TTokenProcessEstimateData {
  cost: number;
  base_cost: number;
  profit: number;
  /** Null: by the default rule. */
  price_id: number | null;
  profit_rule_id: number | null;
  /** What would be left. */
  token: number;
  status: 'return-able' | 'not-return-able';
}

export interface TTokenProcessEstimateResponse {
  success: boolean;
  message: string;
  data: TTokenProcessEstimateData;
}

export interface TTokenProcessCancelPayload {
  user_id: string;
  process_id: string;
}

export interface TTokenProcessCancelResponse {
  success: boolean;
  message: string;
  data?: unknown;
}

export interface TTokenProcessHoldExtendPayload {
  user_id: string;
  process_id: string;
  /** Tokens to add to the hold. */
  hold_token?: number | undefined;
  /** Seconds to add to its life. */
  hold_seconds?: number | undefined;
  /** An extension that is repeated under the same key adds nothing more. Made by the client unless given. */
  idempotency_key?: string | undefined;
}

export interface TTokenProcessHoldExtendData {
  /** What the user can spend now. */
  token: number;
  /** The whole hold. */
  hold_token: number;
  expires_at: string;
  /** not-access-able: the wallet doesn't have that much; the hold is as it was. */
  status: 'access-able' | 'not-access-able';
}

export interface TTokenProcessHoldExtendResponse {
  success: boolean;
  message: string;
  data: TTokenProcessHoldExtendData;
}

export interface TTokenProcessReversePayload {
  user_id: string;
  /** The run, by one of the keys that its end came with, or both. */
  process_id?: string | undefined;
  idempotency_key?: string | undefined;
  /** Your own: the same reversal again under it takes nothing back twice. */
  reference: string;
  reason: string;
}

export interface TTokenProcessReverseData {
  user_id: string;
  /** What the run had cost, and costs no more. */
  token: number;
  /** How much of it went back to the balance. */
  posted_token: number;
  /** By how much the wallet's debt changed. */
  debt_token: number;
  reference: string;
}

export interface TTokenProcessReverseResponse {
  success: boolean;
  message: string;
  data: TTokenProcessReverseData;
  /** Reversed before, under the same reference: this is the first answer again. */
  replayed?: boolean;
}

/** Every refusal of the server, and one refused end in the results of a batch. */
export interface TTokenProcessFailure {
  success: false;
  status: number;
  message: string;
  code?: string;
  errors?: Record<string, string[]>;
  request_id?: string;
  data?: unknown;
}

export type TTokenProcessBatchResult = TTokenProcessEndResponse | TTokenProcessFailure;

export interface TTokenProcessBatchResponse {
  success: boolean;
  message: string;
  data: { results: TTokenProcessBatchResult[] };
}

/** The body of an end as it is sent and as the outbox keeps it: what the server hashes, and no key. */
export type EndBody = Omit<TTokenProcessEndPayload, 'idempotency_key'>;

export function endBody(payload: TTokenProcessEndPayload): EndBody {
  return {
    user_id: payload.user_id,
    feature_endpoint_id: payload.feature_endpoint_id,
    input_token: payload.input_token,
    output_token: payload.output_token,
    ...(payload.model ? { model: payload.model } : {}),
    ...(payload.cached_input_token ? { cached_input_token: payload.cached_input_token } : {}),
    ...(payload.cache_write_token ? { cache_write_token: payload.cache_write_token } : {}),
    ...(payload.reasoning_token ? { reasoning_token: payload.reasoning_token } : {}),
    // One request goes without saying, unless nothing else was used.
    ...(payload.requests !== undefined && (payload.requests !== 1 || payload.input_token + payload.output_token === 0)
      ? { requests: payload.requests }
      : {}),
    ...(payload.process_id ? { process_id: payload.process_id } : {}),
  };
}
