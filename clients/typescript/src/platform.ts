/** What Node, Bun, Deno and edge runtimes each have under a name of their own, or only some of them have. */

interface Platform {
  crypto?: { randomUUID?: () => string };
  process?: {
    env?: Record<string, string | undefined>;
    getBuiltinModule?: (name: string) => unknown;
  };
}

const platform = globalThis as Platform;

/** What the client calls to reach the server: as `fetch` of the platform, of what it uses. */
export type Fetch = (
  url: string,
  init: {
    method: string;
    headers: Record<string, string>;
    body: string;
    signal: AbortSignal;
    redirect: 'manual';
    cache: 'no-store';
  },
) => Promise<Response>;

/** Looked up at each call: frameworks put their own `fetch` in its place while they start. */
export const platformFetch: Fetch = (url, init) => {
  if (hasCacheMode()) return fetch(url, init);
  const { cache: _, ...rest } = init;
  return fetch(url, rest);
};

let cacheMode: boolean | undefined;

/** Cloudflare's runtime, with a compatibility date before 2024-11-11, refuses every request that names one. */
function hasCacheMode(): boolean {
  if (cacheMode !== undefined) return cacheMode;
  try {
    if (typeof Request === 'function') new Request('http://localhost/', { cache: 'no-store' });
    cacheMode = true;
  } catch {
    cacheMode = false;
  }
  return cacheMode;
}

/** Random enough to be a key. */
export function randomUuid(): string {
  if (platform.crypto?.randomUUID) return platform.crypto.randomUUID();
  const crypto = builtin<{ randomUUID: () => string }>('node:crypto');
  if (!crypto) throw new Error('This platform has no crypto.randomUUID');
  return crypto.randomUUID();
}

/** A setting of the environment, where there is one. */
export function environment(name: string): string | undefined {
  return platform.process?.env?.[name] || undefined;
}

/** A module of Node's own. Undefined where this isn't Node, or a Node without it. */
export function builtin<T>(name: string): T | undefined {
  const found = platform.process?.getBuiltinModule?.(name);
  if (found !== undefined) return found as T;
  try {
    // By a name that no bundler sees: it would look for the module where there is none.
    return require(name) as T;
  } catch {
    return undefined;
  }
}

/** What keeps nothing alive, where the platform has such a thing; else what it refers to lives as long as this does. */
export function weakly<T extends object>(target: T): { deref(): T | undefined } {
  return typeof WeakRef === 'function' ? new WeakRef(target) : { deref: () => target };
}
