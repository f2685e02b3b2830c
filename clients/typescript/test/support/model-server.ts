/**
 * A server on this machine that answers as OpenAI, Anthropic and Ollama do on the wire, for their own packages to talk to.
 *
 * The number in the last message is the number of pieces of the answer, of a token each. Every prompt has 10 tokens, of
 * which 4 come from the cache.
 */

import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

const INPUT = 10;
const CACHED = 4;
const PIECE = 'word ';

// eslint-disable-next-line @typescript-eslint/no-explicit-any
type Body = any;
type Events = Iterable<[event: string | undefined, data: object | string]>;

export class ModelServer {
  url = '';
  /** Streams whose reader hung up before their end. */
  hungUp = 0;
  /** So many calls are answered with 500 first. */
  failures = 0;
  readonly bodies: Body[] = [];
  private answers = 0;
  private readonly server = createServer((request, response) => void this.serve(request, response));

  async open(): Promise<this> {
    await new Promise<void>((resolve) => this.server.listen(0, '127.0.0.1', resolve));
    this.url = `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
    return this;
  }

  async close(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  private async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body: Body = JSON.parse(Buffer.concat(chunks).toString());
    this.bodies.push(body);
    if (this.failures > 0) {
      this.failures -= 1;
      response.writeHead(500, { 'retry-after-ms': '1' }).end();
      return;
    }
    this.answers += 1;
    const id = `${this.answers}`;
    switch (request.url) {
      case '/v1/chat/completions':
        return body.stream ? this.stream(response, chatEvents(id, body)) : json(response, chat(id, body));
      case '/v1/responses':
        return body.stream ? this.stream(response, responseEvents(id, body)) : json(response, responseOf(id, body, 'completed'));
      case '/v1/embeddings':
        return json(response, embeddings(body));
      case '/v1/messages':
        return body.stream ? this.stream(response, messageEvents(id, body)) : json(response, message(id, body));
      case '/api/chat':
        return body.stream ? this.stream(response, ollamaLines(body), 'ndjson') : json(response, ollama(body));
      case '/api/embed':
        return json(response, { model: body.model, embeddings: [[0.5]], total_duration: 1, load_duration: 1, prompt_eval_count: INPUT });
      default:
        response.writeHead(404).end();
    }
  }

  /** One event at a time, as a model has them. */
  private async stream(response: ServerResponse, events: Events, kind: 'sse' | 'ndjson' = 'sse'): Promise<void> {
    response.writeHead(200, { 'content-type': kind === 'sse' ? 'text/event-stream' : 'application/x-ndjson' });
    for (const [event, data] of events) {
      if (response.destroyed) break;
      const text = typeof data === 'string' ? data : JSON.stringify(data);
      response.write(kind === 'ndjson' ? `${text}\n` : `${event === undefined ? '' : `event: ${event}\n`}data: ${text}\n\n`);
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    if (response.destroyed) this.hungUp += 1;
    else response.end();
  }
}

export async function withModelServer(act: (server: ModelServer) => Promise<void>): Promise<void> {
  const server = await new ModelServer().open();
  try {
    await act(server);
  } finally {
    await server.close();
  }
}

function json(response: ServerResponse, body: object): void {
  response.writeHead(200, { 'content-type': 'application/json', 'x-request-id': 'req_1' }).end(JSON.stringify(body));
}

function pieces(body: Body): number {
  const messages = body.messages ?? (Array.isArray(body.input) ? body.input : [{ content: body.input }]);
  const { content } = messages.filter((message: Body) => message.role === undefined || message.role === 'user').at(-1);
  return Number(typeof content === 'string' ? content : content.map((part: Body) => part.text).join(''));
}

function text(body: Body): string {
  return textPieces(body).join('');
}

/** Words, or a JSON object of words where the request asks for one. */
function textPieces(body: Body): string[] {
  const words = Array.from({ length: pieces(body) }, () => PIECE);
  return body.response_format === undefined ? words : ['{"words":"', ...words.slice(2), '"}'];
}

// ── OpenAI ───────────────────────────────────────────────────────────────────────────────────────────────────────

function chatUsage(body: Body): object {
  const completion_tokens = pieces(body);
  return {
    prompt_tokens: INPUT,
    completion_tokens,
    total_tokens: INPUT + completion_tokens,
    prompt_tokens_details: { cached_tokens: CACHED, audio_tokens: 0 },
    completion_tokens_details: { reasoning_tokens: 0, audio_tokens: 0, accepted_prediction_tokens: 0, rejected_prediction_tokens: 0 },
  };
}

/** A model that was given tools and no result of one yet calls the first of them. */
function toolCall(body: Body): object | undefined {
  const name = body.tools?.[0]?.function.name;
  if (name === undefined || body.messages.some((message: Body) => message.role === 'tool')) return undefined;
  return { index: 0, id: 'call_1', type: 'function', function: { name, arguments: '{}' } };
}

function chat(id: string, body: Body): object {
  const call = toolCall(body);
  return {
    id: `chatcmpl-${id}`,
    object: 'chat.completion',
    created: 1,
    model: `${body.model}-2026`,
    choices: [
      {
        index: 0,
        message: { role: 'assistant', content: call ? null : text(body), ...(call ? { tool_calls: [call] } : {}), refusal: null },
        logprobs: null,
        finish_reason: call ? 'tool_calls' : 'stop',
      },
    ],
    usage: chatUsage(body),
    service_tier: 'default',
  };
}

function* chatEvents(id: string, body: Body): Events {
  const chunk = (choices: object[], usage?: object): object => ({
    id: `chatcmpl-${id}`,
    object: 'chat.completion.chunk',
    created: 1,
    model: `${body.model}-2026`,
    service_tier: 'default',
    choices,
    ...(body.stream_options?.include_usage ? { usage: usage ?? null } : {}),
  });
  const choice = (delta: object, finish_reason: string | null = null) => ({ index: 0, delta, logprobs: null, finish_reason });
  yield [undefined, chunk([choice({ role: 'assistant', content: '', refusal: null })])];
  const call = toolCall(body);
  if (call) yield [undefined, chunk([choice({ tool_calls: [call] })])];
  else for (const content of textPieces(body)) yield [undefined, chunk([choice({ content })])];
  yield [undefined, chunk([choice({}, call ? 'tool_calls' : 'stop')])];
  if (body.stream_options?.include_usage) yield [undefined, chunk([], chatUsage(body))];
  yield [undefined, '[DONE]'];
}

function responseOf(id: string, body: Body, status: 'in_progress' | 'completed'): object {
  const done = status === 'completed';
  const output_tokens = pieces(body);
  const usage = {
    input_tokens: INPUT,
    input_tokens_details: { cached_tokens: CACHED },
    output_tokens,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens: INPUT + output_tokens,
  };
  const item = {
    id: `msg_${id}`,
    type: 'message',
    status: 'completed',
    role: 'assistant',
    content: [{ type: 'output_text', text: text(body), annotations: [] }],
  };
  return {
    id: `resp_${id}`,
    object: 'response',
    created_at: 1,
    status,
    error: null,
    incomplete_details: null,
    model: `${body.model}-2026`,
    output: done ? [item] : [],
    parallel_tool_calls: true,
    tool_choice: 'auto',
    tools: [],
    usage: done ? usage : null,
    metadata: {},
  };
}

function* responseEvents(id: string, body: Body): Events {
  let sequence_number = 0;
  const event = (type: string, more: object): [string, object] => [type, { type, sequence_number: (sequence_number += 1), ...more }];
  const place = { item_id: `msg_${id}`, output_index: 0, content_index: 0 };
  const item = { id: `msg_${id}`, type: 'message', status: 'in_progress', role: 'assistant', content: [] };
  const part = { type: 'output_text', text: '', annotations: [] };
  yield event('response.created', { response: responseOf(id, body, 'in_progress') });
  yield event('response.in_progress', { response: responseOf(id, body, 'in_progress') });
  yield event('response.output_item.added', { output_index: 0, item });
  yield event('response.content_part.added', { ...place, part });
  for (let i = 0; i < pieces(body); i += 1) yield event('response.output_text.delta', { ...place, delta: PIECE, logprobs: [] });
  yield event('response.output_text.done', { ...place, text: text(body), logprobs: [] });
  yield event('response.content_part.done', { ...place, part: { ...part, text: text(body) } });
  yield event('response.output_item.done', { output_index: 0, item: { ...item, status: 'completed', content: [{ ...part, text: text(body) }] } });
  yield event('response.completed', { response: responseOf(id, body, 'completed') });
}

function embeddings(body: Body): object {
  const input: unknown[] = Array.isArray(body.input) ? body.input : [body.input];
  // The package asks for base64 of 32-bit floats and decodes it.
  const vector = Buffer.from(new Float32Array([0.5, 0.25]).buffer).toString('base64');
  const embedding = body.encoding_format === 'base64' ? vector : [0.5, 0.25];
  return {
    object: 'list',
    data: input.map((_, index) => ({ object: 'embedding', index, embedding })),
    model: body.model,
    usage: { prompt_tokens: INPUT, total_tokens: INPUT },
  };
}

// ── Anthropic ────────────────────────────────────────────────────────────────────────────────────────────────────

function messageUsage(output_tokens: number): object {
  // Anthropic's input_tokens are those that neither came from the cache nor went there.
  return {
    input_tokens: INPUT - CACHED,
    cache_creation_input_tokens: 0,
    cache_read_input_tokens: CACHED,
    cache_creation: { ephemeral_5m_input_tokens: 0, ephemeral_1h_input_tokens: 0 },
    output_tokens,
    service_tier: 'standard',
  };
}

function message(id: string, body: Body, content?: object[], usage = messageUsage(pieces(body))): object {
  return {
    id: `msg_${id}`,
    type: 'message',
    role: 'assistant',
    model: body.model,
    content: content ?? [{ type: 'text', text: text(body) }],
    stop_reason: content ? null : 'end_turn',
    stop_sequence: null,
    usage,
  };
}

function* messageEvents(id: string, body: Body): Events {
  const event = (type: string, more: object = {}): [string, object] => [type, { type, ...more }];
  yield event('message_start', { message: message(id, body, [], messageUsage(1)) });
  yield event('content_block_start', { index: 0, content_block: { type: 'text', text: '' } });
  yield event('ping');
  for (let i = 0; i < pieces(body); i += 1) {
    yield event('content_block_delta', { index: 0, delta: { type: 'text_delta', text: PIECE } });
  }
  yield event('content_block_stop', { index: 0 });
  yield event('message_delta', { delta: { stop_reason: 'end_turn', stop_sequence: null }, usage: messageUsage(pieces(body)) });
  yield event('message_stop');
}

// ── Ollama ───────────────────────────────────────────────────────────────────────────────────────────────────────

function ollama(body: Body, content = text(body)): object {
  return {
    model: body.model,
    created_at: '2026-01-01T00:00:00Z',
    message: { role: 'assistant', content },
    done: true,
    done_reason: 'stop',
    total_duration: 1,
    load_duration: 1,
    prompt_eval_count: INPUT,
    prompt_eval_duration: 1,
    eval_count: pieces(body),
    eval_duration: 1,
  };
}

function* ollamaLines(body: Body): Events {
  const { model } = body;
  for (let i = 0; i < pieces(body); i += 1) {
    yield [undefined, { model, created_at: '2026-01-01T00:00:00Z', message: { role: 'assistant', content: PIECE }, done: false }];
  }
  yield [undefined, ollama(body, '')];
}
