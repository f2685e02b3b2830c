/** The server of a client that is disabled: every start is access-able, and nothing is sent or billed. */

import { environment, randomUuid } from './platform';
import type { Fetch } from './platform';

/** TOKENTILL_DISABLED, where it isn't said otherwise. */
export function isDisabled(given: boolean | undefined): boolean {
  if (given !== undefined) return given;
  return ['1', 'true', 'yes', 'on'].includes((environment('TOKENTILL_DISABLED') ?? '').trim().toLowerCase());
}

export const disabledFetch: Fetch = async (url, init) => {
  const body = JSON.parse(init.body) as Record<string, unknown>;
  const isBatch = url.endsWith('/end/batch');
  const data = isBatch ? { results: (body['ends'] as object[]).map((end) => success(dataFor(url, end))) } : dataFor(url, body);
  return new Response(JSON.stringify(success(data)), { headers: { 'content-type': 'application/json' } });
};

function dataFor(url: string, body: { user_id?: unknown; process_id?: unknown; hold_token?: unknown; reference?: unknown }): object {
  const { user_id, process_id, hold_token, reference } = body;
  const data = { user_id, token: 0 };
  if (url.endsWith('/start')) return { ...data, status: 'access-able', process_id: randomUuid(), hold_token };
  if (url.endsWith('/hold/extend')) {
    return { ...data, status: 'access-able', process_id, hold_token, expires_at: '9999-12-31T23:59:59.999Z' };
  }
  if (url.endsWith('/end/reverse')) return { ...data, posted_token: 0, debt_token: 0, reference };
  if (url.endsWith('/estimate')) {
    return { ...data, cost: 0, base_cost: 0, profit: 0, price_id: null, profit_rule_id: null, status: 'return-able' };
  }
  return url.endsWith('/cancel') ? { ...data, process_id } : { ...data, cost: 0, status: 'return-able' };
}

function success(data: object): object {
  return { success: true, message: 'Tokentill is disabled', data };
}
