import assert from 'node:assert/strict';
import { test } from 'node:test';

import { ConfigurationError, TokenProcess, UnavailableError, ValidationError } from 'tokentill';
import type { TokenProcessOptions } from 'tokentill';

import { contractAnswers, FaultServer, withFaultServer } from '../support/fault-server.js';
import type { Fault } from '../support/fault-server.js';

const END = { user_id: 'user-1', feature_endpoint_id: 'feature-1', input_token: 10, output_token: 40 };
const END_PATH = '/api/token-process/end';
const QUICK: TokenProcessOptions = { timeoutSeconds: 1, totalTimeoutSeconds: 20, baseDelaySeconds: 0.01, maxDelaySeconds: 0.05 };

function withWallet(
  faults: Fault[],
  act: (client: TokenProcess, server: FaultServer, wallet: { token: number }) => Promise<void>,
  options: TokenProcessOptions = {},
): Promise<void> {
  const wallet = { token: 1000, holds: new Map<string, number>(), billed: new Map<string, unknown>() };
  return withFaultServer(contractAnswers(wallet), async (server) => {
    server.faults = faults;
    await act(new TokenProcess({ url: server.url, apiKey: 'key', ...QUICK, ...options }), server, wallet);
  });
}

const FAULTS: [string, Fault[]][] = [
  ['a connection reset before the server took the end', [{ kind: 'reset' }]],
  ['a connection reset after the server took the end', [{ kind: 'accept-then-reset' }]],
  ['a time-out after the server took the end', [{ kind: 'accept-then-silence' }]],
  ['an answer slower than the time-out', [{ kind: 'delay', ms: 1_500 }]],
  ['500', [{ kind: 'answer', status: 500, body: { success: false, status: 500, message: 'Internal server error' } }]],
  ['502 from a proxy', [{ kind: 'answer', status: 502, body: '<html>Bad Gateway</html>' }]],
  ["200 that is not the server's", [{ kind: 'answer', status: 200, body: '<html>Sign in</html>' }]],
  ['several of them', [{ kind: 'reset' }, { kind: 'accept-then-reset' }, { kind: 'answer', status: 503, body: 'busy' }]],
];

for (const [name, faults] of FAULTS) {
  test(`${name} is retried with the same key and billed once`, () =>
    withWallet([...faults], async (client, server, wallet) => {
      const { data } = await client.end(END);
      assert.equal(data.cost, 10);
      assert.equal(wallet.token, 990);
      const keys = server.seenAt(END_PATH).map((seen) => seen.headers['idempotency-key']);
      assert.equal(keys.length, faults.length + 1);
      assert.equal(new Set(keys).size, 1);
      assert.match(String(keys[0]), /^[0-9a-f-]{36}$/);
    }));
}

test('each call has a key of its own, and a given key is kept', () =>
  withWallet([], async (client, server) => {
    await client.end(END);
    await client.end(END);
    await client.end({ ...END, idempotency_key: 'mine' });
    const keys = server.seenAt(END_PATH).map((seen) => seen.headers['idempotency-key']);
    assert.equal(new Set(keys).size, 3);
    assert.equal(keys[2], 'mine');
    assert.deepEqual(server.seenAt(END_PATH)[2]?.body, END);
  }));

test('Retry-After is waited for', () =>
  withWallet(
    [{ kind: 'answer', status: 503, body: 'busy', headers: { 'retry-after': '1' } }],
    async (client, server) => {
      await client.end(END);
      const [first, second] = server.seenAt(END_PATH);
      assert.ok(first && second && second.atMs - first.atMs >= 990, 'repeated before the server wanted it');
    },
  ));

test('a Retry-After beyond the time limit ends the call at once', () =>
  withWallet(
    [{ kind: 'answer', status: 503, body: 'busy', headers: { 'retry-after': '60' } }],
    async (client, server) => {
      const began = Date.now();
      await assert.rejects(client.end(END), (error: unknown) => {
        assert.ok(error instanceof UnavailableError);
        assert.equal(error.retryAfterSeconds, 60);
        assert.equal(error.attempts, 1);
        assert.equal(error.status, 503);
        assert.match(error.idempotencyKey ?? '', /^[0-9a-f-]{36}$/);
        return true;
      });
      assert.ok(Date.now() - began < 10_000);
      assert.equal(server.seen.length, 1);
    },
  ));

test('a Retry-After may be a date', () =>
  withWallet(
    [{ kind: 'answer', status: 503, body: 'busy', headers: { 'retry-after': 'Fri, 01 Jan 2100 00:00:00 GMT' } }],
    async (client) => {
      await assert.rejects(client.end(END), (error: unknown) => {
        assert.ok(error instanceof UnavailableError && (error.retryAfterSeconds ?? 0) > 1e6);
        return true;
      });
    },
  ));

for (const status of [400, 401, 403, 404, 405, 409, 413, 415, 422, 429]) {
  test(`${status} is not retried`, () =>
    withWallet(
      [{ kind: 'answer', status, body: { success: false, status, message: 'no' } }],
      async (client, server) => {
        await assert.rejects(client.end(END), { status, message: /^no/ });
        assert.equal(server.seen.length, 1);
      },
    ));
}

test('the total time limit holds, and the error says how it went', () =>
  withWallet(
    Array.from({ length: 1_000 }, (): Fault => ({ kind: 'answer', status: 500, body: 'no' })),
    async (client, server) => {
      const began = Date.now();
      await assert.rejects(client.end(END), (error: unknown) => {
        assert.ok(error instanceof UnavailableError);
        assert.ok(error.attempts >= 3, `gave up after ${error.attempts}`);
        assert.equal(error.attempts, server.seen.length);
        return true;
      });
      assert.ok(Date.now() - began < 5_000);
    },
    { totalTimeoutSeconds: 2 },
  ));

test('a time-out never outlasts the total time limit', () =>
  withWallet(
    [{ kind: 'accept-then-silence' }, { kind: 'accept-then-silence' }],
    async (client) => {
      const began = Date.now();
      await assert.rejects(client.end(END), { code: 'timeout' });
      assert.ok(Date.now() - began < 10_000);
    },
    { timeoutSeconds: 60, totalTimeoutSeconds: 0.4 },
  ));

test('no server at all', async () => {
  const gone = await new FaultServer(() => ({ status: 200, body: {} })).open();
  await gone.close();
  const client = new TokenProcess({ url: gone.url, apiKey: 'key', ...QUICK, totalTimeoutSeconds: 1 });
  await assert.rejects(client.end(END), (error: unknown) => {
    assert.ok(error instanceof UnavailableError);
    assert.equal(error.code, 'connection_failed');
    assert.equal(error.response, undefined);
    assert.equal(error.message, `No connection to ${gone.url}: ECONNREFUSED`);
    assert.ok(error.attempts > 1);
    return true;
  });
});

test('settings and keys that can never work are told at once, and nothing is sent', () =>
  withWallet([], async (client, server) => {
    for (const url of ['localhost:5000', 'ftp://localhost', 'http://', 'http://a b']) {
      await assert.rejects(new TokenProcess({ url, apiKey: 'key' }).end(END), ConfigurationError);
    }
    await assert.rejects(new TokenProcess({ url: server.url, apiKey: 'kéy\u{1f511}' }).end(END), ConfigurationError);
    for (const idempotency_key of ['', 'x'.repeat(256), 'schlüssel', 'two\nlines']) {
      await assert.rejects(client.end({ ...END, idempotency_key }), (error: unknown) => {
        assert.ok(error instanceof ValidationError);
        assert.ok(error.errors['idempotency_key']);
        return true;
      });
    }
    assert.equal(server.seen.length, 0);
  }));

test('a start is retried too', () =>
  withWallet([{ kind: 'reset' }], async (client) => {
    const { data } = await client.start({ user_id: 'user-1', feature_endpoint_id: 'feature-1' });
    assert.equal(data.status, 'access-able');
  }));

test('a batch keeps its keys over its retries', () =>
  withWallet([{ kind: 'accept-then-reset' }], async (client, server, wallet) => {
    const { data } = await client.endBatch([END, { ...END, idempotency_key: 'mine' }]);
    assert.deepEqual(
      data.results.map((result) => result.success),
      [true, true],
    );
    assert.equal(wallet.token, 980);
    const [first, second] = server.seen.map((seen) => seen.body);
    assert.deepEqual(first, second);
    assert.equal(first.ends[1].idempotency_key, 'mine');
  }));
