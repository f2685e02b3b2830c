/** The bodies of the token process calls, checked as the server checks them. */

import { isRecord } from '../errors';
import { micros } from './prices';

export type Body = Record<string, unknown>;

const TOKENS_MAX = 100_000_000;
const REQUESTS_MAX = 100_000;
const HOLD_SECONDS_MAX = 86_400;
const ID_LENGTH_MAX = 255;

/** A refusal in the server's envelope. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly more: { errors?: Record<string, string[]>; data?: object } = {},
  ) {
    super(message);
  }

  get body(): object {
    return { success: false, status: this.status, message: this.message, code: this.code, ...this.more };
  }
}

export function invalid(errors: Record<string, string[]>): Refusal {
  return new Refusal(400, 'validation_failed', 'Validation failed', { errors });
}

type Check = (value: unknown) => string | undefined;

const id: Check = (value) =>
  typeof value === 'string' && value.length > 0 && value.length <= ID_LENGTH_MAX ? undefined : 'Must be a text of 1 to 255 characters.';
const amountOfTokens: Check = (value) =>
  Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= TOKENS_MAX
    ? undefined
    : 'Must be a whole number from 0 to 100000000.';
const countOfRequests: Check = (value) =>
  Number.isSafeInteger(value) && (value as number) >= 1 && (value as number) <= REQUESTS_MAX
    ? undefined
    : 'Must be a whole number from 1 to 100000.';
const holdToken: Check = (value) => {
  try {
    return typeof value === 'number' && micros(value) > 0n ? undefined : 'Must be a number above 0.';
  } catch {
    return 'At most 6 decimals.';
  }
};
const holdSeconds: Check = (value) =>
  Number.isInteger(value) && (value as number) >= 1 && (value as number) <= HOLD_SECONDS_MAX
    ? undefined
    : 'Must be a whole number from 1 to 86400.';

const USER = { user_id: id };
const RUN = { ...USER, feature_endpoint_id: id };
const HOLD = { hold_token: holdToken, hold_seconds: holdSeconds };
const PARTS = { cached_input_token: amountOfTokens, cache_write_token: amountOfTokens, reasoning_token: amountOfTokens };

const REQUIRED: Record<string, Record<string, Check>> = {
  start: RUN,
  end: { ...RUN, input_token: amountOfTokens, output_token: amountOfTokens },
  reverse: { ...USER, reference: id, reason: id },
  cancel: { ...USER, process_id: id },
  extend: { ...USER, process_id: id },
};
const OPTIONAL: Record<string, Record<string, Check>> = {
  start: { ...HOLD, model: id },
  end: { ...PARTS, requests: countOfRequests, model: id, process_id: id },
  reverse: { process_id: id, idempotency_key: id },
  cancel: {},
  extend: HOLD,
};

/** The body, or a Refusal that names every wrong field. */
export function checkedBody(call: 'start' | 'end' | 'reverse' | 'cancel' | 'extend', body: unknown): Body {
  if (!isRecord(body)) throw invalid({ body: ['Must be a JSON object.'] });
  const errors: Record<string, string[]> = {};
  for (const [name, check] of Object.entries(REQUIRED[call] ?? {})) {
    const wrong = body[name] === undefined ? 'Missing data for required field.' : check(body[name]);
    if (wrong !== undefined) errors[name] = [wrong];
  }
  for (const [name, check] of Object.entries(OPTIONAL[call] ?? {})) {
    const wrong = body[name] === undefined || body[name] === null ? undefined : check(body[name]);
    if (wrong !== undefined) errors[name] = [wrong];
  }
  if (call === 'extend' && body['hold_token'] == null && body['hold_seconds'] == null) {
    errors['hold_token'] = errors['hold_seconds'] = ['Give hold_token, hold_seconds or both.'];
  }
  if (call === 'reverse' && body['process_id'] == null && body['idempotency_key'] == null) {
    errors['process_id'] = errors['idempotency_key'] = ['Give process_id, idempotency_key or both.'];
  }
  if (call === 'end' && Object.keys(errors).length === 0) checkParts(body, errors);
  if (Object.keys(errors).length > 0) throw invalid(errors);
  return body;
}

function checkParts(body: Body, errors: Record<string, string[]>): void {
  const of = (name: string): number => Number(body[name] ?? 0);
  const parts = ['cached_input_token', 'cache_write_token'];
  const larger = parts.filter((name) => of(name) > of('input_token'));
  for (const name of larger) errors[name] = ['Must not be more than input_token.'];
  if (larger.length === 0 && of('cached_input_token') + of('cache_write_token') > of('input_token')) {
    for (const name of parts) errors[name] = ['Must not be more than input_token together.'];
  }
  if (of('reasoning_token') > of('output_token')) errors['reasoning_token'] = ['More than output_token.'];
}
