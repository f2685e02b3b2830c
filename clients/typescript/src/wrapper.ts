/**
 * `withTokenProcess`: start, run the function, end with what its result says it used.
 *
 * The function does not run without access. What it throws passes through untouched, and the hold is given back. An
 * end or a cancel that fails is reported and never costs the caller the result.
 */

import { followStreamResult } from './ai-sdk';
import type { TokenProcess } from './client';
import { UsageError } from './errors';
import type { RunOptions, TokenProcessRun } from './run';
import { iteratorOf, meterLazily, streamed } from './stream';
import type { OpenedStream } from './stream';
import { isStreamResult } from './usage/providers';

export interface WithTokenProcessConfig<TArgs extends unknown[]> extends RunOptions {
  feature_endpoint_id: string;
  /** The user, or how to find the user in the function's arguments. */
  user_id: string | ((args: TArgs) => string | Promise<string>);
  /** Tokens to reserve while the function runs. */
  hold_token?: number | ((args: TArgs) => number | undefined | Promise<number | undefined>) | undefined;
  hold_seconds?: number | undefined;
  /** The client to use: the one made from the environment unless given. */
  client?: TokenProcess | undefined;
}

/** What a stream must have to stay what it is. Not named after the global type, which a program may not have. */
interface ReadableLike {
  getReader: unknown;
  pipeThrough: unknown;
  tee: unknown;
}

/** What the wrapped function returns: a promise of the result; a stream becomes an async generator. */
export type Wrapped<R> = 0 extends 1 & R
  ? Promise<R>
  : R extends PromiseLike<infer T>
    ? Promise<Streamed<T>>
    : R extends ReadableLike
      ? Promise<R>
      : R extends AsyncIterable<unknown> | Generator<unknown, unknown, never>
        ? Streamed<R>
        : Promise<R>;

type Streamed<T> = 0 extends 1 & T
  ? T
  : T extends ReadableLike
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
  const begin = async (args: TArgs): Promise<TokenProcessRun> => {
    const { feature_endpoint_id, user_id, hold_token, hold_seconds } = config;
    const hold = typeof hold_token === 'function' ? await hold_token(args) : hold_token;
    const payload = {
      user_id: typeof user_id === 'function' ? await user_id(args) : user_id,
      feature_endpoint_id,
      ...(hold === undefined ? {} : { hold_token: hold }),
      ...(hold_seconds === undefined ? {} : { hold_seconds }),
    };
    return (config.client ?? clientOf()).begin(payload, config);
  };

  const call = async (self: unknown, args: TArgs): Promise<unknown> => {
    const run = await begin(args);
    let result: unknown;
    try {
      result = await fn.apply(self, args);
    } catch (error) {
      await run.settle({ leftEarly: true });
      throw error;
    }
    if (isStreamResult(result)) {
      followStreamResult(run, result);
      return result;
    }
    const stream = streamed(run, result);
    if (stream) return stream;
    await run.observe(result, 'end');
    try {
      await run.settle({ leftEarly: false });
    } catch (error) {
      if (error instanceof UsageError) error.result = result;
      throw error;
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
      await run.settle({ leftEarly: true });
      throw error;
    }
  };

  return function wrapped(this: unknown, ...args: TArgs): Wrapped<R> {
    if (isGeneratorFunction(fn)) return meterLazily(() => open(this, args)) as Wrapped<R>;
    return alsoAsStream(call(this, args)) as Wrapped<R>;
  };
}

function isGeneratorFunction(fn: unknown): boolean {
  const kind = Object.prototype.toString.call(fn);
  return kind === '[object AsyncGeneratorFunction]' || kind === '[object GeneratorFunction]';
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
