/** The Vercel AI SDK in two of its versions: its functions inside of a feature, and every call of a model by itself. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAI as createOpenAI3 } from '@ai-sdk/openai-3';
import * as ai7 from 'ai';
import * as ai6 from 'ai-6';
import { currentRun, InsufficientTokensError, tokenProcessMiddleware, UsageError, UsageMissingError, withTokenProcess } from 'tokentill';

import { withModelServer } from '../support/model-server.js';
import type { ModelServer } from '../support/model-server.js';
import { CANCEL, END, inWorld, START, USER } from '../support/world.js';
import type { World } from '../support/world.js';

interface Scene extends World {
  models: ModelServer;
  model: ReturnType<ReturnType<typeof createOpenAI>['chat']>;
  embedder: ReturnType<ReturnType<typeof createOpenAI>['embedding']>;
}

type Data = { user_id: string };

const VERSIONS = {
  'ai 7': { ai: ai7, create: createOpenAI },
  // The same names with the same meaning: its types differ in what doesn't matter here.
  'ai 6': { ai: ai6 as unknown as typeof ai7, create: createOpenAI3 as unknown as typeof createOpenAI },
};

function ends({ server }: World): unknown[] {
  return server.seenAt(END).map(({ body }) => {
    return [body.input_token, body.output_token, body.cached_input_token ?? 0, body.model, body.requests ?? 1];
  });
}

/** What runs beside its reader ends a moment after it. */
async function endsOf(world: World, count: number): Promise<unknown[]> {
  for (let i = 0; i < 200 && ends(world).length < count; i += 1) await sleep(10);
  return ends(world);
}

async function take<T>(stream: AsyncIterable<T>, count = Infinity): Promise<T[]> {
  const taken: T[] = [];
  for await (const chunk of stream) if (taken.push(chunk) === count) break;
  return taken;
}

function withoutUsage<T>(): TransformStream<T, T> {
  return new TransformStream({
    transform: (part, controller) => {
      const { type } = part as { type: string };
      controller.enqueue(type === 'finish' ? ({ ...part, usage: { inputTokens: {}, outputTokens: {} } } as T) : part);
    },
  });
}

for (const [version, { ai, create }] of Object.entries(VERSIONS)) {
  const scene = (act: (scene: Scene) => Promise<void>, token = 1000): Promise<void> =>
    withModelServer((models) =>
      inWorld((world) => {
        const openai = create({ baseURL: `${models.url}/v1`, apiKey: 'key' });
        return act({ ...world, models, model: openai.chat('gpt'), embedder: openai.embedding('embed') });
      }, token),
    );
  const billing = ({ client, onEndError }: Pick<World['config'], 'client' | 'onEndError'>) =>
    tokenProcessMiddleware({ feature_endpoint_id: 'feature-1', user_id: 'user-1', client, onEndError });
  const weather = ai.tool({
    description: 'the weather',
    inputSchema: ai.jsonSchema<Record<string, never>>({ type: 'object', properties: {}, additionalProperties: false }),
    execute: async () => 'sunny',
  });

  test(`${version}: generateText, and with the steps of a tool`, () =>
    scene(async (s) => {
      const plain = withTokenProcess(s.config, (_: Data) => ai.generateText({ model: s.model, prompt: '40' }));
      assert.match((await plain(USER)).text, /^word /);
      const steps = withTokenProcess(s.config, (_: Data) =>
        ai.generateText({ model: s.model, prompt: '20', tools: { weather }, stopWhen: ai.stepCountIs(3) }),
      );
      assert.equal((await steps(USER)).steps.length, 2);
      assert.deepEqual(ends(s), [
        [10, 40, 4, 'gpt-2026', 1],
        [20, 40, 8, 'gpt-2026', 2],
      ]);
      assert.deepEqual(s.problems, []);
    }));

  test(`${version}: the fullStream of streamText, whole and left early`, () =>
    scene(async (s) => {
      const ask = withTokenProcess(s.config, async function* (data: Data & { prompt: string; tools?: boolean }) {
        const tools = data.tools ? { tools: { weather } } : {};
        yield* ai.streamText({ model: s.model, prompt: data.prompt, ...tools, stopWhen: ai.stepCountIs(3) }).fullStream;
      });
      await take(ask({ ...USER, prompt: '40' }));
      await take(ask({ ...USER, prompt: '20', tools: true }));
      for await (const part of ask({ ...USER, prompt: '100' })) if (part.type === 'text-delta') break;
      assert.deepEqual(ends(s), [
        [10, 40, 4, 'gpt-2026', 1],
        [20, 40, 8, 'gpt-2026', 2],
        [0, 1, 0, undefined, 1],
      ]);
    }));

  test(`${version}: a result of streamText stays what it is and is billed beside its reader`, () =>
    scene(async (s) => {
      const ask = withTokenProcess(s.config, async (_: Data) => ai.streamText({ model: s.model, prompt: '40' }));
      const result = await ask(USER);
      const answer = result.toTextStreamResponse();
      assert.match(await answer.text(), /^(word ){40}$/);
      assert.equal((await result.totalUsage).outputTokens, 40);
      assert.deepEqual(await endsOf(s, 1), [[10, 40, 4, 'gpt-2026', 1]]);
      const around = withTokenProcess(s.config, async (_: Data) => ({ id: 'chat', result: ai.streamText({ model: s.model, prompt: '40' }) }));
      assert.match(await (await around(USER)).result.text, /^word /);
      assert.deepEqual((await endsOf(s, 2))[1], [10, 40, 4, 'gpt-2026', 1]);
      // Its reader goes and leaves the model to it: the provider bills that too.
      await take((await ask(USER)).textStream, 3);
      assert.deepEqual((await endsOf(s, 3))[2], [10, 40, 4, 'gpt-2026', 1]);
    }));

  test(`${version}: a result of streamText whose usage is required and missing is reported: it is with its reader`, () =>
    scene(async (s) => {
      const silent = ai.wrapLanguageModel({
        model: s.model,
        middleware: {
          specificationVersion: 'v3',
          wrapStream: async ({ doStream }) => {
            const { stream, ...rest } = await doStream();
            return { ...rest, stream: stream.pipeThrough(withoutUsage()) };
          },
        },
      });
      const ask = withTokenProcess({ ...s.config, hold_token: 5, requireUsage: true }, async (_: Data) =>
        ai.streamText({ model: silent, prompt: '5' }),
      );
      assert.match(await (await ask(USER)).text, /^(word ){5}$/);
      for (let i = 0; i < 200 && s.problems.length === 0; i += 1) await sleep(10);
      assert.ok(s.problems[0] instanceof UsageError);
      for (let i = 0; i < 200 && s.wallet.holds.size > 0; i += 1) await sleep(10);
      assert.deepEqual(ends(s), []);
    }));

  test(`${version}: a result of streamText that is aborted is billed by its pieces`, () =>
    scene(async (s) => {
      const abort = new AbortController();
      const ask = withTokenProcess(s.config, async (_: Data) =>
        ai.streamText({ model: s.model, prompt: '500', abortSignal: abort.signal, onError: () => undefined }),
      );
      const { fullStream } = await ask(USER);
      let pieces = 0;
      for await (const part of fullStream) {
        if (part.type === 'text-delta') pieces += 1;
        if (pieces === 3) abort.abort();
      }
      const [[input, output]] = (await endsOf(s, 1)) as [[number, number]];
      assert.equal(input, 0);
      assert.ok(output >= 3 && output < 100, `${output}`);
    }));

  test(`${version}: a textStream stays a ReadableStream, and that nothing says what it used is reported`, () =>
    scene(async (s) => {
      const ask = withTokenProcess(s.config, async (_: Data) => ai.streamText({ model: s.model, prompt: '5' }).textStream);
      const stream: ReadableStream<string> = await ask(USER);
      assert.ok(stream instanceof ReadableStream);
      assert.equal((await take(stream)).length, 5);
      assert.deepEqual(ends(s), []);
      assert.ok(s.problems[0] instanceof UsageMissingError);
    }));

  test(`${version}: generateObject, streamObject and an agent`, () =>
    scene(async (s) => {
      const schema = ai.jsonSchema<{ words: string }>({
        type: 'object',
        properties: { words: { type: 'string' } },
        required: ['words'],
        additionalProperties: false,
      });
      const whole = withTokenProcess(s.config, (_: Data) => ai.generateObject({ model: s.model, schema, prompt: '40' }));
      assert.match((await whole(USER)).object.words, /^(word ){38}$/);
      const stream = withTokenProcess(s.config, async (_: Data) => ai.streamObject({ model: s.model, schema, prompt: '40' }));
      const streamed = await stream(USER);
      assert.ok((await take(streamed.partialObjectStream)).length > 0);
      assert.match((await streamed.object).words, /^(word ){38}$/);
      await endsOf(s, 2);
      const agent = new ai.ToolLoopAgent({ model: s.model, tools: { weather }, stopWhen: ai.stepCountIs(3) });
      await withTokenProcess(s.config, (_: Data) => agent.generate({ prompt: '20' }))(USER);
      assert.deepEqual(ends(s), [
        [10, 40, 4, 'gpt-2026', 1],
        [10, 40, 4, 'gpt-2026', 1],
        [20, 40, 8, 'gpt-2026', 2],
      ]);
      assert.deepEqual(s.problems, []);
    }));

  test(`${version}: embed and embedMany`, () =>
    scene(async (s) => {
      await withTokenProcess(s.config, (_: Data) => ai.embed({ model: s.embedder, value: 'a' }))(USER);
      await withTokenProcess(s.config, (_: Data) => ai.embedMany({ model: s.embedder, values: ['a', 'b'] }))(USER);
      assert.deepEqual(ends(s).map((end) => (end as number[]).slice(0, 2)), [
        [10, 0],
        [10, 0],
      ]);
    }));

  test(`${version}: the middleware bills every call of the model`, () =>
    scene(async (s) => {
      const ofUser = tokenProcessMiddleware({
        feature_endpoint_id: 'feature-1',
        user_id: async ({ params }) => params.providerOptions.tokentill.user_id,
        hold_token: ({ params }) => params.maxOutputTokens / 4,
        client: s.client,
      });
      const model = ai.wrapLanguageModel({ model: s.model, middleware: ofUser });
      const asked = { model, maxOutputTokens: 100, providerOptions: { tokentill: { user_id: 'user-7' } } };
      await ai.generateText({ ...asked, prompt: '20', tools: { weather }, stopWhen: ai.stepCountIs(3) });
      const { textStream } = ai.streamText({ ...asked, prompt: '40' });
      assert.equal((await take(textStream)).length, 40);
      assert.deepEqual(s.server.seenAt(START)[0]?.body, { user_id: 'user-7', feature_endpoint_id: 'feature-1', hold_token: 25 });
      const embedder = ai.wrapEmbeddingModel({ model: s.embedder, middleware: billing(s) as never });
      await ai.embed({ model: embedder, value: 'a' });
      assert.deepEqual(ends(s), [
        [10, 20, 4, 'gpt-2026', 1],
        [10, 20, 4, 'gpt-2026', 1],
        [10, 40, 4, 'gpt-2026', 1],
        [10, 0, 0, 'embed', 1],
      ]);
    }));

  test(`${version}: the middleware, aborted: what flowed is billed and the provider is hung up on`, () =>
    scene(async (s) => {
      const model = ai.wrapLanguageModel({ model: s.model, middleware: billing(s) });
      const abort = new AbortController();
      const { fullStream } = ai.streamText({ model, prompt: '500', abortSignal: abort.signal, onError: () => undefined });
      let pieces = 0;
      for await (const part of fullStream) {
        if (part.type === 'text-delta') pieces += 1;
        if (pieces === 3) abort.abort();
      }
      const [[, output]] = (await endsOf(s, 1)) as [[number, number]];
      assert.ok(output >= 3 && output < 100, `${output}`);
      for (let i = 0; i < 100 && s.models.hungUp === 0; i += 1) await sleep(10);
      assert.equal(s.models.hungUp, 1);
    }));

  test(`${version}: the middleware without access: the model is not called`, () =>
    scene(async (s) => {
      const model = ai.wrapLanguageModel({ model: s.model, middleware: billing(s) });
      await assert.rejects(ai.generateText({ model, prompt: '40', maxRetries: 0 }), InsufficientTokensError);
      assert.deepEqual(s.models.bodies, []);
    }, 0));

  test(`${version}: the middleware adds to a run that is under way; a call that fails costs nothing`, () =>
    scene(async (s) => {
      const run = await s.client.begin({ ...USER, feature_endpoint_id: 'feature-1', hold_token: 5 });
      const model = ai.wrapLanguageModel({ model: s.model, middleware: tokenProcessMiddleware({ run: () => run }) });
      await ai.generateText({ model, prompt: '20' });
      await take(ai.streamText({ model, prompt: '40' }).textStream);
      await run.end();
      assert.deepEqual(ends(s), [[20, 60, 8, 'gpt-2026', 2]]);
      const failing = ai.wrapLanguageModel({ model: s.model, middleware: billing(s) });
      await s.models.close();
      await assert.rejects(ai.generateText({ model: failing, prompt: '20', maxRetries: 0 }));
      assert.equal(s.server.seenAt(CANCEL).length, 1);
    }));

  const inRun = (s: Scene) => ai.wrapLanguageModel({ model: s.model, middleware: tokenProcessMiddleware({ run: currentRun }) });

  test(`${version}: what the middleware has counted in a run, and the run’s function returns, counts once`, () =>
    scene(async (s) => {
      const tools = { tools: { weather }, stopWhen: ai.stepCountIs(3) };
      const text = withTokenProcess(s.config, (_: Data) => ai.generateText({ model: inRun(s), prompt: '20', ...tools }));
      await text(USER);
      const full = withTokenProcess(s.config, async function* (_: Data) {
        yield* ai.streamText({ model: inRun(s), prompt: '20', ...tools }).fullStream;
      });
      await take(full(USER));
      const result = withTokenProcess(s.config, async (_: Data) => ai.streamText({ model: inRun(s), prompt: '20', ...tools }));
      await (await result(USER)).text;
      await endsOf(s, 3);
      const web = withTokenProcess(s.config, async (_: Data) =>
        ai.streamText({ model: inRun(s), prompt: '20', ...tools }).toUIMessageStreamResponse(),
      );
      assert.match(await (await web(USER)).text(), /text-delta/);
      assert.deepEqual(ends(s), Array(4).fill([20, 40, 8, 'gpt-2026', 2]));
      const embedder = ai.wrapEmbeddingModel({ model: s.embedder, middleware: tokenProcessMiddleware({ run: currentRun }) as never });
      await withTokenProcess(s.config, (_: Data) => ai.embedMany({ model: embedder, values: ['a', 'b'] }))(USER);
      assert.deepEqual((ends(s)[4] as number[]).slice(0, 2), [10, 0]);
      // Left early by its reader and at its model: the model's pieces, of which the reader has seen a part, and not both.
      const left = withTokenProcess(s.config, async function* (_: Data) {
        const abort = new AbortController();
        try {
          yield* ai.streamText({ model: inRun(s), prompt: '100', abortSignal: abort.signal, onError: () => undefined }).fullStream;
        } finally {
          abort.abort();
          await sleep(20);
        }
      });
      let pieces = 0;
      for await (const piece of left(USER)) if (piece.type === 'text-delta' && (pieces += 1) === 50) break;
      const [input, output] = ends(s)[5] as [number, number];
      assert.ok(input === 0 && output >= 50 && output < 100, `${output}`);
      assert.deepEqual(s.problems, []);
    }));

  test(`${version}: the middleware tells streams at the same time apart, and those that are left from those that are not`, () =>
    scene(async (s) => {
      const both = withTokenProcess(s.config, async (data: Data & { leave: boolean }) => {
        const abort = new AbortController();
        const one = ai.streamText({ model: inRun(s), prompt: '100', abortSignal: abort.signal, onError: () => undefined });
        const other = ai.streamText({ model: inRun(s), prompt: '40' });
        const leaving = take(one.textStream, data.leave ? 3 : Infinity).then(() => data.leave && abort.abort());
        await Promise.all([leaving, take(other.textStream)]);
        return 'text';
      });
      await both({ ...USER, leave: false });
      await both({ ...USER, leave: true });
      const [whole, left] = ends(s) as [unknown[], [number, number]];
      assert.deepEqual(whole, [20, 140, 8, 'gpt-2026', 2]);
      assert.ok(left[0] === 10 && left[1] >= 43 && left[1] < 140, `${left[1]}`);
      assert.deepEqual(s.problems, []);
    }));

  test(`${version}: a response of text is counted at its model, and reported where that is out of sight`, () =>
    scene(async (s) => {
      const web = (model: Scene['model']) =>
        withTokenProcess(s.config, async (_: Data) => ai.streamText({ model, prompt: '40' }).toTextStreamResponse())(USER);
      assert.match(await (await web(inRun(s) as Scene['model'])).text(), /^(word ){40}$/);
      assert.deepEqual(ends(s), [[10, 40, 4, 'gpt-2026', 1]]);
      assert.deepEqual(s.problems, []);
      await (await web(s.model)).text();
      const [problem] = s.problems as unknown[];
      assert.ok(problem instanceof UsageMissingError);
    }));

  test(`${version}: a stream for user interfaces, left early, is billed once by its pieces`, () =>
    scene(async (s) => {
      const web = withTokenProcess(s.config, async (_: Data) => ai.streamText({ model: s.model, prompt: '100' }).toUIMessageStream());
      let pieces = 0;
      for await (const part of await web(USER)) if (part.type === 'text-delta' && (pieces += 1) === 3) break;
      assert.deepEqual(ends(s), [[0, 3, 0, undefined, 1]]);
      const read = withTokenProcess(s.config, async (_: Data) => {
        const run = currentRun();
        return ai.streamText({ model: s.model, prompt: '40', onFinish: ({ totalUsage }) => run?.read(totalUsage) }).toUIMessageStream();
      });
      await take(await read(USER));
      assert.deepEqual((ends(s)[1] as number[]).slice(0, 2), [10, 40]);
      assert.deepEqual(s.problems, []);
    }));

  test(`${version}: the middleware reports a call whose model says nothing of its usage`, () =>
    scene(async (s) => {
      const silent = { specificationVersion: 'v3', provider: 'own', modelId: 'own', maxEmbeddingsPerCall: 9, supportsParallelCalls: true };
      const model = { ...silent, doEmbed: async () => ({ embeddings: [[1]], warnings: [] }) } as never;
      await ai.embed({ model: ai.wrapEmbeddingModel({ model, middleware: billing(s.config) as never }), value: 'a' });
      assert.ok(s.problems.length === 1 && s.problems[0] instanceof UsageMissingError);
    }));
}
