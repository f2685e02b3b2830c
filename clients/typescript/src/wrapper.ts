/**
 * `withTokenProcess`: start, run the function, end with what its result says it used.
 *
 * The function does not run without access. What it throws passes through untouched, and the hold is given back. An
 * end or a cancel that fails is reported and never costs the caller the result.
 */

import type { TokenProcess, TokenProcessRun } from './client';
import { messageOf, TokenProcessError } from './errors';
import { meter, meterLazily } from './stream';
import type { OpenedStream, StreamSettling } from './stream';
import { guideUsage } from './usage';
import type { Usage, UsageReader } from './usage';
import type { TTokenProcessEndPayload } from './wire';

export interface WithTokenProcessConfig<TArgs extends unknown[]> {
  feature_endpoint_id: string;
  /** The user, or how to find the user in the function's arguments. */
  user_id: string | ((args: TArgs) => string | Promise<string>);
  /** Tokens to reserve while the function runs. */
  hold_token?: number | ((args: TArgs) => number) | undefined;
  hold_seconds?: number | undefined;
  /** How to read usage from the result, or from each chunk of a stream: `guideUsage` unless given. */
  usage?: UsageReader | undefined;
  /** Told of an end that failed (`error.queued`: it waits in the outbox) instead of the console. */
  onEndError?: ((error: unknown, end: TTokenProcessEndPayload) => void) | undefined;
  /** The client to use: the one made from the environment unless given. */
  client?: TokenProcess | undefined;
}

/** What the wrapped function returns: a promise of the result; a stream becomes an async generator. */
export type Wrapped<R> = 0 extends 1 & R
  ? Promise<R>
  : R extends PromiseLike<infer T>
    ? Promise<Streamed<T>>
    : R extends AsyncIterable<unknown> | Generator<unknown, unknown, never>
      ? Streamed<R>
      : Promise<R>;

type Streamed<T> = 0 extends 1 & T
  ? T
  : T extends AsyncGenerator<infer C, infer TReturn, infer TNext>
    ? AsyncGenerator<C, TReturn, TNext>
    : T extends Generator<infer C, infer TReturn, infer TNext>
      ? AsyncGenerator<C, TReturn, TNext>
      : T extends AsyncIterable<infer C>
        ? AsyncGenerator<C, void, undefined>
        : T;

export function wrap<TArgs extends unknown[], R>(
  clientOf: () => TokenProcess,
  config: WithTokenProcessConfig<TArgs>,
  fn: (...args: TArgs) => R,
): (...args: TArgs) => Wrapped<R> {
  const read = config.usage ?? guideUsage;
  const report = (error: unknown, run: TokenProcessRun, usage: Usage): void => {
    try {
      (config.onEndError ?? reportEndError)(error, run.endOf(usage));
    } catch (failure) {
      console.error('[Token Process] onEndError failed:', failure);
    }
  };
  const settle = async (run: TokenProcessRun, usage: Usage, failed: boolean): Promise<void> => {
    if (failed && !usage.input_token && !usage.output_token) return giveBack(run);
    try {
      await run.end(usage);
    } catch (error) {
      report(error, run, usage);
    }
  };
  const settling: StreamSettling = { read, settle, onReadError: report };

  const begin = async (args: TArgs): Promise<TokenProcessRun> => {
    const { feature_endpoint_id, user_id, hold_token, hold_seconds } = config;
    const hold = typeof hold_token === 'function' ? hold_token(args) : hold_token;
    return (config.client ?? clientOf()).begin({
      user_id: typeof user_id === 'function' ? await user_id(args) : user_id,
      feature_endpoint_id,
      ...(hold === undefined ? {} : { hold_token: hold }),
      ...(hold_seconds === undefined ? {} : { hold_seconds }),
    });
  };

  const call = async (self: unknown, args: TArgs): Promise<unknown> => {
    const run = await begin(args);
    let result: unknown;
    try {
      result = await fn.apply(self, args);
    } catch (error) {
      await giveBack(run);
      throw error;
    }
    const source = iteratorOf(result);
    if (source) return meter({ run, source }, settling);
    try {
      await settle(run, read(result) ?? {}, false);
    } catch (error) {
      // Only the reader throws here: the run was used, and what it used can't be told.
      report(error, run, {});
    }
    return result;
  };

  const open = async (self: unknown, args: TArgs): Promise<OpenedStream<unknown, unknown, unknown>> => {
    const run = await begin(args);
    try {
      const source = iteratorOf(fn.apply(self, args));
      if (!source) throw new TypeError('withTokenProcess: a generator function returned no iterator');
      return { run, source };
    } catch (error) {
      await giveBack(run);
      throw error;
    }
  };

  return function wrapped(this: unknown, ...args: TArgs): Wrapped<R> {
    if (isGeneratorFunction(fn)) return meterLazily(() => open(this, args), settling) as Wrapped<R>;
    return alsoAsStream(call(this, args)) as Wrapped<R>;
  };
}

/** A hold that could not be given back runs out by itself, so nobody needs to hear of it but the log. */
async function giveBack(run: TokenProcessRun): Promise<void> {
  try {
    await run.cancel();
  } catch (error) {
    console.warn('[Token Process] A hold was not given back and will expire:', messageOf(error));
  }
}

function reportEndError(error: unknown, end: TTokenProcessEndPayload): void {
  if (error instanceof TokenProcessError && error.queued) {
    console.warn('[Token Process] The end waits in the outbox:', error.message, JSON.stringify(end));
    return;
  }
  // Everything needed to bill it by hand, with the same key.
  console.error('[Token Process] End error:', error, JSON.stringify(end));
}

function isGeneratorFunction(fn: unknown): boolean {
  const kind = Object.prototype.toString.call(fn);
  return kind === '[object AsyncGeneratorFunction]' || kind === '[object GeneratorFunction]';
}

/** The iterator of a stream: anything async-iterable, and generators. Arrays, strings and the like are results. */
function iteratorOf(value: unknown): AsyncIterator<unknown> | Iterator<unknown> | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  if (Symbol.asyncIterator in value) return (value as AsyncIterable<unknown>)[Symbol.asyncIterator]();
  const isGenerator = Object.prototype.toString.call(value) === '[object Generator]';
  return isGenerator ? (value as Generator<unknown>) : undefined;
}

/**
 * A plain function may return a stream without a promise, and its caller then iterates what it gets. Whether it does
 * can't be known before it runs, so the promise can be iterated as well.
 */
function alsoAsStream(promise: Promise<unknown>): Promise<unknown> {
  const stream = async (): Promise<AsyncGenerator<unknown>> => {
    const value = await promise;
    const isStream = typeof value === 'object' && value !== null && Symbol.asyncIterator in value;
    if (!isStream) throw new TypeError('withTokenProcess: the wrapped function returned no stream to iterate');
    return value as AsyncGenerator<unknown>;
  };
  const generator = {
    next: async (...args: [] | [unknown]) => (await stream()).next(...args),
    return: async (value?: unknown) => (await stream()).return(value),
    throw: async (error: unknown) => (await stream()).throw(error),
    [Symbol.asyncIterator]: () => promise,
  };
  for (const key of Reflect.ownKeys(generator)) {
    Object.defineProperty(promise, key, { value: generator[key as keyof typeof generator], configurable: true });
  }
  return promise;
}
