/**
 * The guide's examples, as the guide has them but for the import line (and, in the first, fetch for axios), against the
 * real server: each moves the wallet by the exact amount.
 */

import assert from 'node:assert/strict';
import { before, beforeEach, test } from 'node:test';

import { InsufficientTokensError, tokenProcessEnd, tokenProcessStart, withTokenProcess } from 'tokentill';

import { addressOfTest, Admin } from '../support/admin.js';

const PROFIT = 20;
const admin = new Admin(addressOfTest());
let user_id = '';
let feature = '';

before(() => {
  const { url, serverKey } = addressOfTest();
  process.env['TOKEN_SERVER_URL'] = url;
  process.env['SERVER_API_KEY'] = serverKey;
});

beforeEach(async () => {
  ({ user_id, feature_endpoint_id: feature } = await admin.userWithFeature(1000, PROFIT));
});

async function assertBilled(cost: number, usage: { input_token: number; output_token: number; model: string | null }): Promise<void> {
  const wallet = await admin.settled(user_id);
  assert.equal(wallet.posted_token, 1000 - cost);
  assert.equal(wallet.token, 1000 - cost);
  const rows = await admin.usage(user_id);
  assert.deepEqual(
    rows.map(({ token, input_token, output_token, model }) => ({ token, input_token, output_token, model })),
    [{ token: -cost, ...usage }],
  );
}

// What stands for the services that the guide's examples call.
const imageProcessingService = { process: async (image_url: string) => `processed ${image_url}` };
const aiService = { generate: async (prompt: string) => `${prompt}: `.padEnd(400, 'lorem ipsum ') };
const translationService = { translate: async (text: string, language: string) => `[${language}] ${text}` };
const publicDataService = { fetch: async (query: string) => [query] };
const calculateInputTokens = (text: string): number => Math.ceil(text.length / 10);
const calculateOutputTokens = (text: string): number => Math.ceil(text.length / 10);

test('example 1: a simple service with direct API calls', async () => {
  const TOKEN_SERVER_URL = process.env['TOKEN_SERVER_URL'];
  const SERVER_API_KEY = process.env['SERVER_API_KEY'] ?? '';
  const post = async (path: string, body: object) => {
    const answer = await fetch(`${TOKEN_SERVER_URL}${path}`, {
      method: 'POST',
      headers: { 'x-server-api-key': SERVER_API_KEY, 'Content-Type': 'application/json' },
      body: JSON.stringify(body),
    });
    return { data: (await answer.json()) as { data: { status: string; token: number; cost?: number } } };
  };

  async function processImage(user_id: string, image_url: string) {
    const feature_endpoint_id = feature;

    // Start
    const start = await post('/api/token-process/start', { user_id, feature_endpoint_id });

    if (start.data.data.status !== 'access-able') {
      throw new Error('Insufficient tokens');
    }

    // Process
    const processedImage = await imageProcessingService.process(image_url);
    const inputToken = 10; // Input tokens
    const outputToken = 40; // Output tokens

    // End
    const end = await post('/api/token-process/end', {
      user_id,
      feature_endpoint_id,
      input_token: inputToken,
      output_token: outputToken,
    });
    assert.deepEqual(end.data.data, { user_id, token: 988, cost: 12, status: 'return-able' });

    return processedImage;
  }

  assert.equal(await processImage(user_id, 'cat.png'), 'processed cat.png');
  await assertBilled(12, { input_token: 10, output_token: 40, model: null });
});

test('example 2: a service with the service functions', async () => {
  async function generateText(user_id: string, prompt: string) {
    const feature_endpoint_id = feature;

    // Start
    const startResult = await tokenProcessStart({
      user_id,
      feature_endpoint_id,
    });

    if (startResult.data.status !== 'access-able') {
      throw new Error(`Insufficient tokens: ${startResult.data.token}`);
    }
    assert.equal(startResult.success, true);
    assert.equal(startResult.data.token, 1000);
    assert.equal(startResult.data.user_id, user_id);

    // Generate
    const generatedText = await aiService.generate(prompt);
    const inputToken = calculateInputTokens(prompt);
    const outputToken = calculateOutputTokens(generatedText);

    // End
    if (inputToken > 0 || outputToken > 0) {
      const end = await tokenProcessEnd({
        user_id,
        feature_endpoint_id,
        input_token: inputToken,
        output_token: outputToken,
        model: 'gemini-pro',
      });
      assert.deepEqual(end.data, { user_id, token: 988, cost: 12, status: 'return-able' });
    }

    return generatedText;
  }

  assert.match(await generateText(user_id, 'Write a blog post about AI'), /^Write a blog post about AI: /);
  await assertBilled(12, { input_token: 3, output_token: 40, model: 'gemini-pro' });
});

test('example 3: a service with the wrapper', async () => {
  // Define service function
  const translateText = async (data: {
    user_id: string;
    text: string;
    target_language: string;
  }): Promise<{
    translated: string;
    input_token: number;
    output_token: number;
  }> => {
    const translated = await translationService.translate(data.text, data.target_language);
    const inputToken = Math.ceil(data.text.length / 10); // Input tokens
    const outputToken = Math.ceil(translated.length / 10); // Output tokens

    return { translated, input_token: inputToken, output_token: outputToken };
  };

  // Wrap service
  const wrappedTranslate = withTokenProcess(
    {
      feature_endpoint_id: feature,
      user_id: (args) => args[0].user_id,
    },
    translateText,
  );

  // Use wrapped service
  const result = await wrappedTranslate({
    user_id,
    text: 'Hello, world!',
    target_language: 'es',
  });

  assert.equal(result.translated, '[es] Hello, world!');
  // 18 characters: 2 output tokens, 2 / 4 and 20 % on top.
  await assertBilled(0.6, { input_token: 2, output_token: 2, model: null });
});

test('example 4: a service without cost', async () => {
  const getPublicData = async (data: {
    user_id: string;
    query: string;
    // eslint-disable-next-line @typescript-eslint/no-explicit-any
  }): Promise<{ data: any }> => {
    // No tokens - free feature
    const found = await publicDataService.fetch(data.query);
    return { data: found }; // No input_token or output_token property
  };

  const wrappedGetPublicData = withTokenProcess(
    {
      feature_endpoint_id: feature,
      user_id: (args) => args[0].user_id,
    },
    getPublicData,
  );

  // Tokens won't be deducted (input_token and output_token are 0 or undefined)
  const result = await wrappedGetPublicData({
    user_id,
    query: 'search-term',
  });

  assert.deepEqual(result, { data: ['search-term'] });
  assert.equal((await admin.settled(user_id)).token, 1000);
  assert.deepEqual(await admin.usage(user_id), []);
});

test('the guide’s error handling reads what it read from axios', async () => {
  const logged: unknown[][] = [];
  const console = { error: (...said: unknown[]) => logged.push(said) };
  const run = async (user_id: string, feature_endpoint_id: string) => {
    try {
      const startResult = await tokenProcessStart({ user_id, feature_endpoint_id });
      if (startResult.data.status !== 'access-able') {
        throw new Error(`Insufficient tokens. Available: ${startResult.data.token}`);
      }
      // eslint-disable-next-line @typescript-eslint/no-explicit-any
    } catch (error: any) {
      // Handle start process errors
      if (error.response) {
        // API error
        console.error('Token Process API Error:', error.response.status, error.response.data.message);
      } else {
        // Network or other errors
        console.error('Token Process Error:', error.message);
      }
    }
  };
  await run('nobody', feature);
  await run(user_id, 'no-such-feature');
  const { user_id: poor, feature_endpoint_id: dear } = await admin.userWithFeature(0);
  await run(poor, dear);
  process.env['SERVER_API_KEY'] = 'wrong';
  await run(user_id, feature);
  process.env['SERVER_API_KEY'] = addressOfTest().serverKey;
  assert.deepEqual(logged, [
    ['Token Process API Error:', 404, 'User wallet not found'],
    ['Token Process API Error:', 403, 'Feature endpoint is not available in your package'],
    ['Token Process Error:', 'Insufficient tokens. Available: 0'],
    ['Token Process API Error:', 401, 'Invalid server API key'],
  ]);
});

test('the wrapper without tokens: a typed error with the balance', async () => {
  const { user_id: poor, feature_endpoint_id } = await admin.userWithFeature(0.5);
  const wrapped = withTokenProcess({ feature_endpoint_id, user_id: poor }, async () => assert.fail('it ran'));
  await assert.rejects(wrapped(), (error: unknown) => {
    assert.ok(error instanceof InsufficientTokensError);
    assert.equal(error.token, 0.5);
    assert.equal(error.user_id, poor);
    return true;
  });
});
