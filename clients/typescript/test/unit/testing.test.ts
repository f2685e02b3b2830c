/** The server in memory, and the client that is disabled. */

import assert from 'node:assert/strict';
import { afterEach, test } from 'node:test';

import {
  configureTokenProcess,
  ConflictError,
  FeatureNotAvailableError,
  InsufficientTokensError,
  ReversalRefusedError,
  TokenProcess,
  tokenProcessEnd,
  tokenProcessStart,
  UnavailableError,
  ValidationError,
  WalletNotFoundError,
  withTokenProcess,
} from 'tokentill';
import { MemoryTokentill } from 'tokentill/testing';

const USER = { user_id: 'user-1' };
const RUN = { ...USER, feature_endpoint_id: 'chat' };
const PATIENCE = { baseDelaySeconds: 0.001, maxDelaySeconds: 0.001, totalTimeoutSeconds: 1 };

function memoryWith(token = 1000): MemoryTokentill {
  return new MemoryTokentill({ features: ['chat', 'other'], wallets: { 'user-1': token }, profitPercentage: 10 });
}

afterEach(() => {
  delete process.env['TOKENTILL_DISABLED'];
});

test('a wrapped function is billed, by the real client', async () => {
  const memory = memoryWith();
  const wrapped = withTokenProcess({ ...RUN, client: memory.client(), hold_token: 50 }, async () => {
    assert.equal(memory.token('user-1'), 950);
    assert.equal(memory.holds('user-1')[0]?.token, 50);
    return { text: 'hello', input_token: 12, output_token: 40, model: 'model-1' };
  });
  assert.equal((await wrapped()).text, 'hello');
  assert.equal(memory.token('user-1'), 989);
  assert.deepEqual(memory.holds('user-1'), []);
  const [end, ...others] = memory.ends;
  assert.deepEqual([end?.input_token, end?.output_token, end?.model, end?.base_cost, end?.profit, end?.cost], [12, 40, 'model-1', 10, 1, 11]);
  assert.deepEqual(others, []);
  assert.deepEqual(memory.calls.map(({ path }) => path), ['start', 'end']);
});

test('the shared client may have it as its transport', async () => {
  const memory = memoryWith();
  configureTokenProcess({ transport: memory });
  const { data } = await tokenProcessStart(RUN);
  assert.equal(data.status, 'access-able');
  await tokenProcessEnd({ ...RUN, input_token: 0, output_token: 4, process_id: data.process_id });
  assert.equal(memory.token('user-1'), 998.9);
  configureTokenProcess();
});

test('a run can be reversed for as long as its feature allows', async () => {
  const memory = memoryWith(15);
  memory.addFeature('chat', { reversal_seconds: 60 });
  const client = memory.client();
  const usage = { ...RUN, input_token: 12, output_token: 40 };
  await client.end({ ...usage, process_id: 'run-1', idempotency_key: 'key-1' });
  await client.end({ ...usage, idempotency_key: 'key-2' });
  const why = { ...USER, reference: 'r', reason: 'Empty answer' };
  assert.equal(memory.debt('user-1'), 11);
  const owed = await client.reverse({ ...why, idempotency_key: 'key-2' });
  assert.deepEqual(owed.data, { ...USER, token: 11, posted_token: 0, debt_token: -11, reference: 'r' });
  const first = await client.reverse({ ...why, process_id: 'run-1' });
  assert.deepEqual(first.data, { ...USER, token: 11, posted_token: 11, debt_token: 0, reference: 'r' });
  assert.equal(memory.token('user-1'), 15);
  const again = await client.reverse({ ...why, process_id: 'run-1', idempotency_key: 'key-1' });
  assert.deepEqual([again.data, again.replayed], [first.data, true]);
  await assert.rejects(client.reverse({ ...why, process_id: 'run-1', reason: 'Else' }), ConflictError);
  const refused = (code: string) => (error: unknown) => error instanceof ReversalRefusedError && error.code === code;
  await assert.rejects(client.reverse({ ...why, process_id: 'run-1', reference: 's' }), refused('exceeds_original'));
  await assert.rejects(client.reverse({ ...why, process_id: 'none' }), { status: 404 });
  await assert.rejects(client.reverse({ ...why, process_id: 'run-1', idempotency_key: 'key-2' }), { status: 404 });
  await assert.rejects(client.reverse(why), ValidationError);
  await client.end({ ...usage, process_id: 'run-3' });
  memory.advance(61);
  await assert.rejects(client.reverse({ ...why, process_id: 'run-3' }), refused('reversal_not_allowed'));
  assert.equal(memory.token('user-1'), 4);
});

test('wallets, packages and features that aren’t there', async () => {
  const memory = memoryWith();
  memory.addPackage('small', ['other']);
  memory.addWallet('user-2', { token: 5, package_id: 'small' });
  const client = memory.client();
  await assert.rejects(client.start({ ...RUN, user_id: 'nobody' }), WalletNotFoundError);
  await assert.rejects(client.start({ ...RUN, user_id: 'user-2' }), FeatureNotAvailableError);
  // What was used is billed, whatever became of the package.
  assert.equal((await client.end({ ...RUN, user_id: 'user-2', input_token: 0, output_token: 4 })).data.cost, 1.1);
  memory.suspend('user-1');
  await assert.rejects(client.start(RUN), WalletNotFoundError);
  assert.throws(() => memory.addWallet('user-3', { package_id: 'unknown' }), RangeError);
});

test('prices by kind, the most specific, with tiers, rounded up once', async () => {
  const memory = new MemoryTokentill({ features: ['chat'], wallets: { 'user-1': 1000 } });
  memory.addPrice({ input_per_million: 1, output_per_million: 1 });
  memory.addPrice({ model: 'gpt*', input_per_million: 2, output_per_million: 2 });
  memory.addPrice({
    id: 42,
    model: 'gpt-5',
    input_per_million: 3,
    output_per_million: 15,
    cached_input_per_million: 0.3,
    cache_write_per_million: 3.75,
    per_request: 0.01,
    tiers: [{ above_input_token: 200_000, input_per_million: 6 }],
  });
  memory.addProfit({ percentage: 50, model: 'gpt-4' });
  const client = memory.client();
  const end = async (usage: object): Promise<number> => {
    return (await client.end({ ...RUN, input_token: 0, output_token: 0, ...usage })).data.cost;
  };
  assert.equal(await end({ model: 'other', input_token: 1_000_000 }), 1);
  assert.equal(await end({ model: 'gpt-4', input_token: 1_000_000 }), 3);
  const kinds = { cached_input_token: 400_000, cache_write_token: 100_000 };
  // Above the tier the whole input costs its price; what the tier doesn't name costs what it did.
  assert.equal(await end({ model: 'gpt-5', input_token: 1_000_000, output_token: 1000, ...kinds }), 3 + 0.12 + 0.375 + 0.015 + 0.01);
  assert.equal(await end({ model: 'gpt-5', input_token: 1, requests: 2 }), 0.020003);
  assert.equal(memory.ends.at(-1)?.price_id, 42);
  assert.equal(await end({ model: 'gpt-4', input_token: 1, cached_input_token: 1 }), 0.000003);
});

test('a feature that refuses models without a price', async () => {
  const memory = new MemoryTokentill({ wallets: { 'user-1': 10 } });
  memory.addFeature('chat', { unpriced: 'refuse', min_token: 5 });
  memory.addPrice({ model: 'gpt', input_per_million: 1, output_per_million: 1 });
  const start = async (body: object): Promise<string> => {
    const { status } = await ask(memory, 'start', { ...RUN, ...body });
    return String(status);
  };
  assert.equal(await start({ model: 'gpt' }), '200');
  assert.equal(await start({ model: 'other' }), '403');
  assert.equal(await start({}), '200');
});

/** A call that the client has no method for. */
async function ask(memory: MemoryTokentill, path: string, body: object): Promise<Response> {
  return memory.fetch(`http://memory/api/token-process/${path}`, {
    method: 'POST',
    headers: {},
    body: JSON.stringify(body),
    signal: new AbortController().signal,
    redirect: 'manual',
    cache: 'no-store',
  });
}

test('an estimate changes nothing', async () => {
  const memory = memoryWith(10);
  const answer = await ask(memory, 'estimate', { ...RUN, input_token: 0, output_token: 40 });
  const { data } = (await answer.json()) as { data: Record<string, unknown> };
  assert.deepEqual([data['cost'], data['base_cost'], data['profit'], data['status'], data['token']], [11, 10, 1, 'not-return-able', -1]);
  assert.equal(memory.token('user-1'), 10);
});

test('the same key bills once, and with another body is a conflict', async () => {
  const memory = memoryWith();
  const client = memory.client();
  const end = { ...RUN, input_token: 0, output_token: 40, idempotency_key: 'key-1' };
  assert.equal((await client.end(end)).replayed, undefined);
  assert.equal((await client.end(end)).replayed, true);
  await assert.rejects(client.end({ ...end, output_token: 4 }), ConflictError);
  assert.equal(memory.ends.length, 1);
  const { data } = await client.endBatch([end, { ...end, idempotency_key: 'key-2' }, { ...end, output_token: -1, idempotency_key: 'key-3' }]);
  assert.deepEqual(data.results.map(({ success }) => success), [true, true, false]);
  assert.equal(memory.token('user-1'), 978);
});

test('faults: away, answers that get lost, and statuses', async () => {
  const memory = memoryWith();
  const client = memory.client(PATIENCE);
  memory.loseAnswers();
  await client.end({ ...RUN, input_token: 0, output_token: 40 });
  assert.equal(memory.token('user-1'), 989);
  assert.equal(memory.ends.length, 1);
  memory.failNext(503, 2);
  await client.end({ ...RUN, input_token: 0, output_token: 40 });
  assert.equal(memory.ends.length, 2);
  memory.away = true;
  await assert.rejects(client.start(RUN), UnavailableError);
  memory.away = false;
  assert.equal((await client.start(RUN)).data.status, 'access-able');
});

test('an uncovered run is debt: no start until it is paid', async () => {
  const memory = memoryWith(5);
  const client = memory.client();
  assert.equal((await client.end({ ...RUN, input_token: 0, output_token: 40 })).data.status, 'not-return-able');
  assert.deepEqual([memory.token('user-1'), memory.debt('user-1')], [-6, 11]);
  // What the debt will take is nobody else's.
  assert.equal((await client.end({ ...RUN, input_token: 0, output_token: 4 })).data.status, 'not-return-able');
  await assert.rejects(client.begin(RUN), InsufficientTokensError);
  memory.topUp('user-1', 10);
  assert.deepEqual([memory.token('user-1'), memory.debt('user-1')], [2.9, 0]);
  assert.equal((await client.start(RUN)).data.status, 'access-able');
});

test('holds: reserved, extended, given back, expired', async () => {
  const memory = memoryWith(100);
  const client = memory.client();
  const run = await client.begin({ ...RUN, hold_token: 60, hold_seconds: 60 });
  assert.equal((await client.start({ ...RUN, hold_token: 60 })).data.status, 'not-access-able');
  assert.equal((await run.extendHold({ token: 20 })).hold_token, 80);
  await assert.rejects(run.extendHold({ token: 30 }));
  assert.equal(memory.token('user-1'), 20);
  await run.cancel();
  assert.equal(memory.token('user-1'), 100);
  await client.begin({ ...RUN, hold_token: 60, hold_seconds: 60 });
  memory.advance(61);
  assert.equal(memory.token('user-1'), 100);
  const other = await client.begin({ ...RUN, hold_token: 60 });
  assert.ok(other.started.process_id);
  await assert.rejects(client.cancel({ user_id: 'user-2', process_id: other.started.process_id }));
  await other.end({ output_token: 4 });
  await assert.rejects(other.cancel(), ConflictError);
});

test('disabled: every start is access-able and nothing is sent', async () => {
  const nowhere = { fetch: () => assert.fail('it was sent') };
  for (const options of [{ disabled: true }, {}]) {
    if (!('disabled' in options)) process.env['TOKENTILL_DISABLED'] = '1';
    const client = new TokenProcess({ transport: nowhere, url: 'nowhere', outbox: '/nowhere/outbox.db', ...options });
    const wrapped = withTokenProcess({ ...RUN, client, hold_token: 5 }, async () => ({ text: 'x', output_token: 40 }));
    assert.equal((await wrapped()).text, 'x');
    const run = await client.begin({ ...RUN, hold_token: 5 });
    assert.equal((await run.extendHold({ token: 5 })).status, 'access-able');
    assert.equal((await run.end({ output_token: 4 }))?.data.cost, 0);
    await run.cancel();
    const { data } = await client.endBatch([{ ...RUN, input_token: 1, output_token: 1 }]);
    assert.equal(data.results[0]?.success, true);
    assert.deepEqual(await client.flush(), { sent: 0, refused: 0, postponed: 0 });
    await client.close();
  }
  process.env['TOKENTILL_DISABLED'] = '0';
  const memory = memoryWith();
  configureTokenProcess({ transport: memory });
  await tokenProcessEnd({ ...RUN, input_token: 0, output_token: 4 });
  assert.equal(memory.ends.length, 1);
});
