/** Streams that `run.stream` counts: several in one run, returned, passed on, left, and beside a function that goes on. */

import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { test } from 'node:test';

import { currentRun, UsageError, withTokenProcess } from 'tokentill';
import type { TokenProcessRun } from 'tokentill';

import { billed, inWorld, until, USER } from '../support/world.js';

const RUN = { ...USER, feature_endpoint_id: 'feature-1', hold_token: 5 };
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Five chunks of four tokens. */
async function* five(): AsyncGenerator<{ output_token: number }> {
  for (let i = 0; i < 5; i += 1) yield { output_token: 4 };
}

async function read(stream: AsyncIterable<unknown>, chunksMax = Infinity): Promise<void> {
  let seen = 0;
  for await (const chunk of stream) {
    assert.ok(chunk);
    seen += 1;
    if (seen === chunksMax) break;
  }
}

/** As OpenAI streams: pieces, and the usage at the end. */
async function* chat(id: string, pieces: number): AsyncGenerator<object> {
  const of = { id, object: 'chat.completion.chunk', model: 'gpt' };
  for (let i = 0; i < pieces; i += 1) yield { ...of, choices: [{ index: 0, delta: { content: 'x' } }] };
  yield { ...of, choices: [], usage: { prompt_tokens: 10, completion_tokens: pieces, total_tokens: 10 + pieces } };
}

const RETURNED: Record<string, (run: TokenProcessRun) => AsyncIterable<unknown>> = {
  'a generator': (run) => run.stream(five()),
  'a ReadableStream': (run) =>
    run.stream(
      new ReadableStream({
        start(controller) {
          for (let i = 0; i < 5; i += 1) controller.enqueue({ output_token: 4 });
          controller.close();
        },
      }),
    ),
  'an object of its own': (run) => run.stream({ [Symbol.asyncIterator]: five }),
  'a Node stream': (run) => run.stream(Readable.from(five())),
  'what a generator passes on': (run) =>
    (async function* () {
      yield* run.stream(five());
    })(),
};

for (const [name, make] of Object.entries(RETURNED)) {
  test(`${name} that run.stream counts and the function returns is counted once`, () =>
    inWorld(async (world) => {
      await read(await world.client.run(RUN, make));
      await read(await withTokenProcess(world.config, async (_data: { user_id: string }) => make(currentRun() ?? assert.fail()))(USER));
      await until('billed', () => billed(world).length === 2);
      assert.deepEqual(billed(world), [
        [0, 20, undefined],
        [0, 20, undefined],
      ]);
    }));
}

test('a generator that passes run.stream’s texts on is counted once, and what it yields beside them too', () =>
  inWorld(async (world) => {
    const usage = (text: unknown) => (typeof text === 'string' ? { output_token: text.length } : undefined);
    const wrapped = withTokenProcess({ ...world.config, usage }, async function* (_data: { user_id: string }) {
      const texts = async function* () {
        for (let i = 0; i < 3; i += 1) yield 'four';
      };
      yield* currentRun()?.stream(texts()) ?? assert.fail();
      yield 'four';
      yield 'three';
    });
    await read(wrapped(USER));
    assert.deepEqual(billed(world), [[0, 21, undefined]]);
  }));

test('a tool loop: two streams, one after the other, in one run', () =>
  inWorld(async (world) => {
    const loop = async (run: TokenProcessRun): Promise<string> => {
      await read(run.stream(chat('a', 20)));
      await read(run.stream(chat('b', 40)));
      return 'text';
    };
    assert.equal(await world.client.run(RUN, loop), 'text');
    const wrapped = withTokenProcess(world.config, async function* (_data: { user_id: string }) {
      yield await loop(currentRun() ?? assert.fail());
    });
    await read(wrapped(USER));
    assert.deepEqual(billed(world), [
      [20, 60, 'gpt'],
      [20, 60, 'gpt'],
    ]);
  }));

test('one that is left ends neither the run nor the next one', () =>
  inWorld(async (world) => {
    await world.client.run(RUN, async (run) => {
      await read(run.stream(chat('a', 20)), 3);
      assert.equal(run.signal.aborted, false);
      await read(run.stream(chat('b', 40)));
    });
    assert.deepEqual(billed(world), [[10, 43, 'gpt']]);
  }));

test('the one that the function has returned, left: it was all of the run', () =>
  inWorld(async (world) => {
    let run: TokenProcessRun | undefined;
    const stream = await world.client.run(RUN, (begun) => {
      run = begun;
      return begun.stream(chat('a', 20));
    });
    await read(stream, 3);
    assert.equal(run?.signal.aborted, true);
    assert.deepEqual(billed(world), [[0, 3, 'gpt']]);
  }));

test('streams that outlive the function are waited for by the run, not by its caller', () =>
  inWorld(async (world) => {
    const pumped: Promise<void>[] = [];
    const result = await world.client.run(RUN, async (run) => {
      pumped.push(read(run.stream(chat('a', 20))), read(run.stream(chat('b', 40))));
      return 'at once';
    });
    assert.equal(result, 'at once');
    assert.deepEqual(billed(world), []);
    await Promise.all(pumped);
    await until('billed', () => billed(world).length === 1);
    assert.deepEqual(billed(world), [[20, 60, 'gpt']]);
  }));

test('a function that fails stops the streams that it has begun, and what flowed is billed', () =>
  inWorld(async (world) => {
    const controller = new AbortController();
    const failing = world.client.run(RUN, async (run) => {
      run.stream({ controller, [Symbol.asyncIterator]: () => chat('a', 20) });
      await run.stream(chat('b', 40)).next();
      throw new RangeError('mine');
    });
    await assert.rejects(failing, RangeError);
    await until('hung up', () => controller.signal.aborted);
    assert.deepEqual(billed(world), [[0, 1, 'gpt']]);
  }));

test('by hand, a run is over with its last stream, and takes no other', () =>
  inWorld(async (world) => {
    const run = await world.client.begin(RUN);
    const [one, other] = [run.stream(chat('a', 20)), run.stream(chat('b', 40))];
    await read(one, 3);
    assert.deepEqual(billed(world), []);
    await read(other);
    assert.deepEqual(billed(world), [[10, 43, 'gpt']]);
    assert.throws(() => run.stream(chat('c', 1)), /This run is over/);
    assert.equal(run.ended?.data.cost, 10.75);
  }));

test('an extension that is refused stops the stream inside, and the run', () =>
  inWorld(async (world) => {
    const stopped = world.client.run(RUN, async (run) => {
      let seen = 0;
      for await (const chunk of run.stream(chat('a', 20))) {
        assert.ok(chunk);
        seen += 1;
        if (seen === 3) await run.extendHold({ token: 5_000 }).catch(() => undefined);
      }
    });
    await assert.rejects(stopped, { name: 'HoldRefusedError' });
    assert.deepEqual(billed(world), [[0, 3, 'gpt']]);
  }));

test('what is read in a generator and then yielded counts once', () =>
  inWorld(async (world) => {
    const wrapped = withTokenProcess(world.config, async function* (_data: { user_id: string }) {
      for await (const chunk of chat('a', 20)) {
        await currentRun()?.read(chunk);
        yield chunk;
      }
    });
    await read(wrapped(USER), 3);
    assert.deepEqual(billed(world), [[0, 3, 'gpt']]);
  }));

test('usage that comes when its run is over is not free in silence: its error can be repeated, and bills it', () =>
  inWorld(async (world) => {
    await withTokenProcess(world.config, async (_data: { user_id: string }) => {
      const run = currentRun();
      void pause(50).then(async () => {
        await run?.read({ input_token: 5, output_token: 40, model: 'late' });
        run?.use({ output_token: 2 });
      });
      return { output_token: 8 };
    })(USER);
    await until('told', () => world.problems.length === 2);
    assert.deepEqual(billed(world), [[0, 8, undefined]]);
    for (const error of world.problems as UsageError[]) {
      assert.ok(error instanceof UsageError);
      for (let i = 0; i < 2; i += 1) await world.client.repeat(error.repeat ?? assert.fail());
    }
    assert.equal(world.wallet.token, 1000 - (8 + 40 + 2) / 4);
  }));

test('what has become of a run stands in it', () =>
  inWorld(async (world) => {
    const run = await world.client.begin(RUN);
    const answer = await run.end({ output_token: 4 });
    assert.equal(run.ended, answer);
    assert.equal(answer?.data.cost, 1);
    const seen: (TokenProcessRun | undefined)[] = [];
    const wrapped = withTokenProcess(world.config, async (data: { user_id: string; output_token?: number }) => {
      seen.push(currentRun());
      const refusal = { success: false, status: 403, message: 'no' };
      world.server.faults = [{ kind: 'answer', status: 403, body: refusal }];
      return { output_token: data.output_token };
    });
    await wrapped({ ...USER, output_token: 4 });
    world.server.faults = [];
    await wrapped({ ...USER, output_token: Number.NaN });
    assert.equal((seen[0]?.endError as Error).name, 'FeatureNotAvailableError');
    assert.deepEqual([seen[0]?.usageError, seen[1]?.endError], [undefined, undefined]);
    assert.equal(seen[1]?.usageError?.name, 'UsageUnreadableError');
  }));
