import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';

import * as tokentill from 'tokentill';
import {
  AuthenticationError,
  ConflictError,
  FeatureNotAvailableError,
  InsufficientTokensError,
  TokenProcess,
  TokenProcessError,
  tokenProcessStart,
  UnavailableError,
  ValidationError,
  WalletNotFoundError,
} from 'tokentill';

import { withFaultServer } from '../support/fault-server.js';

const RUN = { user_id: 'user-1', feature_endpoint_id: 'feature-1' };
const environment = { ...process.env };

beforeEach(() => {
  process.env['SERVER_API_KEY'] = 'key';
});
afterEach(() => {
  process.env = { ...environment };
});

const TABLE: [number, Record<string, unknown>, new (...args: never[]) => TokenProcessError, string][] = [
  [401, { message: 'Invalid server API key' }, AuthenticationError, 'unauthorized'],
  [404, { message: 'User wallet not found' }, WalletNotFoundError, 'wallet_not_found'],
  [403, { message: 'Feature endpoint is not available in your package' }, FeatureNotAvailableError, 'feature_not_available'],
  [400, { message: 'Validation failed', errors: { user_id: ['Missing'] } }, ValidationError, 'validation_failed'],
  [409, { message: 'This key was used with another body' }, ConflictError, 'idempotency_conflict'],
  [503, { message: 'Temporarily unavailable', code: 'temporarily_unavailable' }, UnavailableError, 'temporarily_unavailable'],
  [404, { message: 'Not found', code: 'not_found' }, TokenProcessError, 'not_found'],
];

for (const [status, said, kind, code] of TABLE) {
  test(`${status} ${said['message']} is ${kind.name} and reads as an axios error did`, async () => {
    const body = { success: false, status, request_id: 'request-1', ...said };
    await withFaultServer(
      () => ({ status, body }),
      async (server) => {
        server.faults = [{ kind: 'answer', status, body, headers: { 'retry-after': '60' } }];
        const client = new TokenProcess({ url: server.url, apiKey: 'key' });
        await assert.rejects(client.start(RUN), (error: unknown) => {
          assert.ok(error instanceof TokenProcessError);
          assert.equal(error.constructor, kind);
          assert.equal(error.name, kind.name);
          assert.equal(error.message, said['message']);
          assert.equal(error.code, code);
          assert.equal(error.status, status);
          assert.equal(error.requestId, 'request-1');
          assert.equal(error.refused, [400, 403, 404, 409].includes(status) && code !== 'not_found');
          assert.equal(error.response?.status, status);
          assert.deepEqual(error.response?.data, body);
          assert.equal(error.response?.headers['content-type'], 'application/json');
          if (error instanceof ValidationError) assert.deepEqual(error.errors, { user_id: ['Missing'] });
          return true;
        });
      },
    );
  });
}

for (const status of [403, 404]) {
  test(`a proxy's ${status} says nothing about a wallet or a feature`, () =>
    withFaultServer(
      () => ({ status, body: 'nginx' }),
      async (server) => {
        const client = new TokenProcess({ url: server.url, apiKey: 'key' });
        await assert.rejects(client.start(RUN), (error: unknown) => {
          assert.ok(error instanceof TokenProcessError);
          assert.equal(error.constructor, TokenProcessError);
          assert.equal(error.refused, false);
          assert.match(error.message, /Is TOKEN_SERVER_URL right\?/);
          return true;
        });
      },
    ));
}

test('a redirect is not followed with the API key', () =>
  withFaultServer(
    () => ({ status: 200, body: {} }),
    async (server) => {
      server.faults = [{ kind: 'answer', status: 308, body: '', headers: { location: 'https://elsewhere.test/' } }];
      const client = new TokenProcess({ url: server.url, apiKey: 'key' });
      await assert.rejects(client.start(RUN), { code: 'redirected', message: /https:\/\/elsewhere\.test\// });
      assert.equal(server.seen.length, 1);
    },
  ));

test('an error shows no API key', () =>
  withFaultServer(
    () => ({ status: 400, body: { success: false, status: 400, message: 'no' } }),
    async (server) => {
      const { inspect } = await import('node:util');
      const client = new TokenProcess({ url: server.url, apiKey: 'a-secret-key' });
      const error = await client.start(RUN).catch((caught: unknown) => caught);
      assert.ok(error instanceof ValidationError);
      assert.ok(!inspect(error, { depth: 10, showHidden: true }).includes('a-secret-key'));
      assert.ok(!inspect(client, { depth: 10 }).includes('a-secret-key'));
    },
  ));

test('the functions read the environment when they are called, and tell a missing key', () =>
  withFaultServer(
    () => ({ status: 401, body: { success: false, status: 401, message: 'Invalid server API key' } }),
    async (server) => {
      process.env['TOKEN_SERVER_URL'] = `${server.url}/`;
      process.env['SERVER_API_KEY'] = 'late';
      await assert.rejects(tokenProcessStart(RUN), { message: 'Invalid server API key' });
      assert.equal(server.seen[0]?.headers['x-server-api-key'], 'late');
      assert.equal(server.seen[0]?.path, '/api/token-process/start');
      delete process.env['SERVER_API_KEY'];
      await assert.rejects(tokenProcessStart(RUN), { message: 'Invalid server API key (is SERVER_API_KEY set?)' });
    },
  ));

test('insufficient tokens carry the balance', () => {
  const error = new InsufficientTokensError({ token: 50, ...RUN });
  assert.equal(error.token, 50);
  assert.equal(error.message, 'Insufficient tokens. Available: 50');
  assert.ok(error instanceof TokenProcessError && error instanceof Error);
});

test('the ES module has every name of the CommonJS one, and the same classes', async () => {
  const directory = join(require.resolve('tokentill'), '..');
  const asModule = (await import(join(directory, 'index.mjs'))) as Record<string, unknown>;
  assert.deepEqual(Object.keys(asModule).sort(), Object.keys(tokentill).sort());
  assert.equal(asModule['TokenProcessError'], TokenProcessError);
});

test('the version sent is the one of the package', async () => {
  const { version } = JSON.parse(readFileSync(require.resolve('tokentill/package.json'), 'utf8')) as { version: string };
  await withFaultServer(
    () => ({ status: 401, body: {} }),
    async (server) => {
      await new TokenProcess({ url: server.url }).start(RUN).catch(() => undefined);
      assert.equal(server.seen[0]?.headers['user-agent'], `tokentill-typescript/${version}`);
    },
  );
});
