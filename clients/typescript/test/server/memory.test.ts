/** The server in memory answers as the real one does: the same calls to both, answer for answer. */

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';

import { MemoryTokentill } from 'tokentill/testing';

import { addressOfTest, Admin } from '../support/admin.js';

const address = addressOfTest();
const admin = new Admin(address);

interface Told {
  status: number;
  replayed: boolean;
  body: Record<string, unknown>;
}

type Ask = (path: string, body: unknown, key?: string) => Promise<Told>;

async function told(answer: Response): Promise<Told> {
  const body = (await answer.json()) as Record<string, unknown>;
  return { status: answer.status, replayed: answer.headers.get('idempotent-replayed') === 'true', body };
}

const askServer: Ask = async (path, body, key) => {
  const headers = { 'content-type': 'application/json', 'x-server-api-key': address.serverKey };
  return told(
    await fetch(`${address.url}/api/token-process/${path}`, {
      method: 'POST',
      headers: { ...headers, ...(key === undefined ? {} : { 'idempotency-key': key }) },
      body: JSON.stringify(body),
    }),
  );
};

function askMemory(memory: MemoryTokentill): Ask {
  return async (path, body, key) =>
    told(
      await memory.fetch(`http://memory/api/token-process/${path}`, {
        method: 'POST',
        headers: key === undefined ? {} : { 'idempotency-key': key },
        body: JSON.stringify(body),
        signal: new AbortController().signal,
        redirect: 'manual',
        cache: 'no-store',
      }),
    );
}

/** What both must agree on: no ids, no times, no words that are for people. */
function comparable({ status, replayed, body }: Told): unknown {
  const plain = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(plain);
    if (typeof value !== 'object' || value === null) return value;
    const entries = Object.entries(value).filter(([name]) => !['request_id', 'message'].includes(name));
    return Object.fromEntries(
      entries.map(([name, item]) => {
        if (['process_id', 'expires_at'].includes(name)) return [name, typeof item];
        if (name === 'errors') return [name, Object.keys(item as object).sort()];
        return [name, plain(item)];
      }),
    );
  };
  return { status, replayed, body: plain(body) };
}

test('the same calls are answered the same', async () => {
  const { user_id, feature_endpoint_id } = await admin.userWithFeature(100, 12.5);
  const other = await admin.userWithFeature(5, 0);
  const memory = new MemoryTokentill({ features: [feature_endpoint_id, other.feature_endpoint_id] });
  memory.addPackage('one', [feature_endpoint_id]);
  memory.addPackage('two', [other.feature_endpoint_id]);
  memory.addWallet(user_id, { token: 100, package_id: 'one' });
  memory.addWallet(other.user_id, { token: 5, package_id: 'two' });
  memory.addProfit({ percentage: 12.5, feature_endpoint_id });
  memory.addProfit({ percentage: 0, feature_endpoint_id: other.feature_endpoint_id });

  const asks = [askServer, askMemory(memory)] as const;
  const processes: [string[], string[]] = [[], []];
  /** `<n>` in a body stands for the nth process that was started. */
  const both = async (path: string, body: unknown, key?: string): Promise<Told> => {
    const answers = [];
    for (const [index, ask] of asks.entries()) {
      const own = JSON.parse(JSON.stringify(body).replace(/<(\d)>/g, (_, n: string) => processes[index as 0 | 1][Number(n)] ?? '')) as unknown;
      const answer = await ask(path, own, key);
      const data = answer.body['data'] as { process_id?: string } | undefined;
      if (path === 'start' && data?.process_id) processes[index as 0 | 1].push(data.process_id);
      answers.push(answer);
    }
    const [real, fake] = answers as [Told, Told];
    assert.deepEqual(comparable(fake), comparable(real), `${path} ${JSON.stringify(body)}`);
    return real;
  };

  const run = { user_id, feature_endpoint_id };
  const end = { ...run, input_token: 3, output_token: 40, model: 'model-1' };
  const key = randomUUID();
  await both('start', run);
  await both('start', { ...run, hold_token: 30, hold_seconds: 60 });
  await both('start', { ...run, hold_token: 80 });
  await both('start', { ...run, user_id: `nobody-${key}` });
  await both('start', { ...run, feature_endpoint_id: other.feature_endpoint_id });
  await both('start', { ...run, feature_endpoint_id: `nothing-${key}` });
  await both('start', { user_id: 7, hold_token: -1, hold_seconds: 0.5 });
  await both('end', end, key);
  assert.equal((await both('end', end, key)).replayed, true);
  await both('end', { ...end, output_token: 41 }, key);
  await both('end', { ...end, process_id: '<0>' });
  await both('end', { ...end, process_id: '<0>' });
  await both('end', { ...end, process_id: '<0>', output_token: 41 });
  await both('end', { ...end, input_token: 0, output_token: 0 });
  await both('end', { ...end, user_id: `nobody-${key}` });
  await both('end', { ...end, feature_endpoint_id: `nothing-${key}` });
  await both('end', { ...end, feature_endpoint_id: other.feature_endpoint_id });
  await both('end', { ...run, input_token: -1, output_token: 0.5 });
  await both('end', { ...other, input_token: 1, output_token: 1, process_id: '<1>' });
  const started = `${key}-start`;
  await both('start', { ...run, hold_token: 5 }, started);
  assert.equal((await both('start', { ...run, hold_token: 5 }, started)).replayed, true);
  await both('start', { ...run, hold_token: 6 }, started);
  await both('start', run, started);
  await both('hold/extend', { user_id, process_id: '<1>', hold_token: 5 });
  await both('hold/extend', { user_id, process_id: '<1>', hold_token: 5 }, `${key}-extend`);
  assert.equal((await both('hold/extend', { user_id, process_id: '<1>', hold_token: 5 }, `${key}-extend`)).replayed, true);
  await both('hold/extend', { user_id, process_id: '<1>', hold_token: 6 }, `${key}-extend`);
  await both('hold/extend', { user_id, process_id: '<1>', hold_seconds: 60 });
  await both('hold/extend', { user_id, process_id: '<1>', hold_token: 900 });
  await both('hold/extend', { user_id, process_id: '<1>' });
  await both('hold/extend', { user_id, process_id: '<0>', hold_token: 5 });
  await both('hold/extend', { user_id: other.user_id, process_id: '<1>', hold_token: 5 });
  await both('end/batch', {
    ends: [{ ...end, idempotency_key: `${key}-2` }, { ...end, idempotency_key: key }, { ...end, user_id: '', idempotency_key: `${key}-3` }],
  });
  await both('end/batch', { ends: [] });
  await both('cancel', { user_id, process_id: '<1>' });
  await both('cancel', { user_id, process_id: '<1>' });
  await both('cancel', { user_id: other.user_id, process_id: '<1>' });
  await both('cancel', { user_id, process_id: '<0>' });
  await both('cancel', { user_id });
  await both('end', { ...other, input_token: 0, output_token: 40 });
  await both('start', other);
  await both('end', { ...other, input_token: 0, output_token: 4 });
});

test('prices are the same in both', async () => {
  const { user_id, feature_endpoint_id } = await admin.userWithFeature(10_000, 12.5);
  const prices = [
    { model: 'gpt-4.1*', input_per_million: 2_000, output_per_million: 8_000.000001 },
    { model: 'gpt-4.1-mini', input_per_million: 400, output_per_million: 1_600, per_request: 0.25 },
    {
      model: 'gemini-*',
      input_per_million: 1_250,
      output_per_million: 10_000,
      cached_input_per_million: 312.5,
      cache_write_per_million: 1_300,
      reasoning_per_million: 11_000,
      tiers: [{ above_input_token: 200, input_per_million: 2_500, output_per_million: 15_000 }],
    },
  ];
  const memory = new MemoryTokentill();
  memory.addFeature(feature_endpoint_id, { unpriced: 'refuse' });
  memory.addWallet(user_id, { token: 10_000 });
  memory.addProfit({ percentage: 12.5, feature_endpoint_id });
  await admin.price(feature_endpoint_id, prices);
  for (const price of prices) memory.addPrice({ ...price, feature_endpoint_id });

  const both = async (path: string, body: object): Promise<void> => {
    const [real, fake] = await Promise.all([askServer(path, body), askMemory(memory)(path, body)]);
    assert.deepEqual(comparable(withoutIds(fake)), comparable(withoutIds(real)), `${path} ${JSON.stringify(body)}`);
  };
  const run = { user_id, feature_endpoint_id };
  const kinds = { cached_input_token: 77, cache_write_token: 11, reasoning_token: 31 };
  for (const model of [undefined, 'gpt-4.1', 'gpt-4.1-2025-04-14', 'gpt-4.1-mini', 'gemini-2.5-pro', 'unknown']) {
    await both('start', { ...run, model });
    for (const input_token of [100, 200, 201]) {
      for (const more of [{}, kinds, { ...kinds, requests: 3 }]) {
        const end = { ...run, model, input_token, output_token: 50, ...more };
        await both('estimate', end);
        await both('end', end);
      }
    }
    for (const more of [{}, { requests: 1 }, { requests: 2 }]) {
      await both('estimate', { ...run, model, input_token: 0, output_token: 0, ...more });
      await both('end', { ...run, model, input_token: 0, output_token: 0, ...more });
    }
  }
  for (const wrong of [{ cached_input_token: 101 }, { cached_input_token: 60, cache_write_token: 60 }, { requests: 0 }, { reasoning_token: 51 }]) {
    await both('end', { ...run, input_token: 100, output_token: 50, ...wrong });
    await both('estimate', { ...run, input_token: 100, output_token: 50, ...wrong });
  }
  await both('estimate', { ...run, user_id: 'nobody-at-all', input_token: 1, output_token: 1 });
});

test('reversals are the same in both', async () => {
  const { user_id, feature_endpoint_id } = await admin.userWithFeature(100, 12.5);
  const strict = await admin.userWithFeature(100, 0);
  await admin.allowReversals(feature_endpoint_id, 600);
  const memory = new MemoryTokentill();
  memory.addFeature(feature_endpoint_id, { reversal_seconds: 600 });
  memory.addFeature(strict.feature_endpoint_id);
  memory.addWallet(user_id, { token: 100 });
  memory.addProfit({ percentage: 12.5, feature_endpoint_id });

  const both = async (path: string, body: object, key?: string): Promise<void> => {
    const [real, fake] = await Promise.all([askServer(path, body, key), askMemory(memory)(path, body, key)]);
    assert.deepEqual(comparable(fake), comparable(readByClients(real)), `${path} ${JSON.stringify(body)}`);
  };
  const [one, two] = [randomUUID(), randomUUID()];
  const end = { user_id, feature_endpoint_id, input_token: 3, output_token: 40 };
  await both('end', end, one);
  await both('end', { ...end, feature_endpoint_id: strict.feature_endpoint_id }, two);
  await admin.settled(user_id);
  const reversal = { user_id, idempotency_key: one, reference: 'r', reason: 'came out empty' };
  await both('end/reverse', reversal);
  await both('end/reverse', reversal);
  await both('end/reverse', { ...reversal, reason: 'another' });
  await both('end/reverse', { ...reversal, reference: 's' });
  await both('end/reverse', { ...reversal, idempotency_key: two });
  await both('end/reverse', { ...reversal, idempotency_key: randomUUID() });
  await both('end/reverse', { ...reversal, user_id: strict.user_id });
  await both('end/reverse', { user_id, idempotency_key: one, reference: '', reason: 7 });
  await both('end/reverse', { user_id, reference: '', reason: 7 });
  await both('end', end, one);
  await both('start', { user_id, feature_endpoint_id });
});

/** The server also tells of a reversal what an operator sees: its entries in the ledger. */
function readByClients(told: Told): Told {
  const data = told.body['data'] as Record<string, unknown> | undefined;
  if (data === undefined || data['kind'] !== 'reversal') return told;
  const names = ['user_id', 'token', 'posted_token', 'debt_token', 'reference'];
  return { ...told, body: { ...told.body, data: Object.fromEntries(names.map((name) => [name, data[name]])) } };
}

/** The server numbers prices and rules over all features. */
function withoutIds(told: Told): Told {
  const data = told.body['data'] as Record<string, unknown> | undefined;
  if (data === undefined || !('price_id' in data)) return told;
  const ids = Object.fromEntries(['price_id', 'profit_rule_id'].map((name) => [name, typeof data[name]]));
  return { ...told, body: { ...told.body, data: { ...data, ...ids } } };
}
