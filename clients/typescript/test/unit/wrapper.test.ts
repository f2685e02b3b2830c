import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  countDeltas,
  FeatureNotAvailableError,
  InsufficientTokensError,
  UnavailableError,
  UsageUnreadableError,
  withTokenProcess,
} from 'tokentill';

import { billed, CANCEL, END, inWorld, START, until, USER } from '../support/world.js';

test('start, run, end: the result comes through and is billed under the start’s process', () =>
  inWorld(async ({ server, wallet, config }) => {
    const result = { content: 'hello', input_token: 3, output_token: 40, model: 'model-1' };
    const wrapped = withTokenProcess(config, async (_data: { user_id: string }) => result);
    assert.equal(await wrapped(USER), result);
    assert.equal(wallet.token, 990);
    assert.deepEqual(server.seen.map((seen) => seen.path), [START, END]);
    assert.deepEqual(server.seen[0]?.body, { user_id: 'user-1', feature_endpoint_id: 'feature-1' });
    assert.deepEqual(server.seen[1]?.body, {
      user_id: 'user-1',
      feature_endpoint_id: 'feature-1',
      input_token: 3,
      output_token: 40,
      model: 'model-1',
      process_id: 'process-1',
    });
  }));

test('a static user, `this` and several arguments', () =>
  inWorld(async ({ server, client }) => {
    const service = {
      base: 30,
      run: withTokenProcess(
        { feature_endpoint_id: 'feature-1', user_id: 'static-user', client },
        async function (this: unknown, a: number, b: number) {
          return { sum: a + b, output_token: (this as { base: number }).base + a + b };
        },
      ),
    };
    assert.deepEqual(await service.run(4, 6), { sum: 10, output_token: 40 });
    assert.equal(server.seenAt(START)[0]?.body.user_id, 'static-user');
    assert.equal(server.seenAt(END)[0]?.body.output_token, 40);
    assert.equal(server.seenAt(END)[0]?.body.input_token, 0);
  }));

test('not access-able: a typed error with the balance, and the function does not run', () =>
  inWorld(async ({ server, config }) => {
    let ran = false;
    const wrapped = withTokenProcess(config, async (_data: { user_id: string }) => {
      ran = true;
    });
    await assert.rejects(wrapped(USER), (error: unknown) => {
      assert.ok(error instanceof InsufficientTokensError);
      assert.equal(error.token, 0.5);
      assert.equal(error.user_id, 'user-1');
      assert.equal(error.feature_endpoint_id, 'feature-1');
      return true;
    });
    assert.equal(ran, false);
    assert.deepEqual(server.seen.map((seen) => seen.path), [START]);
  }, 0.5));

test('a refused start throws what the server said, and the function does not run', () =>
  inWorld(async ({ server, config }) => {
    const body = { success: false, status: 403, message: 'Feature endpoint is not available in your package' };
    server.faults = [{ kind: 'answer', status: 403, body }];
    let ran = false;
    const wrapped = withTokenProcess(config, async (_data: { user_id: string }) => {
      ran = true;
    });
    await assert.rejects(wrapped(USER), FeatureNotAvailableError);
    assert.equal(ran, false);
  }));

test('an unavailable server at start: the function does not run', () =>
  inWorld(async ({ server, config }) => {
    server.isDown = true;
    const wrapped = withTokenProcess(config, (_data: { user_id: string }) => assert.fail('it ran'));
    await assert.rejects(wrapped(USER), UnavailableError);
  }));

for (const [name, result] of Object.entries({
  'no counts': { data: 1 },
  'both counts 0': { data: 1, input_token: 0, output_token: 0 },
  nothing: undefined,
  null: null,
  'a string': 'text',
  'an array': [1, 'text', { data: 1 }],
})) {
  test(`a free feature (${name}) has no end`, () =>
    inWorld(async ({ server, config, problems }) => {
      const wrapped = withTokenProcess(config, async (_data: { user_id: string }) => result);
      assert.equal(await wrapped(USER), result);
      assert.deepEqual(server.seen.map((seen) => seen.path), [START]);
      assert.deepEqual(problems, []);
    }));
}

test('a free run gives its hold back', () =>
  inWorld(async ({ server, config }) => {
    const wrapped = withTokenProcess({ ...config, hold_token: 10, hold_seconds: 60 }, async (_data: { user_id: string }) => 1);
    assert.equal(await wrapped(USER), 1);
    assert.deepEqual(server.seen.map((seen) => seen.path), [START, CANCEL]);
    assert.equal(server.seen[0]?.body.hold_token, 10);
    assert.equal(server.seen[0]?.body.hold_seconds, 60);
    assert.deepEqual(server.seen[1]?.body, { user_id: 'user-1', process_id: 'process-1' });
  }));

test('a hold may depend on the arguments, and its end releases it', () =>
  inWorld(async ({ server, config, wallet }) => {
    const wrapped = withTokenProcess(
      { ...config, hold_token: (args) => args[0].user_id.length },
      async (_data: { user_id: string }) => ({ output_token: 4 }),
    );
    await wrapped(USER);
    assert.equal(server.seen[0]?.body.hold_token, 6);
    assert.equal(wallet.token, 999);
  }));

for (const failing of ['throws', 'rejects']) {
  test(`a function that ${failing}: the hold is given back and the error passes through untouched`, () =>
    inWorld(async ({ server, config }) => {
      const failure = new RangeError('mine');
      const wrapped = withTokenProcess({ ...config, hold_token: 10 }, (_data: { user_id: string }): Promise<never> => {
        if (failing === 'throws') throw failure;
        return Promise.reject(failure);
      });
      await assert.rejects(wrapped(USER), (error: unknown) => error === failure);
      assert.deepEqual(server.seen.map((seen) => seen.path), [START, CANCEL]);
    }));
}

test('a cancel that fails does not hide the function’s error', () =>
  inWorld(async ({ server, config, wallet }) => {
    const wrapped = withTokenProcess({ ...config, hold_token: 10 }, async (_data: { user_id: string }) => {
      server.isDown = true;
      throw new RangeError('mine');
    });
    await assert.rejects(wrapped(USER), RangeError);
    wallet.holds.clear();
  }));

test('an end that fails never costs the caller its result', () =>
  inWorld(async ({ server, config, problems }) => {
    const wrapped = withTokenProcess(config, async (_data: { user_id: string }) => {
      server.isDown = true;
      return { output_token: 4 };
    });
    assert.deepEqual(await wrapped(USER), { output_token: 4 });
    assert.equal(problems.length, 1);
    assert.ok(problems[0] instanceof UnavailableError);
  }));

test('a usage reader or an onEndError that throws never costs the caller its result', () =>
  inWorld(async ({ config, problems }) => {
    const unreadable = withTokenProcess(
      {
        ...config,
        usage: () => {
          throw new RangeError('reader');
        },
      },
      async (_data: { user_id: string }) => 1,
    );
    assert.equal(await unreadable(USER), 1);
    assert.ok(problems[0] instanceof UsageUnreadableError && problems[0].cause instanceof RangeError);
    const { error } = console;
    console.error = () => undefined;
    try {
      const clumsy = withTokenProcess(
        {
          ...config,
          onEndError: () => {
            throw new Error('clumsy');
          },
        },
        async (_data: { user_id: string }) => ({ output_token: -1 }),
      );
      assert.deepEqual(await clumsy(USER), { output_token: -1 });
    } finally {
      console.error = error;
    }
  }));

// ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────

interface Chunk {
  text: string;
  input_token?: number;
  output_token?: number;
  model?: string;
}

function tenChunks(closed?: () => void) {
  return async function* (_data: { user_id: string }): AsyncGenerator<Chunk, string, undefined> {
    try {
      for (let i = 0; i < 10; i += 1) yield { text: `${i}`, input_token: i === 0 ? 5 : 0, output_token: 4, model: 'model-1' };
      return 'all';
    } finally {
      closed?.();
    }
  };
}

test('an exhausted stream is billed once, what it returns comes through', () =>
  inWorld(async (world) => {
    const stream = withTokenProcess(world.config, tenChunks())(USER);
    assert.deepEqual(world.server.seen, [], 'begun before it was asked for');
    const texts: string[] = [];
    for (;;) {
      const step = await stream.next();
      if (step.done) {
        assert.equal(step.value, 'all');
        break;
      }
      texts.push(step.value.text);
    }
    assert.equal(texts.join(''), '0123456789');
    assert.deepEqual(await stream.next(), { done: true, value: undefined });
    assert.deepEqual(await stream.return('x'), { done: true, value: 'x' });
    assert.deepEqual(billed(world), [[5, 40, 'model-1']]);
  }));

test('a stream closed after 3 of 10 chunks bills what the 3 used, and closes its source', () =>
  inWorld(async (world) => {
    let closed = false;
    const wrapped = withTokenProcess({ ...world.config, hold_token: 10 }, tenChunks(() => (closed = true)));
    let seen = 0;
    for await (const chunk of wrapped(USER)) {
      assert.ok(chunk.text);
      seen += 1;
      if (seen === 3) break;
    }
    assert.ok(closed);
    assert.deepEqual(billed(world), [[5, 12, 'model-1']]);
    assert.deepEqual(world.server.seenAt(CANCEL), []);
  }));

test('a stream that fails half-way bills what flowed, and the error passes through', () =>
  inWorld(async (world) => {
    const failure = new RangeError('mine');
    const wrapped = withTokenProcess(world.config, async function* (_data: { user_id: string }) {
      yield { output_token: 4 };
      yield { output_token: 4 };
      throw failure;
    });
    await assert.rejects(
      async () => {
        for await (const chunk of wrapped(USER)) assert.ok(chunk);
      },
      (error: unknown) => error === failure,
    );
    assert.deepEqual(billed(world), [[0, 8, undefined]]);
  }));

test('a stream that fails before it used anything gives its hold back', () =>
  inWorld(async (world) => {
    const wrapped = withTokenProcess({ ...world.config, hold_token: 5 }, async function* (_data: { user_id: string }) {
      if (world.wallet.token > 0) throw new RangeError('mine');
      yield 1;
    });
    await assert.rejects(wrapped(USER).next(), RangeError);
    assert.deepEqual(world.server.seen.map((seen) => seen.path), [START, CANCEL]);
  }));

test('a consumer’s error thrown into the stream is settled too', () =>
  inWorld(async (world) => {
    const stream = withTokenProcess(world.config, tenChunks())(USER);
    await stream.next();
    await assert.rejects(stream.throw(new RangeError('consumer')), RangeError);
    assert.deepEqual(billed(world), [[5, 4, 'model-1']]);
    assert.deepEqual(await stream.next(), { done: true, value: undefined });
  }));

test('chunks asked for at the same time as the close are counted before it', () =>
  inWorld(async (world) => {
    const stream = withTokenProcess(world.config, tenChunks())(USER);
    await Promise.all([stream.next(), stream.next(), stream.next(), stream.return('closed')]);
    assert.deepEqual(billed(world), [[5, 12, 'model-1']]);
  }));

test('a stream never asked for anything begins nothing', () =>
  inWorld(async (world) => {
    const stream = withTokenProcess(world.config, tenChunks())(USER);
    assert.deepEqual(await stream.return('early'), { done: true, value: 'early' });
    assert.deepEqual(await stream.next(), { done: true, value: undefined });
    assert.deepEqual(world.server.seen, []);
  }));

test('no access: the stream fails at its first chunk and stays closed', () =>
  inWorld(async (world) => {
    const stream = withTokenProcess(world.config, tenChunks())(USER);
    await assert.rejects(stream.next(), InsufficientTokensError);
    assert.deepEqual(await stream.next(), { done: true, value: undefined });
  }, 0));

test('a promise of a stream, closed before its first chunk: closed at the source and the hold given back', () =>
  inWorld(async (world) => {
    let closed = false;
    const source = {
      [Symbol.asyncIterator]: () => source,
      next: async (): Promise<IteratorResult<Chunk, undefined>> => ({ done: false, value: { text: 'x', output_token: 4 } }),
      return: async (): Promise<IteratorResult<Chunk, undefined>> => {
        closed = true;
        return { done: true, value: undefined };
      },
    };
    const wrapped = withTokenProcess({ ...world.config, hold_token: 5 }, async (_data: { user_id: string }) => source);
    await (await wrapped(USER)).return();
    assert.ok(closed);
    assert.deepEqual(world.server.seen.map((seen) => seen.path), [START, CANCEL]);
  }));

test('a plain function that returns a stream can be iterated, or awaited first', () =>
  inWorld(async (world) => {
    const wrapped = withTokenProcess(world.config, (data: { user_id: string }): AsyncIterable<Chunk> => tenChunks()(data));
    let count = 0;
    for await (const chunk of wrapped(USER)) count += chunk.output_token ?? 0;
    assert.equal(count, 40);
    for await (const chunk of await wrapped(USER)) count += chunk.output_token ?? 0;
    assert.equal(count, 80);
    assert.deepEqual(billed(world), [
      [5, 40, 'model-1'],
      [5, 40, 'model-1'],
    ]);
  }));

test('a plain function’s stream without access rejects when it is iterated, and nowhere else', () =>
  inWorld(async (world) => {
    const wrapped = withTokenProcess(world.config, (data: { user_id: string }): AsyncIterable<Chunk> => tenChunks()(data));
    await assert.rejects(async () => {
      for await (const chunk of wrapped(USER)) assert.fail(chunk.text);
    }, InsufficientTokensError);
  }, 0));

test('a plain generator becomes an async one, and is sent what its consumer sends', () =>
  inWorld(async (world) => {
    const wrapped = withTokenProcess(world.config, function* (_data: { user_id: string }): Generator<Chunk, void, string> {
      const said = yield { text: 'first', output_token: 2 };
      yield { text: said, output_token: 2 };
    });
    const stream = wrapped(USER);
    await stream.next('ignored');
    const second = await stream.next('echo');
    assert.equal(!second.done && second.value.text, 'echo');
    await stream.next('done');
    assert.deepEqual(billed(world), [[0, 4, undefined]]);
  }));

test('what a generator returns is the run’s total', () =>
  inWorld(async (world) => {
    const wrapped = withTokenProcess(world.config, async function* (_data: { user_id: string }) {
      yield 'text';
      return { input_token: 7, output_token: 40 };
    });
    for await (const chunk of wrapped(USER)) assert.equal(chunk, 'text');
    assert.deepEqual(billed(world), [[7, 40, undefined]]);
  }));

test('totals that a provider repeats while it streams are counted once', () =>
  inWorld(async (world) => {
    const events = [
      { type: 'message_start', message: { model: 'anthropic-model', usage: { input_tokens: 25, output_tokens: 1 } } },
      { type: 'message_delta', usage: { output_tokens: 15 } },
      { type: 'message_delta', usage: { output_tokens: 40 } },
      { type: 'message_stop' },
    ];
    const wrapped = withTokenProcess(world.config, async function* (_data: { user_id: string }) {
      yield* events;
    });
    for await (const event of wrapped(USER)) assert.ok(event);
    assert.deepEqual(billed(world), [[25, 40, 'anthropic-model']]);
  }));

test('an OpenAI stream closed before its usage came is billed by its pieces of text', () =>
  inWorld(async (world) => {
    const wrapped = withTokenProcess({ ...world.config, usage: countDeltas }, async function* (_data: { user_id: string }) {
      for (let i = 0; i < 10; i += 1) yield { model: 'gpt', choices: [{ delta: { content: 'x' } }] };
      yield { model: 'gpt', choices: [], usage: { prompt_tokens: 5, completion_tokens: 44 } };
    });
    let pieces = 0;
    for await (const chunk of wrapped(USER)) {
      assert.ok(chunk);
      pieces += 1;
      if (pieces === 4) break;
    }
    for await (const chunk of wrapped(USER)) assert.ok(chunk);
    assert.deepEqual(billed(world), [
      [0, 4, 'gpt'],
      [5, 44, 'gpt'],
    ]);
  }));

test('text chunks are counted by a reader of one’s own; one that can’t is told once and the stream flows on', () =>
  inWorld(async (world) => {
    const texts = async function* (_data: { user_id: string }) {
      yield 'four';
      yield 'four';
    };
    const usage = (chunk: unknown) => (typeof chunk === 'string' ? { output_token: chunk.length } : undefined);
    for await (const text of withTokenProcess({ ...world.config, usage }, texts)(USER)) assert.ok(text);
    const fractions = () => ({ output_token: 0.5 });
    for await (const text of withTokenProcess({ ...world.config, usage: fractions }, texts)(USER)) assert.ok(text);
    assert.deepEqual(billed(world), [[0, 8, undefined]]);
    assert.equal(world.problems.length, 1);
  }));

test('an end that fails does not fail the stream', () =>
  inWorld(async (world) => {
    const stream = withTokenProcess(world.config, tenChunks())(USER);
    await stream.next();
    world.server.isDown = true;
    assert.deepEqual(await stream.return('closed'), { done: true, value: 'closed' });
    await until('the failure is told', () => world.problems.length > 0);
    assert.ok(world.problems[0] instanceof UnavailableError);
  }));

// ── a run by hand ────────────────────────────────────────────────────────────────────────────────────────────────

test('a run whose code isn’t one function: ended twice, billed once', () =>
  inWorld(async ({ client, wallet, server }) => {
    const run = await client.begin({ ...USER, feature_endpoint_id: 'feature-1', hold_token: 5 });
    assert.equal(run.token, 1000);
    await run.end({ output_token: 40 });
    await run.end({ output_token: 40 });
    assert.equal(wallet.token, 990);
    const keys = server.seenAt(END).map((seen) => seen.headers['idempotency-key']);
    assert.deepEqual(keys, [run.idempotencyKey, run.idempotencyKey]);
    const failed = await client.begin({ ...USER, feature_endpoint_id: 'feature-1', hold_token: 5 });
    await failed.cancel();
    assert.equal(await failed.end({}), undefined);
  }));
