/**
 * A stream whose usage is counted as it flows and settled once: when it is exhausted, closed early, or fails.
 *
 * Written out rather than as an async generator function: closing a generator function before its first `next()`
 * runs none of its code, and the hold of a run that had begun would stay.
 */

import { isReadableStream, meterReadable } from './readable';
import type { TokenProcessRun } from './run';

export interface OpenedStream<T, TReturn, TNext> {
  run: TokenProcessRun;
  source: AsyncIterator<T, TReturn, TNext> | Iterator<T, TReturn, TNext>;
}

// What every async generator inherits: [Symbol.asyncIterator], and what newer versions of the language add to it.
const asyncIteratorPrototype = Object.getPrototypeOf(
  (Object.getPrototypeOf(async function* () {}) as { prototype: object }).prototype,
) as object;

class MeteredStream<T, TReturn, TNext> {
  private opened: OpenedStream<T, TReturn, TNext> | undefined;
  private finished = false;
  private turn: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly open: () => Promise<OpenedStream<T, TReturn, TNext>>,
    opened?: OpenedStream<T, TReturn, TNext>,
  ) {
    this.opened = opened;
  }

  next(...args: [] | [TNext]): Promise<IteratorResult<T, TReturn>> {
    return this.inTurn(async () => {
      if (this.finished) return ended<TReturn>();
      if (!this.opened) {
        try {
          this.opened = await this.open();
        } catch (error) {
          this.finished = true;
          throw error;
        }
      }
      const { source } = this.opened;
      return this.step(() => source.next(...args));
    });
  }

  return(value: TReturn | PromiseLike<TReturn>): Promise<IteratorResult<T, TReturn>> {
    return this.inTurn(async () => {
      if (this.finished || !this.opened) {
        this.finished = true;
        return ended(await value);
      }
      const { source } = this.opened;
      return this.step(async () => (source.return ? source.return(await value) : ended(await value)), true);
    });
  }

  throw(error: unknown): Promise<IteratorResult<T, TReturn>> {
    return this.inTurn(async () => {
      if (this.finished || !this.opened) {
        this.finished = true;
        throw error;
      }
      const { source } = this.opened;
      return this.step(async () => {
        if (source.throw) return source.throw(error);
        await source.return?.();
        throw error;
      });
    });
  }

  private async step(
    advance: () => PromiseLike<IteratorResult<T, TReturn>> | IteratorResult<T, TReturn>,
    closing = false,
  ): Promise<IteratorResult<T, TReturn>> {
    let result: IteratorResult<T, TReturn>;
    try {
      result = await advance();
    } catch (error) {
      await this.finish(true);
      throw error;
    }
    if (result.done) {
      // What a generator returns at its own end is about the run; what a consumer closes it with is not.
      if (!closing) await this.opened?.run.observe(result.value, 'end');
      await this.finish(closing);
    } else {
      await this.opened?.run.observe(result.value, 'chunk');
    }
    return result;
  }

  private async finish(leftEarly: boolean): Promise<void> {
    this.finished = true;
    await this.opened?.run.settle({ leftEarly });
  }

  /** One call after the other, as in a generator: a chunk that was asked for before a close is counted before it. */
  private inTurn<R>(act: () => Promise<R>): Promise<R> {
    const result = this.turn.then(act, act);
    this.turn = result.catch(() => undefined);
    return result;
  }
}

Object.setPrototypeOf(MeteredStream.prototype, asyncIteratorPrototype);

/** A stream of a run that begins when the first chunk is asked for. */
export function meterLazily<T, TReturn, TNext>(
  open: () => Promise<OpenedStream<T, TReturn, TNext>>,
): AsyncGenerator<T, TReturn, TNext> {
  return new MeteredStream(open) as unknown as AsyncGenerator<T, TReturn, TNext>;
}

/** The stream in the place of `source`, of a run that has begun. Undefined: `source` is no stream. */
export function streamed(run: TokenProcessRun, source: unknown): object | undefined {
  if (isReadableStream(source)) return meterReadable(run, source);
  const iterator = iteratorOf(source);
  if (!iterator) return undefined;
  const opened = { run, source: iterator };
  return new MeteredStream(async () => opened, opened);
}

/** The iterator of a stream: anything async-iterable, and generators. Arrays, strings and the like are results. */
export function iteratorOf(value: unknown): AsyncIterator<unknown> | Iterator<unknown> | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  if (Symbol.asyncIterator in value) return (value as AsyncIterable<unknown>)[Symbol.asyncIterator]();
  const isGenerator = Object.prototype.toString.call(value) === '[object Generator]';
  return isGenerator ? (value as Generator<unknown>) : undefined;
}

function ended<TReturn>(value?: TReturn): IteratorReturnResult<TReturn> {
  return { done: true, value: value as TReturn };
}
