/** The providers' own packages, talking to a server on this machine: what a run of a feature that uses them is billed for. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import Anthropic from '@anthropic-ai/sdk';
import { Ollama } from 'ollama';
import OpenAI from 'openai';
import { countDeltas, currentRun, UsageMissingError, withTokenProcess } from 'tokentill';

import { withModelServer } from '../support/model-server.js';
import type { ModelServer } from '../support/model-server.js';
import { END, inWorld, USER } from '../support/world.js';
import type { World } from '../support/world.js';

interface Scene extends World {
  models: ModelServer;
  openai: OpenAI;
  anthropic: Anthropic;
  ollama: Ollama;
}

type Data = { user_id: string };

function scene(act: (scene: Scene) => Promise<void>): Promise<void> {
  return withModelServer((models) =>
    inWorld((world) =>
      act({
        ...world,
        models,
        openai: new OpenAI({ baseURL: `${models.url}/v1`, apiKey: 'key' }),
        anthropic: new Anthropic({ baseURL: models.url, apiKey: 'key' }),
        ollama: new Ollama({ host: models.url }),
      }),
    ),
  );
}

/** Input, output, cached input, model and number of answers of each end that was sent. */
function ends({ server }: World): unknown[] {
  return server.seenAt(END).map(({ body }) => {
    return [body.input_token, body.output_token, body.cached_input_token ?? 0, body.model, body.requests ?? 1];
  });
}

/** What nobody waits for ends a moment after it. */
async function endsOf(world: World, count: number): Promise<unknown[]> {
  for (let i = 0; i < 200 && ends(world).length < count; i += 1) await sleep(10);
  return ends(world);
}

async function take<T>(stream: AsyncIterable<T> | Iterable<T>, count = Infinity): Promise<T[]> {
  const taken: T[] = [];
  for await (const chunk of stream) if (taken.push(chunk) === count) break;
  return taken;
}

const say = (count: number) => ({ messages: [{ role: 'user' as const, content: `${count}` }] });
const GPT = { model: 'gpt' };
const STREAM = { stream: true, stream_options: { include_usage: true } } as const;
const weather = {
  type: 'function' as const,
  function: { name: 'weather', description: 'the weather', function: () => 'sunny', parameters: { type: 'object', properties: {} } },
};
const CLAUDE = { model: 'anthropic-model', max_tokens: 100 };

// ── openai ───────────────────────────────────────────────────────────────────────────────────────────────────────

test('openai: chat.completions.create', () =>
  scene(async (s) => {
    const ask = withTokenProcess(s.config, (_: Data) => s.openai.chat.completions.create({ ...GPT, ...say(40) }));
    const { choices } = await ask(USER);
    assert.match(choices[0]?.message.content ?? '', /^word /);
    assert.deepEqual(ends(s), [[10, 40, 4, 'gpt-2026', 1]]);
  }));

test('openai: several completions of one run', () =>
  scene(async (s) => {
    const ask = withTokenProcess(s.config, (_: Data) =>
      Promise.all([20, 40].map((count) => s.openai.chat.completions.create({ ...GPT, ...say(count) }))),
    );
    assert.equal((await ask(USER)).length, 2);
    assert.deepEqual(ends(s), [[20, 60, 8, 'gpt-2026', 2]]);
  }));

test('openai: a stream, and a loop of two streams', () =>
  scene(async (s) => {
    const one = withTokenProcess(s.config, (_: Data) => s.openai.chat.completions.create({ ...GPT, ...say(40), ...STREAM }));
    assert.equal((await take(await one(USER))).length, 43);
    const two = withTokenProcess(s.config, async function* (_: Data) {
      for (const count of [20, 40]) yield* await s.openai.chat.completions.create({ ...GPT, ...say(count), ...STREAM });
    });
    await take(two(USER));
    assert.deepEqual(ends(s), [
      [10, 40, 4, 'gpt-2026', 1],
      [20, 60, 8, 'gpt-2026', 2],
    ]);
  }));

test('openai: a stream left early is billed by its pieces', () =>
  scene(async (s) => {
    const ask = withTokenProcess(s.config, async function* (_: Data) {
      yield* await s.openai.chat.completions.create({ ...GPT, ...say(100), ...STREAM });
    });
    await take(ask(USER), 4);
    assert.deepEqual(ends(s), [[0, 3, 0, 'gpt-2026', 1]]);
    assert.deepEqual(s.problems, []);
  }));

test('openai: a stream that was not asked for its usage is reported, or counted where the feature says so', () =>
  scene(async (s) => {
    const ask = (_: Data) => s.openai.chat.completions.create({ ...GPT, ...say(5), stream: true });
    await take(await withTokenProcess(s.config, ask)(USER));
    assert.deepEqual(ends(s), []);
    assert.ok(s.problems[0] instanceof UsageMissingError);
    assert.equal(s.unbilled[0]?.seen?.[0]?.pieces, 5);
    assert.equal(s.unbilled[0].seen[0].model, 'gpt-2026');
    await take(await withTokenProcess({ ...s.config, usage: countDeltas }, ask)(USER));
    assert.deepEqual(ends(s), [[0, 5, 0, 'gpt-2026', 1]]);
  }));

test('openai: a generator of bare text hands the chunks to its run, whole and left early', () =>
  scene(async (s) => {
    const texts = withTokenProcess(s.config, async function* (data: Data & { count: number }) {
      for await (const chunk of await s.openai.chat.completions.create({ ...GPT, ...say(data.count), ...STREAM })) {
        await currentRun()?.read(chunk);
        const text = chunk.choices[0]?.delta.content;
        if (text) yield text;
      }
    });
    assert.equal((await take(texts({ ...USER, count: 40 }))).length, 40);
    await take(texts({ ...USER, count: 100 }), 3);
    assert.deepEqual(ends(s), [
      [10, 40, 4, 'gpt-2026', 1],
      [0, 3, 0, 'gpt-2026', 1],
    ]);
    assert.deepEqual(s.problems, []);
  }));

test('openai: chat.completions.stream()', () =>
  scene(async (s) => {
    const ask = withTokenProcess(s.config, async function* (_: Data) {
      yield* s.openai.chat.completions.stream({ ...GPT, ...say(40), stream_options: { include_usage: true } });
    });
    await take(ask(USER));
    assert.deepEqual(ends(s), [[10, 40, 4, 'gpt-2026', 1]]);
  }));

test('openai: withResponse', () =>
  scene(async (s) => {
    const ask = withTokenProcess(s.config, (_: Data) => s.openai.chat.completions.create({ ...GPT, ...say(40) }).withResponse());
    const { data, response } = await ask(USER);
    assert.equal(data.object, 'chat.completion');
    assert.equal(response.status, 200);
    const stream = withTokenProcess(s.config, (_: Data) =>
      s.openai.chat.completions.create({ ...GPT, ...say(40), ...STREAM }).withResponse(),
    );
    const streamed = await stream(USER);
    assert.equal(streamed.response.status, 200);
    assert.equal((await take(streamed.data)).length, 43);
    assert.deepEqual(ends(s), Array(2).fill([10, 40, 4, 'gpt-2026', 1]));
  }));

test('openai: asResponse stays a response, whole, as a stream, and left early', () =>
  scene(async (s) => {
    const ask = withTokenProcess(s.config, (data: Data & { count: number; stream?: true }) =>
      s.openai.chat.completions.create({ ...GPT, ...say(data.count), ...(data.stream ? STREAM : {}) }).asResponse(),
    );
    const whole = await ask({ ...USER, count: 40 });
    assert.ok(whole instanceof Response && whole.url.startsWith(s.models.url));
    assert.equal(whole.headers.get('x-request-id'), 'req_1');
    assert.equal((await whole.json()).object, 'chat.completion');
    assert.match(await (await ask({ ...USER, count: 40, stream: true })).text(), /\[DONE\]\n\n$/);
    const reader = (await ask({ ...USER, count: 100, stream: true })).body?.getReader();
    let text = '';
    while (text.split('word').length <= 3) text += new TextDecoder().decode((await reader?.read())?.value);
    await reader?.cancel();
    const [first, second, third] = ends(s) as [number, number][];
    assert.deepEqual([first, second], Array(2).fill([10, 40, 4, 'gpt-2026', 1]));
    assert.equal(third?.[1], text.split('word').length - 1);
    for (let i = 0; i < 200 && s.models.hungUp === 0; i += 1) await sleep(10);
    assert.equal(s.models.hungUp, 1);
  }));

test('openai: helpers that nobody iterates are counted by their events, whole and left early', () =>
  scene(async (s) => {
    const chat = withTokenProcess(s.config, async (data: Data & { count: number }) =>
      s.openai.chat.completions.stream({ ...GPT, ...say(data.count), stream_options: { include_usage: true } }),
    );
    await (await chat({ ...USER, count: 40 })).finalChatCompletion();
    await endsOf(s, 1);
    const left = await chat({ ...USER, count: 100 });
    let pieces = 0;
    left.on('content', () => {
      if ((pieces += 1) === 3) left.abort();
    });
    await assert.rejects(left.done());
    await endsOf(s, 2);
    const responses = withTokenProcess(s.config, async (_: Data) => s.openai.responses.stream({ ...GPT, input: '40' }));
    await (await responses(USER)).finalResponse();
    await endsOf(s, 3);
    const runner = withTokenProcess(s.config, async (_: Data) => s.openai.chat.completions.runTools({ ...GPT, ...say(20), tools: [weather] }));
    await (await runner(USER)).finalContent();
    assert.deepEqual(await endsOf(s, 4), [
      [10, 40, 4, 'gpt-2026', 1],
      [0, 3, 0, 'gpt-2026', 1],
      [10, 40, 4, 'gpt-2026', 1],
      [20, 40, 8, 'gpt-2026', 2],
    ]);
    assert.deepEqual(s.problems, []);
  }));

test('openai: streams in an object, one and two', () =>
  scene(async (s) => {
    const one = withTokenProcess(s.config, async (_: Data) => {
      return { id: 'conversation', stream: await s.openai.chat.completions.create({ ...GPT, ...say(40), ...STREAM }) };
    });
    const { id, stream } = await one(USER);
    assert.equal(id, 'conversation');
    assert.equal((await take(stream)).length, 43);
    const two = withTokenProcess(s.config, async (_: Data) => ({
      first: await s.openai.chat.completions.create({ ...GPT, ...say(20), ...STREAM }),
      second: await s.openai.chat.completions.create({ ...GPT, ...say(40), ...STREAM }),
    }));
    const { first, second } = await two(USER);
    await Promise.all([take(first), take(second)]);
    assert.deepEqual(ends(s), [
      [10, 40, 4, 'gpt-2026', 1],
      [20, 60, 8, 'gpt-2026', 2],
    ]);
  }));

test('openai: a structured answer, several choices, and a call that the package repeats, are an answer each', () =>
  scene(async (s) => {
    const format = { type: 'json_schema' as const, json_schema: { name: 'words', schema: { type: 'object' } } };
    await withTokenProcess(s.config, (_: Data) => s.openai.chat.completions.parse({ ...GPT, ...say(40), response_format: format }))(USER);
    s.models.failures = 2;
    await withTokenProcess(s.config, (_: Data) => s.openai.chat.completions.create({ ...GPT, ...say(40), n: 2 }))(USER);
    assert.equal(s.models.failures, 0);
    assert.deepEqual(ends(s), Array(2).fill([10, 40, 4, 'gpt-2026', 1]));
  }));

test('a response of text that comes in pieces is reported, in one piece it is free, and lines of JSON in it are counted', () =>
  scene(async (s) => {
    const encoder = new TextEncoder();
    const inPieces = (...pieces: Uint8Array[]) =>
      new ReadableStream<Uint8Array>({
        start(controller) {
          for (const piece of pieces) controller.enqueue(piece);
          controller.close();
        },
      });
    const texts = inPieces(encoder.encode('one '), encoder.encode('two'));
    assert.equal(await (await withTokenProcess(s.config, async (_: Data) => new Response(texts))(USER)).text(), 'one two');
    const bytes = inPieces(new Uint8Array([80, 75, 3, 4]), new Uint8Array([0, 255, 10, 7]));
    const zip = await withTokenProcess(s.config, async (_: Data) => new Response(bytes))(USER);
    assert.deepEqual([...new Uint8Array(await zip.arrayBuffer())], [80, 75, 3, 4, 0, 255, 10, 7]);
    assert.ok(s.problems.length === 1 && s.problems[0] instanceof UsageMissingError);
    assert.equal(await (await withTokenProcess(s.config, async (_: Data) => new Response('hello'))(USER)).text(), 'hello');
    const file = new Response('hello', { headers: { 'content-length': '5' } });
    assert.equal(await withTokenProcess(s.config, async (_: Data) => file)(USER), file);
    const lines = withTokenProcess(
      s.config,
      async (_: Data) => new Response(s.anthropic.messages.stream({ ...CLAUDE, ...say(40) }).toReadableStream()),
    );
    assert.match(await (await lines(USER)).text(), /message_stop/);
    assert.deepEqual(ends(s), [[10, 40, 4, 'anthropic-model', 1]]);
    assert.equal(s.problems.length, 1);
  }));

test('a response that is no model’s passes through untouched', () =>
  scene(async (s) => {
    const image = new Response(new Uint8Array([1, 2, 3]), { headers: { 'content-type': 'image/png' } });
    assert.equal(await withTokenProcess(s.config, async (_: Data) => image)(USER), image);
    const other = Response.json({ data: 1 });
    assert.deepEqual(await (await withTokenProcess(s.config, async (_: Data) => other)(USER)).json(), { data: 1 });
    assert.deepEqual(ends(s), []);
    assert.deepEqual(s.problems, []);
  }));

test('openai: responses.create, and its stream', () =>
  scene(async (s) => {
    const whole = withTokenProcess(s.config, (_: Data) => s.openai.responses.create({ ...GPT, input: '40' }));
    assert.match((await whole(USER)).output_text, /^word /);
    const stream = withTokenProcess(s.config, (_: Data) => s.openai.responses.create({ ...GPT, input: '40', stream: true }));
    await take(await stream(USER));
    const helper = withTokenProcess(s.config, async function* (_: Data) {
      yield* s.openai.responses.stream({ ...GPT, input: '40' });
    });
    await take(helper(USER));
    assert.deepEqual(ends(s), Array(3).fill([10, 40, 4, 'gpt-2026', 1]));
  }));

test('openai: a stream of responses left early is billed by its pieces', () =>
  scene(async (s) => {
    const ask = withTokenProcess(s.config, async function* (_: Data) {
      yield* await s.openai.responses.create({ ...GPT, input: '100', stream: true });
    });
    await take(ask(USER), 4 + 3);
    assert.deepEqual(ends(s), [[0, 3, 0, 'gpt-2026', 1]]);
  }));

test('openai: embeddings', () =>
  scene(async (s) => {
    const ask = withTokenProcess(s.config, (_: Data) => s.openai.embeddings.create({ model: 'embed', input: ['a', 'b'] }));
    assert.equal((await ask(USER)).data.length, 2);
    assert.deepEqual(ends(s), [[10, 0, 0, 'embed', 1]]);
  }));

// ── anthropic ────────────────────────────────────────────────────────────────────────────────────────────────────

test('anthropic: messages.create, its stream, and messages.stream()', () =>
  scene(async (s) => {
    const whole = withTokenProcess(s.config, (_: Data) => s.anthropic.messages.create({ ...CLAUDE, ...say(40) }));
    assert.equal((await whole(USER)).role, 'assistant');
    const stream = withTokenProcess(s.config, (_: Data) => s.anthropic.messages.create({ ...CLAUDE, ...say(40), stream: true }));
    await take(await stream(USER));
    const helper = withTokenProcess(s.config, async function* (_: Data) {
      yield* s.anthropic.messages.stream({ ...CLAUDE, ...say(40) });
    });
    await take(helper(USER));
    assert.deepEqual(ends(s), Array(3).fill([10, 40, 4, 'anthropic-model', 1]));
  }));

test('anthropic: a helper that nobody iterates is counted by its events, whole and left early', () =>
  scene(async (s) => {
    const ask = withTokenProcess(s.config, async (data: Data & { count: number }) => s.anthropic.messages.stream({ ...CLAUDE, ...say(data.count) }));
    await (await ask({ ...USER, count: 40 })).finalMessage();
    await endsOf(s, 1);
    const left = await ask({ ...USER, count: 100 });
    let pieces = 0;
    left.on('text', () => {
      if ((pieces += 1) === 3) left.abort();
    });
    await assert.rejects(left.done());
    await endsOf(s, 2);
    await take(await ask({ ...USER, count: 100 }), 5);
    const done = withTokenProcess(s.config, async (_: Data) => {
      const stream = s.anthropic.messages.stream({ ...CLAUDE, ...say(40) });
      await stream.done();
      return stream;
    });
    await done(USER);
    assert.deepEqual(await endsOf(s, 4), [
      [10, 40, 4, 'anthropic-model', 1],
      [10, 3, 4, 'anthropic-model', 1],
      [10, 3, 4, 'anthropic-model', 1],
      [10, 40, 4, 'anthropic-model', 1],
    ]);
    assert.deepEqual(s.problems, []);
  }));

test('anthropic: two streams of one run', () =>
  scene(async (s) => {
    const ask = withTokenProcess(s.config, async function* (_: Data) {
      for (const count of [20, 40]) yield* await s.anthropic.messages.create({ ...CLAUDE, ...say(count), stream: true });
    });
    await take(ask(USER));
    assert.deepEqual(ends(s), [[20, 60, 8, 'anthropic-model', 2]]);
  }));

test('anthropic: two streams of one run, at the same time', () =>
  scene(async (s) => {
    const ask = withTokenProcess(s.config, async (_: Data) => {
      const streams = [20, 40].map((count) => s.anthropic.messages.create({ ...CLAUDE, ...say(count), stream: true }));
      await Promise.all(streams.map(async (stream) => take(currentRun()?.stream(await stream) ?? [])));
      return 'text';
    });
    await ask(USER);
    assert.deepEqual(ends(s), [[20, 60, 8, 'anthropic-model', 2]]);
  }));

test('anthropic: asResponse, as a stream', () =>
  scene(async (s) => {
    const ask = withTokenProcess(s.config, (_: Data) =>
      s.anthropic.messages.create({ ...CLAUDE, ...say(40), stream: true }).asResponse(),
    );
    assert.match(await (await ask(USER)).text(), /message_stop/);
    assert.deepEqual(ends(s), [[10, 40, 4, 'anthropic-model', 1]]);
  }));

test('anthropic: a stream left early is billed for its input and its pieces', () =>
  scene(async (s) => {
    const ask = withTokenProcess(s.config, (_: Data) => s.anthropic.messages.create({ ...CLAUDE, ...say(100), stream: true }));
    // message_start, content_block_start, and three pieces; the package keeps the ping to itself.
    const events = await take(await ask(USER), 5);
    assert.equal(events.at(-1)?.type, 'content_block_delta');
    assert.deepEqual(ends(s), [[10, 3, 4, 'anthropic-model', 1]]);
  }));

test('anthropic: a generator of bare text says what it used with the message that it returns', () =>
  scene(async (s) => {
    const ask = withTokenProcess(s.config, async function* (_: Data) {
      const stream = s.anthropic.messages.stream({ ...CLAUDE, ...say(40) });
      for await (const event of stream) {
        if (event.type === 'content_block_delta' && event.delta.type === 'text_delta') yield event.delta.text;
      }
      return stream.finalMessage();
    });
    assert.equal((await take(ask(USER))).length, 40);
    assert.deepEqual(ends(s), [[10, 40, 4, 'anthropic-model', 1]]);
    assert.deepEqual(s.problems, []);
  }));

// ── ollama ───────────────────────────────────────────────────────────────────────────────────────────────────────

test('ollama: chat, its stream, a stream left early, and embed', () =>
  scene(async (s) => {
    const llama = { model: 'llama' };
    await withTokenProcess(s.config, (_: Data) => s.ollama.chat({ ...llama, ...say(40) }))(USER);
    const stream = withTokenProcess(s.config, async (_: Data) => s.ollama.chat({ ...llama, ...say(40), stream: true }));
    await take(await stream(USER));
    await take(await stream(USER), 3);
    await withTokenProcess(s.config, (_: Data) => s.ollama.embed({ ...llama, input: 'text' }))(USER);
    assert.deepEqual(ends(s), [
      [10, 40, 0, 'llama', 1],
      [10, 40, 0, 'llama', 1],
      [0, 3, 0, 'llama', 1],
      [10, 0, 0, 'llama', 1],
    ]);
  }));
