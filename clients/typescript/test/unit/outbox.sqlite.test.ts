import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';

import { ConflictError, currentRun, Outbox, OutboxError, OutboxFullError, TokenProcess, UnavailableError, withTokenProcess } from 'tokentill';
import type { OutboxEvent, TokenProcessOptions } from 'tokentill';

import { contractAnswers, withFaultServer } from '../support/fault-server.js';
import type { Answer, FaultServer } from '../support/fault-server.js';

const END = { user_id: 'user-1', feature_endpoint_id: 'feature-1', input_token: 10, output_token: 40 };
const END_PATH = '/api/token-process/end';
const BATCH_PATH = '/api/token-process/end/batch';
const CLI = join(require.resolve('tokentill'), '..', 'cli.js');

let directory = '';
let path = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tokentill-'));
  path = join(directory, 'ends.db');
});
afterEach(() => rmSync(directory, { recursive: true }));

interface World {
  server: FaultServer;
  wallet: { token: number; billed: Map<string, unknown> };
  client: TokenProcess;
  outbox: Outbox;
}

async function inWorld(act: (world: World) => Promise<void>, options: TokenProcessOptions = {}, answer?: Answer): Promise<void> {
  const wallet = { token: 100_000, holds: new Map<string, number>(), billed: new Map<string, unknown>() };
  await withFaultServer(answer ?? contractAnswers(wallet), async (server) => {
    const client = new TokenProcess({
      url: server.url,
      apiKey: 'key',
      outbox: path,
      sendInBackground: false,
      // Enough for a busy machine, and not too long for the tests that wait it out.
      outboxWaitSeconds: 2,
      timeoutSeconds: 2,
      totalTimeoutSeconds: 2,
      ...options,
    });
    const outbox = new Outbox({ path });
    try {
      await act({ server, wallet, client, outbox });
    } finally {
      await client.close();
      outbox.close();
    }
  });
}

test('an end is on disk before it is sent, and gone when it is acknowledged', () => {
  let atServer: unknown;
  return inWorld(
    async ({ client, outbox, server }) => {
      const { data } = await client.end(END);
      assert.equal(data.cost, 10);
      assert.deepEqual(atServer, { pending: 1, leased: 1 });
      assert.equal(outbox.status().pending, 0);
      assert.deepEqual(server.seen[0]?.body, END);
    },
    {},
    (seen) => {
      const outbox = new Outbox({ path });
      const { pending, leased } = outbox.status();
      outbox.close();
      atServer = { pending, leased };
      const data = { user_id: 'user-1', token: 1, cost: seen.body.output_token / 4, status: 'return-able' };
      return { status: 200, body: { success: true, message: 'ok', data } };
    },
  );
});

test('an end that can’t be sent is kept, says so, and is sent later with its key', () =>
  inWorld(async ({ client, outbox, server, wallet }) => {
    server.isDown = true;
    let key: string | undefined;
    await assert.rejects(client.end({ ...END, model: 'model-1', process_id: 'process-1' }), (error: unknown) => {
      assert.ok(error instanceof UnavailableError);
      assert.equal(error.queued, true);
      key = error.idempotencyKey;
      return true;
    });
    const status = outbox.status();
    assert.deepEqual([status.pending, status.leased, status.refused], [1, 0, 0]);
    assert.match(status.last_error ?? '', /No connection to/);
    server.isDown = false;
    server.seen.length = 0;
    assert.deepEqual(await client.flush(), { sent: 1, refused: 0, postponed: 0 });
    assert.equal(server.seen[0]?.headers['idempotency-key'], key);
    assert.deepEqual(server.seen[0]?.body, { ...END, model: 'model-1', process_id: 'process-1' });
    assert.equal(wallet.token, 99_990);
    assert.equal(outbox.status().pending, 0);
  }));

test('the caller waits for a safe end no longer than outboxWaitSeconds', () =>
  inWorld(
    async ({ client, server }) => {
      server.faults = Array.from({ length: 20 }, () => ({ kind: 'accept-then-silence' as const }));
      const began = Date.now();
      await assert.rejects(client.end(END), { queued: true });
      assert.ok(Date.now() - began < 10_000);
    },
    { timeoutSeconds: 30, totalTimeoutSeconds: 60, outboxWaitSeconds: 0.15 },
  ));

test('many are sent through the batch call', () =>
  inWorld(async ({ client, outbox, server, wallet }) => {
    for (let i = 0; i < 1_200; i += 1) outbox.put(`key-${i}`, JSON.stringify(END), 0);
    assert.deepEqual(await client.flush(), { sent: 1_200, refused: 0, postponed: 0 });
    assert.deepEqual(
      server.seen.map((seen) => [seen.path, seen.body.ends.length]),
      [
        [BATCH_PATH, 500],
        [BATCH_PATH, 500],
        [BATCH_PATH, 200],
      ],
    );
    assert.deepEqual(server.seen[0]?.body.ends[7], { ...END, idempotency_key: 'key-7' });
    assert.equal(wallet.billed.size, 1_200);
    assert.equal(outbox.status().pending, 0);
  }, { totalTimeoutSeconds: 20, timeoutSeconds: 20 }));

test('a batch stays below what the server takes', () =>
  inWorld(async ({ client, outbox, server }) => {
    const long = JSON.stringify({ ...END, model: 'ü'.repeat(2_000) });
    for (let i = 0; i < 500; i += 1) outbox.put(`key-${i}`, long, 0);
    assert.equal((await client.flush()).sent, 500);
    for (const { body } of server.seen) assert.ok(Buffer.byteLength(JSON.stringify(body)) < 1_048_576);
    assert.equal(server.seen.length, 3);
  }, { totalTimeoutSeconds: 20, timeoutSeconds: 20 }));

test('one refused end in a batch: its neighbours are billed, it is kept for a person and not sent again', () =>
  inWorld(
    async ({ client, outbox, server }) => {
      for (const key of ['a', 'b', 'c']) outbox.put(key, JSON.stringify({ ...END, user_id: key }), 0);
      const report = await client.flush();
      assert.deepEqual([report.sent, report.refused, report.postponed], [2, 1, 0]);
      assert.equal(report.error?.message, 'User wallet not found');
      assert.deepEqual(
        outbox.refused().map(({ idempotency_key, error }) => [idempotency_key, error]),
        [['b', 'User wallet not found']],
      );
      assert.deepEqual(await client.flush(), { sent: 0, refused: 0, postponed: 0 });
      assert.equal(server.seen.length, 1);
      assert.equal(outbox.retryRefused(), 1);
      assert.equal((await client.flush()).refused, 1);
      assert.equal(outbox.discardRefused('nothing'), undefined);
      assert.equal(outbox.discardRefused('b')?.error, 'User wallet not found');
      assert.deepEqual(outbox.refused(), []);
    },
    {},
    ({ path: where, body }) => {
      const refused = { success: false, status: 404, message: 'User wallet not found', code: 'wallet_not_found' };
      const taken = { success: true, message: 'ok', data: { user_id: 'a', token: 1, cost: 10, status: 'return-able' } };
      if (where === END_PATH) return { status: 404, body: refused };
      const results = body.ends.map((end: { user_id: string }) => (end.user_id === 'b' ? refused : taken));
      return { status: 200, body: { success: true, message: 'ok', data: { results } } };
    },
  ));

test('a refused direct end reaches the caller and is kept for a person', () =>
  inWorld(async ({ client, outbox, server }) => {
    const body = { success: false, status: 404, message: 'User wallet not found' };
    server.faults = [{ kind: 'answer', status: 404, body }];
    await assert.rejects(client.end(END), { name: 'WalletNotFoundError', queued: false });
    assert.equal(outbox.refused().length, 1);
    assert.equal(outbox.status().pending, 0);
  }));

test('a wrong API key refuses no end: all wait for the right one', () =>
  inWorld(async ({ client, outbox, server }) => {
    const answer = { kind: 'answer' as const, status: 401, body: { success: false, status: 401, message: 'Invalid server API key' } };
    server.faults = [answer, answer];
    await assert.rejects(client.end(END), { name: 'AuthenticationError', queued: true });
    outbox.put('other', JSON.stringify(END), 0);
    const report = await client.flush({ timeoutSeconds: 0 });
    assert.deepEqual([report.sent, report.refused, report.postponed], [0, 0, 2]);
    assert.deepEqual(await client.flush(), { sent: 2, refused: 0, postponed: 0 });
  }));

test('a server without the batch call gets one end after the other', () =>
  inWorld(
    async ({ client, outbox }) => {
      for (const key of ['a', 'b', 'c']) outbox.put(key, JSON.stringify(END), 0);
      assert.deepEqual(await client.flush(), { sent: 3, refused: 0, postponed: 0 });
    },
    {},
    ({ path: where }) =>
      where === END_PATH
        ? { status: 200, body: { success: true, message: 'ok', data: {} } }
        : { status: 404, body: { success: false, status: 404, message: 'Not found', code: 'not_found' } },
  ));

test('an answer with the wrong number of results acknowledges nothing', () =>
  inWorld(
    async ({ client, outbox }) => {
      for (const key of ['a', 'b']) outbox.put(key, JSON.stringify(END), 0);
      const report = await client.flush({ timeoutSeconds: 0 });
      assert.deepEqual([report.sent, report.postponed], [0, 2]);
      assert.equal(outbox.status().pending, 2);
    },
    {},
    () => ({ status: 200, body: { success: true, message: 'ok', data: { results: [{ success: true }] } } }),
  ));

test('postponed ends wait longer each time, and a flush by hand does not wait', () =>
  inWorld(async ({ client, outbox, server }) => {
    outbox.put('a', JSON.stringify(END), 0);
    server.faults = [{ kind: 'answer', status: 503, body: 'busy', headers: { 'retry-after': '120' } }];
    assert.equal((await client.flush({ timeoutSeconds: 0 })).postponed, 1);
    const claim = { limit: 10, bytesMax: 1e6, leaseSeconds: 0 };
    assert.deepEqual(outbox.claim({ ...claim, early: false }), []);
    assert.equal(outbox.claim({ ...claim, early: true })[0]?.attempts, 1);
    assert.equal((await client.flush()).sent, 1);
  }));

test('the background sends what another process left', () =>
  inWorld(
    async ({ outbox, wallet }) => {
      outbox.put('left', JSON.stringify(END), 0);
      const deadline = Date.now() + 20_000;
      while (outbox.status().pending > 0 && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 20));
      assert.ok(wallet.billed.has('left'));
    },
    { sendInBackground: true },
  ));

test('onOutbox is told of what stays in it, what a round sends, and how deep it is', () => {
  const events: OutboxEvent[] = [];
  return inWorld(
    async ({ client, outbox, server }) => {
      await client.end(END);
      assert.deepEqual(events, [], 'an end that goes through is a call and no more');
      server.isDown = true;
      for (let i = 0; i < 2; i += 1) await assert.rejects(client.end(END), { queued: true });
      server.isDown = false;
      const body = { success: false, status: 404, message: 'User wallet not found' };
      server.faults = [{ kind: 'answer', status: 404, body }];
      await assert.rejects(client.end(END), { queued: false });
      server.faults = [{ kind: 'answer', status: 503, body: 'busy' }];
      await client.flush({ timeoutSeconds: 0 });
      await client.flush();
      assert.equal(outbox.status().pending, 0);
      const none = { queued: 0, sent: 0, postponed: 0 };
      assert.deepEqual(events, [
        { ...none, queued: 1, depth: 1, refused: 0 },
        { ...none, queued: 1, depth: 2, refused: 0 },
        { ...none, depth: 2, refused: 1 },
        { ...none, postponed: 2, depth: 2, refused: 1 },
        { ...none, sent: 2, depth: 0, refused: 1 },
      ]);
    },
    // One attempt a call.
    { baseDelaySeconds: 9, maxDelaySeconds: 9, hooks: { onOutbox: (event) => events.push(event) } },
  );
});

test('what is sent in the background is of no run, though the client was made in one', async () => {
  const runs: unknown[] = [];
  const hooks = { onOutbox: () => runs.push(currentRun()) };
  await inWorld(async ({ client: outer, server, outbox }) => {
    outbox.put('left', JSON.stringify(END), 0);
    const options = { url: server.url, apiKey: 'key', outbox: path, hooks };
    const inner = await withTokenProcess({ ...END, client: outer }, async () => {
      assert.ok(currentRun());
      return { made: new TokenProcess(options) };
    })();
    while (outbox.status().pending > 0) await new Promise((resolve) => setTimeout(resolve, 20));
    await inner.made.close();
    assert.deepEqual(runs, [undefined]);
  });
});

test('two senders never have the same end in hand, and a dead one’s lease runs out', async () => {
  const one = new Outbox({ path });
  const two = new Outbox({ path });
  for (let i = 0; i < 10; i += 1) one.put(`key-${i}`, JSON.stringify(END), 0);
  const claim = { limit: 6, bytesMax: 1e6, leaseSeconds: 2, early: true };
  const first = one.claim(claim).map((end) => end.idempotency_key);
  const second = two.claim(claim).map((end) => end.idempotency_key);
  assert.deepEqual([...first, ...second], Array.from({ length: 10 }, (_, i) => `key-${i}`));
  assert.deepEqual(one.claim(claim), []);
  assert.equal(one.status().leased, 10);
  await new Promise((resolve) => setTimeout(resolve, 2_100));
  assert.equal(two.claim({ ...claim, limit: 100 }).length, 10);
  one.close();
  two.close();
});

test('the same end again is the same row; another under its key is a conflict', () => {
  const outbox = new Outbox({ path });
  outbox.put('key', JSON.stringify(END), 0);
  outbox.put('key', JSON.stringify(END), 0);
  assert.equal(outbox.status().pending, 1);
  assert.throws(() => outbox.put('key', JSON.stringify({ ...END, output_token: 1 }), 0), ConflictError);
  outbox.close();
});

test('full: a clear error when the server is away too, and no end is lost when it is there', () =>
  inWorld(
    async ({ client, outbox, server, wallet }) => {
      server.isDown = true;
      await assert.rejects(client.end(END), { queued: true });
      await assert.rejects(client.end(END), (error: unknown) => {
        assert.ok(error instanceof OutboxFullError);
        assert.equal(error.message, `The outbox ${path} is full: 1 ends wait in it`);
        assert.ok(error.cause instanceof UnavailableError);
        assert.equal(error.queued, false);
        assert.match(error.idempotencyKey ?? '', /^[0-9a-f-]{36}$/);
        return true;
      });
      server.isDown = false;
      assert.equal((await client.end(END)).data.cost, 10);
      assert.equal(wallet.billed.size, 1);
      assert.equal(outbox.status().pending, 1);
    },
    { outbox: { path, endsMax: 1 } },
  ));

test('files that are no outbox are refused and left alone', () => {
  const text = join(directory, 'text.db');
  writeFileSync(text, 'not a database, but some text that is long enough to be looked at as one'.repeat(20));
  assert.throws(() => new Outbox({ path: text }), OutboxError);
  const { DatabaseSync } = process.getBuiltinModule('node:sqlite');
  const other = join(directory, 'other.db');
  const database = new DatabaseSync(other);
  database.exec('CREATE TABLE something (id INTEGER)');
  assert.throws(() => new Outbox({ path: other }), /is a SQLite file of something else/);
  database.exec('PRAGMA user_version = 1');
  assert.throws(() => new Outbox({ path: other }), /is a SQLite file of something else/);
  database.exec('PRAGMA user_version = 2');
  assert.throws(() => new Outbox({ path: other }), /was written by a newer client/);
  database.close();
  assert.throws(() => new Outbox({ path: join(directory, 'missing', 'ends.db') }), OutboxError);
  assert.throws(() => new Outbox({ path, endsMax: 0 }), OutboxError);
});

test('the file is for its owner only, in WAL mode, and marked as an outbox', () => {
  const outbox = new Outbox({ path });
  outbox.put('key', JSON.stringify(END), 0);
  for (const file of [path, `${path}-wal`]) assert.equal(statSync(file).mode & 0o777, 0o600);
  const { DatabaseSync } = process.getBuiltinModule('node:sqlite');
  const database = new DatabaseSync(path);
  const pragma = (name: string) => database.prepare(`PRAGMA ${name}`).get()?.[name];
  assert.deepEqual(['journal_mode', 'user_version', 'application_id'].map(pragma), ['wal', 1, 0x546f6b54]);
  database.close();
  outbox.close();
});

test('many processes may create one outbox at the same moment', async () => {
  const { spawn } = await import('node:child_process');
  const program = `const { Outbox } = require('tokentill'); const o = new Outbox({ path: process.argv[1] });
    for (let i = 0; i < 20; i += 1) o.put(process.pid + '-' + i, '{"a":1}', 0); o.close();`;
  const statuses = await Promise.all(
    Array.from({ length: 6 }, () => {
      const child = spawn(process.execPath, ['-e', program, path], { stdio: ['ignore', 'ignore', 'inherit'] });
      return new Promise((resolve) => child.on('exit', resolve));
    }),
  );
  assert.deepEqual(statuses, [0, 0, 0, 0, 0, 0]);
  const outbox = new Outbox({ path });
  assert.equal(outbox.status().pending, 120);
  outbox.close();
});

test('a client with an outbox does not keep a finished program alive', () => {
  const program = `const { TokenProcess } = require('tokentill');
    new TokenProcess({ url: 'http://127.0.0.1:1', outbox: process.argv[1] });`;
  execFileSync(process.execPath, ['-e', program, path], { timeout: 30_000 });
});

test('the command line looks and sends', () =>
  inWorld(async ({ outbox, server, wallet }) => {
    const cli = async (...args: string[]) => {
      const { execFile } = await import('node:child_process');
      const env = { ...process.env, TOKENTILL_OUTBOX: path, TOKEN_SERVER_URL: server.url, SERVER_API_KEY: 'key', NODE_NO_WARNINGS: '1' };
      return new Promise<{ status: number; out: string; err: string }>((resolve) => {
        const child = execFile(process.execPath, [CLI, ...args], { env }, (_error, out, err) => {
          resolve({ status: child.exitCode ?? -1, out, err });
        });
      });
    };
    outbox.put('a', JSON.stringify(END), 0);
    outbox.put('b', JSON.stringify(END), 60);
    let said = await cli('outbox', 'status');
    assert.equal(said.status, 1);
    assert.match(said.out, /^outbox {4}.*ends\.db\npending {3}2 of at most 100000, the oldest \d+ s old\nrefused {3}0\n$/);
    const { oldest_seconds } = JSON.parse((await cli('outbox', 'status', '--json')).out);
    assert.ok(oldest_seconds >= 0 && oldest_seconds < 60, `${oldest_seconds}`);
    outbox.acknowledge(['b']);
    said = await cli('outbox', 'flush');
    assert.match(said.out, /^1 sent in \d\.\d s, 0 refused, 0 still wait\n$/);
    assert.deepEqual([said.status, said.err], [0, '']);
    assert.equal(wallet.billed.size, 1);
    server.faults = [{ kind: 'answer', status: 404, body: { success: false, status: 404, message: 'User wallet not found' } }];
    outbox.put('c', JSON.stringify(END), 0);
    said = await cli('outbox', 'flush', '--url', server.url, '--timeout-seconds', '5');
    assert.match(said.out, /^0 sent in \d\.\d s, 1 refused, 0 still wait\n$/);
    assert.deepEqual([said.status, said.err], [0, 'tokentill: User wallet not found\n']);
    said = await cli('outbox', 'status', '--json');
    const shown = JSON.parse(said.out);
    assert.deepEqual([said.status, shown.pending, shown.oldest_seconds], [0, 0, null]);
    assert.deepEqual([shown.refused, shown.refused_ends[0].body], [1, END]);
    server.isDown = true;
    said = await cli('outbox', 'flush', '--refused', '--timeout-seconds', '0.5');
    assert.match(said.out, /^1 refused ends are tried again\n0 sent in [0-4]\.\d s, 0 refused, 1 still wait\n$/);
    assert.equal(said.status, 1);
    outbox.refuse('c', 'no');
    said = await cli('outbox', 'discard', 'c');
    assert.deepEqual([said.status, JSON.parse(said.out).idempotency_key], [0, 'c']);
    assert.deepEqual(await cli('outbox', 'discard', 'c'), { status: 2, out: '', err: 'tokentill: no refused end has the key c\n' });
    for (const wrong of [[], ['outbox'], ['outbox', 'dance'], ['outbox', 'status', 'x'], ['outbox', 'discard'], ['outbox', 'status', '--path']]) {
      assert.equal((await cli(...wrong)).status, 2);
    }
    assert.equal((await cli('--help')).status, 0);
    assert.match((await cli('--version')).out, /^tokentill \d+\.\d+\.\d+ \(TypeScript client\)\n$/);
  }));

test('without a path the command asks for one', () => {
  const env = { ...process.env };
  delete env['TOKENTILL_OUTBOX'];
  const { status, stderr } = spawnSync(process.execPath, [CLI, 'outbox', 'status'], { env });
  assert.equal(status, 2);
  assert.equal(stderr.toString(), 'tokentill: Give the outbox with --path, or set TOKENTILL_OUTBOX\n');
});
