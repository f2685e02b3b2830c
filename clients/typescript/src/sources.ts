/**
 * Streams as functions return them, made to be counted while they stay what they are: a ReadableStream is one, with its own
 * prototype; a provider's stream object, a Node stream, or any other async iterable is the very object, watched in place; a
 * generator is an async generator.
 */

import { followStreamResult } from './ai-sdk';
import { isRecord } from './errors';
import { RunPart } from './part';
import { weakly } from './platform';
import { bodyReader, withBody } from './response';
import { generatorOf, MeteredStream, whenDropped } from './stream';
import type { TokenProcessRun } from './run';
import type { StreamedRun } from './stream';
import { isPlain } from './usage/model';
import { isStreamResult } from './usage/providers';

type Methods = Record<PropertyKey, ((...args: unknown[]) => unknown) | undefined>;

/** Each stream that is counted, with the runs that it is counted for: passed on within one of them, it is counted already. */
const counted = new WeakMap<object, Set<object>>();

/** The stream in the place of `value`, of a run that has begun. Undefined: it is no stream. Arrays, strings and the like are results. */
export function streamed(run: StreamedRun, value: unknown): object | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  if (counted.get(value)?.has(run.run)) return value;
  const stream = countedStream(run, value);
  if (stream) counted.set(stream, new Set([...(counted.get(stream) ?? []), run.run]));
  return stream;
}

function countedStream(run: StreamedRun, value: object): object | undefined {
  if (isReadableStream(value)) return value.locked ? undefined : meterReadableStream(run, value);
  if (isNodeStream(value)) return meterNodeStream(run, value);
  if (kindOf(value) === '[object AsyncGenerator]' || isGenerator(value)) {
    return generatorOf(new MeteredStream({ run, iterator: value as AsyncGenerator, hangUp: () => undefined }));
  }
  if (Symbol.asyncIterator in value) return meterInPlace(run, value as AsyncIterable<unknown>);
  if (isEventStream(value)) return meterEvents(run, value);
  return typeof Response === 'function' && value instanceof Response ? meterResponse(run, value) : meterInside(run, value);
}

function meterResponse(run: StreamedRun, response: Response): Response | undefined {
  const reader = bodyReader(run, response);
  return reader && response.body ? withBody(response, meterReadableStream(reader, response.body)) : undefined;
}

/** What packages return of a call and its stream together: `withResponse()` of OpenAI's and Anthropic's, AWS's commands. */
function meterInside(run: StreamedRun, value: object): object | undefined {
  if (!isRecord(value) || !('response' in value || '$metadata' in value)) return undefined;
  for (const name of ['data', 'stream', 'body']) {
    const inside = value[name];
    const stream = typeof inside === 'object' && inside !== null && Symbol.asyncIterator in inside ? streamed(run, inside) : undefined;
    if (stream) return { ...value, [name]: stream };
  }
  return undefined;
}

/** The streams in an object around them, `{ stream, id }`, each a part of the run. Undefined: there are none. */
export function streamsInside(run: TokenProcessRun, value: unknown): object | undefined {
  if (!isPlain(value)) return undefined;
  const streams = Object.entries(value).flatMap(([name, inside]) => {
    const stream = isStreamToRead(inside) ? partOf(run, inside) : undefined;
    return stream ? [[name, stream] as const] : [];
  });
  return streams.length > 0 ? { ...value, ...Object.fromEntries(streams) } : undefined;
}

/** Not a socket, or whatever else its owner writes to. */
function isStreamToRead(value: unknown): value is object {
  if (typeof value !== 'object' || value === null || typeof (value as Methods)['write'] === 'function') return false;
  return Symbol.asyncIterator in value || isReadableStream(value) || isGenerator(value) || isEventStream(value) || isStreamResult(value);
}

function partOf(run: TokenProcessRun, value: object): object | undefined {
  const part = new RunPart(run);
  if (!isStreamResult(value)) return streamed(part, value);
  run.begins(part);
  followStreamResult(part, value);
  return value;
}

function isGenerator(value: object): value is Generator<unknown> {
  return kindOf(value) === '[object Generator]';
}

function kindOf(value: object): string {
  return Object.prototype.toString.call(value);
}

// ── web streams ──────────────────────────────────────────────────────────────────────────────────────────────────

function isReadableStream(value: object): value is ReadableStream<unknown> {
  const stream = value as Partial<ReadableStream<unknown>>;
  return typeof stream.getReader === 'function' && typeof stream.tee === 'function' && typeof stream.cancel === 'function';
}

/** Nothing is read ahead, and the end is settled before the reader hears of it. */
export function meterReadableStream<S extends object>(run: StreamedRun, source: S): S;
export function meterReadableStream(run: StreamedRun, source: ReadableStream<unknown>): ReadableStream<unknown> {
  const isBytes = isByteStream(source);
  const reader = source.getReader();
  let reason: unknown;
  const cancel = (): Promise<void> => reader.cancel(reason);
  const stream = new MeteredStream<unknown, unknown, unknown>({
    run,
    iterator: {
      next: async () => {
        const { done, value } = await reader.read();
        return { done, value } as IteratorResult<unknown, unknown>;
      },
      return: async (value) => {
        await cancel();
        return { done: true, value };
      },
    },
    hangUp: () => void cancel().catch(() => undefined),
  });
  const underlying = {
    pull: async (controller: Controller) => {
      for (;;) {
        const { done, value } = await stream.next();
        if (done) {
          controller.close();
          controller.byobRequest?.respond(0);
          return;
        }
        // A byte stream takes no empty chunk, and its source may have made one.
        if (isBytes && (value as Uint8Array).byteLength === 0) continue;
        controller.enqueue(value);
        return;
      }
    },
    cancel: async (why: unknown) => {
      reason = why;
      await stream.return();
    },
  };
  // Nothing is pulled before it is asked for: a chunk that nobody read would be billed.
  const metered = isBytes
    ? new ReadableStream({ ...underlying, type: 'bytes' } as object)
    : new ReadableStream(underlying as object, { highWaterMark: 0 });
  const prototype = Object.getPrototypeOf(source) as object;
  if (source instanceof ReadableStream && prototype !== ReadableStream.prototype) Object.setPrototypeOf(metered, prototype);
  whenDropped(metered, stream);
  return metered;
}

interface Controller {
  close(): void;
  enqueue(chunk: unknown): void;
  readonly byobRequest?: { respond(bytes: number): void } | null;
}

function isByteStream(stream: ReadableStream<unknown>): boolean {
  try {
    stream.getReader({ mode: 'byob' }).releaseLock();
    return true;
  } catch {
    return false;
  }
}

// ── Node streams ─────────────────────────────────────────────────────────────────────────────────────────────────

interface NodeStream extends AsyncIterable<unknown> {
  read: () => unknown;
  pipe: () => unknown;
  emit: (event: string, ...args: unknown[]) => boolean;
  destroy: (error?: Error) => unknown;
}

function isNodeStream(value: object): value is NodeStream {
  return ['read', 'pipe', 'emit', 'destroy'].every((name) => typeof (value as Methods)[name] === 'function') && Symbol.asyncIterator in value;
}

/** However it is read (iterated, piped, by events), every chunk passes through its `data` event. */
function meterNodeStream(run: StreamedRun, source: NodeStream): NodeStream {
  const emit = source.emit.bind(source);
  const iterate = source[Symbol.asyncIterator].bind(source);
  let ended = false;
  let iterated = false;
  let observed: Promise<unknown> = Promise.resolve();
  const settle = async (): Promise<void> => {
    await observed;
    await run.settle({ leftEarly: !ended, gone: !ended, unheard: !iterated });
  };
  define(source, 'emit', (event: unknown, ...args: unknown[]) => {
    if (event === 'data') {
      const observing = run.observe(args[0], 'chunk');
      if (observing) observed = Promise.all([observed, observing]);
    }
    if (event === 'end') ended = true;
    // Whoever listens to events can't be thrown a UsageError; whoever iterates can.
    if (event === 'end' || event === 'close' || event === 'error') settle().catch(() => undefined);
    return emit(event as string, ...args);
  });
  define(source, Symbol.asyncIterator, async function* () {
    iterated = true;
    try {
      yield* iterate() as AsyncIterableIterator<unknown>;
    } finally {
      await settle();
    }
  });
  watchWeakly(run, source, (known, reason) => known.destroy(reason instanceof Error ? reason : new Error(String(reason))));
  settleWhenDropped(source, run);
  return source;
}

const WATCHER = Symbol('tokentill');

/** Has the run end `source` by `stop`, and keeps neither from being collected. */
function watchWeakly<S extends object>(run: StreamedRun, source: S, stop: (source: S, reason: unknown) => unknown): void {
  const weak = weakly(source);
  const watcher = { stop: (reason: unknown) => void (weak.deref() && stop(weak.deref() as S, reason)) };
  // Kept by the stream, as the run holds it weakly.
  define(source, WATCHER, watcher);
  run.watch(watcher);
}

// ── objects that read their stream themselves ──────────────────────────────────────────────────────────────────────

/** `messages.stream()`, `chat.completions.stream()`, `runTools()` and the like of Anthropic's and OpenAI's packages. */
interface EventStream {
  on: (event: string, listener: (value: unknown) => void) => unknown;
  abort: () => void;
  readonly ended?: boolean;
  readonly errored?: boolean;
  readonly receivedMessages?: readonly unknown[];
  readonly allChatCompletions?: () => readonly unknown[];
}

function isEventStream(value: object): value is EventStream {
  return ['on', 'off', 'done', 'abort'].every((name) => typeof (value as Methods)[name] === 'function') && 'controller' in value;
}

function meterEvents(run: StreamedRun, source: EventStream): EventStream {
  followEvents(run, source, () => false);
  watchWeakly(run, source, (known) => known.abort());
  settleWhenDropped(source, run);
  return source;
}

/** Counts what it tells of by events, for as long as nobody iterates it. */
function followEvents(run: StreamedRun, source: EventStream, isIterated: () => boolean): void {
  const observing: unknown[] = [];
  const observe = (value: unknown): void => {
    if (!isIterated()) observing.push(run.observe(value, 'chunk'));
  };
  for (const event of ['streamEvent', 'chunk', 'event', 'chatCompletion']) source.on(event, observe);
  const settle = (): void => {
    if (isIterated()) return;
    // What it told before the function had returned it is in its answers.
    for (const answer of source.receivedMessages ?? source.allChatCompletions?.() ?? []) observe(answer);
    void Promise.all(observing).then(() => run.settle({ leftEarly: source.errored === true, unheard: true }));
  };
  if (source.ended) settle();
  else source.on('end', settle);
}

// ── other async iterables ────────────────────────────────────────────────────────────────────────────────────────

function meterInPlace(run: StreamedRun, source: AsyncIterable<unknown>): AsyncIterable<unknown> {
  const methods = source as unknown as Methods;
  const bound = (name: PropertyKey) => methods[name]?.bind(source);
  const [iterate, next, readFrom] = [bound(Symbol.asyncIterator), bound('next'), bound('iterator')];
  // An object that is its own iterator is watched at its own methods.
  const own = { next, return: bound('return'), throw: bound('throw') } as AsyncIterator<unknown>;
  let taken: AsyncIterator<unknown> | undefined;
  const iterator = (): AsyncIterator<unknown> => (taken ??= next ? own : (iterate?.() as AsyncIterator<unknown>));
  const stream = new MeteredStream<unknown, unknown, unknown>({
    run,
    // Not before it is needed: an iterator that nobody reads may pile up what comes.
    iterator: {
      next: (value: unknown) => iterator().next(value as never),
      return: async (value) => (await iterator().return?.(value)) ?? { done: true, value },
      throw: async (error) => {
        const known = iterator();
        if (known.throw) return known.throw(error);
        throw error;
      },
    },
    hangUp: () => hangUp(source),
  });
  if (!Object.isExtensible(source)) return generatorOf(stream);
  let isRead = false;
  const read = (): unknown => {
    // A second iteration would flow past the count.
    if (isRead) throw new TypeError('This stream is being iterated, or has been: its run is billed once');
    isRead = true;
    return generatorOf(stream);
  };
  if (next) {
    for (const name of ['next', 'return', 'throw'] as const) define(source, name, (value: unknown) => stream[name](value));
    define(source, Symbol.asyncIterator, () => source);
  } else {
    define(source, Symbol.asyncIterator, read);
    if (isEventStream(source)) followEvents(run, source, () => isRead);
    // What `tee` of OpenAI's and Anthropic's streams reads from, and their own iterator too.
    if (readFrom) define(source, 'iterator', () => (isRead ? readFrom() : read()));
  }
  settleWhenDropped(source, run);
  return source;
}

/** By the first of these that it has: an AbortController as in the streams of OpenAI and Anthropic, or a method of its own. */
function hangUp(source: object): void {
  const methods = source as Methods;
  const { controller } = source as { controller?: { abort?: () => void } };
  try {
    if (typeof controller?.abort === 'function') return controller.abort();
    for (const name of ['abort', 'destroy', 'cancel', 'close']) {
      const method = methods[name];
      if (typeof method !== 'function') continue;
      void Promise.resolve(method.call(source)).catch(() => undefined);
      return;
    }
  } catch {
    // It was closed already, or minds: its iterator is closed all the same.
  }
}

/** A function of its own: a closure beside those that use the source would keep the source for ever. */
function settleWhenDropped(source: object, run: StreamedRun): void {
  whenDropped(source, { dropped: () => void run.settle({ leftEarly: true, gone: true }) });
}

function define(target: object, name: PropertyKey, value: unknown): void {
  Object.defineProperty(target, name, { value, configurable: true, writable: true, enumerable: false });
}
