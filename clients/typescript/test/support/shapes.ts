/** Answers and events in the shapes of providers, and functions that return or stream them. */

import assert from 'node:assert/strict';

import { withTokenProcess } from 'tokentill';
import type { RunOptions } from 'tokentill';

import { END, USER } from './world.js';
import type { World } from './world.js';

export const FEATURE = { ...USER, feature_endpoint_id: 'feature-1' };

/** Input, output, and what else the end said of its usage. */
export type Billed = [number, number, Record<string, unknown>?];

const FIELDS = ['cached_input_token', 'cache_write_token', 'reasoning_token', 'requests', 'model'];

export function ends(world: World): Billed[] {
  return world.server.seenAt(END).map(({ body }) => {
    const rest = Object.fromEntries(FIELDS.filter((name) => name in body).map((name) => [name, body[name]]));
    return Object.keys(rest).length > 0 ? [body.input_token, body.output_token, rest] : [body.input_token, body.output_token];
  });
}

export async function returned(world: World, value: unknown, options: RunOptions = {}): Promise<Billed[]> {
  await withTokenProcess({ ...world.config, ...options }, async (_data: { user_id: string }) => value)(USER);
  return ends(world);
}

/** Streams the chunks, and leaves after `take` of them where that is given. */
export async function streamed(world: World, chunks: unknown[], options: RunOptions & { take?: number } = {}): Promise<Billed[]> {
  const { take, ...rest } = options;
  let seen = 0;
  for await (const chunk of withTokenProcess({ ...world.config, ...rest }, async function* (_data: { user_id: string }) {
    yield* chunks;
  })(USER)) {
    assert.equal(chunk, chunks[seen]);
    seen += 1;
    if (seen === take) break;
  }
  return ends(world);
}

export const chat = (id: string | undefined, input: number, output: number, more: object = {}): object => ({
  ...(id === undefined ? {} : { id }),
  object: 'chat.completion',
  model: 'gpt',
  choices: [{ message: { role: 'assistant', content: 'hello' } }],
  usage: { prompt_tokens: input, completion_tokens: output, total_tokens: input + output, ...more },
});

export const message = (id: string, input: number, output: number, more: object = {}): object => ({
  id,
  type: 'message',
  role: 'assistant',
  model: 'anthropic-model',
  content: [{ type: 'text', text: 'hello' }],
  usage: { input_tokens: input, output_tokens: output, ...more },
});

export function chunk(id: string, content: string): object {
  return { id, object: 'chat.completion.chunk', model: 'gpt', choices: [{ index: 0, delta: { content } }], usage: null };
}

export function chunkUsage(id: string, input: number, output: number): object {
  const usage = { prompt_tokens: input, completion_tokens: output, total_tokens: input + output };
  return { id, object: 'chat.completion.chunk', model: 'gpt', choices: [], usage };
}

export const anthropicStart = (id: string, input: number) => ({ type: 'message_start', message: { ...message(id, input, 1), content: [] } });
export const anthropicText = { type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: 'x' } };
export const anthropicDelta = (output: number, more: object = {}) => ({
  type: 'message_delta',
  delta: {},
  usage: { output_tokens: output, ...more },
});
export const responseDelta = { type: 'response.output_text.delta', item_id: 'item', delta: 'x' };
export const responseEvent = (type: string, usage?: object) => ({
  type,
  response: { id: 'resp_1', object: 'response', model: 'gpt', usage: usage ?? null },
});
export const part = (type: string, more: object = {}) => ({ type, ...more });
export const langChainChunk = (output: number, input = 0) => ({
  type: 'AIMessageChunk',
  id: 'run-1',
  content: 'x',
  usage_metadata: { input_tokens: input, output_tokens: output, total_tokens: input + output },
});
