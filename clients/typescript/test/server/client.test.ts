/** The client against the real server: streams, holds, keys, errors, and a connection that fails in every way. */

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';

import {
  AuthenticationError,
  ConflictError,
  FeatureNotAvailableError,
  TokenProcess,
  TokenProcessError,
  ValidationError,
  WalletNotFoundError,
  withTokenProcess,
} from 'tokentill';

import { addressOfTest, Admin } from '../support/admin.js';
import { passOnTo, withFaultServer } from '../support/fault-server.js';
import type { Fault } from '../support/fault-server.js';

const { url, serverKey: apiKey } = addressOfTest();
const admin = new Admin(addressOfTest());
const client = new TokenProcess({ url, apiKey });

async function* tenChunks() {
  for (let i = 0; i < 10; i += 1) yield { text: `${i}`, input_token: 1, output_token: 4, model: 'model-1' };
}

test('a wrapped async generator closed after 3 of 10 chunks bills what the 3 used', async () => {
  const run = await admin.userWithFeature(1000);
  const wrapped = withTokenProcess({ ...run, client, hold_token: 50 }, tenChunks);
  let seen = 0;
  for await (const chunk of wrapped()) {
    assert.ok(chunk.text);
    seen += 1;
    if (seen === 1) assert.equal((await admin.wallet(run.user_id)).held_token, 50);
    if (seen === 3) break;
  }
  const wallet = await admin.settled(run.user_id);
  // 3 chunks of 4: 12 / 4 and 20 % on top.
  assert.equal(wallet.posted_token, 996.4);
  assert.equal(wallet.token, 996.4);
  assert.equal(wallet.held_token, 0);
  const [row, ...others] = await admin.usage(run.user_id);
  assert.deepEqual([row?.input_token, row?.output_token, row?.model], [3, 12, 'model-1']);
  assert.ok(row?.process_id);
  assert.deepEqual(others, []);
});

test('answers of a provider are added up and billed with their usage by kind', async () => {
  const run = await admin.userWithFeature(1000);
  const answer = (id: string): object => ({
    id,
    object: 'chat.completion',
    model: 'model-1',
    usage: {
      prompt_tokens: 100,
      completion_tokens: 40,
      total_tokens: 140,
      prompt_tokens_details: { cached_tokens: 60 },
      completion_tokens_details: { reasoning_tokens: 30 },
    },
  });
  await client.run({ ...run, hold_token: 50 }, async (open) => {
    await open.read(answer('a'));
    return answer('b');
  });
  // 80 / 4, and 20 % on top.
  assert.equal((await admin.settled(run.user_id)).posted_token, 976);
  const [row, ...others] = await admin.usage(run.user_id);
  assert.deepEqual([row?.input_token, row?.output_token, row?.model], [200, 80, 'model-1']);
  assert.deepEqual(others, []);
});

test('an exhausted one bills all ten, once', async () => {
  const run = await admin.userWithFeature(1000);
  for await (const chunk of withTokenProcess({ ...run, client }, tenChunks)()) assert.ok(chunk);
  assert.equal((await admin.settled(run.user_id)).posted_token, 988);
  assert.equal((await admin.usage(run.user_id)).length, 1);
});

test('one that fails half-way bills what flowed', async () => {
  const run = await admin.userWithFeature(1000);
  const wrapped = withTokenProcess({ ...run, client }, async function* () {
    yield* [{ output_token: 4 }, { output_token: 4 }];
    throw new RangeError('mine');
  });
  await assert.rejects(async () => {
    for await (const chunk of wrapped()) assert.ok(chunk);
  }, RangeError);
  assert.equal((await admin.settled(run.user_id)).posted_token, 997.6);
});

test('a function that fails gives its hold back; while it runs nobody else has those tokens', async () => {
  const run = await admin.userWithFeature(100);
  const failure = new RangeError('mine');
  const wrapped = withTokenProcess({ ...run, client, hold_token: 80 }, async () => {
    assert.equal((await admin.wallet(run.user_id)).held_token, 80);
    const other = await client.start({ ...run, hold_token: 80 });
    assert.equal(other.data.status, 'not-access-able');
    assert.equal(other.data.token, 20);
    throw failure;
  });
  await assert.rejects(wrapped(), (error: unknown) => error === failure);
  const wallet = await admin.wallet(run.user_id);
  assert.deepEqual([wallet.held_token, wallet.token], [0, 100]);
});

test('a free run gives its hold back', async () => {
  const run = await admin.userWithFeature(100);
  await withTokenProcess({ ...run, client, hold_token: 80 }, async () => ({ data: 1 }))();
  assert.equal((await admin.wallet(run.user_id)).held_token, 0);
  assert.deepEqual(await admin.usage(run.user_id), []);
});

test('a run by hand: ended twice, billed once, and the second answer says so', async () => {
  const run = await client.begin(await admin.userWithFeature(1000));
  const first = await run.end({ input_token: 1, output_token: 40 });
  const second = await run.end({ input_token: 1, output_token: 40 });
  assert.equal(first?.replayed, undefined);
  assert.equal(second?.replayed, true);
  assert.deepEqual(second?.data, first?.data);
  await assert.rejects(run.end({ input_token: 1, output_token: 41 }), ConflictError);
  assert.equal((await admin.settled(run.started.user_id)).posted_token, 988);
});

test('an end the wallet doesn’t cover is not-return-able, not an error', async () => {
  const run = await admin.userWithFeature(1);
  const { data } = await client.end({ ...run, input_token: 0, output_token: 4000 });
  assert.deepEqual([data.status, data.cost], ['not-return-able', 1200]);
});

test('amounts are exact', async () => {
  const run = await admin.userWithFeature(1, 33.33);
  const { data } = await client.end({ ...run, input_token: 0, output_token: 1 });
  assert.deepEqual([data.cost, data.token], [0.333325, 0.666675]);
});

test('the real server’s refusals are the errors of the table', async () => {
  const run = await admin.userWithFeature(100);
  const end = { ...run, input_token: 1, output_token: 4 };
  const cases: [() => Promise<unknown>, new (...args: never[]) => TokenProcessError, number, string][] = [
    [() => new TokenProcess({ url, apiKey: 'wrong' }).start(run), AuthenticationError, 401, 'Invalid server API key'],
    [() => client.start({ ...run, user_id: 'nobody' }), WalletNotFoundError, 404, 'User wallet not found'],
    [() => client.end({ ...end, user_id: 'nobody' }), WalletNotFoundError, 404, 'User wallet not found'],
    [
      () => client.start({ ...run, feature_endpoint_id: 'nothing' }),
      FeatureNotAvailableError,
      403,
      'Feature endpoint is not available in your package',
    ],
    [() => client.end({ ...end, output_token: 1.5 }), ValidationError, 400, 'Validation failed'],
    [() => client.end({ ...end, output_token: -1 }), ValidationError, 400, 'Validation failed'],
    [() => client.start({ ...run, hold_token: -1 }), ValidationError, 400, 'Validation failed'],
  ];
  for (const [call, kind, status, message] of cases) {
    await assert.rejects(call(), (error: unknown) => {
      assert.ok(error instanceof TokenProcessError);
      assert.equal(error.constructor, kind);
      assert.equal(error.status, status);
      assert.equal(error.message, message);
      assert.equal(error.response?.data.success, false);
      assert.ok(error.requestId, 'no request id');
      return true;
    });
  }
  const invalid = await client.end({ ...end, output_token: 1.5 }).catch((error: unknown) => error);
  assert.ok(invalid instanceof ValidationError && invalid.errors['output_token']?.length);
  const elsewhere = await new TokenProcess({ url: `${url}/nowhere`, apiKey }).start(run).catch((error: unknown) => error);
  assert.ok(elsewhere instanceof TokenProcessError);
  assert.equal(elsewhere.constructor, TokenProcessError);
  const key = randomUUID();
  await client.end({ ...end, idempotency_key: key });
  await assert.rejects(client.end({ ...end, output_token: 8, idempotency_key: key }), ConflictError);
});

const BUSY: Fault = { kind: 'answer', status: 503, body: { success: false, status: 503, message: 'busy' }, headers: { 'retry-after': '1' } };
const FAULTS: [string, Fault[]][] = [
  ['a time-out after the server took it', [{ kind: 'accept-then-silence' }]],
  ['a connection lost after the server took it', [{ kind: 'accept-then-reset' }]],
  ['a connection lost before', [{ kind: 'reset' }]],
  ['503 and Retry-After', [BUSY]],
  ['all of them, one after the other', [{ kind: 'accept-then-reset' }, BUSY, { kind: 'accept-then-silence' }, { kind: 'reset' }]],
];

for (const [name, faults] of FAULTS) {
  test(`an end through ${name} is billed once`, async () => {
    const run = await admin.userWithFeature(1000);
    await withFaultServer(passOnTo(url), async (between) => {
      between.faults = [...faults];
      const shaken = new TokenProcess({ url: between.url, apiKey, timeoutSeconds: 1 });
      const { data } = await shaken.end({ ...run, input_token: 1, output_token: 40 });
      assert.deepEqual([data.cost, data.token], [12, 988]);
      assert.equal(between.seen.length, faults.length + 1);
    });
    assert.equal((await admin.settled(run.user_id)).posted_token, 988);
    assert.equal((await admin.usage(run.user_id)).length, 1);
  });
}

test('a batch: one bad end among good ones, and a repetition bills nothing again', async () => {
  const run = await admin.userWithFeature(1000);
  const ends = Array.from({ length: 20 }, (_, i) => ({
    ...run,
    ...(i === 7 ? { user_id: 'nobody' } : {}),
    input_token: 1,
    output_token: 4,
    idempotency_key: randomUUID(),
  }));
  for (let i = 0; i < 2; i += 1) {
    const { data } = await client.endBatch(ends);
    assert.deepEqual(
      data.results.map((result) => (result.success ? 200 : (result as { status: number }).status)),
      ends.map((_, index) => (index === 7 ? 404 : 200)),
    );
  }
  assert.equal((await admin.settled(run.user_id)).posted_token, 1000 - 19 * 1.2);
});

test('a batch through a connection lost after the server took it is billed once', async () => {
  const run = await admin.userWithFeature(1000);
  await withFaultServer(passOnTo(url), async (between) => {
    between.faults = [{ kind: 'accept-then-reset' }];
    const shaken = new TokenProcess({ url: between.url, apiKey });
    await shaken.endBatch(Array.from({ length: 10 }, () => ({ ...run, input_token: 0, output_token: 4 })));
  });
  assert.equal((await admin.settled(run.user_id)).posted_token, 988);
});
