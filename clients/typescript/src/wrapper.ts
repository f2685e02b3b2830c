/**
 * `withTokenProcess`: start, run the function, end with what its result says it used.
 *
 * The function does not run without access. What it throws passes through untouched, and the hold is given back. An
 * end or a cancel that fails is reported and never costs the caller the result.
 */

import { followStreamResult } from './ai-sdk';
import type { TokenProcess } from './client';
import { UsageError } from './errors';
import { atMost } from './hooks';
import type { RunOptions, TokenProcessRun } from './run';
import { streamed, streamsInside } from './sources';
import { generatorOf, MeteredStream } from './stream';
import type { AnyIterator, StreamSource } from './stream';
import { isStreamResult } from './usage/providers';

export interface WithTokenProcessConfig<TArgs extends unknown[]> extends Omit<RunOptions, 'signal'> {
  feature_endpoint_id: string;
  /** The user, or how to find the user in the function's arguments. */
  user_id: string | ((args: TArgs) => string | Promise<string>);
  /** Tokens to reserve while the function runs. */
  hold_token?: number | ((args: TArgs) => number | undefined | Promise<number | undefined>) | undefined;
  hold_seconds?: number | undefined;
  /** Aborted: the caller has gone. Given, or found in the function's arguments. */
  signal?: AbortSignal | ((args: TArgs) => AbortSignal | undefined | Promise<AbortSignal | undefined>) | undefined;
  /** The client to use: the one made from the environment unless given. */
  client?: TokenProcess | undefined;
}

/**
 * What the wrapped function returns: a promise of the result. A stream stays what it is (a ReadableStream, a provider's
 * stream, an async generator); a plain generator becomes an async one. A function that returns a stream without a promise
 * gets one, which can also be iterated itself.
 */
export type Wrapped<R> = 0 extends 1 & R
  ? Promise<R>
  : R extends PromiseLike<infer T>
    ? Promise<Streamed<T>>
    : R extends AsyncGenerator<infer C, infer TReturn, infer TNext>
      ? AsyncGenerator<C, TReturn, TNext>
      : R extends Generator<infer C, infer TReturn, infer TNext>
        ? AsyncGenerator<C, TReturn, TNext>
        : R extends AsyncIterable<infer C>
          ? Promise<R> & AsyncIterable<C>
          : Promise<R>;

type Streamed<T> = 0 extends 1 & T
  ? T
  : T extends Generator<infer C, infer TReturn, infer TNext>
    ? AsyncGenerator<C, TReturn, TNext>
    : T;

export function wrap<TArgs extends unknown[], R>(
  clientOf: () => TokenProcess,
  config: WithTokenProcessConfig<TArgs>,
  fn: (...args: TArgs) => R,
): (...args: TArgs) => Wrapped<R> {
  const begin = async (args: TArgs): Promise<TokenProcessRun> => {
    const { feature_endpoint_id, user_id, hold_token, hold_seconds, client, ...options } = config;
    const hold = typeof hold_token === 'function' ? await hold_token(args) : hold_token;
    const signal = typeof options.signal === 'function' ? await options.signal(args) : options.signal;
    return (client ?? clientOf()).begin(
      {
        user_id: typeof user_id === 'function' ? await user_id(args) : user_id,
        feature_endpoint_id,
        ...(hold === undefined ? {} : { hold_token: hold }),
        ...(hold_seconds === undefined ? {} : { hold_seconds }),
      },
      { ...options, signal },
    );
  };

  const call = async (self: unknown, args: TArgs): Promise<unknown> => {
    const run = await begin(args);
    return runToTheEnd(run, () => fn.apply(self, args));
  };

  const open = async (self: unknown, args: TArgs): Promise<StreamSource<unknown, unknown, unknown>> => {
    const run = await begin(args);
    run.lead();
    // Calling a generator function runs none of it.
    const iterator = fn.apply(self, args) as AnyIterator<unknown, unknown, unknown>;
    return { run, iterator, hangUp: () => undefined };
  };

  return function wrapped(this: unknown, ...args: TArgs): Wrapped<R> {
    if (isGeneratorFunction(fn)) return generatorOf(new MeteredStream(() => open(this, args))) as Wrapped<R>;
    return alsoAsStream(call(this, args)) as Wrapped<R>;
  };
}

/** The result of `act`, billed; or its stream, which bills itself. */
export function runToTheEnd(run: TokenProcessRun, act: () => unknown): Promise<unknown> {
  const ran = runAndSettle(run, act);
  return run.caller ? unlessGone(run, run.caller, ran) : ran;
}

async function runAndSettle(run: TokenProcessRun, act: () => unknown): Promise<unknown> {
  run.lead();
  let result: unknown;
  try {
    result = await run.within(async () => act());
  } catch (error) {
    await run.settle({ leftEarly: true });
    throw error;
  }
  if (isStreamResult(result)) {
    followStreamResult(run, result);
    return result;
  }
  const stream = streamed(run, result);
  if (stream && run.isLedByStream) return stream;
  const around = stream ? undefined : streamsInside(run, result);
  if (!stream) await run.observe(result, 'end');
  try {
    await run.settle({ leftEarly: false });
  } catch (error) {
    if (error instanceof UsageError) error.result = result;
    throw error;
  }
  return stream ?? around ?? result;
}

/** Whoever aborts is not kept waiting by a function that doesn't listen: what it used is billed when it is done. */
function unlessGone(run: TokenProcessRun, caller: AbortSignal, ran: Promise<unknown>): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const leave = async (): Promise<void> => {
      await atMost(ran.catch(() => undefined), run.patienceSeconds);
      reject(caller.reason as Error);
    };
    const listener = (): void => void leave();
    caller.addEventListener('abort', listener, { once: true });
    if (caller.aborted) listener();
    ran.finally(() => caller.removeEventListener('abort', listener)).then(resolve, reject);
  });
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
  let iterator: Promise<AsyncGenerator<unknown>> | undefined;
  const stream = (): Promise<AsyncGenerator<unknown>> =>
    (iterator ??= promise.then((value) => {
      const isStream = typeof value === 'object' && value !== null && Symbol.asyncIterator in value;
      if (!isStream) throw new TypeError('withTokenProcess: the wrapped function returned no stream to iterate');
      return (value as AsyncIterable<unknown>)[Symbol.asyncIterator]() as AsyncGenerator<unknown>;
    }));
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
