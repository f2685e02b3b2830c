/**
 * An OpenAI-compatible gateway whose users pay in tokens: POST /v1/chat/completions, with and without `stream`.
 *
 *     make up                                  (in the project's folder)
 *     npm run example                          three requests against it, and what they cost
 *     node examples/openai-compatible.mjs      serves on http://127.0.0.1:8788/v1 for any OpenAI client
 *
 * The request's `user` field names who pays. OPENAI_BASE_URL and OPENAI_API_KEY name the provider behind it; without
 * them a stand-in on this machine answers, so that nothing leaves it. What make up's demo seed made is the default for
 * everything else: TOKEN_SERVER_URL, SERVER_API_KEY, FEATURE_ENDPOINT_ID, USER_ID, PORT.
 */

import { createServer } from 'node:http';

import {
  currentRun,
  InsufficientTokensError,
  tokenProcessStart,
  TokenProcessError,
  UnavailableError,
  withTokenProcess,
} from 'tokentill';

process.env.SERVER_API_KEY ??= 'dev-server-key';
const feature_endpoint_id = process.env.FEATURE_ENDPOINT_ID ?? 'demo-feature';
const provider = process.env.OPENAI_BASE_URL;
const demo = process.argv.includes('--demo');

// ── the two service functions, and all that bills them ───────────────────────────────────────────────────────────

// The second argument is aborted when the reader goes: the provider is hung up on, and what flowed until then is billed.
const payer = { feature_endpoint_id, user_id: ([request]) => request.user, signal: ([, signal]) => signal, hold_token: 10 };

const complete = withTokenProcess(payer, async (request) =>
  provider ? (await askProvider(request)).json() : standInAnswer(request),
);

const stream = withTokenProcess(payer, async function* (request) {
  // The last chunk then says what was used; a stream that is closed before it is counted by its pieces.
  const counted = { ...request, stream_options: { ...request.stream_options, include_usage: true } };
  yield* provider ? eventsOf(await askProvider(counted)) : standInChunks(counted);
});

// ── the gateway ──────────────────────────────────────────────────────────────────────────────────────────────────

const server = createServer(async (request, response) => {
  try {
    if (request.method !== 'POST' || request.url !== '/v1/chat/completions') {
      return fail(response, 404, 'Only POST /v1/chat/completions is served here', 'not_found');
    }
    const body = JSON.parse(await textOf(request));
    const reader = new AbortController();
    response.once('close', () => reader.abort());
    if (!body.stream) return send(response, 200, await complete(body, reader.signal));
    for await (const chunk of stream(body, reader.signal)) {
      if (!response.headersSent) response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write(`data: ${JSON.stringify(chunk)}\n\n`);
    }
    response.end('data: [DONE]\n\n');
  } catch (error) {
    if (response.headersSent || response.destroyed) return response.destroy();
    if (error instanceof InsufficientTokensError) return fail(response, 402, error.message, 'insufficient_quota');
    if (error instanceof UnavailableError) return fail(response, 503, error.message, error.code);
    if (error instanceof TokenProcessError) return fail(response, error.status ?? 500, error.message, error.code);
    if (error instanceof SyntaxError) return fail(response, 400, 'The body is not JSON', 'invalid_json');
    console.error(error);
    return fail(response, 502, 'The provider gave no answer', 'provider_failed');
  }
});

function send(response, status, body) {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

function fail(response, status, message, code) {
  send(response, status, { error: { message, type: code, code } });
}

async function textOf(request) {
  let text = '';
  for await (const piece of request.setEncoding('utf8')) text += piece;
  return text;
}

// ── the provider ─────────────────────────────────────────────────────────────────────────────────────────────────

async function askProvider(body) {
  const answer = await fetch(`${provider}/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${process.env.OPENAI_API_KEY ?? ''}` },
    body: JSON.stringify(body),
    signal: currentRun().signal,
  });
  if (!answer.ok) throw new Error(`The provider answered ${answer.status}`);
  return answer;
}

async function* eventsOf(answer) {
  let rest = '';
  for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + piece).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith('data: {')) yield JSON.parse(line.slice('data: '.length));
    }
  }
}

// ── a stand-in for it: 40 words, one token each ──────────────────────────────────────────────────────────────────

const words = Array.from({ length: 40 }, (_, i) => `word${i + 1} `);
const usage = { prompt_tokens: 12, completion_tokens: words.length, total_tokens: 12 + words.length };

function standInAnswer({ model }) {
  const message = { role: 'assistant', content: words.join('') };
  return { id: 'demo', object: 'chat.completion', model, choices: [{ index: 0, message, finish_reason: 'stop' }], usage };
}

async function* standInChunks({ model }) {
  const chunk = (fields) => ({ id: 'demo', object: 'chat.completion.chunk', model, ...fields });
  for (const content of words) {
    yield chunk({ choices: [{ index: 0, delta: { content } }] });
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  yield chunk({ choices: [], usage });
}

// ── three requests, and what they cost ───────────────────────────────────────────────────────────────────────────

async function runDemo(url) {
  const user = process.env.USER_ID ?? 'demo-user';
  const ask = async (what, extra, read) => {
    const before = await balance(user);
    const body = { model: 'stand-in', user, messages: [{ role: 'user', content: 'Hello' }], ...extra };
    const answer = await fetch(`${url}/chat/completions`, { method: 'POST', body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(`${what}: ${(await answer.json()).error.message}`);
    const said = await read(answer);
    console.log(`${what}: ${said}; ${before} tokens before, ${await balance(user)} after`);
  };
  await ask('a completion', {}, async (answer) => `${(await answer.json()).usage.completion_tokens} output tokens`);
  await ask('a stream', { stream: true }, async (answer) => `${(await answer.text()).match(/"content"/g).length} pieces`);
  await ask('a stream left early', { stream: true }, async (answer) => {
    const reader = answer.body.getReader();
    await reader.read();
    await reader.cancel();
    // The gateway hears of it in a moment.
    await new Promise((resolve) => setTimeout(resolve, 500));
    return 'some pieces';
  });
}

async function balance(user_id) {
  return (await tokenProcessStart({ user_id, feature_endpoint_id })).data.token;
}

server.listen(demo ? 0 : Number(process.env.PORT ?? 8788), '127.0.0.1', async () => {
  const url = `http://127.0.0.1:${server.address().port}/v1`;
  if (!demo) return console.log(`serving ${url}`);
  try {
    await runDemo(url);
  } catch (error) {
    console.error(`${error.message}\nIs Tokentill running? Start it with \`make up\` in the project's folder.`);
    process.exitCode = 1;
  } finally {
    server.close();
    server.closeAllConnections();
  }
});
