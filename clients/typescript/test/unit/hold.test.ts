/** Holds of long runs: extended by hand, by themselves, and refused in mid-stream. */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';

import { currentRun, HoldNotFoundError, HoldRefusedError, InsufficientTokensError, tokenProcessHoldExtend, withTokenProcess } from 'tokentill';
import type { TokenProcessRun, UnavailableError } from 'tokentill';

import { billed, CANCEL, END, EXTEND, inWorld, paths, START, until, USER } from '../support/world.js';

const RUN = { ...USER, feature_endpoint_id: 'feature-1' };
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

test('a hold is extended by amount and by time', () =>
  inWorld(async ({ client, server, wallet }) => {
    const run = await client.begin({ ...RUN, hold_token: 10 });
    const more = await run.extendHold({ token: 5 });
    assert.deepEqual([more.hold_token, more.status], [15, 'access-able']);
    await run.extendHold({ seconds: 60 });
    await run.extendHold({ token: 1, seconds: 60 });
    assert.equal(wallet.holds.get('process-1'), 16);
    assert.deepEqual(
      server.seenAt(EXTEND).map(({ body }) => body),
      [
        { ...USER, process_id: 'process-1', hold_token: 5 },
        { ...USER, process_id: 'process-1', hold_seconds: 60 },
        { ...USER, process_id: 'process-1', hold_token: 1, hold_seconds: 60 },
      ],
    );
    await run.end({ output_token: 4 });
    await assert.rejects(run.extendHold({ seconds: 60 }), HoldNotFoundError);
    await assert.rejects(client.extendHold({ ...USER, process_id: 'unknown', hold_seconds: 1 }), { code: 'hold_not_found', refused: true });
  }));

test('the service function too', () =>
  inWorld(async ({ client, server }) => {
    process.env['TOKEN_SERVER_URL'] = server.url;
    const run = await client.begin({ ...RUN, hold_token: 10 });
    const { data } = await tokenProcessHoldExtend({ ...USER, process_id: run.started.process_id ?? '', hold_token: 5 });
    assert.equal(data.hold_token, 15);
    await run.cancel();
  }));

test('refused: the error has the balance and what to repeat, the hold is as it was, the run goes on if its code does', () =>
  inWorld(async (world) => {
    const wrapped = withTokenProcess({ ...world.config, hold_token: 10 }, async (_data: { user_id: string }) => {
      await assert.rejects(currentRun()?.extendHold({ token: 5_000 }) ?? assert.fail(), (error: unknown) => {
        assert.ok(error instanceof HoldRefusedError && error instanceof InsufficientTokensError);
        assert.deepEqual([error.token, error.code, error.user_id], [990, 'hold_refused', 'user-1']);
        const { idempotency_key, ...asked } = (error.repeat?.payload ?? {}) as { idempotency_key?: string };
        assert.deepEqual(asked, { ...USER, process_id: 'process-1', hold_token: 5_000, hold_seconds: undefined });
        assert.ok(idempotency_key && idempotency_key === error.idempotencyKey);
        return true;
      });
      assert.ok(currentRun()?.signal.aborted);
      assert.equal(world.wallet.holds.get('process-1'), 10);
      return { text: 'as far as it goes', output_token: 8 };
    });
    assert.equal((await wrapped(USER)).text, 'as far as it goes');
    assert.deepEqual(billed(world), [[0, 8, undefined]]);
  }));

test('refused in mid-stream, asked for by the generator: the stream is stopped, what flowed is billed', () =>
  inWorld(async (world) => {
    let closed = false;
    const wrapped = withTokenProcess({ ...world.config, hold_token: 10 }, async function* (_data: { user_id: string }) {
      try {
        for (let i = 0; ; i += 1) {
          if (i > 0 && i % 3 === 0) await currentRun()?.extendHold({ token: 500 });
          yield { output_token: 4 };
        }
      } finally {
        closed = true;
      }
    });
    let chunks = 0;
    await assert.rejects(async () => {
      for await (const chunk of wrapped(USER)) chunks += chunk.output_token / 4;
    }, HoldRefusedError);
    // 10, then 510, then 1,010 of 1,000.
    assert.equal(chunks, 6);
    assert.ok(closed);
    assert.deepEqual(billed(world), [[0, 24, undefined]]);
    assert.deepEqual(world.problems, []);
  }));

test('refused in mid-stream, swallowed by whoever asked: the stream is stopped all the same', () =>
  inWorld(async (world) => {
    let run: TokenProcessRun | undefined;
    const controller = new AbortController();
    const wrapped = withTokenProcess({ ...world.config, hold_token: 10 }, async (_data: { user_id: string }) => {
      run = currentRun();
      return {
        controller,
        async *[Symbol.asyncIterator]() {
          for (;;) yield { output_token: 4 };
        },
      };
    });
    let chunks = 0;
    await assert.rejects(async () => {
      for await (const _chunk of await wrapped(USER)) {
        chunks += 1;
        if (chunks === 3) await run?.extendHold({ token: 5_000 }).catch(() => undefined);
      }
    }, HoldRefusedError);
    assert.equal(chunks, 3);
    assert.ok(controller.signal.aborted, 'the provider is hung up on');
    assert.deepEqual(billed(world), [[0, 12, undefined]]);
  }));

test('refused while a chunk is waited for: that wait ends', () =>
  inWorld(async (world) => {
    let run: TokenProcessRun | undefined;
    const wrapped = withTokenProcess({ ...world.config, hold_token: 10 }, async (_data: { user_id: string }) => {
      run = currentRun();
      return new ReadableStream({
        start: (controller) => controller.enqueue({ output_token: 4 }),
        pull: () => new Promise(() => undefined),
      });
    });
    const reader = (await wrapped(USER)).getReader();
    await reader.read();
    const second = reader.read();
    await assert.rejects(run?.extendHold({ token: 5_000 }) ?? assert.fail(), HoldRefusedError);
    await assert.rejects(second, HoldRefusedError);
    assert.deepEqual(billed(world), [[0, 4, undefined]]);
  }));

test('keepHold extends by itself before the hold expires, for as long as the run lasts and no longer', () =>
  inWorld(async (world) => {
    const config = { ...world.config, hold_token: 10, hold_seconds: 1, keepHold: true };
    const wrapped = withTokenProcess(config, async (_data: { user_id: string }) => {
      await pause(2_800);
      return { output_token: 4 };
    });
    await wrapped(USER);
    const extensions = world.server.seenAt(EXTEND);
    const began = world.server.seenAt(START)[0]?.atMs ?? 0;
    let expires = began + 1_000;
    for (const { body, atMs } of extensions) {
      assert.deepEqual(body, { ...USER, process_id: 'process-1', hold_seconds: 1 });
      assert.ok(atMs < expires, 'extended after it had expired');
      expires += 1_000;
    }
    assert.ok(expires > (world.server.seenAt(END)[0]?.atMs ?? Infinity), 'expired before the end');
    const count = extensions.length;
    await pause(1_500);
    assert.equal(world.server.seenAt(EXTEND).length, count, 'kept beyond the run');
    for (const stream of [withTokenProcess(config, async function* (_data: { user_id: string }) { yield { output_token: 4 }; await pause(700); })]) {
      for await (const chunk of stream(USER)) assert.ok(chunk);
    }
    assert.equal(world.server.seenAt(EXTEND).length, count + 1);
  }));

test('keepHold that is refused in mid-stream stops it, and bills what flowed', () =>
  inWorld(async (world) => {
    const wrapped = withTokenProcess(
      { ...world.config, hold_token: 10, hold_seconds: 1, keepHold: true },
      async function* (_data: { user_id: string }) {
        for (;;) {
          yield { output_token: 4 };
          await pause(100);
          // Spent elsewhere: there is nothing left to hold.
          world.wallet.token = 5;
        }
      },
    );
    await assert.rejects(async () => {
      for await (const chunk of wrapped(USER)) assert.ok(chunk);
    }, HoldRefusedError);
    assert.equal(world.server.seenAt(END).length, 1);
    assert.ok(world.server.seenAt(END)[0]?.body.output_token >= 16);
  }));

test('keepHold bridges a server that is away, and a hold that is lost costs no run', () =>
  inWorld(async (world) => {
    const { server, wallet } = world;
    const warned: unknown[] = [];
    const { warn } = console;
    console.warn = (...words: unknown[]) => void warned.push(words);
    try {
      const config = { ...world.config, hold_token: 10, hold_seconds: 1, keepHold: true };
      await withTokenProcess(config, async (_data: { user_id: string }) => {
        server.faults = [{ kind: 'answer', status: 503, body: 'busy', headers: { 'retry-after': '60' } }];
        await pause(1_200);
        return { output_token: 4 };
      })(USER);
      assert.ok(server.seenAt(EXTEND).length >= 2);
      assert.deepEqual(warned, []);
      await withTokenProcess(config, async (_data: { user_id: string }) => {
        wallet.holds.clear();
        await pause(1_200);
        assert.equal(currentRun()?.signal.aborted, false);
        return { output_token: 4 };
      })(USER);
      assert.equal(warned.length, 1);
      assert.deepEqual(billed(world), [
        [0, 4, undefined],
        [0, 4, undefined],
      ]);
    } finally {
      console.warn = warn;
    }
  }));

test('without a hold nothing is kept; with one and no life said, it is asked for a quarter of an hour', () =>
  inWorld(async (world) => {
    await withTokenProcess({ ...world.config, keepHold: true }, async (_data: { user_id: string }) => ({ output_token: 4 }))(USER);
    await withTokenProcess({ ...world.config, keepHold: true, hold_token: 10 }, async (_data: { user_id: string }) => ({ output_token: 4 }))(USER);
    assert.deepEqual(
      world.server.seenAt(START).map(({ body }) => [body.hold_token, body.hold_seconds]),
      [
        [undefined, undefined],
        [10, 900],
      ],
    );
    assert.deepEqual(world.server.seenAt(EXTEND), []);
  }));

test('a run by hand that is dropped is not kept for ever, and keeps no process alive', () =>
  inWorld(async ({ server, wallet }) => {
    const program = `
      const { TokenProcess } = require('tokentill');
      const client = new TokenProcess({ url: process.argv[1], apiKey: 'key' });
      const start = { user_id: 'u', feature_endpoint_id: 'f', hold_token: 5, hold_seconds: 1 };
      (async () => {
        await client.begin(start, { keepHold: true });
        for (let i = 0; i < 30; i += 1) { gc(); await new Promise((r) => setTimeout(r, 50)); }
        const kept = await client.begin({ ...start, hold_seconds: 900 }, { keepHold: true });
        console.log(kept.token);
      })();`;
    await new Promise<void>((resolve, reject) => {
      execFile(process.execPath, ['--expose-gc', '-e', program, server.url], { timeout: 30_000 }, (error) => (error ? reject(error) : resolve()));
    });
    assert.ok(server.seenAt(EXTEND).length <= 1, `${server.seenAt(EXTEND).length}`);
    wallet.holds.clear();
  }));

test('a start that is aborted on its way gives back the hold that it may have made', () =>
  inWorld(async (world) => {
    world.server.faults = [{ kind: 'accept-then-silence' }];
    const abort = new AbortController();
    const config = { ...world.config, hold_token: 10, signal: abort.signal };
    setTimeout(() => abort.abort(new RangeError('gone')), 100);
    await assert.rejects(withTokenProcess(config, async (_data: { user_id: string }) => assert.fail('ran'))(USER), RangeError);
    await until('given back', () => world.server.seenAt(CANCEL).length > 0);
    const [first, second] = world.server.seenAt(START);
    assert.equal(first?.headers['idempotency-key'], second?.headers['idempotency-key']);
    assert.deepEqual(first?.body, second?.body);
    assert.deepEqual(paths(world), [START, START, CANCEL]);
    // The server would have answered the same run again.
    world.wallet.holds.clear();
  }));

test('a start without an answer gives back the hold that it may have made, unless its key is the caller’s', () =>
  inWorld(
    async ({ client, server, wallet }) => {
      server.faults = [{ kind: 'accept-then-silence' }];
      await assert.rejects(client.begin({ ...RUN, hold_token: 10 }), (error: UnavailableError) => {
        // Under its key there is no hold any more: what is to be repeated is a start of its own.
        assert.deepEqual(error.repeat, { call: 'start', payload: { ...RUN, hold_token: 10 } });
        return error.name === 'UnavailableError';
      });
      await until('given back', () => server.seenAt(CANCEL).length > 0);
      const keys = server.seenAt(START).map(({ headers }) => headers['idempotency-key']);
      assert.deepEqual([keys.length, keys[0]], [2, keys[1]]);
      server.faults = [{ kind: 'accept-then-silence' }];
      await assert.rejects(client.begin({ ...RUN, hold_token: 10, idempotency_key: 'mine' }), { idempotencyKey: 'mine' });
      server.faults = [{ kind: 'accept-then-silence' }];
      await assert.rejects(client.begin(RUN), { name: 'UnavailableError' });
      await client.close();
      assert.equal(server.seenAt(CANCEL).length, 1);
      wallet.holds.clear();
    },
    1000,
    { startTimeoutSeconds: 1 },
  ));
