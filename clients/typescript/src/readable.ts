/** A ReadableStream whose usage is counted as it flows: it stays one, so that it can be piped and answered with. */

import type { TokenProcessRun } from './run';

/** What is used of a ReadableStream; the package's types must stand without those of a browser or of Node. */
interface Reader {
  read(): Promise<{ done: boolean; value?: unknown }>;
  cancel(reason?: unknown): Promise<void>;
  releaseLock(): void;
}

interface Readable {
  getReader(options?: { mode: 'byob' }): Reader;
}

export function isReadableStream(value: unknown): value is Readable {
  return Object.prototype.toString.call(value) === '[object ReadableStream]' || isAnother(value);
}

/** One of another realm, or a polyfill's. */
function isAnother(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return ['getReader', 'pipeThrough', 'tee'].every((name) => typeof (value as Record<string, unknown>)[name] === 'function');
}

/** How a run takes part in a stream: reading its chunks, and told when it is over. */
export type Watcher = Pick<TokenProcessRun, 'observe' | 'settle'>;

/**
 * Nothing is read ahead, and the end is settled before the reader hears of it: a program that answers with this stream
 * has been billed when the answer is complete. Cancelled, it closes the source first and settles then.
 */
export function meterReadable(run: Watcher, source: Readable): object {
  const isBytes = ofBytes(source);
  const reader = source.getReader();
  let isCancelled = false;
  const pull = async (controller: { enqueue(chunk: unknown): void; close(): void }): Promise<void> => {
    let step: Awaited<ReturnType<Reader['read']>>;
    try {
      step = await reader.read();
    } catch (error) {
      if (isCancelled) return;
      await run.settle({ leftEarly: true });
      throw error;
    }
    // To a read that is under way, a cancel looks like the end of the source.
    if (isCancelled) return;
    if (step.done) {
      await run.settle({ leftEarly: false });
      controller.close();
      return;
    }
    await run.observe(step.value, 'chunk');
    controller.enqueue(step.value);
  };
  const cancel = async (reason: unknown): Promise<void> => {
    isCancelled = true;
    try {
      await reader.cancel(reason);
    } finally {
      await run.settle({ leftEarly: true });
    }
  };
  const strategy = { highWaterMark: 0 };
  return isBytes ? new ReadableStream({ type: 'bytes', pull, cancel }, strategy) : new ReadableStream({ pull, cancel }, strategy);
}

function ofBytes(source: Readable): boolean {
  try {
    source.getReader({ mode: 'byob' }).releaseLock();
    return true;
  } catch {
    return false;
  }
}
