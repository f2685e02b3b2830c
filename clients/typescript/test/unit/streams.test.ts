/** Streams end at their source, settle whatever happens to them, and stay what they are. */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { Readable } from 'node:stream';
import { test } from 'node:test';

import { currentRun, withTokenProcess } from 'tokentill';

import { chunksOf, SdkStream, withProvider } from '../support/provider.js';
import type { Provider } from '../support/provider.js';
import { billed, CANCEL, END, inWorld, paths, secondsOf, START, until, USER } from '../support/world.js';
import type { World } from '../support/world.js';

function withBoth(act: (world: World, provider: Provider) => Promise<void>): Promise<void> {
  return withProvider((provider) => inWorld((world) => act(world, provider)));
}

async function hungUp(provider: Provider): Promise<number> {
  await until('the provider sees the hang-up', () => provider.hungUpAfter !== undefined);
  return provider.hungUpAfter ?? 0;
}

// Chunks are on their way while a test reads; of 100 that may be a few.
const SOON = 30;

type Returned = AsyncIterable<{ output_token: number }>;
async function fetched({ url }: Provider): Promise<AsyncGenerator<{ output_token: number }, void, undefined>> {
  const { body } = await fetch(url, { signal: currentRun()?.signal ?? null });
  return chunksOf(body as ReadableStream<Uint8Array>);
}

const WAYS: Record<string, (provider: Provider) => Promise<Returned>> = {
  'an async generator over a fetched body': async (provider) =>
    (async function* () {
      yield* await fetched(provider);
    })(),
  'an SDK’s stream object': ({ url }) => SdkStream.ask(url),
  'a Node stream': async (provider) => Readable.from(await fetched(provider)),
  'a ReadableStream': async (provider) => {
    const chunks = await fetched(provider);
    return new ReadableStream({
      async pull(controller) {
        const { done, value } = await chunks.next();
        if (done) controller.close();
        else controller.enqueue(value);
      },
      async cancel() {
        await chunks.return();
      },
    });
  },
};

for (const [name, ask] of Object.entries(WAYS)) {
  test(`${name}, left after 3 of 100 chunks: the provider sees the hang-up at once, and 3 are billed`, () =>
    withBoth(async (world, provider) => {
      const wrapped = withTokenProcess({ ...world.config, hold_token: 100 }, async (_data: { user_id: string }) => ask(provider));
      let seen = 0;
      for await (const chunk of await wrapped(USER)) {
        assert.equal(chunk.output_token, 1);
        seen += 1;
        if (seen === 3) break;
      }
      assert.ok((await hungUp(provider)) < SOON, `hung up after ${provider.hungUpAfter} chunks`);
      await until('billed', () => world.server.seenAt(END).length > 0);
      // A Node stream reads ahead by itself; it never gives out what it wasn't asked for.
      assert.deepEqual(billed(world), [[0, 3, undefined]]);
      assert.deepEqual(world.problems, []);
    }));

  test(`${name}, exhausted, is billed whole and once`, () =>
    withBoth(async (world, provider) => {
      let seen = 0;
      const wrapped = withTokenProcess(world.config, async (_data: { user_id: string }) => ask(provider));
      for await (const chunk of await wrapped(USER)) seen += chunk.output_token;
      assert.equal(seen, 100);
      assert.deepEqual(billed(world), [[0, 100, undefined]]);
      assert.equal(provider.hungUpAfter, undefined);
    }));

  test(`${name}, closed while a chunk that never comes is waited for`, () =>
    withBoth(async (world, provider) => {
      provider.silentAfter = 3;
      const abort = new AbortController();
      const wrapped = withTokenProcess({ ...world.config, signal: abort.signal }, async (_data: { user_id: string }) => ask(provider));
      const seconds = await secondsOf(async () => {
        await assert.rejects(
          async () => {
            let chunks = 0;
            for await (const _chunk of await wrapped(USER)) if ((chunks += 1) === 3) setTimeout(() => abort.abort(new RangeError('gone')), 50);
          },
          (error: unknown) => error instanceof RangeError,
        );
      });
      assert.ok(seconds < 3, `${seconds} s`);
      await hungUp(provider);
      await until('billed', () => world.server.seenAt(END).length > 0);
      assert.deepEqual(billed(world), [[0, 3, undefined]]);
    }));
}

test('return() while a chunk is waited for: that wait ends too, with nothing', () =>
  withBoth(async (world, provider) => {
    provider.silentAfter = 2;
    const wrapped = withTokenProcess(world.config, async (_data: { user_id: string }) => SdkStream.ask(provider.url));
    const stream = (await wrapped(USER))[Symbol.asyncIterator]();
    await stream.next();
    await stream.next();
    const third = stream.next();
    const seconds = await secondsOf(() => stream.return(undefined));
    assert.deepEqual(await third, { done: true, value: undefined });
    assert.ok(seconds < 2, `${seconds} s`);
    await hungUp(provider);
    assert.deepEqual(billed(world), [[0, 2, undefined]]);
  }));

test('a generator that hangs is closed within a moment, is billed, and hears of it by the run’s signal', () =>
  inWorld(async (world) => {
    let heard = false;
    const wrapped = withTokenProcess(world.config, async function* (_data: { user_id: string }) {
      currentRun()?.signal.addEventListener('abort', () => (heard = true));
      yield { output_token: 4 };
      await new Promise(() => undefined);
    });
    const stream = wrapped(USER);
    await stream.next();
    const hangs = stream.next();
    assert.ok((await secondsOf(() => stream.return())) < 2);
    assert.deepEqual(await hangs, { done: true, value: undefined });
    assert.ok(heard);
    assert.deepEqual(billed(world), [[0, 4, undefined]]);
  }));

test('a stream that is closed while it is being opened, and whose first chunk never comes, is closed soon after', () =>
  inWorld(async (world) => {
    world.server.faults = [{ kind: 'delay', ms: 700 }];
    const wrapped = withTokenProcess({ ...world.config, hold_token: 5 }, async function* (_data: { user_id: string }) {
      await new Promise(() => undefined);
      yield 1;
    });
    const stream = wrapped(USER);
    const first = stream.next();
    const seconds = await secondsOf(() => stream.return());
    assert.ok(seconds > 0.6 && seconds < 4, `${seconds} s`);
    assert.deepEqual(await first, { done: true, value: undefined });
    assert.deepEqual(paths(world), [START, CANCEL]);
  }));

for (const [name, ask] of Object.entries(WAYS)) {
  test(`${name}, closed before its first chunk: hung up on, and the hold given back`, () =>
    withBoth(async (world, provider) => {
      const wrapped = withTokenProcess({ ...world.config, hold_token: 100 }, async (_data: { user_id: string }) => ask(provider));
      const stream = await wrapped(USER);
      if (stream instanceof ReadableStream) await stream.cancel();
      else if (stream instanceof Readable) stream.destroy();
      else await stream[Symbol.asyncIterator]().return?.();
      await until('given back', () => world.wallet.holds.size === 0);
      assert.deepEqual(paths(world), [START, CANCEL]);
      if (provider.requests > 0) await hungUp(provider);
    }));
}

test('a source that fails is hung up on, and what flowed is billed', () =>
  withBoth(async (world, provider) => {
    const wrapped = withTokenProcess(world.config, async (_data: { user_id: string }) => {
      const controller = new AbortController();
      const { body } = await fetch(provider.url, { signal: controller.signal });
      const chunks = chunksOf(body as ReadableStream<Uint8Array>);
      let count = 0;
      // An iterator that breaks in its own code, and leaves the request behind it open.
      const next = async (): Promise<IteratorResult<{ output_token: number }>> => {
        count += 1;
        if (count > 2) throw new SyntaxError('not JSON');
        return (await chunks.next()) as IteratorResult<{ output_token: number }>;
      };
      return { controller, [Symbol.asyncIterator]: () => ({ next }) };
    });
    await assert.rejects(async () => {
      for await (const chunk of await wrapped(USER)) assert.ok(chunk);
    }, SyntaxError);
    await hungUp(provider);
    assert.deepEqual(billed(world), [[0, 2, undefined]]);
  }));

test('what a generator reads while it is closed is billed too', () =>
  inWorld(async (world) => {
    const wrapped = withTokenProcess(world.config, async function* (_data: { user_id: string }) {
      try {
        for (;;) yield 'text';
      } finally {
        await currentRun()?.read({ output_token: 7 });
      }
    });
    for await (const text of wrapped(USER)) if (text) break;
    assert.deepEqual(billed(world), [[0, 7, undefined]]);
  }));

test('an error in a generator’s own clean-up still reaches whoever closes it', () =>
  inWorld(async (world) => {
    const wrapped = withTokenProcess(world.config, async function* (_data: { user_id: string }) {
      try {
        yield { output_token: 4 };
      } finally {
        // eslint-disable-next-line no-unsafe-finally
        throw new RangeError('clean-up');
      }
    });
    const stream = wrapped(USER);
    await stream.next();
    await assert.rejects(stream.return(undefined as never), RangeError);
    assert.deepEqual(billed(world), [[0, 4, undefined]]);
  }));

test('streams that are dropped, begun or never iterated, are settled when they are collected', () =>
  inWorld(async (world) => {
    const program = `
      const { TokenProcess, withTokenProcess } = require('tokentill');
      const client = new TokenProcess({ url: process.argv[1], apiKey: 'key' });
      const config = { feature_endpoint_id: 'f', user_id: 'u', client, hold_token: 5 };
      const chunks = async function* () { for (let i = 0; i < 9; i += 1) yield { output_token: 4 }; };
      const sdk = () => ({ controller: new AbortController(), [Symbol.asyncIterator]: chunks });
      const web = () => new ReadableStream({ pull: (c) => c.enqueue({ output_token: 4 }) }, { highWaterMark: 0 });
      (async () => {
        await withTokenProcess(config, async () => chunks())();
        await withTokenProcess(config, async () => sdk())();
        await withTokenProcess(config, async () => web())();
        await (await withTokenProcess(config, async () => chunks())()).next();
        await (await withTokenProcess(config, async () => sdk())())[Symbol.asyncIterator]().next();
        await (await withTokenProcess(config, async () => web())()).getReader().read();
        await withTokenProcess(config, chunks)().next();
        const kept = withTokenProcess(config, chunks)();
        await kept.next();
        for (let i = 0; i < 20; i += 1) { gc(); await new Promise((r) => setTimeout(r, 25)); }
        const { done } = await kept.next();
        console.log(done);
        await kept.return();
      })();
    `;
    const out = await new Promise<string>((resolve, reject) => {
      execFile(process.execPath, ['--expose-gc', '-e', program, world.server.url], { timeout: 30_000 }, (error, stdout, stderr) =>
        error ? reject(new Error(stderr)) : resolve(stdout),
      );
    });
    assert.equal(out, 'false\n', 'one that was still held was closed');
    assert.equal(world.server.seenAt(CANCEL).length, 3, 'never iterated');
    assert.deepEqual(billed(world).sort(), [...Array.from({ length: 4 }, () => [0, 4, undefined]), [0, 8, undefined]]);
  }));

// ── a stream stays what it is ────────────────────────────────────────────────────────────────────────────────────

/** Fails to compile where the wrapped type is not the type. */
function isOf<Expected>(value: Expected): Expected {
  return value;
}

test('a ReadableStream is one: for a Response, a pipe, a tee, a reader', () =>
  inWorld(async (world) => {
    const texts = () =>
      new ReadableStream<string>({
        start(controller) {
          for (const word of ['one ', 'two ', 'three']) controller.enqueue(word);
          controller.close();
        },
      });
    const usage = (chunk: unknown) => (typeof chunk === 'string' ? { output_token: chunk.length } : undefined);
    const wrapped = withTokenProcess({ ...world.config, usage }, async (_data: { user_id: string }) => texts());
    const piped = isOf<ReadableStream<string>>(await wrapped(USER)).pipeThrough(new TextEncoderStream());
    assert.equal(await new Response(piped).text(), 'one two three');
    const [left, right] = (await wrapped(USER)).tee();
    for (const half of [left, right]) {
      let text = '';
      for await (const word of half) text += word;
      assert.equal(text, 'one two three');
    }
    const reader = (await wrapped(USER)).getReader();
    assert.deepEqual({ ...(await reader.read()) }, { done: false, value: 'one ' });
    await reader.cancel('enough');
    assert.deepEqual(billed(world), [
      [0, 13, undefined],
      [0, 13, undefined],
      [0, 4, undefined],
    ]);
  }));

test('a byte stream stays one, its class and its back-pressure too', () =>
  inWorld(async (world) => {
    class Named extends ReadableStream<Uint8Array> {
      first() {
        return this.getReader().read();
      }
    }
    let pulled = 0;
    const bytes = {
      type: 'bytes',
      pull(controller: { enqueue(chunk: Uint8Array): void }) {
        pulled += 1;
        controller.enqueue(new Uint8Array(pulled));
      },
    };
    const make = () => new Named(bytes as object);
    const usage = (chunk: unknown) => (chunk instanceof Uint8Array ? { output_token: chunk.length } : undefined);
    const wrapped = withTokenProcess({ ...world.config, usage }, async (_data: { user_id: string }) => make());
    const stream = isOf<Named>(await wrapped(USER));
    assert.ok(stream instanceof Named);
    assert.equal(pulled, 0, 'pulled before it was asked for');
    const { value } = await stream.getReader({ mode: 'byob' }).read(new Uint8Array(10));
    assert.equal(value?.length, 1);
    const second = await wrapped(USER);
    assert.equal((await second.first()).value?.length, 2);
  }));

test('an SDK’s stream is the very object, whichever way it is read', () =>
  withBoth(async (world, provider) => {
    const wrapped = withTokenProcess(world.config, async (_data: { user_id: string }) => SdkStream.ask(provider.url));
    const stream = isOf<SdkStream>(await wrapped(USER));
    assert.ok(stream instanceof SdkStream);
    assert.equal(stream.secret(), 'only on the object itself');
    const [left, right] = stream.tee();
    let seen = 0;
    for (const half of [left, right]) for await (const chunk of half) seen += chunk.output_token;
    assert.equal(seen, 200);
    await until('billed', () => world.server.seenAt(END).length === 1);
    let text = '';
    for await (const piece of (await wrapped(USER)).toReadableStream()) text += `${piece},`;
    assert.match(text, /^1,2,.*99,100,$/);
    await until('billed', () => world.server.seenAt(END).length === 2);
    const controlled = await wrapped(USER);
    await assert.rejects(
      async () => {
        for await (const chunk of controlled) if (chunk.text === '3') controlled.controller.abort();
      },
      { name: 'AbortError' },
    );
    assert.deepEqual(billed(world).slice(0, 2), [
      [0, 100, undefined],
      [0, 100, undefined],
    ]);
    const third = world.server.seenAt(END)[2]?.body.output_token;
    assert.ok(third >= 3 && third < SOON, `${third}`);
    assert.throws(() => controlled[Symbol.asyncIterator](), /billed once/);
  }));

test('a Node stream is the very object, iterated, piped or listened to', () =>
  inWorld(async (world) => {
    const usage = (chunk: unknown) => (chunk == null ? undefined : { output_token: String(chunk).length });
    const wrapped = withTokenProcess({ ...world.config, usage }, async (_data: { user_id: string }) => Readable.from(['one', 'two']));
    const stream = isOf<Readable>(await wrapped(USER));
    let text = '';
    stream.on('data', (chunk) => (text += String(chunk)));
    await new Promise((resolve) => stream.once('end', resolve));
    assert.equal(text, 'onetwo');
    const { PassThrough } = await import('node:stream');
    const through = (await wrapped(USER)).pipe(new PassThrough());
    assert.equal(await through.toArray().then((parts) => parts.join('')), 'onetwo');
    for await (const chunk of await wrapped(USER)) assert.ok(chunk);
    const slowly = async (chunk: unknown) => {
      await new Promise((resolve) => setTimeout(resolve, 20));
      return usage(chunk);
    };
    (await withTokenProcess({ ...world.config, usage: slowly }, async (_data: { user_id: string }) => Readable.from(['one', 'two']))(USER)).resume();
    await until('billed', () => world.server.seenAt(END).length === 4);
    assert.deepEqual(billed(world), Array.from({ length: 4 }, () => [0, 6, undefined]));
  }));

test('an object that is its own iterator is counted at its own methods, and a frozen one as a generator', () =>
  inWorld(async (world) => {
    const make = () => {
      let left = 3;
      return {
        extra: 'mine',
        next: async (): Promise<IteratorResult<{ output_token: number }, undefined>> =>
          left-- > 0 ? { done: false, value: { output_token: 1 } } : { done: true, value: undefined },
        [Symbol.asyncIterator]() {
          return this;
        },
      };
    };
    const own = await withTokenProcess(world.config, async (_data: { user_id: string }) => make())(USER);
    assert.equal(own.extra, 'mine');
    while (!(await own.next()).done);
    const frozen = await withTokenProcess(world.config, async (_data: { user_id: string }) => Object.freeze(make()))(USER);
    for await (const chunk of frozen) assert.ok(chunk);
    assert.deepEqual(billed(world), [
      [0, 3, undefined],
      [0, 3, undefined],
    ]);
  }));

test('the types of what comes back', () =>
  inWorld(async ({ config }) => {
    type Async<R> = (data: { user_id: string }) => Promise<R>;
    const never = (): boolean => config.feature_endpoint_id === '';
    if (never()) {
      const of = <R>(fn: (data: { user_id: string }) => R) => withTokenProcess(config, fn)(USER);
      isOf<Promise<ReadableStream<string>>>(of(null as unknown as Async<ReadableStream<string>>));
      isOf<Promise<ReadableStream<string>> & AsyncIterable<string>>(of((): ReadableStream<string> => new ReadableStream()));
      isOf<Promise<SdkStream>>(of(null as unknown as Async<SdkStream>));
      isOf<Promise<Readable>>(of(null as unknown as Async<Readable>));
      isOf<AsyncGenerator<number, string, boolean>>(of(null as unknown as () => AsyncGenerator<number, string, boolean>));
      isOf<AsyncGenerator<number, string, boolean>>(of(null as unknown as () => Generator<number, string, boolean>));
      isOf<Promise<AsyncGenerator<number, void, unknown>>>(of(null as unknown as Async<Generator<number, void, unknown>>));
      isOf<Promise<{ a: number }>>(of(() => ({ a: 1 })));
      isOf<Promise<number[]>>(of(() => [1]));
    }
    await Promise.resolve();
  }));
