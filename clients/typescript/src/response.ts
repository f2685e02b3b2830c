/**
 * A raw HTTP response of a provider, as gateways pass it on and as `asResponse()` of the providers' packages gives it: its
 * body is read for usage while it flows, and reaches whoever reads it byte for byte.
 */

import type { Settling, StreamedRun, Stoppable } from './stream';

/** One answer of a model is smaller by far; of a larger body nobody needs a copy in memory. */
const BODY_CHARACTERS_MAX = 32 * 1024 * 1024;

/** Of text, longer lines are no JSON of a model's. */
const LINE_CHARACTERS_MAX = 1024 * 1024;

type Format = 'json' | 'lines' | 'events' | 'text';

/** A reader of the body of `response` for `run`. Undefined: no model answers in what it is. */
export function bodyReader(run: StreamedRun, response: Response): StreamedRun | undefined {
  const format = formatOf(response.headers);
  return format && response.body && !response.bodyUsed ? new BodyReader(run, format) : undefined;
}

/** The same response with another body. */
export function withBody(original: Response, body: ReadableStream): Response {
  const { status, statusText, headers, url, redirected } = original;
  const response = new Response(body, { status, statusText, headers });
  Object.defineProperties(response, { url: { value: url }, redirected: { value: redirected } });
  return response;
}

function formatOf(headers: Headers): Format | undefined {
  const contentType = headers.get('content-type') ?? '';
  if (/^text\/event-stream\b/i.test(contentType)) return 'events';
  if (/^application\/(x-ndjson|jsonl|x-jsonlines)\b/i.test(contentType)) return 'lines';
  if (/^application\/([\w.-]+\+)?json\b/i.test(contentType)) return 'json';
  // Text whose length is not known beforehand may come from a model, in lines of JSON too; a file's is known.
  return /^(text\/plain\b|$)/i.test(contentType) && !headers.has('content-length') ? 'text' : undefined;
}

/** Turns the bytes of a body into what the run reads. */
class BodyReader implements StreamedRun {
  private readonly decoder = new TextDecoder();
  private text = '';
  private isIgnored = false;
  private chunks = 0;
  private hasText = false;

  constructor(
    private readonly streamed: StreamedRun,
    private readonly format: Format,
  ) {}

  get run(): object {
    return this.streamed.run;
  }

  get patienceSeconds(): number {
    return this.streamed.patienceSeconds;
  }

  within<R>(act: () => R): R {
    return this.streamed.within(act);
  }

  watch(stream: Stoppable): void {
    this.streamed.watch(stream);
  }

  stop(reason: unknown): void {
    this.streamed.stop(reason);
  }

  async observe(bytes: unknown): Promise<void> {
    // At its end a stream says nothing more.
    if (!(bytes instanceof Uint8Array)) return;
    if (this.isIgnored) return;
    this.chunks += 1;
    const piece = this.decoder.decode(bytes, { stream: true });
    if (this.format === 'text' && /[\0\uFFFD]/.test(piece)) return this.ignore();
    this.text += piece;
    if (this.format !== 'json') await this.readLines();
    if (this.text.length > BODY_CHARACTERS_MAX) this.ignore();
    if (this.format === 'text' && this.text.length > LINE_CHARACTERS_MAX) {
      this.text = '';
      this.hasText = true;
    }
  }

  /** It is no answer of a model: a file of bytes, or too long. */
  private ignore(): void {
    this.isIgnored = true;
    this.hasText = false;
    this.text = '';
  }

  async settle(how: Settling): Promise<void> {
    if (this.format === 'json') await this.read(this.text, 'end');
    else await this.readLines(true);
    // A text in one piece is a result like any other.
    if (this.format === 'text' && this.hasText && this.chunks > 1) await this.streamed.observe('text', 'chunk');
    await this.streamed.settle(how);
  }

  /** An event's data stands on one line with every provider. */
  private async readLines(isLast = false): Promise<void> {
    const lines = this.text.split(/\r?\n/);
    this.text = isLast ? '' : (lines.pop() ?? '');
    for (const line of lines) {
      const event = /^data: ?(.*)$/.exec(line)?.[1];
      const data = this.format === 'events' ? event : (event ?? line);
      if (data !== undefined) await this.read(data, 'chunk');
    }
  }

  private async read(text: string, place: 'chunk' | 'end'): Promise<void> {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      this.hasText ||= text.trim() !== '';
      return; // the end mark of OpenAI's streams, or half of a body
    }
    if (typeof value === 'object') await this.streamed.observe(value, place);
  }
}
