/** What a run is billed for: results, by the shapes that providers and their libraries answer in. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { chat, chunk, chunkUsage, message, returned, streamed } from '../support/shapes.js';
import type { Billed } from '../support/shapes.js';
import { inWorld } from '../support/world.js';

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
  'LiteLLM, without a total': [
    chat('c', 110, 40, { total_tokens: undefined, cache_read_input_tokens: 90 }),
    [110, 40, { cached_input_token: 90, model: 'gpt' }],
  ],
  'one part in an unusual place rather than two': [
    chat('c', 100, 40, {
      total_tokens: 170,
      prompt_tokens_details: { cached_tokens: 20, cache_write_tokens: 30 },
      completion_tokens_details: { reasoning_tokens: 10 },
    }),
    [130, 40, { cached_input_token: 20, cache_write_token: 30, reasoning_token: 10, model: 'gpt' }],
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
  'Anthropic: what its counts leave out, a compaction and an adviser': [
    message('msg_1', 10, 40, {
      iterations: [
        { type: 'compaction', input_tokens: 100, output_tokens: 5, cache_read_input_tokens: 20 },
        { type: 'message', input_tokens: 10, output_tokens: 40 },
        { type: 'advisor_message', input_tokens: 7, output_tokens: 3 },
      ],
    }),
    [137, 48, { cached_input_token: 20, model: 'anthropic-model' }],
  ],
  'Anthropic, the results of a batch': [
    ['a', 'b'].map((id) => ({ custom_id: id, result: { type: 'succeeded', message: message(id, 10, 40) } })),
    [20, 80, { requests: 2, model: 'anthropic-model' }],
  ],
  'OpenAI, the lines of a batch': [
    ['a', 'b'].map((id) => ({ id: `batch_${id}`, custom_id: id, response: { status_code: 200, body: chat(id, 10, 40) }, error: null })),
    [20, 80, { requests: 2, model: 'gpt' }],
  ],
  'a total of 0 that nobody has set': [chat('c', 8, 0, { total_tokens: 0 }), [8, 0, { model: 'gpt' }]],
  Cohere: [
    {
      id: 'c',
      finish_reason: 'COMPLETE',
      message: { role: 'assistant', content: [] },
      usage: { billed_units: { input_tokens: 5, output_tokens: 40 }, tokens: { input_tokens: 70, output_tokens: 42 } },
    },
    [5, 40],
  ],
  'Cohere, as its package has it': [
    { id: 'c', message: {}, usage: { billedUnits: { inputTokens: 5, outputTokens: 40 }, tokens: { inputTokens: 70, outputTokens: 42 } } },
    [5, 40],
  ],
  'Cohere embeddings': [{ id: 'c', embeddings: { float: [[1]] }, meta: { billed_units: { input_tokens: 8 } } }, [8, 0]],
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
  'Gemini, which has only thought': [
    { responseId: 'r', modelVersion: 'gemini', usageMetadata: { promptTokenCount: 10, thoughtsTokenCount: 90, totalTokenCount: 100 } },
    [10, 90, { reasoning_token: 90, model: 'gemini' }],
  ],
  'Gemini, thoughts and nothing else': [{ usageMetadata: { thoughtsTokenCount: 90, totalTokenCount: 90 } }, [0, 90, { reasoning_token: 90 }]],
  'Gemini’s interactions': [
    {
      id: 'i',
      object: 'interaction',
      model: 'gemini',
      usage: {
        total_input_tokens: 100,
        total_cached_tokens: 60,
        total_output_tokens: 30,
        total_thought_tokens: 10,
        total_tool_use_tokens: 15,
        total_tokens: 155,
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
  'AI SDK generateText, steps that say what each of them used': [
    {
      finishReason: 'stop',
      steps: ['a', 'b'].map((id) => ({
        content: [],
        finishReason: 'stop',
        model: { provider: 'openai', modelId: 'asked' },
        usage: { inputTokens: 50, outputTokens: 20, totalTokens: 70 },
        response: { id, modelId: 'gpt' },
      })),
      totalUsage: { inputTokens: 100, outputTokens: 40, totalTokens: 140 },
      response: { id: 'b', modelId: 'gpt' },
    },
    [100, 40, { requests: 2, model: 'gpt' }],
  ],
  'AI SDK generateImage': [{ images: [{}], warnings: [], usage: { inputTokens: 5, outputTokens: 7, totalTokens: 12 } }, [5, 7]],
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
  'LangChain for Anthropic: what was written to the cache, by how long it is kept': [
    {
      id: 'run-1',
      type: 'ai',
      response_metadata: {},
      usage_metadata: {
        input_tokens: 100,
        output_tokens: 40,
        total_tokens: 140,
        input_token_details: { cache_creation: 0, ephemeral_5m_input_tokens: 20, ephemeral_1h_input_tokens: 10 },
      },
    },
    [100, 40, { cache_write_token: 30 }],
  ],
  'a raw response with its data': [{ data: chat('c', 100, 40), response: new Response() }, [100, 40, { model: 'gpt' }]],
  'the usage alone': [{ inputTokens: 100, outputTokens: 40, totalTokens: 140 }, [100, 40]],
  'a list of answers': [
    [chat('a', 100, 40), chat('b', 100, 40), message('c', 1, 1)],
    [201, 81, { requests: 3, model: 'anthropic-model' }],
  ],
  'a tuple of the text and its answer': [['hello', chat('a', 100, 40)], [100, 40, { model: 'gpt' }]],
  'a list of one answer, twice': [[chat('a', 100, 40), chat('a', 100, 40)], [100, 40, { model: 'gpt' }]],
  'an answer in an object': [{ text: 'hello', raw: chat('a', 100, 40) }, [100, 40, { model: 'gpt' }]],
  'an answer in an object of a class': [new (class { raw = chat('a', 100, 40); })(), [100, 40, { model: 'gpt' }]],
  'answers in a map': [new Map([['a', chat('a', 100, 40)]]), [100, 40, { model: 'gpt' }]],
  'two answers in an object': [{ plan: chat('a', 100, 40), text: chat('b', 10, 4) }, [110, 44, { requests: 2, model: 'gpt' }]],
  'an answer in an object beside its usage': [
    { raw: chat('a', 100, 40), tokens: { prompt_tokens: 100, completion_tokens: 40 } },
    [100, 40, { model: 'gpt' }],
  ],
  'the usage in an object': [{ text: 'hello', tokens: { prompt_tokens: 100, completion_tokens: 40 } }, [100, 40]],
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
