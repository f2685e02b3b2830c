// The shapes of the token process as the server describes them in /openapi.json.
// Made by `python -m tests.typescript_types` in the server's folder, whose tests hold this file to the description.

export interface Calls {
  start: { body: StartRequest; data: Started };
  end: { body: EndRequest; data: Ended };
  end_batch: { body: BatchRequest; data: Batch };
  reverse_own_run: { body: OwnReversalRequest; data: Correction };
  estimate: { body: EstimateRequest; data: Estimate };
  cancel: { body: CancelRequest; data: Cancelled };
  extend_hold: { body: ExtendRequest; data: ExtendedHold };
}

export type Batch = {
  results: BatchResult[];
};

export type BatchRequest = {
  ends: EndOfBatchRequest[];
};

export type BatchResult = {
  success: boolean;
  status: number;
  message: string;
  data?: Ended;
  idempotent_replayed?: boolean;
  code?: string;
  errors?: Record<string, string[]>;
  request_id?: string;
};

export type CancelRequest = {
  user_id: string;
  process_id: string;
};

export type Cancelled = {
  user_id: string;
  process_id: string;
  token: Tokens;
};

export type Correction = {
  id: number;
  kind: 'reversal' | 'amendment' | 'chargeback';
  user_id: string;
  corrects: string | null;
  token: Tokens;
  posted_token: Tokens;
  debt_token: Tokens;
  charge_id: string | null;
  reference: string;
  reason: string | null;
  actor: string | null;
  request_id: string | null;
  created_at: string;
  cost_before?: Tokens | null;
  cost?: Tokens | null;
  input_token?: number;
  output_token?: number;
  cached_input_token?: number;
  cache_write_token?: number;
  reasoning_token?: number;
  requests?: number;
  price_id?: number | null;
  profit_rule_id?: number | null;
  transactions: Transaction[];
};

export type EndOfBatchRequest = {
  feature_endpoint_id: string;
  input_token: number;
  output_token: number;
  cached_input_token?: number | null;
  cache_write_token?: number | null;
  reasoning_token?: number | null;
  requests?: number | null;
  model?: string | null;
  process_id?: string | null;
  user_id: string;
  idempotency_key?: string | null;
};

export type EndRequest = {
  feature_endpoint_id: string;
  input_token: number;
  output_token: number;
  cached_input_token?: number | null;
  cache_write_token?: number | null;
  reasoning_token?: number | null;
  requests?: number | null;
  model?: string | null;
  process_id?: string | null;
  user_id: string;
};

export type Ended = {
  user_id: string;
  token: Tokens;
  cost: Tokens;
  status: 'return-able' | 'not-return-able';
};

export type Estimate = {
  cost: Tokens;
  base_cost: Tokens;
  profit: Tokens;
  price_id: number | null;
  profit_rule_id: number | null;
  token: Tokens;
  status: 'return-able' | 'not-return-able';
};

export type EstimateRequest = {
  feature_endpoint_id: string;
  input_token: number;
  output_token: number;
  cached_input_token?: number | null;
  cache_write_token?: number | null;
  reasoning_token?: number | null;
  requests?: number | null;
  model?: string | null;
  process_id?: string | null;
  user_id: string;
};

export type ExtendRequest = {
  user_id: string;
  process_id: string;
  hold_token?: number | null;
  hold_seconds?: number | null;
};

export type ExtendedHold = {
  user_id: string;
  process_id: string;
  token: Tokens;
  hold_token: Tokens;
  expires_at: string;
  status: 'access-able' | 'not-access-able';
};

export type Failure = {
  success: false;
  status: number;
  message: string;
  code: string;
  errors?: Record<string, string[]>;
  data?: {
    user_id?: string;
    token?: Tokens;
    status?: 'not-access-able';
  };
  request_id: string;
};

export type OwnReversalRequest = {
  user_id: string;
  process_id?: string | null;
  idempotency_key?: string | null;
  reference: string;
  reason: string;
};

export type Parts = {
  input_token: Tokens;
  cached_input_token: Tokens;
  cache_write_token: Tokens;
  output_token: Tokens;
  reasoning_token: Tokens;
  requests: Tokens;
};

export type StartRequest = {
  user_id: string;
  feature_endpoint_id: string;
  hold_token?: number | null;
  hold_seconds?: number | null;
  model?: string | null;
};

export type Started = {
  user_id: string;
  token: Tokens;
  status: 'access-able' | 'not-access-able';
  process_id?: string;
  hold_token?: Tokens;
  expires_at?: string;
};

export type Tokens = number;

export type Transaction = {
  id: number;
  user_id: string;
  kind: 'usage' | 'top_up' | 'refund' | 'adjustment' | 'write_off' | 'reversal' | 'amendment' | 'chargeback';
  token: Tokens;
  base_cost: Tokens | null;
  profit: Tokens | null;
  cost: Tokens | null;
  input_token: number | null;
  output_token: number | null;
  cached_input_token: number | null;
  cache_write_token: number | null;
  reasoning_token: number | null;
  requests: number | null;
  model: string | null;
  feature_endpoint_id: string | null;
  price_id: number | null;
  parts: Parts | null;
  profit_rule_id: number | null;
  balance_after: Tokens;
  reference: string | null;
  reason: string | null;
  process_id: string | null;
  end_id: string | null;
  corrects: string | null;
  request_id: string | null;
  actor: string | null;
  accepted_at: string | null;
  created_at: string;
};
