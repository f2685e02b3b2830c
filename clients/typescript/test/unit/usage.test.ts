/** What a run is billed for, by the shapes that providers and their libraries answer in. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { countDeltas, UsageError, UsageMissingError, UsageUnreadableError, withTokenProcess } from 'tokentill';
import type { RunOptions, Usage } from 'tokentill';

import { CANCEL, END, inWorld, START, USER } from '../support/world.js';
import type { World } from '../support/world.js';

const FEATURE = { ...USER, feature_endpoint_id: 'feature-1' };

/** Input, output, and what else the end said of its usage. */
type Billed = [number, number, Record<string, unknown>?];

const FIELDS = ['cached_input_token', 'cache_write_token', 'reasoning_token', 'requests', 'model'];

function ends(world: World): Billed[] {
  return world.server.seenAt(END).map(({ body }) => {
    const rest = Object.fromEntries(FIELDS.filter((name) => name in body).map((name) => [name, body[name]]));
    return Object.keys(rest).length > 0 ? [body.input_token, body.output_token, rest] : [body.input_token, body.output_token];
  });
}

async function returned(world: World, value: unknown, options: RunOptions = {}): Promise<Billed[]> {
  await withTokenProcess({ ...world.config, ...options }, async (_data: { user_id: string }) => value)(USER);
  return ends(world);
}

/** Streams the chunks, and leaves after `take` of them where that is given. */
async function streamed(world: World, chunks: unknown[], options: RunOptions & { take?: number } = {}): Promise<Billed[]> {
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

// ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────

const chat = (id: string | undefined, input: number, output: number, more: object = {}): object => ({
  ...(id === undefined ? {} : { id }),
  object: 'chat.completion',
  model: 'gpt',
  choices: [{ message: { role: 'assistant', content: 'hello' } }],
  usage: { prompt_tokens: input, completion_tokens: output, total_tokens: input + output, ...more },
});

const message = (id: string, input: number, output: number, more: object = {}): object => ({
  id,
  type: 'message',
  role: 'assistant',
  model: 'anthropic-model',
  content: [{ type: 'text', text: 'hello' }],
  usage: { input_tokens: input, output_tokens: output, ...more },
});

const RESULTS: Record<string, [unknown, Billed]> = {
  'the guide’s fields, with usage by kind': [
    { input_token: 10, output_token: 40, model: 'own', cached_input_token: 4, cache_write_token: 3, reasoning_token: 20 },
    [10, 40, { cached_input_token: 4, cache_write_token: 3, reasoning_token: 20, model: 'own' }],
  ],
  'the guide’s fields beside a provider’s': [{ ...chat('c', 9, 9), input_token: 1, output_token: 40 }, [1, 40, { model: 'gpt' }]],
  'OpenAI chat': [
    chat('c', 100, 40, { prompt_tokens_details: { cached_tokens: 60 }, completion_tokens_details: { reasoning_tokens: 30 } }),
    [100, 40, { cached_input_token: 60, reasoning_token: 30, model: 'gpt' }],
  ],
  'xAI: reasoning outside of the completion, by the total': [
    chat('c', 32, 9, { total_tokens: 135, completion_tokens_details: { reasoning_tokens: 94 } }),
    [32, 103, { reasoning_token: 94, model: 'gpt' }],
  ],
  'cached input beside the input, by the total': [
    chat('c', 10, 40, { total_tokens: 110, prompt_tokens_details: { cached_tokens: 60 } }),
    [70, 40, { cached_input_token: 60, model: 'gpt' }],
  ],
  'a part larger than its whole is beside it': [
    chat('c', 10, 9, { total_tokens: undefined, completion_tokens_details: { reasoning_tokens: 30 } }),
    [10, 39, { reasoning_token: 30, model: 'gpt' }],
  ],
  'LiteLLM: Anthropic’s names within OpenAI’s': [
    chat('c', 110, 40, { cache_read_input_tokens: 90, cache_creation_input_tokens: 10 }),
    [110, 40, { cached_input_token: 90, cache_write_token: 10, model: 'gpt' }],
  ],
  DeepSeek: [
    chat('c', 100, 40, { prompt_cache_hit_tokens: 70, prompt_cache_miss_tokens: 30 }),
    [100, 40, { cached_input_token: 70, model: 'gpt' }],
  ],
  'OpenAI responses': [
    {
      id: 'resp_1',
      object: 'response',
      model: 'gpt',
      output: [],
      usage: {
        input_tokens: 100,
        input_tokens_details: { cached_tokens: 20 },
        output_tokens: 40,
        output_tokens_details: { reasoning_tokens: 30 },
        total_tokens: 140,
      },
    },
    [100, 40, { cached_input_token: 20, reasoning_token: 30, model: 'gpt' }],
  ],
  'OpenAI embeddings': [
    { object: 'list', data: [{ object: 'embedding', embedding: [0.5] }], model: 'embed', usage: { prompt_tokens: 8, total_tokens: 8 } },
    [8, 0, { model: 'embed' }],
  ],
  'embeddings with a total only': [
    { object: 'list', data: [{ object: 'embedding', embedding: [0.5] }], model: 'embed', usage: { total_tokens: 8 } },
    [8, 0, { model: 'embed' }],
  ],
  Anthropic: [
    message('msg_1', 10, 40, { cache_read_input_tokens: 70, cache_creation_input_tokens: 20 }),
    [100, 40, { cached_input_token: 70, cache_write_token: 20, model: 'anthropic-model' }],
  ],
  'Gemini: thoughts and the prompts of tools beside': [
    {
      responseId: 'r',
      modelVersion: 'gemini',
      candidates: [{ content: { parts: [{ text: 'hello' }] } }],
      usageMetadata: {
        promptTokenCount: 100,
        cachedContentTokenCount: 60,
        toolUsePromptTokenCount: 15,
        candidatesTokenCount: 30,
        thoughtsTokenCount: 10,
        totalTokenCount: 155,
      },
    },
    [115, 40, { cached_input_token: 60, reasoning_token: 10, model: 'gemini' }],
  ],
  'Gemini embeddings': [{ embeddings: [{ values: [1], statistics: { tokenCount: 5 } }, { values: [1], statistics: { tokenCount: 3 } }] }, [8, 0]],
  'Bedrock Converse': [
    {
      $metadata: { requestId: 'aws-1' },
      output: { message: { role: 'assistant', content: [{ text: 'hello' }] } },
      stopReason: 'end_turn',
      usage: { inputTokens: 10, outputTokens: 40, totalTokens: 140, cacheReadInputTokens: 70, cacheWriteInputTokens: 20 },
    },
    [100, 40, { cached_input_token: 70, cache_write_token: 20 }],
  ],
  'Bedrock InvokeModel': [
    { contentType: 'application/json', body: new TextEncoder().encode(JSON.stringify(message('msg_1', 10, 40))) },
    [10, 40, { model: 'anthropic-model' }],
  ],
  Ollama: [
    { model: 'llama', message: { role: 'assistant', content: 'hello' }, done: true, prompt_eval_count: 26, eval_count: 40 },
    [26, 40, { model: 'llama' }],
  ],
  'Ollama embeddings': [{ model: 'embed', embeddings: [[1]], prompt_eval_count: 8 }, [8, 0, { model: 'embed' }]],
  'AI SDK generateText, several steps': [
    {
      text: 'hello',
      finishReason: 'stop',
      steps: [{}, {}],
      usage: { inputTokens: 60, outputTokens: 10, totalTokens: 70 },
      totalUsage: {
        inputTokens: 100,
        inputTokenDetails: { noCacheTokens: 40, cacheReadTokens: 60, cacheWriteTokens: 0 },
        outputTokens: 40,
        outputTokenDetails: { textTokens: 10, reasoningTokens: 30 },
        totalTokens: 140,
      },
      response: { id: 'r', modelId: 'gpt' },
    },
    [100, 40, { cached_input_token: 60, reasoning_token: 30, requests: 2, model: 'gpt' }],
  ],
  'AI SDK, the answer of a model': [
    {
      content: [],
      finishReason: { unified: 'stop' },
      usage: {
        inputTokens: { total: 100, noCache: 40, cacheRead: 60, cacheWrite: 0 },
        outputTokens: { total: 40, text: 10, reasoning: 30 },
      },
      response: { id: 'r', modelId: 'gpt' },
    },
    [100, 40, { cached_input_token: 60, reasoning_token: 30, model: 'gpt' }],
  ],
  'AI SDK embed': [{ value: 'x', embedding: [1], usage: { tokens: 8 } }, [8, 0]],
  LangChain: [
    {
      id: 'run-1',
      type: 'ai',
      content: 'hello',
      response_metadata: { model_name: 'gpt' },
      usage_metadata: { input_tokens: 100, output_tokens: 40, total_tokens: 140, input_token_details: { cache_read: 60 } },
    },
    [100, 40, { cached_input_token: 60, model: 'gpt' }],
  ],
  'a raw response with its data': [{ data: chat('c', 100, 40), response: new Response() }, [100, 40, { model: 'gpt' }]],
  'the usage alone': [{ inputTokens: 100, outputTokens: 40, totalTokens: 140 }, [100, 40]],
  'a list of answers': [
    [chat('a', 100, 40), chat('b', 100, 40), message('c', 1, 1)],
    [201, 81, { requests: 3, model: 'anthropic-model' }],
  ],
  'a tuple of the text and its answer': [['hello', chat('a', 100, 40)], [100, 40, { model: 'gpt' }]],
  'a list of one answer, twice': [[chat('a', 100, 40), chat('a', 100, 40)], [100, 40, { model: 'gpt' }]],
  'all chunks of a stream': [[chunk('a', 'x'), chunk('a', 'y'), chunkUsage('a', 5, 40)], [5, 40, { model: 'gpt' }]],
};

for (const [name, [value, billed]] of Object.entries(RESULTS)) {
  test(`a result: ${name}`, () =>
    inWorld(async (world) => {
      assert.deepEqual(await returned(world, value), [billed]);
      assert.deepEqual(world.problems, []);
    }));
}

test('no getter of a provider’s object is touched that isn’t about usage: some warn, some read a stream', () =>
  inWorld(async (world) => {
    const touched: string[] = [];
    class Answer {
      candidates = [{ content: { parts: [{ text: 'x' }] } }];
      modelVersion = 'gemini';
      usageMetadata = { promptTokenCount: 10, candidatesTokenCount: 40, totalTokenCount: 50 };
    }
    for (const name of ['text', 'data', 'delta', 'body', 'functionCalls', 'output_text', 'content']) {
      Object.defineProperty(Answer.prototype, name, { get: () => touched.push(name) });
    }
    assert.deepEqual(await returned(world, new Answer()), [[10, 40, { model: 'gemini' }]]);
    assert.equal((await streamed(world, [new Answer(), new Answer()])).length, 2);
    assert.deepEqual(touched, []);
    assert.deepEqual(world.problems, []);
  }));

// ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────

function chunk(id: string, content: string): object {
  return { id, object: 'chat.completion.chunk', model: 'gpt', choices: [{ index: 0, delta: { content } }], usage: null };
}

function chunkUsage(id: string, input: number, output: number): object {
  const usage = { prompt_tokens: input, completion_tokens: output, total_tokens: input + output };
  return { id, object: 'chat.completion.chunk', model: 'gpt', choices: [], usage };
}

const anthropicStart = (id: string, input: number) => ({ type: 'message_start', message: { ...message(id, input, 1), content: [] } });
const anthropicText = { type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: 'x' } };
const anthropicDelta = (output: number, more: object = {}) => ({ type: 'message_delta', delta: {}, usage: { output_tokens: output, ...more } });
const responseDelta = { type: 'response.output_text.delta', item_id: 'item', delta: 'x' };
const responseEvent = (type: string, usage?: object) => ({ type, response: { id: 'resp_1', object: 'response', model: 'gpt', usage: usage ?? null } });
const part = (type: string, more: object = {}) => ({ type, ...more });
const langChainChunk = (output: number, input = 0) => ({
  type: 'AIMessageChunk',
  id: 'run-1',
  content: 'x',
  usage_metadata: { input_tokens: input, output_tokens: output, total_tokens: input + output },
});

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
  'LangGraph’s pairs of a chunk and what it is about': [
    Array.from({ length: 3 }, (_, i) => [langChainChunk(1, i === 0 ? 10 : 0), { langgraph_node: 'agent' }]),
    [10, 3],
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
    assert.deepEqual(ends(world), [
      [0, 2, { model: 'gpt' }],
      [0, 2],
      [5, 40, { model: 'gpt' }],
      [25, 40, { model: 'anthropic-model' }],
    ]);
    assert.deepEqual(world.problems, []);
  }));

test('client.run: what is read and returned in it is billed, also when it fails', () =>
  inWorld(async (world) => {
    const text = await world.client.run({ ...FEATURE, hold_token: 5 }, async (run) => {
      await run.read(chat('a', 100, 40));
      return 'text';
    });
    assert.equal(text, 'text');
    const failing = world.client.run(FEATURE, async (run) => {
      await run.read(chat('a', 1, 2));
      throw new RangeError('mine');
    });
    await assert.rejects(failing, RangeError);
    assert.deepEqual(ends(world), [
      [100, 40, { model: 'gpt' }],
      [1, 2, { model: 'gpt' }],
    ]);
  }));

// ── a run by hand ────────────────────────────────────────────────────────────────────────────────────────────────

test('three reads are three answers, one answer read twice is one', () =>
  inWorld(async (world) => {
    const anonymous = { usage: { prompt_tokens: 100, completion_tokens: 40 } };
    const three = await world.client.begin(FEATURE);
    for (let i = 0; i < 3; i += 1) await three.read(anonymous);
    await three.end();
    const ids = await world.client.begin(FEATURE);
    for (const id of ['a', 'b', 'b']) await ids.read(chat(id, 100, 40));
    await ids.end();
    const own = await world.client.begin(FEATURE);
    for (let i = 0; i < 3; i += 1) await own.read({ input_token: 100, output_token: 40 });
    own.use({ output_token: 5 });
    await own.end();
    assert.deepEqual(ends(world), [
      [300, 120, { requests: 3 }],
      [200, 80, { requests: 2, model: 'gpt' }],
      [300, 125, { requests: 3 }],
    ]);
  }));

test('an explicit boundary tells answers without an id apart', () =>
  inWorld(async (world) => {
    const run = await world.client.begin(FEATURE);
    const stream = run.stream(
      (async function* () {
        for (const output of [20, 40]) {
          yield { choices: [{ delta: { content: 'x' } }] };
          yield { choices: [], usage: { prompt_tokens: 10, completion_tokens: output } };
          run.nextAnswer();
        }
      })(),
    );
    for await (const event of stream) assert.ok(event);
    assert.deepEqual(ends(world), [[20, 60, { requests: 2 }]]);
  }));

test('events of a stream that are read one by one are one answer', () =>
  inWorld(async (world) => {
    const run = await world.client.begin(FEATURE);
    for (const event of [anthropicStart('a', 25), anthropicText, anthropicDelta(20), anthropicDelta(40)]) await run.read(event);
    await run.end();
    assert.deepEqual(ends(world), [[25, 40, { model: 'anthropic-model' }]]);
  }));

test('usage that is given at the end is what is billed; a free run has no end', () =>
  inWorld(async (world) => {
    const given = await world.client.begin(FEATURE);
    await given.read(chat('a', 100, 40));
    await given.end({ output_token: 8, model: 'own', reasoningToken: 2 });
    const free = await world.client.begin({ ...FEATURE, hold_token: 5 });
    await free.read(chat('a', 100, 40));
    free.free();
    assert.equal(await free.end(), undefined);
    assert.deepEqual(ends(world), [[0, 8, { reasoning_token: 2, model: 'own' }]]);
    assert.equal(world.server.seenAt(CANCEL).length, 1);
  }));

test('a result that was read and is returned counts once; a feature’s own counts are about the whole run', () =>
  inWorld(async (world) => {
    const run = await world.client.begin(FEATURE);
    const answer = { usage: { prompt_tokens: 100, completion_tokens: 40 } };
    await run.read(answer);
    await run.observe(answer, 'end');
    await run.settle({ leftEarly: false });
    const own = await world.client.begin(FEATURE);
    await own.read(answer);
    await own.observe({ text: 'x', input_token: 1, output_token: 4 }, 'end');
    await own.settle({ leftEarly: false });
    assert.deepEqual(ends(world), [
      [100, 40],
      [1, 4],
    ]);
  }));

// ── nothing is free in silence ───────────────────────────────────────────────────────────────────────────────────

const UNREADABLE: Record<string, unknown> = {
  'no known count': { object: 'chat.completion', choices: [], usage: { seconds: 3 } },
  'an AI SDK usage of undefined': { text: 'x', finishReason: 'stop', steps: [{}], usage: { inputTokens: undefined, outputTokens: undefined } },
  NaN: chat('a', 100, NaN),
  'a text': chat('a', 100, '40' as unknown as number),
  'a fraction': chat('a', 100, 0.5),
  'a negative count': { input_token: 1, output_token: -4 },
  'a sum that doesn’t fit': chat('a', 100, 40, { total_tokens: 999 }),
};

for (const [name, value] of Object.entries(UNREADABLE)) {
  test(`unreadable usage reaches onEndError: ${name}`, () =>
    inWorld(async (world) => {
      assert.deepEqual(await returned(world, value), []);
      assert.equal(world.problems.length, 1);
      const [error] = world.problems;
      assert.ok(error instanceof UsageUnreadableError && error instanceof UsageError);
      const [end] = world.unbilled;
      assert.deepEqual(end?.seen, error.seen);
      assert.ok(end?.seen?.[0]?.why);
      assert.ok(end.idempotency_key && end.process_id);
    }));
}

test('what was seen of an unreadable answer is its report, its id and its model', () =>
  inWorld(async (world) => {
    await returned(world, chat('a', 100, 40, { total_tokens: 999 }));
    const [seen] = world.unbilled[0]?.seen ?? [];
    assert.equal(seen?.answer_id, 'a');
    assert.equal(seen?.model, 'gpt');
    assert.deepEqual(seen?.usage, { prompt_tokens: 100, completion_tokens: 40, total_tokens: 999 });
    assert.match(seen?.why ?? '', /999/);
  }));

test('an unreadable answer among others: the others are billed, and it is reported', () =>
  inWorld(async (world) => {
    assert.deepEqual(await returned(world, [chat('a', 100, 40), chat('b', 1, NaN)]), [[100, 40, { model: 'gpt' }]]);
    assert.ok(world.problems[0] instanceof UsageUnreadableError);
  }));

test('an unreadable total is made up for by a later one', () =>
  inWorld(async (world) => {
    const odd = { id: 'a', object: 'chat.completion.chunk', choices: [], usage: { prompt_tokens: 5, total_tokens: 99 } };
    assert.deepEqual(await streamed(world, [odd, chunkUsage('a', 5, 40)]), [[5, 40, { model: 'gpt' }]]);
    assert.deepEqual(world.problems, []);
  }));

const MISSING: Record<string, unknown[]> = {
  'OpenAI chat without include_usage': [chunk('a', 'x'), chunk('a', 'y')],
  'OpenAI responses without an end': [responseEvent('response.created'), responseDelta],
  'Anthropic without message_delta': [anthropicStart('a', 25), anthropicText],
  'AI SDK without a finish': [part('start-step'), part('text-delta', { id: '0', text: 'x' })],
  'bare text': ['one', 'two'],
  'bytes': [new Uint8Array(3)],
};

for (const [name, chunks] of Object.entries(MISSING)) {
  test(`a stream that ended without usage reaches onEndError: ${name}`, () =>
    inWorld(async (world) => {
      assert.deepEqual(await streamed(world, chunks, {}), []);
      assert.equal(world.problems.length, 1);
      assert.ok(world.problems[0] instanceof UsageMissingError);
      const [seen] = world.unbilled[0]?.seen ?? [];
      assert.ok((seen?.pieces ?? seen?.texts ?? 0) > 0);
    }));
}

test('embeddings without usage reach onEndError', () =>
  inWorld(async (world) => {
    await returned(world, { embeddings: [{ values: [1] }] });
    await returned(world, { object: 'list', data: [{ object: 'embedding', embedding: [1] }] });
    assert.ok(world.problems.length === 2 && world.problems.every((problem) => problem instanceof UsageMissingError));
  }));

test('a last step without usage reaches onEndError, and the others are billed', () =>
  inWorld(async (world) => {
    const usage = { inputTokens: 10, outputTokens: 15, totalTokens: 25 };
    const parts = [part('text-delta', { id: '0', text: 'x' }), part('finish-step', { usage }), part('text-delta', { id: '0', text: 'x' })];
    assert.deepEqual(await streamed(world, parts), [[10, 15]]);
    assert.ok(world.problems[0] instanceof UsageMissingError);
  }));

test('a model’s answer without usage reaches onEndError, and the hold is given back', () =>
  inWorld(async (world) => {
    const { usage, ...without } = chat('a', 1, 1) as { usage: unknown };
    assert.ok(usage);
    const wrapped = withTokenProcess({ ...world.config, hold_token: 5 }, async (_data: { user_id: string }) => without);
    assert.equal(await wrapped(USER), without);
    assert.ok(world.problems[0] instanceof UsageMissingError);
    assert.deepEqual(world.server.seen.map(({ path }) => path), [START, CANCEL]);
  }));

test('requireUsage: thrown after the feature ran, with its result; nothing is billed and the hold is given back', () =>
  inWorld(async (world) => {
    for (const value of [{ data: 1 }, chat('a', 100, NaN), undefined]) {
      const strict = { ...world.config, hold_token: 5, requireUsage: true };
      await assert.rejects(withTokenProcess(strict, async (_data: { user_id: string }) => value)(USER), (error: unknown) => {
        assert.ok(error instanceof UsageError);
        assert.equal(error.result, value);
        return true;
      });
    }
    await assert.rejects(streamed(world, [chunk('a', 'x')], { requireUsage: true }), UsageMissingError);
    assert.deepEqual(await returned(world, { output_token: 0 }, { requireUsage: true }), []);
    assert.deepEqual(await returned(world, { data: 1 }, { requireUsage: true, free: true }), []);
    assert.deepEqual(world.problems, []);
    assert.equal(world.server.seenAt(CANCEL).length, 3);
  }));

test('free is what the feature says: no end and no complaint, whatever its results say', () =>
  inWorld(async (world) => {
    assert.deepEqual(await returned(world, chat('a', 100, 40), { free: true }), []);
    assert.deepEqual(await streamed(world, ['text'], { free: true }), []);
    assert.deepEqual(await returned(world, { output_token: 0 }), []);
    assert.deepEqual(world.problems, []);
  }));

test('a reader of the caller’s own stands in the place of ours, which still tells the answers apart', () =>
  inWorld(async (world) => {
    const words = async (value: { choices?: { delta?: { content?: string } }[] }): Promise<Usage | undefined> => {
      const text = value.choices?.[0]?.delta?.content;
      return text === undefined ? undefined : { output_token: text.split(' ').length };
    };
    assert.deepEqual(await streamed(world, [chunk('a', 'one two'), chunk('b', 'three')], { usage: words }), [
      [0, 3, { requests: 2, model: 'gpt' }],
    ]);
    const totals = (value: { n: number }): Usage => ({ output_token: value.n, kind: 'total' });
    assert.deepEqual((await streamed(world, [{ n: 1 }, { n: 2 }], { usage: totals })).at(-1), [0, 2]);
    const nothing = (): undefined => undefined;
    await returned(world, chat('a', 100, 40), { usage: nothing });
    assert.ok(world.problems[0] instanceof UsageMissingError);
  }));
