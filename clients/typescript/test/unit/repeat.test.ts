/** Errors say what to repeat, under which key, and survive JSON: a job queue can bill tomorrow what failed today. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import * as tokentill from 'tokentill';
import { InsufficientTokensError, TokenProcess, TokenProcessError, UnavailableError, UsageMissingError, withTokenProcess } from 'tokentill';

import { CANCEL, END, EXTEND, inWorld, START, USER } from '../support/world.js';

const RUN = { ...USER, feature_endpoint_id: 'feature-1' };
const ENDING = { ...RUN, input_token: 1, output_token: 40, model: 'model-1' };
const HOLD = { ...USER, process_id: 'process-1' };

const CALLS: Record<string, { call: (client: TokenProcess) => Promise<unknown>; path: string; body: object; hasKey: boolean }> = {
  start: { call: (client) => client.start({ ...RUN, hold_token: 5 }), path: START, body: { ...RUN, hold_token: 5 }, hasKey: true },
  end: { call: (client) => client.end(ENDING), path: END, body: ENDING, hasKey: true },
  cancel: { call: (client) => client.cancel(HOLD), path: CANCEL, body: HOLD, hasKey: false },
  extendHold: { call: (client) => client.extendHold({ ...HOLD, hold_token: 5 }), path: EXTEND, body: { ...HOLD, hold_token: 5 }, hasKey: true },
};

const failed = (act: () => Promise<unknown>): Promise<TokenProcessError> =>
  act().then(
    () => assert.fail('succeeded'),
    (error: unknown) => (error instanceof TokenProcessError ? error : assert.fail(String(error))),
  );

/** Through a queue and into another process. */
function sent(error: TokenProcessError): TokenProcessError {
  return TokenProcessError.fromJSON(JSON.parse(JSON.stringify(error)));
}

for (const [name, { call, path, body, hasKey }] of Object.entries(CALLS)) {
  for (const status of [400, 401, 403, 404, 409, 503, 0]) {
    test(`${name}, ${status || 'no answer'}: the error says what to repeat, and through JSON too`, () =>
      inWorld(
        async ({ client, server, wallet }) => {
          wallet.holds.set('process-1', 1);
          if (status) server.faults = [{ kind: 'answer', status, body: { success: false, status, message: 'no' }, headers: { 'retry-after': '9' } }];
          else server.isDown = true;
          const error = await failed(() => call(client));
          const key = server.seen[0]?.headers['idempotency-key'];
          assert.equal(key !== undefined, hasKey);
          assert.equal(error.idempotencyKey, key);
          assert.equal(error.repeat?.call, name);
          const again = sent(error);
          assert.equal(again.constructor, error.constructor);
          assert.deepEqual([JSON.stringify(again), again.message], [JSON.stringify(error), error.message]);
          server.isDown = false;
          server.seen.length = 0;
          await client.repeat(again.repeat ?? assert.fail());
          assert.deepEqual(
            server.seen.map((seen) => [seen.path, seen.body, seen.headers['idempotency-key']]),
            [[path, body, key]],
          );
          wallet.holds.clear();
        },
        1000,
        { totalTimeoutSeconds: 1 },
      ));
  }
}

test('a batch that failed is repeated with the same keys', () =>
  inWorld(async ({ client, server, wallet }) => {
    server.faults = [{ kind: 'answer', status: 413, body: { success: false, status: 413, message: 'too large' } }];
    const error = await failed(() => client.endBatch([ENDING, { ...ENDING, idempotency_key: 'mine' }]));
    await client.repeat(sent(error).repeat ?? assert.fail());
    const [first, second] = server.seen.map(({ body }) => body);
    assert.deepEqual(first, second);
    assert.equal(wallet.billed.size, 2);
  }));

test('a lost answer repeated tomorrow bills once', () =>
  inWorld(
    async ({ client, server, wallet }) => {
      server.faults = [{ kind: 'accept-then-reset' }];
      const error = await failed(() => client.end(ENDING));
      assert.equal(wallet.token, 990);
      await client.repeat(sent(error).repeat ?? assert.fail());
      assert.equal(wallet.token, 990);
    },
    1000,
    { totalTimeoutSeconds: 1, baseDelaySeconds: 9, maxDelaySeconds: 9 },
  ));

test('the wrapper’s errors carry the run’s key, and the end to repeat', () =>
  inWorld(
    async ({ client, server, config, wallet }) => {
      const told: { error: TokenProcessError; key: string | undefined }[] = [];
      const onEndError = (error: unknown, end: { idempotency_key?: string | undefined }) =>
        void told.push({ error: error as TokenProcessError, key: end.idempotency_key });
      const wrapped = withTokenProcess({ ...config, onEndError }, async (_data: { user_id: string }) => {
        server.isDown = true;
        return { output_token: 40 };
      });
      await wrapped(USER);
      // No usage, and a reader that fails: known only once somebody has looked.
      server.isDown = false;
      const unread = withTokenProcess({ ...config, onEndError }, async (_data: { user_id: string }) => ({ output_token: 'many' }));
      await unread(USER);
      assert.equal(told.length, 2);
      for (const { error, key } of told) {
        assert.ok(key);
        assert.equal(error.idempotencyKey, key);
        assert.deepEqual((sent(error).repeat?.payload as { idempotency_key: string }).idempotency_key, key);
      }
      await client.repeat(sent(told[0]?.error as TokenProcessError).repeat ?? assert.fail());
      assert.equal(wallet.token, 990);
    },
    1000,
    { totalTimeoutSeconds: 1 },
  ));

test('too few tokens: the start may be repeated once there are more', () =>
  inWorld(async ({ client, server, wallet }) => {
    const error = await failed(() => client.begin({ ...RUN, hold_token: 5 }));
    assert.ok(error instanceof InsufficientTokensError);
    const again = sent(error);
    assert.ok(again instanceof InsufficientTokensError && again.token === 0 && again.user_id === 'user-1');
    const idempotency_key = server.seen[0]?.headers['idempotency-key'];
    assert.equal(again.idempotencyKey, idempotency_key);
    assert.deepEqual(again.repeat, { call: 'start', payload: { ...RUN, hold_token: 5, idempotency_key } });
    wallet.token = 10;
    const { data } = (await client.repeat(again.repeat ?? assert.fail())) as { data: { status: string } };
    assert.equal(data.status, 'access-able');
    wallet.holds.clear();
  }, 0));

test('every error of the package survives JSON as what it is', () => {
  const kinds = Object.values(tokentill).filter(
    (value) => typeof value === 'function' && (value === TokenProcessError || value.prototype instanceof TokenProcessError),
  ) as (new (...args: unknown[]) => TokenProcessError)[];
  assert.ok(kinds.length >= 16, `${kinds.length}`);
  for (const Kind of kinds) {
    const error = new Kind(Kind === InsufficientTokensError ? { token: 1, user_id: 'u', feature_endpoint_id: 'f' } : 'what happened', {});
    const again = sent(error);
    assert.equal(again.constructor, Kind, Kind.name);
    assert.ok(again instanceof Kind && again instanceof Error);
    assert.deepEqual([JSON.stringify(again), again.message], [JSON.stringify(error), error.message]);
    assert.match(again.stack ?? '', /repeat\.test/, 'no stack of its own');
  }
  const caused = sent(new UnavailableError('away', { cause: new Error('the socket') }));
  assert.equal(caused.cause, 'the socket');
  assert.equal(TokenProcessError.fromJSON('text').message, 'text');
  assert.equal(TokenProcessError.fromJSON({ name: 'SomeError', message: 'other' }).name, 'TokenProcessError');
  assert.equal(TokenProcessError.fromJSON(null).message, 'null');
});

test('what JSON can’t carry is left out, and the error survives', () => {
  const error = new UsageMissingError('nothing said');
  const circle: Record<string, unknown> = {};
  circle['self'] = circle;
  error.result = circle;
  error.idempotencyKey = 'mine';
  const again = sent(error);
  assert.ok(again instanceof UsageMissingError);
  assert.deepEqual([again.idempotencyKey, again.result], ['mine', undefined]);
});

test('an error holds no API key', () =>
  inWorld(async ({ client, server }) => {
    server.faults = [{ kind: 'answer', status: 403, body: { success: false, status: 403, message: 'no' } }];
    const error = await failed(() => client.start(RUN));
    assert.ok(!JSON.stringify(error).includes('"key"'));
  }));
