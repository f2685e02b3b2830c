/** Usage that a run reads by itself, and usage that is missing or can’t be read. */

import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { test } from 'node:test';

import { UsageError, UsageMissingError, UsageUnreadableError, withTokenProcess } from 'tokentill';
import type { Usage } from 'tokentill';

import {
  anthropicDelta,
  anthropicStart,
  anthropicText,
  chat,
  chunk,
  chunkUsage,
  ends,
  FEATURE,
  part,
  responseDelta,
  responseEvent,
  returned,
  streamed,
} from '../support/shapes.js';
import { CANCEL, inWorld, START, USER } from '../support/world.js';

// ── a run by hand ────────────────────────────────────────────────────────────────────────────────────────────────

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
    for (const no of [NaN, -1, '40' as unknown as number]) {
      await assert.rejects(given.end({ output_token: no }), UsageUnreadableError);
    }
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

test('what was read and then returned counts once: in a list, and its usage in an object', () =>
  inWorld(async (world) => {
    const answers = [1, 2].map(() => ({ usage: { prompt_tokens: 100, completion_tokens: 40 } }));
    await world.client.run(FEATURE, async (run) => {
      for (const answer of answers) await run.read(answer);
      return answers;
    });
    await world.client.run(FEATURE, async (run) => {
      await run.read(answers[0]);
      return { text: 'x', usage: answers[0]?.usage };
    });
    assert.deepEqual(ends(world), [
      [200, 80, { requests: 2 }],
      [100, 40],
    ]);
  }));

test('a call that fails says nothing of another: its pieces are billed, and the other’s missing usage is told', () =>
  inWorld(async (world) => {
    const failing = [part('text-delta', { id: '0', text: 'x' }), part('error', { error: new Error('overloaded') })];
    assert.deepEqual(await streamed(world, [...failing, chunk('b', 'y')]), [[0, 1, { model: 'gpt' }]]);
    assert.ok(world.problems[0] instanceof UsageMissingError);
    assert.deepEqual(world.unbilled[0]?.seen?.map(({ answer_id }) => answer_id), ['b']);
    for (const nothing of [
      [part('start-step'), ...failing.slice(1)],
      [responseEvent('response.created'), responseEvent('response.failed')],
    ]) {
      assert.deepEqual((await streamed(world, nothing)).length, 1, 'nothing flowed: nothing is told');
    }
    assert.equal(world.problems.length, 1);
  }));

test('what a feature says of the whole run stands for what can’t be read', () =>
  inWorld(async (world) => {
    const wrapped = withTokenProcess(world.config, async function* (_data: { user_id: string }) {
      yield chat('a', 100, NaN);
      return { output_token: 4 };
    });
    for await (const answer of wrapped(USER)) assert.ok(answer);
    assert.deepEqual(ends(world), [[0, 4, { model: 'gpt' }]]);
    assert.deepEqual(world.problems, []);
  }));

test('a socket in a result is nothing to wait for', () =>
  inWorld(async (world) => {
    const result = { output_token: 4, socket: new PassThrough() };
    assert.equal(await withTokenProcess(world.config, async (_data: { user_id: string }) => result)(USER), result);
    assert.deepEqual(ends(world), [[0, 4]]);
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

test('answers deep inside of a result reach onEndError: an older run may have made them', () =>
  inWorld(async (world) => {
    const answer = { type: 'ai', id: 'run-1', response_metadata: {}, usage_metadata: { input_tokens: 1, output_tokens: 4 } };
    assert.deepEqual(await returned(world, { messages: [{ role: 'user' }, answer] }), []);
    assert.deepEqual(await streamed(world, [{ agent: { messages: [answer] } }]), []);
    assert.deepEqual(await returned(world, { messages: [answer], output_token: 4 }), [[0, 4]]);
    assert.equal(world.problems.length, 2);
    assert.ok(world.problems.every((problem) => problem instanceof UsageMissingError));
    assert.deepEqual(world.unbilled[0]?.seen?.map(({ usage }) => usage), [answer.usage_metadata]);
  }));

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
