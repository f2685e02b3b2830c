/** A model provider on this machine: 100 lines of JSON, one every few milliseconds, and a note of when the reader hung up. */

import { createServer } from 'node:http';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface Chunk {
  text: string;
  output_token: number;
}

export const CHUNKS = 100;

export class Provider {
  url = '';
  /** How many chunks were written until the reader hung up; undefined while it hasn't. */
  hungUpAfter: number | undefined;
  requests = 0;
  /** After so many chunks it says nothing more, and keeps the connection. */
  silentAfter = Infinity;
  private readonly server: Server = createServer((request, response) => {
    this.requests += 1;
    let written = 0;
    response.writeHead(200, { 'content-type': 'application/jsonl' });
    response.flushHeaders();
    const timer = setInterval(() => {
      if (written >= this.silentAfter) return;
      written += 1;
      response.write(`${JSON.stringify({ text: `${written}`, output_token: 1 })}\n`);
      if (written === CHUNKS) {
        clearInterval(timer);
        response.end();
      }
    }, 5);
    request.socket.once('close', () => {
      clearInterval(timer);
      if (written < CHUNKS) this.hungUpAfter = written;
    });
  });

  async open(): Promise<this> {
    await new Promise<void>((resolve) => this.server.listen(0, '127.0.0.1', resolve));
    this.url = `http://127.0.0.1:${(this.server.address() as AddressInfo).port}/`;
    return this;
  }

  async close(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }
}

export async function withProvider(act: (provider: Provider) => Promise<void>): Promise<void> {
  const provider = await new Provider().open();
  try {
    await act(provider);
  } finally {
    await provider.close();
  }
}

/** The chunks in a body; closing it cancels the body. */
export async function* chunksOf(body: AsyncIterable<Uint8Array>): AsyncGenerator<Chunk, void, undefined> {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const bytes of body) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) yield JSON.parse(line) as Chunk;
  }
}

/**
 * What the streams of the `openai` and `@anthropic-ai/sdk` packages are made of: the iterator stands in a field, the request
 * behind it ends by the controller, and an iterator that was never asked for anything ends nothing.
 */
export class SdkStream implements AsyncIterable<Chunk> {
  readonly #secret = 'only on the object itself';

  constructor(
    private readonly iterator: () => AsyncGenerator<Chunk, void, undefined>,
    readonly controller: AbortController,
  ) {}

  static async ask(url: string): Promise<SdkStream> {
    const controller = new AbortController();
    const { body } = await fetch(url, { signal: controller.signal });
    const iterate = async function* (): AsyncGenerator<Chunk, void, undefined> {
      let done = false;
      try {
        yield* chunksOf(body as ReadableStream<Uint8Array>);
        done = true;
      } finally {
        if (!done) controller.abort();
      }
    };
    return new SdkStream(iterate, controller);
  }

  [Symbol.asyncIterator](): AsyncGenerator<Chunk, void, undefined> {
    return this.iterator();
  }

  secret(): string {
    return this.#secret;
  }

  tee(): [SdkStream, SdkStream] {
    const iterator = this.iterator();
    const queues: Promise<IteratorResult<Chunk, void>>[][] = [[], []];
    const half = (own: Promise<IteratorResult<Chunk, void>>[]) =>
      new SdkStream(
        async function* () {
          for (;;) {
            if (own.length === 0) {
              const next = iterator.next();
              for (const queue of queues) queue.push(next);
            }
            const step = await own.shift();
            if (!step || step.done) return;
            yield step.value;
          }
        },
        this.controller,
      );
    return [half(queues[0] ?? []), half(queues[1] ?? [])];
  }

  toReadableStream(): ReadableStream<string> {
    const iterator = this[Symbol.asyncIterator]();
    return new ReadableStream<string>({
      async pull(controller) {
        const { done, value } = await iterator.next();
        if (done) controller.close();
        else controller.enqueue((value as Chunk).text);
      },
      async cancel() {
        await iterator.return();
      },
    });
  }
}
