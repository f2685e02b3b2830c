/** Runs against the real server: holds that are extended, kept and refused, starts and ends that are repeated. */

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';

import { currentRun, HoldNotFoundError, HoldRefusedError, TokenProcess, TokenProcessError, withTokenProcess } from 'tokentill';

import { addressOfTest, Admin } from '../support/admin.js';
import { passOnTo, withFaultServer } from '../support/fault-server.js';

const { url, serverKey: apiKey } = addressOfTest();
const admin = new Admin(addressOfTest());
const client = new TokenProcess({ url, apiKey });

const pause = (seconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

test('a hold is extended by amount and by time, and its end releases all of it', async () => {
  const feature = await admin.userWithFeature(100);
  const run = await client.begin({ ...feature, hold_token: 30, hold_seconds: 60 });
  const first = Date.parse(run.started.expires_at ?? '');
  const more = await run.extendHold({ token: 40, seconds: 600 });
  assert.deepEqual([more.status, more.hold_token, more.token], ['access-able', 70, 30]);
  assert.equal(Date.parse(more.expires_at) - first, 600_000);
  assert.equal((await admin.wallet(feature.user_id)).held_token, 70);
  await run.end({ output_token: 40 });
  const wallet = await admin.settled(feature.user_id);
  assert.deepEqual([wallet.held_token, wallet.token], [0, 88]);
  await assert.rejects(run.extendHold({ seconds: 60 }), HoldNotFoundError);
});

test('an extension whose answer got lost adds once', async () => {
  const feature = await admin.userWithFeature(100);
  await withFaultServer(passOnTo(url), async (between) => {
    const shaken = new TokenProcess({ url: between.url, apiKey });
    const run = await shaken.begin({ ...feature, hold_token: 30 });
    between.faults = [{ kind: 'accept-then-reset' }];
    assert.equal((await run.extendHold({ token: 10 })).hold_token, 40);
    assert.equal((await admin.wallet(feature.user_id)).held_token, 40);
    await run.cancel();
  });
});

test('refused in mid-stream: the stream is stopped, what flowed is billed, the hold is given back', async () => {
  const feature = await admin.userWithFeature(100);
  const wrapped = withTokenProcess({ ...feature, client, hold_token: 40 }, async function* () {
    for (let step = 0; ; step += 1) {
      if (step > 0) await currentRun()?.extendHold({ token: 40 });
      for (let i = 0; i < 10; i += 1) yield { output_token: 4 };
    }
  });
  let chunks = 0;
  await assert.rejects(
    async () => {
      for await (const chunk of wrapped()) chunks += chunk.output_token / 4;
    },
    (error: unknown) => error instanceof HoldRefusedError && error.token === 20,
  );
  assert.equal(chunks, 20);
  const wallet = await admin.settled(feature.user_id);
  assert.deepEqual([wallet.held_token, wallet.posted_token], [0, 76]);
});

test('keepHold: a hold of two seconds outlives a run of five', async () => {
  const feature = await admin.userWithFeature(100);
  const wrapped = withTokenProcess({ ...feature, client, hold_token: 50, hold_seconds: 2, keepHold: true }, async () => {
    for (let i = 0; i < 5; i += 1) {
      await pause(1);
      assert.equal((await admin.wallet(feature.user_id)).held_token, 50, `after ${i + 1} s`);
    }
    return { output_token: 40 };
  });
  await wrapped();
  const wallet = await admin.settled(feature.user_id);
  assert.deepEqual([wallet.held_token, wallet.posted_token], [0, 88]);
});

test('a start whose answer got lost makes one hold', async () => {
  const feature = await admin.userWithFeature(100);
  await withFaultServer(passOnTo(url), async (between) => {
    between.faults = [{ kind: 'accept-then-reset' }, { kind: 'accept-then-silence' }];
    const shaken = new TokenProcess({ url: between.url, apiKey, timeoutSeconds: 1 });
    const run = await shaken.begin({ ...feature, hold_token: 30 });
    assert.equal(between.seen.length, 3);
    assert.equal((await admin.wallet(feature.user_id)).held_token, 30);
    await run.cancel();
    assert.equal((await admin.wallet(feature.user_id)).held_token, 0);
  });
});

test('a start that is aborted on its way leaves no hold behind', async () => {
  const feature = await admin.userWithFeature(100);
  await withFaultServer(passOnTo(url), async (between) => {
    between.faults = [{ kind: 'accept-then-silence' }];
    const shaken = new TokenProcess({ url: between.url, apiKey });
    const wrapped = withTokenProcess({ ...feature, client: shaken, hold_token: 30, signal: AbortSignal.timeout(500) }, async () => assert.fail('ran'));
    await assert.rejects(wrapped(), { name: 'TimeoutError' });
    await shaken.close();
    assert.equal((await admin.wallet(feature.user_id)).held_token, 0);
  });
});

test('a start that was refused is decided anew when it is repeated', async () => {
  const feature = await admin.userWithFeature(1);
  const error = await client.begin({ ...feature, hold_token: 30 }).catch((failure: unknown) => failure);
  assert.ok(error instanceof TokenProcessError && error.repeat);
  await admin.call('POST', `/wallets/${feature.user_id}/top-ups`, { token: 100, reference: randomUUID() });
  const { data } = (await client.repeat(error.repeat)) as { data: { status: string; process_id: string } };
  assert.equal(data.status, 'access-able');
  await client.cancel({ user_id: feature.user_id, process_id: data.process_id });
});

test('an end that failed is billed tomorrow, from JSON, once', async () => {
  const feature = await admin.userWithFeature(1000);
  await withFaultServer(passOnTo(url), async (between) => {
    const shaken = new TokenProcess({ url: between.url, apiKey, totalTimeoutSeconds: 1 });
    let text = '';
    const wrapped = withTokenProcess({ ...feature, client: shaken, onEndError: (error) => void (text = JSON.stringify(error)) }, async () => {
      // Each attempt is taken and billed, and not heard of.
      between.faults = Array.from({ length: 100 }, () => ({ kind: 'accept-then-reset' as const }));
      return { output_token: 40 };
    });
    await wrapped();
    const { repeat } = TokenProcessError.fromJSON(JSON.parse(text));
    assert.ok(repeat);
    for (let i = 0; i < 2; i += 1) await client.repeat(repeat);
  });
  assert.equal((await admin.settled(feature.user_id)).posted_token, 988);
  assert.equal((await admin.usage(feature.user_id)).length, 1);
});
