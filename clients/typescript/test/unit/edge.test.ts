/** The package where there is no Node: on an edge runtime, with what the Web's standards have and nothing else. */

import assert from 'node:assert/strict';
import { AsyncLocalStorage } from 'node:async_hooks';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { createContext, runInContext } from 'node:vm';

import { withTokenProcess } from 'tokentill';

import { CANCEL, inWorld, END, START, until } from '../support/world.js';

const dist = dirname(require.resolve('tokentill'));

/** The globals of such a runtime. No process, no Buffer, no module of Node's. */
function edgeGlobals(): Record<string, unknown> {
  const names = ['fetch', 'Response', 'Request', 'Headers', 'URL', 'TextDecoder', 'TextEncoder', 'ReadableStream', 'TransformStream'];
  const more = ['AbortController', 'AbortSignal', 'DOMException', 'crypto', 'performance', 'setTimeout', 'clearTimeout', 'console', 'structuredClone'];
  const globals = globalThis as unknown as Record<string, unknown>;
  return Object.fromEntries([...names, ...more].map((name) => [name, name === 'crypto' ? require('node:crypto').webcrypto : globals[name]]));
}

/** CommonJS as a bundler leaves it: the package's own files, and nothing for `require` to find beside them. */
function load(context: object, file: string, loaded = new Map<string, { exports: unknown }>()): unknown {
  const known = loaded.get(file);
  if (known) return known.exports;
  const module = { exports: {} as unknown };
  loaded.set(file, module);
  const requireOwn = (name: string): unknown => {
    if (!name.startsWith('.')) throw new Error(`Cannot find module '${name}'`);
    const path = join(dirname(file), name);
    const candidates = [`${path}.js`, join(path, 'index.js')];
    for (const candidate of candidates) if (exists(candidate)) return load(context, candidate, loaded);
    throw new Error(`Cannot find module '${name}'`);
  };
  const wrapper = runInContext(`(function (module, exports, require) {${readFileSync(file, 'utf8')}\n})`, createContext(context));
  (wrapper as (...args: unknown[]) => void)(module, module.exports, requireOwn);
  return module.exports;
}

function exists(file: string): boolean {
  try {
    readFileSync(file);
    return true;
  } catch {
    return false;
  }
}

test('an edge runtime: starts, streams and ends; an outbox is refused', () =>
  inWorld(async ({ server }) => {
    const context = createContext(edgeGlobals());
    // Some have no way to tell what was collected.
    runInContext('delete globalThis.WeakRef; delete globalThis.FinalizationRegistry', context);
    assert.equal(runInContext('typeof process', context), 'undefined');
    const tokentill = load(context, join(dist, 'index.js')) as typeof import('tokentill');
    const client = new tokentill.TokenProcess({ url: server.url, apiKey: 'key' });
    const run = { user_id: 'user-1', feature_endpoint_id: 'feature-1', client };
    await tokentill.withTokenProcess(run, async () => ({ output_token: 4 }))();
    const stream = tokentill.withTokenProcess({ ...run, hold_token: 5 }, async () => {
      return new ReadableStream({
        start: (controller) => {
          controller.enqueue({ output_token: 8 });
          controller.close();
        },
      });
    });
    for await (const chunk of (await stream()) as unknown as AsyncIterable<object>) assert.ok(chunk);
    assert.deepEqual(server.seenAt(START).length, 2);
    assert.deepEqual(server.seenAt(END).map(({ body }) => body.output_token), [4, 8]);
    assert.match(String(server.seenAt(END)[0]?.headers['idempotency-key']), /^[0-9a-f-]{36}$/);
    assert.equal(tokentill.currentRun(), undefined);
    assert.throws(() => new tokentill.Outbox({ path: 'outbox.db' }), tokentill.OutboxUnsupportedError);
    const memory = load(context, join(dist, 'testing', 'index.js')) as typeof import('tokentill/testing');
    const { data } = await new memory.MemoryTokentill({ features: ['f'], wallets: { u: 5 } }).client().start({ user_id: 'u', feature_endpoint_id: 'f' });
    assert.equal(data.token, 5);
  }));

test('an edge runtime that has AsyncLocalStorage as a global knows the current run', () =>
  inWorld(async ({ server }) => {
    const context = createContext({ ...edgeGlobals(), AsyncLocalStorage: AsyncLocalStorage });
    const tokentill = load(context, join(dist, 'index.js')) as typeof import('tokentill');
    const client = new tokentill.TokenProcess({ url: server.url, apiKey: 'key' });
    const token = await tokentill.withTokenProcess({ user_id: 'user-1', feature_endpoint_id: 'feature-1', client }, async () => {
      await new Promise((resolve) => setTimeout(resolve, 1));
      tokentill.currentRun()?.use({ output_token: 4 });
      return tokentill.currentRun()?.token;
    })();
    assert.equal(token, 1000);
    assert.deepEqual(server.seenAt(END).map(({ body }) => body.output_token), [4]);
  }));

test('calls are never answered from a cache of the framework’s', () =>
  inWorld(async ({ client }) => {
    const { fetch } = globalThis;
    const seen: unknown[] = [];
    globalThis.fetch = (url, init) => {
      seen.push(init?.cache);
      return fetch(url, init);
    };
    try {
      await client.start({ user_id: 'user-1', feature_endpoint_id: 'feature-1' });
    } finally {
      globalThis.fetch = fetch;
    }
    assert.deepEqual(seen, ['no-store']);
  }));

test('a runtime that refuses requests with a cache mode is asked without one', () =>
  inWorld(async ({ server }) => {
    const seen: string[][] = [];
    class Request {
      constructor(_url: string, init: object) {
        if ('cache' in init) throw new Error("The 'cache' field on 'RequestInitializerDict' is not implemented.");
      }
    }
    const fetchThere = (url: string, init: RequestInit) => {
      seen.push(Object.keys(init));
      new Request(url, init);
      return fetch(url, init);
    };
    const context = createContext({ ...edgeGlobals(), Request, fetch: fetchThere });
    const tokentill = load(context, join(dist, 'index.js')) as typeof import('tokentill');
    const client = new tokentill.TokenProcess({ url: server.url, apiKey: 'key' });
    assert.equal((await client.start({ user_id: 'user-1', feature_endpoint_id: 'feature-1' })).data.status, 'access-able');
    assert.equal(seen.length, 1);
  }));

test('waitUntil is handed what an edge runtime has to wait for: until the run is settled, however that comes', () =>
  inWorld(async ({ server, client, wallet, problems, config }) => {
    let settled = 0;
    const run = {
      user_id: 'user-1',
      feature_endpoint_id: 'feature-1',
      hold_token: 5,
      waitUntil: (over: Promise<void>) => void over.then(() => (settled = server.seenAt(END).length + server.seenAt(CANCEL).length)),
    };
    const { waitUntil } = run;
    const wrapped = { feature_endpoint_id: 'feature-1', user_id: 'user-1', client, onEndError: config.onEndError, hold_token: 5, waitUntil };
    const stream = () => new ReadableStream({ pull: (controller) => controller.enqueue({ output_token: 4 }) }, { highWaterMark: 0 });
    const ways: (() => Promise<unknown>)[] = [
      withTokenProcess(wrapped, async () => ({ output_token: 4 })),
      async () => {
        const reader = (await withTokenProcess(wrapped, async () => stream())()).getReader();
        await reader.read();
        server.faults = [{ kind: 'delay', ms: 700 }];
        await reader.cancel();
      },
      async () => (await withTokenProcess(wrapped, async () => stream())()).cancel(),
      () => assert.rejects(withTokenProcess(wrapped, () => Promise.reject(new RangeError('mine')))(), RangeError),
      async () => (await client.begin(run, { waitUntil })).end({ output_token: 4 }),
      async () => (await client.begin(run, { waitUntil })).cancel(),
    ];
    for (const [count, way] of ways.entries()) {
      await way();
      await until('settled', () => settled === count + 1);
    }
    // What it throws costs no run.
    const { error } = console;
    console.error = () => undefined;
    await withTokenProcess({ ...wrapped, waitUntil: () => assert.fail('no context') }, async () => ({ output_token: 4 }))();
    console.error = error;
    assert.equal(wallet.token, 1000 - 4);
    assert.deepEqual(problems, []);
  }));
