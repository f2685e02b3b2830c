/**
 * A stream whose usage is counted as it flows and whose run is settled once: when it is exhausted, closed early, fails, is
 * stopped by its run, or is dropped and collected.
 *
 * Whoever closes early hangs up on the provider at once: not only the iterator is closed but what it came from, and a chunk
 * that is being waited for is waited for a moment longer at most.
 *
 * Written out rather than as an async generator function: closing a generator function before its first `next()`
 * runs none of its code, and the hold of a run that had begun would stay.
 */

import { atMost } from './hooks';
import type { Place } from './usage/meter';

export type AnyIterator<T, TReturn, TNext> = AsyncIterator<T, TReturn, TNext> | Iterator<T, TReturn, TNext>;

/** A stream that can be ended from outside. */
export interface Stoppable {
  stop(reason: unknown): void;
}

/** How a run is over. See TokenProcessRun.settle. */
export interface Settling {
  leftEarly: boolean;
  gone?: boolean;
  unheard?: boolean;
}

/** How a run takes part in a stream. */
export interface StreamedRun {
  /** The run that it is, or is a part of. */
  readonly run: object;
  readonly patienceSeconds: number;
  /** Calls the source as the run's own code. */
  within<R>(act: () => R): R;
  observe(value: unknown, place: Place): void | Promise<void>;
  watch(stream: Stoppable): void;
  stop(reason: unknown): void;
  settle(how: Settling): Promise<void>;
}

export interface StreamSource<T, TReturn, TNext> {
  run: StreamedRun;
  iterator: AnyIterator<T, TReturn, TNext>;
  /** Ends what the iterator came from, where that is more than the iterator. */
  hangUp: () => void;
}

const INTERRUPT_SECONDS_MIN = 0.05;

export class MeteredStream<T, TReturn, TNext> implements Stoppable {
  private source: StreamSource<T, TReturn, TNext> | undefined;
  private over = false;
  /** The consumer has closed it: no error is news to it any more. */
  private left = false;
  /** The run has stopped it, and whether its consumer has been told. */
  private stopped: { reason: unknown; told: boolean } | undefined;
  /** Ends the step that is under way without its source: with nothing more, or with an error. */
  private interrupt: ((error?: { reason: unknown }) => void) | undefined;
  private turn: Promise<unknown> = Promise.resolve();
  private turns = 0;

  /** `open` is called when the first chunk is asked for; a stream that has begun already passes its source. */
  constructor(private readonly open: StreamSource<T, TReturn, TNext> | (() => Promise<StreamSource<T, TReturn, TNext>>)) {
    if (typeof open !== 'function') this.begin(open);
  }

  next(...args: [] | [TNext]): Promise<IteratorResult<T, TReturn>> {
    return this.inTurn(async () => {
      if (!this.source && !this.over && typeof this.open === 'function') {
        try {
          this.begin(await this.open());
        } catch (error) {
          this.over = true;
          throw error;
        }
      }
      if (this.over || !this.source) return this.afterTheEnd();
      const { iterator } = this.source;
      return this.step(this.source, () => iterator.next(...args));
    });
  }

  throw(error: unknown): Promise<IteratorResult<T, TReturn>> {
    return this.inTurn(async () => {
      if (this.over || !this.source) {
        this.over = true;
        throw error;
      }
      const { iterator } = this.source;
      return this.step(this.source, () => {
        if (iterator.throw) return iterator.throw(error);
        throw error;
      });
    });
  }

  /** Closes the stream. A chunk that was asked for before, and comes, is counted before. */
  async return(value?: TReturn | PromiseLike<TReturn>): Promise<IteratorResult<T, TReturn>> {
    this.leave();
    const closed = this.inTurn(() => this.close(value));
    if (this.turns > 1) await this.interruptWhatHangs(closed);
    return closed;
  }

  /** The run wants no more of it: whoever waits for a chunk, or asks for the next one, is thrown the reason. */
  stop(reason: unknown): void {
    if (this.over || this.left || this.stopped) return;
    this.stopped = { reason, told: false };
    if (this.interrupt) this.interrupt(this.stopped);
    else this.inTurn(() => this.end()).catch(() => undefined);
  }

  /** Nobody holds the stream any more. */
  dropped(): void {
    if (this.source && !this.over) this.return().catch(() => undefined);
  }

  private leave(): void {
    const { source } = this;
    if (!source || this.over || this.left) return;
    this.left = true;
    source.run.stop(new DOMException('The stream was closed', 'AbortError'));
    source.hangUp();
  }

  /** Until `closed` is settled, for which the chunks that are waited for have to come, or not. */
  private async interruptWhatHangs(closed: Promise<unknown>): Promise<void> {
    let isClosed = false;
    const known = closed.catch(() => undefined).then(() => (isClosed = true));
    while (!isClosed) {
      // A stream that is only being opened ends as soon as it has been.
      await atMost(known, Math.max(this.source?.run.patienceSeconds ?? 0, INTERRUPT_SECONDS_MIN));
      this.leave();
      this.interrupt?.();
    }
  }

  private begin(source: StreamSource<T, TReturn, TNext>): void {
    this.source = source;
    source.run.watch(this);
  }

  private async step(
    source: StreamSource<T, TReturn, TNext>,
    advance: () => PromiseLike<IteratorResult<T, TReturn>> | IteratorResult<T, TReturn>,
  ): Promise<IteratorResult<T, TReturn>> {
    const { run } = source;
    let result: IteratorResult<T, TReturn> | undefined;
    try {
      result = await this.interruptible(() => run.within(advance));
    } catch (error) {
      await this.end();
      if (this.left) return ended();
      const { stopped } = this;
      if (stopped && stopped.reason === error) stopped.told = true;
      throw error;
    }
    // To a chunk that is waited for, a source that was hung up on may look like one at its end.
    if (!result || (result.done && this.left)) {
      await this.end();
      return ended();
    }
    // What a generator returns at its own end is about the run.
    const counted = run.observe(result.value, result.done ? 'end' : 'chunk');
    if (counted) await counted;
    if (result.done) {
      this.over = true;
      // Hung up on, many a source ends as if it had come to its end.
      await run.settle({ leftEarly: this.stopped !== undefined });
    }
    return result;
  }

  private async close(value?: TReturn | PromiseLike<TReturn>): Promise<IteratorResult<T, TReturn>> {
    const given = (await value) as TReturn;
    const { source } = this;
    if (this.over || !source) {
      this.over = true;
      return ended(given);
    }
    this.over = true;
    this.left = true;
    const { run, iterator } = source;
    const closing = (async () => run.within(() => iterator.return?.(given) ?? ended(given)))();
    // Not `await closing`: a source that never ends must not keep the run from being settled, nor the consumer waiting.
    let outcome: Promise<IteratorResult<T, TReturn>> | undefined;
    const known = closing.then(
      () => void (outcome = closing),
      (error: unknown) => void (outcome = isOfTheHangUp(error) ? undefined : closing),
    );
    await atMost(known, run.patienceSeconds);
    await run.settle({ leftEarly: true, gone: true });
    return outcome ?? ended(given);
  }

  /** Ends a stream that its source has not ended, or has ended by failing. */
  private async end(): Promise<void> {
    const { source } = this;
    if (this.over || !source) return;
    this.over = true;
    const { run, iterator, hangUp } = source;
    hangUp();
    // A moment for its last words: a generator may still read usage while it is closed.
    const closed = (async () => run.within(() => iterator.return?.()))().catch(() => undefined);
    await atMost(closed, run.patienceSeconds);
    await run.settle({ leftEarly: true, gone: this.left });
  }

  private afterTheEnd(): IteratorResult<T, TReturn> {
    if (this.stopped && !this.stopped.told) {
      this.stopped.told = true;
      throw this.stopped.reason;
    }
    return ended();
  }

  /** Undefined: interrupted. A promise of its own for each step: a race with one that lasts would keep every step in memory. */
  private async interruptible<R>(act: () => PromiseLike<R> | R): Promise<R | undefined> {
    try {
      return await new Promise<R | undefined>((resolve, reject) => {
        this.interrupt = (error) => (error ? reject(error.reason as Error) : resolve(undefined));
        Promise.resolve(act()).then(resolve, reject);
      });
    } finally {
      this.interrupt = undefined;
    }
  }

  /** One call after the other, as in a generator: a chunk that was asked for before a close is counted before it. */
  private inTurn<R>(act: () => Promise<R>): Promise<R> {
    this.turns += 1;
    const result = this.turn.then(act, act).finally(() => (this.turns -= 1));
    this.turn = result.catch(() => undefined);
    return result;
  }
}

// What every async generator inherits: [Symbol.asyncIterator], and what newer versions of the language add to it.
const asyncIteratorPrototype = Object.getPrototypeOf(
  (Object.getPrototypeOf(async function* () {}) as { prototype: object }).prototype,
) as object;

const dropped = typeof FinalizationRegistry === 'function' ? new FinalizationRegistry<{ dropped(): void }>((held) => held.dropped()) : undefined;

/** Has `held` told when `facade` is collected, where the platform tells of it. `held` must not refer to it. */
export function whenDropped(facade: object, held: { dropped(): void }): void {
  dropped?.register(facade, held);
}

/** What the consumer holds: while it does, or waits for a chunk, the stream isn't dropped. */
class MeteredGenerator<T, TReturn, TNext> {
  private pending = 0;

  constructor(private readonly stream: MeteredStream<T, TReturn, TNext>) {
    whenDropped(this, stream);
  }

  next(...args: [] | [TNext]): Promise<IteratorResult<T, TReturn>> {
    return this.held(this.stream.next(...args));
  }

  return(value?: TReturn | PromiseLike<TReturn>): Promise<IteratorResult<T, TReturn>> {
    return this.held(this.stream.return(value));
  }

  throw(error: unknown): Promise<IteratorResult<T, TReturn>> {
    return this.held(this.stream.throw(error));
  }

  private async held<R>(step: Promise<R>): Promise<R> {
    this.pending += 1;
    try {
      return await step;
    } finally {
      this.pending -= 1;
    }
  }
}

Object.setPrototypeOf(MeteredGenerator.prototype, asyncIteratorPrototype);

export function generatorOf<T, TReturn, TNext>(stream: MeteredStream<T, TReturn, TNext>): AsyncGenerator<T, TReturn, TNext> {
  return new MeteredGenerator(stream) as unknown as AsyncGenerator<T, TReturn, TNext>;
}

/** What comes of a close because the source was hung up on, and is no failure. */
function isOfTheHangUp(error: unknown): boolean {
  const { name, code } = (error ?? {}) as { name?: unknown; code?: unknown };
  return [name, code].some((word) => typeof word === 'string' && /abort|premature_close/i.test(word));
}

function ended(value?: unknown): IteratorReturnResult<never> {
  return { done: true, value: value as never };
}
