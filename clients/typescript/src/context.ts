/**
 * The run that the code is in, wherever it has got to from the wrapped function: across awaits, timers and callbacks.
 */

import type { AsyncLocalStorage } from 'node:async_hooks';

import { builtin } from './platform';
import type { TokenProcessRun } from './run';

const storage = makeStorage();

/** The run of the wrapped function that this code runs in, the innermost where they are nested. Undefined outside of any. */
export function currentRun(): TokenProcessRun | undefined {
  return storage?.getStore();
}

export function inRun<R>(run: TokenProcessRun, act: () => R): R {
  return storage ? storage.run(run, act) : act();
}

/** For work that belongs to no run, though it happens to be begun in one. */
export function outsideOfRuns<R>(act: () => R): R {
  return storage ? storage.run(undefined as never, act) : act();
}

/** Undefined where the platform has none: there is no current run then, and all else works. */
function makeStorage(): AsyncLocalStorage<TokenProcessRun> | undefined {
  type Holder = { AsyncLocalStorage?: new () => AsyncLocalStorage<TokenProcessRun> };
  // A global of Next.js's edge runtime; a module of Node's, which Cloudflare has with nodejs_compat.
  const Storage = (globalThis as Holder).AsyncLocalStorage ?? builtin<Holder>('node:async_hooks')?.AsyncLocalStorage;
  return Storage && new Storage();
}
