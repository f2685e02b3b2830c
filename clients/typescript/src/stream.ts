/**
 * A stream whose usage is counted as it flows and settled once: when it is exhausted, closed early, or fails.
 *
 * Written out rather than as an async generator function: closing a generator function before its first `next()`
 * runs none of its code, and the hold of a run that had begun would stay.
 */

import type { TokenProcessRun } from './client';
import { UsageMeter } from './usage';
import type { Usage, UsageReader } from './usage';

export interface OpenedStream<T, TReturn, TNext> {
  run: TokenProcessRun;
  source: AsyncIterator<T, TReturn, TNext> | Iterator<T, TReturn, TNext>;
}

export interface StreamSettling {
  read: UsageReader;
  settle: (run: TokenProcessRun, usage: Usage, failed: boolean) => Promise<void>;
  /** A usage reader that throws must not break the stream. */
  onReadError: (error: unknown, run: TokenProcessRun, usage: Usage) => void;
}

// What every async generator inherits: [Symbol.asyncIterator], and what newer versions of the language add to it.
const asyncIteratorPrototype = Object.getPrototypeOf(
  (Object.getPrototypeOf(async function* () {}) as { prototype: object }).prototype,
) as object;

class MeteredStream<T, TReturn, TNext> {
  private readonly meter = new UsageMeter();
  private opened: OpenedStream<T, TReturn, TNext> | undefined;
  private finished = false;
  private unreadable = false;
  private turn: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly open: () => Promise<OpenedStream<T, TReturn, TNext>>,
    private readonly settling: StreamSettling,
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
      // What a generator returns at its own end is the run's total; what a consumer closes it with is not.
      if (!closing) this.count(result.value, true);
      await this.finish(closing);
    } else {
      this.count(result.value, false);
    }
    return result;
  }

  private count(value: unknown, isTotal: boolean): void {
    try {
      const usage = this.settling.read(value);
      this.meter.add(usage, isTotal || usage?.so_far === true);
    } catch (error) {
      // Once a run: the stream would say the same of every chunk.
      if (!this.unreadable && this.opened) this.settling.onReadError(error, this.opened.run, this.meter.read());
      this.unreadable = true;
    }
  }

  private async finish(failed: boolean): Promise<void> {
    this.finished = true;
    if (this.opened) await this.settling.settle(this.opened.run, this.meter.read(), failed);
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
  settling: StreamSettling,
): AsyncGenerator<T, TReturn, TNext> {
  return new MeteredStream(open, settling) as unknown as AsyncGenerator<T, TReturn, TNext>;
}

/** A stream of a run that has begun. */
export function meter<T, TReturn, TNext>(
  opened: OpenedStream<T, TReturn, TNext>,
  settling: StreamSettling,
): AsyncGenerator<T, TReturn, TNext> {
  const stream = new MeteredStream(async () => opened, settling, opened);
  return stream as unknown as AsyncGenerator<T, TReturn, TNext>;
}

function ended<TReturn>(value?: TReturn): IteratorReturnResult<TReturn> {
  return { done: true, value: value as TReturn };
}
