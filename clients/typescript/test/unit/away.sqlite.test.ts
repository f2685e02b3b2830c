/** Runs while the server is away, and an outbox that can't be used: no end is lost, and no feature stopped for a disk. */

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';

import { Outbox, OutboxError, UnavailableError, withTokenProcess } from 'tokentill';
import type { OutboxEvent, TokenProcessOptions } from 'tokentill';

import { CANCEL, END, inWorld, secondsOf, START, until, USER } from '../support/world.js';
import type { World } from '../support/world.js';

const RUN = { ...USER, feature_endpoint_id: 'feature-1' };

let directory = '';
let path = '';
const logged: unknown[][] = [];
const { error: log } = console;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tokentill-'));
  path = join(directory, 'ends.db');
  logged.length = 0;
  console.error = (...args: unknown[]) => void logged.push(args);
});
afterEach(() => {
  console.error = log;
  rmSync(directory, { recursive: true });
});

function whenOpen(act: (world: World) => Promise<void>, options: TokenProcessOptions = {}): Promise<void> {
  return inWorld(act, 1000, {
    whenAway: 'open',
    outbox: path,
    sendInBackground: false,
    // One attempt a call.
    baseDelaySeconds: 9,
    maxDelaySeconds: 9,
    ...options,
  });
}

const paid = (world: World, output_token = 40) =>
  withTokenProcess({ ...world.config, hold_token: 10 }, async (_data: { user_id: string }) => ({ output_token }))(USER);

test('"open": runs go on without the server within their bound, their ends wait, are counted, and are billed once', () =>
  whenOpen(
    async (world) => {
      const { server, client, wallet, problems } = world;
      server.isDown = true;
      for (let i = 0; i < 3; i += 1) assert.deepEqual(await paid(world), { output_token: 40 });
      assert.deepEqual(
        problems.map((problem) => problem instanceof UnavailableError && problem.queued),
        [true, true, true],
      );
      await assert.rejects(paid(world), (error: unknown) => {
        assert.ok(error instanceof UnavailableError);
        assert.match(error.message, /may not begin without it: 3 runs have begun without it/);
        return true;
      });
      const { away: _away, awaySeconds: _seconds, absencesTotal: _total, ...report } = client.awayReport();
      assert.deepEqual(report, { openRuns: 3, openTokens: 120, openRunsTotal: 3, openTokensTotal: 120, refusedRunsTotal: 1 });
      server.isDown = false;
      assert.equal((await client.flush()).sent, 3);
      assert.equal(wallet.token, 970);
      assert.equal(server.seenAt(END).some(({ body }) => 'process_id' in body), false);
      assert.deepEqual(client.awayReport(), {
        away: false,
        awaySeconds: 0,
        absencesTotal: 1,
        openRuns: 0,
        openTokens: 0,
        openRunsTotal: 3,
        openTokensTotal: 120,
        refusedRunsTotal: 1,
      });
      await paid(world);
      assert.equal(wallet.token, 960);
    },
    { openRunsMax: 3 },
  ));

test('"open": no run begins once the ends that wait hold so many tokens', () =>
  whenOpen(
    async (world) => {
      world.server.isDown = true;
      await paid(world, 60);
      await paid(world, 60);
      await assert.rejects(paid(world), /ends of 120 tokens wait for it/);
    },
    { openTokensMax: 100 },
  ));

test('"open": once it counts as away nobody waits for it, neither at the start nor at the end', () =>
  whenOpen(
    async (world) => {
      world.server.isDown = true;
      for (let i = 0; i < 5; i += 1) await paid(world);
      const { away, awaySeconds, absencesTotal } = world.client.awayReport();
      assert.deepEqual([away, awaySeconds > 0, absencesTotal], [true, true, 1]);
      world.server.seen.length = 0;
      const seconds = await secondsOf(async () => {
        for (let i = 0; i < 20; i += 1) await paid(world);
      });
      assert.ok(seconds < 2, `${seconds} s`);
      assert.deepEqual(world.server.seen, []);
      world.server.isDown = false;
      assert.equal((await world.client.flush()).sent, 25);
      assert.equal(world.wallet.token, 750);
    },
    { breakerSeconds: 60 },
  ));

test('"open": a plain start says that it is no answer of the server, and a run by hand goes on like any', () =>
  whenOpen(async ({ client, server, wallet }) => {
    server.isDown = true;
    const { data } = await client.start(RUN);
    assert.deepEqual(data, { user_id: 'user-1', token: 0, status: 'access-able', away: true });
    const run = await client.begin(RUN);
    assert.equal(run.started.away, true);
    await assert.rejects(run.extendHold({ seconds: 60 }), { name: 'HoldNotFoundError' });
    server.isDown = false;
    await run.end({ output_token: 40 });
    assert.equal(wallet.token, 990);
  }));

test('"open" needs an outbox that works: with one that doesn’t, runs are refused as if closed', () =>
  whenOpen(
    async (world) => {
      world.server.isDown = true;
      await assert.rejects(paid(world), /may not begin without it: The outbox .*can't be used/);
    },
    { outbox: join(tmpdir(), 'no', 'such', 'folder', 'ends.db') },
  ));

test('a refusal of the server is none of an absence', () =>
  whenOpen(async (world) => {
    const body = { success: false, status: 403, message: 'Feature endpoint is not available in your package' };
    world.server.faults = [{ kind: 'answer', status: 403, body }];
    await assert.rejects(paid(world), { name: 'FeatureNotAvailableError' });
    assert.equal(world.client.awayReport().openRunsTotal, 0);
  }));

// ── an outbox that can't be used ─────────────────────────────────────────────────────────────────────────────────

const BROKEN: Record<string, () => string> = {
  'in a folder that isn’t there': () => join(directory, 'missing', 'ends.db'),
  'that is a folder': () => directory,
  'that is a file of something else': () => {
    const text = join(directory, 'text.db');
    writeFileSync(text, 'not a database, but some text that is long enough to be looked at as one'.repeat(20));
    return text;
  },
};

for (const [name, pathOf] of Object.entries(BROKEN)) {
  test(`an outbox ${name} stops no feature while the server is up, and is said loudly, once`, () => {
    const events: OutboxEvent[] = [];
    const outbox = pathOf();
    return inWorld(
      async (world) => {
        assert.equal(logged.length, 1, 'said when the client is made');
        for (let i = 0; i < 5; i += 1) await paid(world);
        assert.equal(world.wallet.token, 950);
        assert.deepEqual(world.problems, []);
        assert.equal(logged.length, 1);
        assert.ok(events.length > 0 && events.every(({ error, depth }) => error && depth === undefined));
        await assert.rejects(world.client.flush(), OutboxError);
        world.server.isDown = true;
        await assert.rejects(world.client.end({ ...RUN, input_token: 0, output_token: 4 }), (error: unknown) => {
          assert.ok(error instanceof OutboxError);
          assert.ok(error.cause instanceof UnavailableError);
          assert.equal(error.repeat?.call, 'end');
          assert.ok(error.idempotencyKey);
          return true;
        });
      },
      1000,
      { outbox, hooks: { onOutbox: (event) => events.push(event) }, totalTimeoutSeconds: 1 },
    );
  });
}

test('a file that another program holds locked keeps an end waiting for a second once, and not the next ones', () => {
  new Outbox({ path }).close();
  const { DatabaseSync } = process.getBuiltinModule('node:sqlite');
  const other = new DatabaseSync(path);
  return inWorld(
    async (world) => {
      other.exec('BEGIN EXCLUSIVE');
      assert.ok((await secondsOf(() => paid(world))) < 3);
      const seconds = await secondsOf(async () => {
        for (let i = 0; i < 10; i += 1) await paid(world);
      });
      assert.ok(seconds < 1, `${seconds} s`);
      other.exec('COMMIT');
      other.close();
      assert.equal(world.wallet.token, 890);
    },
    1000,
    { outbox: path, sendInBackground: false },
  );
});

test('an outbox that works again is used again', () => {
  const outbox = join(directory, 'later', 'ends.db');
  return inWorld(
    async (world) => {
      await paid(world);
      const { mkdirSync } = await import('node:fs');
      mkdirSync(join(directory, 'later'));
      await new Promise((resolve) => setTimeout(resolve, 5_100));
      world.server.isDown = true;
      await assert.rejects(world.client.end({ ...RUN, input_token: 0, output_token: 4 }), { queued: true });
      assert.ok(readFileSync(outbox).length > 0);
    },
    1000,
    { outbox, sendInBackground: false, outboxWaitSeconds: 0.2 },
  );
});

test('"open": the hold of a start whose answer was lost is given back, as no end will name it', () =>
  whenOpen(
    async (world) => {
      world.server.faults = [{ kind: 'accept-then-silence' }];
      await paid(world);
      await until('given back', () => world.server.seenAt(CANCEL).length === 1);
      const keys = world.server.seenAt(START).map(({ headers }) => headers['idempotency-key']);
      assert.deepEqual([keys.length, keys[0]], [2, keys[1]]);
      assert.equal(world.wallet.token, 990);
      // The server would have answered the same run again.
      world.wallet.holds.clear();
    },
    { startTimeoutSeconds: 1 },
  ));
