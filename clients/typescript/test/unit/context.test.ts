/** The current run: of this call and no other, through awaits, streams and nesting. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { currentRun, withTokenProcess } from 'tokentill';
import type { TokenProcessRun } from 'tokentill';

import { billed, END, inWorld, START, USER } from '../support/world.js';

const pause = (ms = 5): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

test('the run of a wrapped function, wherever its code has got to; none outside of it', () =>
  inWorld(async (world) => {
    assert.equal(currentRun(), undefined);
    const seen: (TokenProcessRun | undefined)[] = [];
    const wrapped = withTokenProcess(world.config, async (_data: { user_id: string }) => {
      seen.push(currentRun());
      await pause();
      seen.push(currentRun());
      await new Promise<void>((resolve) =>
        setTimeout(() => {
          seen.push(currentRun());
          resolve();
        }, 1),
      );
      await Promise.all([1, 2].map(async () => seen.push(currentRun())));
      await currentRun()?.read({ input_token: 3, output_token: 40, model: 'model-1' });
      return 'text';
    });
    await wrapped(USER);
    assert.equal(currentRun(), undefined);
    assert.equal(seen.length, 5);
    assert.equal(new Set(seen).size, 1);
    assert.equal(seen[0]?.started.process_id, 'process-1');
    assert.deepEqual(billed(world), [[3, 40, 'model-1']]);
    assert.equal(world.server.seenAt(END)[0]?.headers['idempotency-key'], seen[0]?.idempotencyKey);
  }));

/** Many calls at once take their time on a busy machine, and it isn't what is tested. */
const BUSY = { timeoutSeconds: 20, startTimeoutSeconds: 20, totalTimeoutSeconds: 20 };

test('200 calls at once have 200 runs', () =>
  inWorld(async (world) => {
    const wrapped = withTokenProcess(world.config, async (data: { user_id: string }) => {
      await pause(Math.random() * 20);
      currentRun()?.use({ output_token: Number(data.user_id) });
      return currentRun()?.started.process_id;
    });
    const processes = await Promise.all(Array.from({ length: 200 }, (_, i) => wrapped({ user_id: `${i + 1}` })));
    assert.equal(new Set(processes).size, 200);
    for (const { body } of world.server.seenAt(END)) assert.equal(body.output_token, Number(body.user_id));
    assert.equal(world.server.seenAt(END).length, 200);
  }, 100_000, BUSY));

test('nested runs: the innermost is current, each is billed for itself, and the outer is current again after it', () =>
  inWorld(async (world) => {
    const search = withTokenProcess({ ...world.config, feature_endpoint_id: 'search' }, async (_data: { user_id: string }) => {
      await pause();
      currentRun()?.use({ output_token: 4 });
      return currentRun();
    });
    const words = withTokenProcess({ ...world.config, feature_endpoint_id: 'words' }, async function* (_data: { user_id: string }) {
      for (let i = 0; i < 3; i += 1) {
        currentRun()?.use({ output_token: 1 });
        yield currentRun();
      }
    });
    const agent = withTokenProcess({ ...world.config, feature_endpoint_id: 'agent' }, async (_data: { user_id: string }) => {
      const mine = currentRun();
      assert.ok(mine);
      const [first, second] = await Promise.all([search(USER), search(USER)]);
      assert.notEqual(first, second);
      assert.notEqual(first, mine);
      assert.equal(currentRun(), mine);
      for await (const theirs of words(USER)) {
        assert.notEqual(theirs, mine);
        assert.equal(currentRun(), mine, 'the body of the loop is the outer’s');
      }
      currentRun()?.use({ output_token: 40 });
      return 1;
    });
    await agent(USER);
    assert.deepEqual(
      world.server.seenAt(END).map(({ body }) => [body.feature_endpoint_id, body.output_token]),
      [
        ['search', 4],
        ['search', 4],
        ['words', 3],
        ['agent', 40],
      ],
    );
    assert.equal(world.server.seenAt(START).length, 4);
  }));

test('in a stream: while a chunk is made it is the stream’s run, while it is used it isn’t', () =>
  inWorld(async (world) => {
    const makers = {
      'an async generator': async function* (_data: { user_id: string }) {
        for (let i = 0; i < 3; i += 1) {
          await pause(1);
          yield currentRun();
        }
      },
      'a ReadableStream': async (_data: { user_id: string }) => {
        let made = 0;
        return new ReadableStream<TokenProcessRun | undefined>(
          {
            async pull(controller) {
              made += 1;
              await pause(1);
              if (made > 3) controller.close();
              else controller.enqueue(currentRun());
            },
          },
          { highWaterMark: 0 },
        );
      },
      'an object to iterate': async (_data: { user_id: string }) => ({
        async *[Symbol.asyncIterator]() {
          for (let i = 0; i < 3; i += 1) yield currentRun();
        },
      }),
    };
    for (const [name, make] of Object.entries(makers)) {
      const usage = () => ({ output_token: 1 });
      const wrapped = withTokenProcess({ ...world.config, usage }, make as (data: { user_id: string }) => Promise<AsyncIterable<unknown>>);
      const runs = new Set<unknown>();
      for await (const run of await wrapped(USER)) {
        assert.ok(run, name);
        runs.add(run);
        assert.equal(currentRun(), undefined, name);
      }
      assert.equal(runs.size, 1, name);
    }
  }));

test('a run that was ended by hand inside of its function is not ended again', () =>
  inWorld(async (world) => {
    const wrapped = withTokenProcess({ ...world.config, hold_token: 5 }, async (_data: { user_id: string }) => {
      await currentRun()?.end({ output_token: 40 });
      return { output_token: 4 };
    });
    await wrapped(USER);
    await withTokenProcess({ ...world.config, hold_token: 5 }, async (_data: { user_id: string }) => {
      await currentRun()?.cancel();
      return { output_token: 4 };
    })(USER);
    assert.deepEqual(billed(world), [[0, 40, undefined]]);
    assert.deepEqual(world.problems, []);
  }));
