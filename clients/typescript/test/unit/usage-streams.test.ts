/** What a run is billed for: streams, whole and left early, by the shapes of their chunks. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { countDeltas, withTokenProcess } from 'tokentill';

import {
  anthropicDelta,
  anthropicStart,
  anthropicText,
  chunk,
  chunkUsage,
  ends,
  langChainChunk,
  message,
  part,
  responseDelta,
  responseEvent,
  streamed,
} from '../support/shapes.js';
import type { Billed } from '../support/shapes.js';
import { inWorld, USER } from '../support/world.js';

const interaction = (event_type: string, more: object): object => ({ event_type, ...more });

const STREAMS: Record<string, [unknown[], Billed]> = {
  'increments of the guide': [[{ input_token: 5, output_token: 4 }, { output_token: 4, model: 'own' }], [5, 8, { model: 'own' }]],
  'a tool loop of two completions': [
    [chunk('a', 'x'), chunkUsage('a', 10, 20), chunk('b', 'x'), chunkUsage('b', 30, 40)],
    [40, 60, { requests: 2, model: 'gpt' }],
  ],
  'running totals: the latest counts': [
    [chunkUsage('a', 10, 1), chunkUsage('a', 10, 2), chunkUsage('a', 10, 3)],
    [10, 3, { model: 'gpt' }],
  ],
  'an OpenAI stream that starts without an id': [
    [{ id: '', model: '', choices: [], prompt_filter_results: [] }, chunk('a', 'x'), chunkUsage('a', 10, 20)],
    [10, 20, { model: 'gpt' }],
  ],
  'Anthropic, two messages': [
    [anthropicStart('a', 25), anthropicText, anthropicDelta(20), anthropicStart('b', 50), anthropicText, anthropicDelta(40)],
    [75, 60, { requests: 2, model: 'anthropic-model' }],
  ],
  'Anthropic, which repeats its cached input in part': [
    [
      { type: 'message_start', message: message('a', 10, 1, { cache_read_input_tokens: 70, cache_creation_input_tokens: 20 }) },
      anthropicDelta(40, { input_tokens: 10 }),
    ],
    [100, 40, { cached_input_token: 70, cache_write_token: 20, model: 'anthropic-model' }],
  ],
  'Anthropic, which shortened the conversation first': [
    [anthropicStart('a', 23), anthropicDelta(10, { iterations: [{ type: 'compaction', input_tokens: 180, output_tokens: 3 }] })],
    [203, 13, { model: 'anthropic-model' }],
  ],
  'Anthropic’s copies that say the input at the end': [
    [anthropicStart('a', 0), anthropicText, anthropicDelta(40, { input_tokens: 25 })],
    [25, 40, { model: 'anthropic-model' }],
  ],
  responses: [
    [
      responseEvent('response.created'),
      responseDelta,
      responseEvent('response.completed', { input_tokens: 10, output_tokens: 40, total_tokens: 50 }),
    ],
    [10, 40, { model: 'gpt' }],
  ],
  'OpenAI realtime': [[responseEvent('response.done', { input_tokens: 10, output_tokens: 40, total_tokens: 50 })], [10, 40, { model: 'gpt' }]],
  'counts that come when the model has stopped, fewer than pieces': [
    [chunk('a', 'x'), chunk('a', 'x'), { ...chunk('a', ''), usage: { prompt_tokens: 9, completion_tokens: 1, total_tokens: 10 } }],
    [9, 1, { model: 'gpt' }],
  ],
  'Gemini’s interactions': [
    [
      interaction('interaction.created', { interaction: { id: 'i', model: 'gemini' } }),
      interaction('step.delta', { delta: { type: 'text', text: 'x' } }),
      { event_type: 'interaction.completed', interaction: { id: 'i', model: 'gemini', usage: { total_input_tokens: 9, total_output_tokens: 7, total_tokens: 16 } } },
    ],
    [9, 7, { model: 'gemini' }],
  ],
  transcriptions: [
    [
      { type: 'transcript.text.delta', delta: 'x' },
      { type: 'transcript.text.done', text: 'x', usage: { type: 'tokens', input_tokens: 14, output_tokens: 45, total_tokens: 59 } },
    ],
    [14, 45],
  ],
  'OpenAI’s assistants: the run, not its steps': [
    [
      { event: 'thread.run.step.completed', data: { id: 's', object: 'thread.run.step', usage: { prompt_tokens: 10, completion_tokens: 40, total_tokens: 50 } } },
      { event: 'thread.run.completed', data: { id: 'r', object: 'thread.run', usage: { prompt_tokens: 10, completion_tokens: 40, total_tokens: 50 } } },
    ],
    [10, 40],
  ],
  Groq: [
    [chunk('a', 'x'), { ...chunk('a', ''), x_groq: { id: 'req', usage: { prompt_tokens: 10, completion_tokens: 40, total_tokens: 50 } } }],
    [10, 40, { model: 'gpt' }],
  ],
  Cohere: [
    [
      { type: 'message-start', id: 'c', delta: { message: { role: 'assistant' } } },
      { type: 'content-delta', index: 0, delta: { message: { content: { text: 'x' } } } },
      { type: 'message-end', id: 'c', delta: { usage: { tokens: { input_tokens: 70, output_tokens: 42 } } } },
    ],
    [70, 42],
  ],
  'Mistral: chunks in an object': [
    [
      { data: { id: 'a', object: 'chat.completion.chunk', model: 'm', choices: [{ delta: { content: 'x' } }] } },
      { data: { id: 'a', model: 'm', choices: [{ delta: { content: '' } }], usage: { promptTokens: 10, completionTokens: 40, totalTokens: 50 } } },
    ],
    [10, 40, { model: 'm' }],
  ],
  'responses that fail: the pieces that flowed': [
    [responseEvent('response.created'), responseDelta, responseDelta, responseEvent('response.failed')],
    [0, 2, { model: 'gpt' }],
  ],
  'Gemini: each chunk has the totals so far': [
    [3, 9, 40].map((output) => ({
      candidates: [{ content: { parts: [{ text: 'x' }] } }],
      modelVersion: 'gemini',
      usageMetadata: { promptTokenCount: 10, candidatesTokenCount: output, totalTokenCount: 10 + output },
    })),
    [10, 40, { model: 'gemini' }],
  ],
  'Ollama, twice': [
    [10, 30].flatMap((output) => [
      { model: 'llama', message: { content: 'x' }, done: false },
      { model: 'llama', message: { content: '' }, done: true, prompt_eval_count: 26, eval_count: output },
    ]),
    [52, 40, { requests: 2, model: 'llama' }],
  ],
  'Bedrock ConverseStream': [
    [
      { messageStart: { role: 'assistant' } },
      { contentBlockDelta: { delta: { text: 'x' }, contentBlockIndex: 0 } },
      { messageStop: { stopReason: 'end_turn' } },
      { metadata: { usage: { inputTokens: 10, outputTokens: 40, totalTokens: 50 }, metrics: { latencyMs: 1 } } },
    ],
    [10, 40],
  ],
  'Bedrock InvokeModel with a stream': [
    [
      anthropicStart('a', 25),
      anthropicText,
      anthropicDelta(40),
      { type: 'message_stop', 'amazon-bedrock-invocationMetrics': { inputTokenCount: 25, outputTokenCount: 40, invocationLatency: 1 } },
    ].map((event) => ({ chunk: { bytes: new TextEncoder().encode(JSON.stringify(event)) } })),
    [25, 40, { model: 'anthropic-model' }],
  ],
  'AI SDK fullStream of two steps': [
    [
      part('start'),
      part('start-step'),
      part('text-delta', { id: '0', text: 'x' }),
      part('finish-step', { usage: { inputTokens: 10, outputTokens: 15, totalTokens: 25 }, response: { id: 's1', modelId: 'gpt' } }),
      part('start-step'),
      part('text-delta', { id: '0', text: 'x' }),
      part('finish-step', { usage: { inputTokens: 30, outputTokens: 25, totalTokens: 55 }, response: { id: 's2', modelId: 'gpt' } }),
      part('finish', { totalUsage: { inputTokens: 40, outputTokens: 40, totalTokens: 80 } }),
    ],
    [40, 40, { requests: 2, model: 'gpt' }],
  ],
  'LangChain: 40 chunks of one token': [Array.from({ length: 40 }, (_, i) => langChainChunk(1, i === 0 ? 10 : 0)), [10, 40]],
  'LangChain’s events: the model’s, not the chain’s': [
    [
      ...[10, 0, 0].flatMap((input) => [
        { event: 'on_chat_model_stream', data: { chunk: langChainChunk(1, input) } },
        { event: 'on_chain_stream', data: { chunk: langChainChunk(1, input) } },
      ]),
      { event: 'on_chat_model_end', data: { output: langChainChunk(3, 10) } },
      { event: 'on_chain_end', data: { output: { ...langChainChunk(3, 10), id: undefined, type: 'ai' } } },
    ],
    [10, 3],
  ],
  'LangChain’s events of a call whose last chunk has an id of its own, and no model': [
    [
      { event: 'on_chat_model_stream', run_id: 'call', data: { chunk: { ...langChainChunk(0), usage_metadata: undefined, response_metadata: { model_name: 'gpt' } } } },
      { event: 'on_chat_model_stream', run_id: 'call', data: { chunk: { ...langChainChunk(3, 10), id: 'run-2' } } },
      { event: 'on_chat_model_end', run_id: 'call', data: { output: langChainChunk(3, 10) } },
    ],
    [10, 3, { model: 'gpt' }],
  ],
  'LangGraph’s pairs of a chunk and what it is about': [
    Array.from({ length: 3 }, (_, i) => [langChainChunk(1, i === 0 ? 10 : 0), { langgraph_node: 'agent', ls_model_name: 'asked' }]),
    [10, 3, { model: 'asked' }],
  ],
  'a provider’s total beats the pieces, a reported 0 too': [[chunk('a', 'x'), chunk('a', 'y'), chunkUsage('a', 5, 0)], [5, 0, { model: 'gpt' }]],
};

for (const [name, [chunks, billed]] of Object.entries(STREAMS)) {
  test(`a stream: ${name}`, () =>
    inWorld(async (world) => {
      assert.deepEqual(await streamed(world, chunks), [billed]);
      assert.deepEqual(world.problems, []);
    }));
}

const LEFT: Record<string, [unknown[], Billed]> = {
  'OpenAI chat': [[chunk('a', ''), chunk('a', 'x'), chunk('a', 'y'), chunk('a', 'z')], [0, 2, { model: 'gpt' }]],
  'OpenAI responses': [[responseEvent('response.created'), responseDelta, responseDelta, responseDelta], [0, 2, { model: 'gpt' }]],
  Anthropic: [[anthropicStart('a', 25), anthropicText, anthropicText, anthropicText], [25, 2, { model: 'anthropic-model' }]],
  Ollama: [Array.from({ length: 4 }, () => ({ model: 'llama', message: { content: 'x' }, done: false })), [0, 3, { model: 'llama' }]],
  'Bedrock ConverseStream': [Array.from({ length: 4 }, () => ({ contentBlockDelta: { delta: { text: 'x' } } })), [0, 3]],
  'Gemini’s interactions': [
    [
      interaction('interaction.created', { interaction: { id: 'i', model: 'gemini' } }),
      ...Array.from({ length: 3 }, () => interaction('step.delta', { delta: { type: 'text', text: 'x' } })),
    ],
    [0, 2, { model: 'gemini' }],
  ],
  'OpenAI transcriptions': [Array.from({ length: 4 }, () => ({ type: 'transcript.text.delta', delta: 'x' })), [0, 3]],
  'the AI SDK’s stream for user interfaces': [
    [part('text-start', { id: '0' }), ...Array.from({ length: 4 }, () => part('text-delta', { id: '0', delta: 'x' }))],
    [0, 2],
  ],
  'the second step of the AI SDK': [
    [
      part('text-delta', { id: '0', text: 'x' }),
      part('finish-step', { usage: { inputTokens: 10, outputTokens: 15, totalTokens: 25 }, response: { modelId: 'gpt' } }),
      part('text-delta', { id: '0', text: 'x' }),
      part('text-delta', { id: '0', text: 'x' }),
    ],
    [10, 16, { requests: 2, model: 'gpt' }],
  ],
  'the second completion of a tool loop': [
    [chunk('a', 'x'), chunkUsage('a', 10, 20), chunk('b', 'x'), chunk('b', 'y')],
    [10, 21, { requests: 2, model: 'gpt' }],
  ],
  LangChain: [[langChainChunk(1, 10), langChainChunk(1), langChainChunk(1), langChainChunk(1)], [10, 3]],
  Gemini: [
    [3, 9, 20, 40].map((output) => ({
      candidates: [{ content: { parts: [{ text: 'x' }] } }],
      usageMetadata: { promptTokenCount: 10, candidatesTokenCount: output, totalTokenCount: 10 + output },
    })),
    [10, 20],
  ],
};

for (const [name, [chunks, billed]] of Object.entries(LEFT)) {
  test(`a stream left after 3 chunks: ${name}`, () =>
    inWorld(async (world) => {
      assert.deepEqual(await streamed(world, chunks, { take: 3 }), [billed]);
      assert.deepEqual(world.problems, []);
    }));
}

test('a stream that its provider breaks off is billed for what flowed', () =>
  inWorld(async (world) => {
    const wrapped = withTokenProcess(world.config, async function* (_data: { user_id: string }) {
      yield anthropicStart('a', 25);
      yield anthropicText;
      throw new RangeError('overloaded');
    });
    await assert.rejects(async () => {
      for await (const event of wrapped(USER)) assert.ok(event);
    }, RangeError);
    assert.deepEqual(ends(world), [[25, 1, { model: 'anthropic-model' }]]);
  }));

test('countDeltas counts pieces to the end, text too, and gives way to a report', () =>
  inWorld(async (world) => {
    await streamed(world, [chunk('a', 'x'), chunk('a', 'y')], { usage: countDeltas });
    await streamed(world, ['one', 'two', ''], { usage: countDeltas });
    await streamed(world, [chunk('a', 'x'), chunkUsage('a', 5, 40)], { usage: countDeltas });
    const wrapped = withTokenProcess({ ...world.config, usage: countDeltas }, async function* (_data: { user_id: string }) {
      yield 'text of a stream';
      return message('msg_1', 25, 40);
    });
    for await (const text of wrapped(USER)) assert.ok(text);
    const piece = { ...langChainChunk(0), usage_metadata: undefined };
    await streamed(world, [piece, piece, langChainChunk(2, 10)], { usage: countDeltas });
    assert.deepEqual(ends(world), [
      [0, 2, { model: 'gpt' }],
      [0, 2],
      [5, 40, { model: 'gpt' }],
      [25, 40, { model: 'anthropic-model' }],
      [10, 2],
    ]);
    assert.deepEqual(world.problems, []);
  }));
