/** A server that is away: nothing waits for it again and again, and one call now and then looks whether it is back. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { TokenProcess, UnavailableError, withTokenProcess } from 'tokentill';

import { inWorld, paths, secondsOf, START, USER } from '../support/world.js';

const RUN = { ...USER, feature_endpoint_id: 'feature-1' };
const ENDING = { ...RUN, input_token: 0, output_token: 4 };
// One attempt a call.
const QUICK = { totalTimeoutSeconds: 3, baseDelaySeconds: 9, maxDelaySeconds: 9, breakerSeconds: 0.5 };

async function goAway(client: TokenProcess, times = 5): Promise<void> {
  for (let i = 0; i < times; i += 1) await assert.rejects(client.start(RUN), UnavailableError);
}

test('after 5 calls in a row without an answer the next fails at once and nothing is sent', () =>
  inWorld(
    async ({ client, server, config }) => {
      server.isDown = true;
      await goAway(client, 4);
      assert.equal(client.awayReport().away, false);
      await goAway(client, 1);
      assert.equal(client.awayReport().away, true);
      server.seen.length = 0;
      const seconds = await secondsOf(async () => {
        for (let i = 0; i < 100; i += 1) {
          await assert.rejects(client.start(RUN), (error: unknown) => {
            assert.ok(error instanceof UnavailableError);
            assert.equal(error.code, 'server_away');
            assert.equal(error.attempts, 0);
            assert.ok(error.retryAfterSeconds !== undefined && error.retryAfterSeconds <= 0.5);
            assert.equal(error.repeat?.call, 'start');
            return true;
          });
        }
      });
      assert.ok(seconds < 0.4, `${seconds} s`);
      let ran = false;
      await assert.rejects(withTokenProcess(config, async (_data: { user_id: string }) => (ran = true))(USER), { code: 'server_away' });
      assert.equal(ran, false, '"closed" unless set');
      assert.deepEqual(paths({ server }), []);
      assert.equal(client.awayReport().refusedRunsTotal, 106);
    },
    1000,
    QUICK,
  ));

test('one call looks; while it does nobody else waits; an answer ends the absence for all', () =>
  inWorld(
    async ({ client, server }) => {
      server.isDown = true;
      await goAway(client);
      server.isDown = false;
      server.seen.length = 0;
      server.faults = [{ kind: 'delay', ms: 60 }];
      await new Promise((resolve) => setTimeout(resolve, 550));
      const probe = client.start(RUN);
      await assert.rejects(client.start(RUN), { code: 'server_away' });
      assert.equal((await probe).data.status, 'access-able');
      assert.deepEqual(paths({ server }), [START]);
      await Promise.all(Array.from({ length: 20 }, () => client.start(RUN)));
      assert.equal(client.awayReport().away, false);
    },
    1000,
    QUICK,
  ));

test('a look that finds nothing keeps it closed for as long again', () =>
  inWorld(
    async ({ client, server }) => {
      server.isDown = true;
      await goAway(client);
      await new Promise((resolve) => setTimeout(resolve, 550));
      await assert.rejects(client.start(RUN), { code: 'connection_failed' });
      await assert.rejects(client.start(RUN), { code: 'server_away' });
    },
    1000,
    QUICK,
  ));

test('an end without an outbox is worth every attempt, and its answer ends the absence', () =>
  inWorld(
    async ({ client, server, wallet }) => {
      server.isDown = true;
      await goAway(client);
      server.isDown = false;
      assert.equal((await client.end(ENDING)).data.cost, 1);
      assert.equal(wallet.token, 999);
      assert.equal(client.awayReport().away, false);
      assert.equal((await client.start(RUN)).data.status, 'access-able');
    },
    1000,
    QUICK,
  ));

test('what the server refuses is an answer, and a failure between answers is no absence', () =>
  inWorld(
    async ({ client, server }) => {
      const refusal = { kind: 'answer' as const, status: 403, body: { success: false, status: 403, message: 'no' } };
      for (let i = 0; i < 10; i += 1) {
        server.faults = [refusal];
        await assert.rejects(client.start(RUN));
      }
      for (let i = 0; i < 10; i += 1) {
        server.isDown = true;
        await goAway(client, 3);
        server.isDown = false;
        await client.start(RUN);
      }
      assert.equal(client.awayReport().away, false);
    },
    1000,
    QUICK,
  ));

test('a short absence that retries bridge is none', () =>
  inWorld(
    async ({ client, server }) => {
      server.isDown = true;
      setTimeout(() => (server.isDown = false), 300);
      const started = await Promise.all(Array.from({ length: 50 }, () => client.start(RUN)));
      assert.ok(started.every(({ data }) => data.status === 'access-able'));
    },
    1000,
    {},
  ));
