/** The outbox against the real server: many ends, two processes, programs killed at any moment, a server that dies. */

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, beforeEach, test } from 'node:test';

import { Outbox, TokenProcess, UnavailableError } from 'tokentill';

import { addressOfTest, Admin } from '../support/admin.js';
import { passOnTo, withFaultServer } from '../support/fault-server.js';
import { Stack } from '../support/stack.js';
import type { StackAddress } from '../support/stack.js';

const CLI = join(require.resolve('tokentill'), '..', 'cli.js');
const RUNNER = join(__dirname, '..', 'programs', 'runner.js');
const KILLS = 50;

const address = addressOfTest();
const { url, serverKey: apiKey } = address;
const admin = new Admin(address);

let directory = '';
let path = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tokentill-'));
  path = join(directory, 'ends.db');
});
afterEach(() => rmSync(directory, { recursive: true }));

function environment({ url: at, serverKey }: StackAddress): NodeJS.ProcessEnv {
  return { ...process.env, TOKEN_SERVER_URL: at, SERVER_API_KEY: serverKey };
}

function flush(at: StackAddress, timeoutSeconds = 120): string {
  const args = [CLI, 'outbox', 'flush', '--path', path, '--timeout-seconds', `${timeoutSeconds}`];
  return execFileSync(process.execPath, args, { env: environment(at) }).toString();
}

test('10,000 queued ends are sent and billed once each, by two processes that share the outbox', async () => {
  const run = await admin.userWithFeature(1_000_000);
  const outbox = new Outbox({ path });
  for (let i = 0; i < 10_000; i += 1) {
    outbox.put(`end-${run.user_id}-${i}`, JSON.stringify({ ...run, input_token: 1, output_token: 4, model: `run-${i}` }), 0);
  }
  const began = Date.now();
  const said = await Promise.all(
    [0, 1].map(
      () =>
        new Promise<string>((done, failed) => {
          const child = spawn(process.execPath, [CLI, 'outbox', 'flush', '--path', path], { env: environment(address) });
          let out = '';
          child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
          child.on('exit', (status) => (status === 0 ? done(out) : failed(new Error(`exit ${status}: ${out}`))));
        }),
    ),
  );
  const seconds = (Date.now() - began) / 1000;
  const sent = said.map((line) => Number(/^(\d+) sent/.exec(line)?.[1]));
  assert.equal(sent.reduce((sum, count) => sum + count, 0), 10_000);
  assert.ok(sent.every((count) => count > 0), `one process did it all: ${sent.join(', ')}`);
  assert.deepEqual([outbox.status().pending, outbox.status().refused], [0, 0]);
  outbox.close();
  const wallet = await admin.settled(run.user_id, 120_000);
  assert.equal(wallet.posted_token, 1_000_000 - 10_000 * 1.2);
  const models = (await admin.usage(run.user_id)).map(({ model }) => model);
  assert.equal(models.length, 10_000);
  assert.equal(new Set(models).size, 10_000);
  console.log(`10,000 ends sent in ${seconds.toFixed(1)} s by two processes (${sent.join(' and ')})`);
});

test('one bad end among 1,000 good ones: 1,000 billed, one kept for a person', async () => {
  const run = await admin.userWithFeature(10_000);
  const outbox = new Outbox({ path });
  for (let i = 0; i <= 1_000; i += 1) {
    const end = { ...run, ...(i === 500 ? { user_id: 'nobody' } : {}), input_token: 1, output_token: 4 };
    outbox.put(`end-${run.user_id}-${i}`, JSON.stringify(end), 0);
  }
  assert.match(flush(address), /^1000 sent in [\d.]+ s, 1 refused, 0 still wait\n$/);
  assert.deepEqual(
    outbox.refused().map(({ error }) => error),
    ['User wallet not found'],
  );
  outbox.close();
  assert.equal((await admin.settled(run.user_id)).posted_token, 8_800);
});

test('an end whose answer was lost is in the outbox, is sent again, and was billed once', async () => {
  const run = await admin.userWithFeature(1000);
  await withFaultServer(passOnTo(url), async (between) => {
    between.faults = Array.from({ length: 100 }, () => ({ kind: 'accept-then-reset' as const }));
    const client = new TokenProcess({ url: between.url, apiKey, outbox: path, sendInBackground: false, outboxWaitSeconds: 0.5 });
    await assert.rejects(client.end({ ...run, input_token: 1, output_token: 40 }), (error: unknown) => {
      return error instanceof UnavailableError && error.queued;
    });
    assert.ok(between.seen.length > 1);
    await client.close();
  });
  assert.match(flush(address), /^1 sent/);
  assert.equal((await admin.settled(run.user_id)).posted_token, 988);
  assert.equal((await admin.usage(run.user_id)).length, 1);
});

if (Stack.project) {
  const { project } = Stack;

  test('one file for both clients: Python queues and TypeScript sends, and the other way round', async () => {
    const run = await admin.userWithFeature(1000);
    const python = (...args: string[]): string =>
      execFileSync(join(project, '.venv', 'bin', 'python'), args, {
        env: { ...environment(address), PYTHONPATH: join(project, 'clients', 'python', 'src') },
      }).toString();
    const body = JSON.stringify({ ...run, input_token: 1, output_token: 40, model: 'ü' });
    // Whatever the other client calls its lease: none is wanted here.
    const put = [
      'import inspect, sys',
      'from tokentill.outbox import Outbox',
      'put = Outbox(sys.argv[1]).put',
      '[lease] = [name for name in inspect.signature(put).parameters if name.startswith("lease")]',
      'put(sys.argv[2], sys.argv[3], **{lease: 0})',
    ].join('\n');
    python('-c', put, path, `python-${run.user_id}`, body);
    assert.match(flush(address), /^1 sent/);
    const outbox = new Outbox({ path });
    for (const number of [1, 2]) outbox.put(`typescript-${run.user_id}-${number}`, body, 0);
    outbox.close();
    assert.match(python('-m', 'tokentill', 'outbox', 'flush', '--path', path), /^2 sent/);
    assert.equal(pending(), 0);
    assert.equal((await admin.settled(run.user_id)).posted_token, 1000 - 3 * 12);
  });

  const stack = new Stack();
  after(() => stack.down());

  test(`a program killed ${KILLS} times at any moment, the server killed in between: every finished run is billed exactly once`, async () => {
    const own = await stack.up();
    const ownAdmin = new Admin(own);
    const run = await ownAdmin.userWithFeature(1_000_000);
    const notes = join(directory, 'notes');
    const finished = () => (existsSync(notes) ? readFileSync(notes, 'utf8').split('\n').filter(Boolean).map(Number) : []);
    let next = 0;
    for (let kill = 1; kill <= KILLS; kill += 1) {
      const child = spawn(process.execPath, [RUNNER, path, notes, run.user_id, run.feature_endpoint_id, `${next}`], {
        env: environment(own),
        stdio: 'inherit',
      });
      // Every fifth time at any moment from its very start; else in the middle of its runs.
      const [before, deadline] = [finished().length, Date.now() + 30_000];
      while (kill % 5 !== 0 && finished().length === before && Date.now() < deadline) await pause(20);
      await pause(Math.random() * 500);
      if (kill % 20 === 0) {
        await stack.killServer();
        await pause(300);
      }
      await killed(child);
      // Never the same number twice: what was begun when the program died may have been billed, or not.
      next += 1_000;
      if (kill % 20 === 0) await stack.up();
    }
    const waited = pending();
    flush(own);
    assert.equal(pending(), 0);
    await ownAdmin.settled(run.user_id, 120_000);
    const times = new Map<string | null, number>();
    for (const { model } of await ownAdmin.usage(run.user_id)) times.set(model, (times.get(model) ?? 0) + 1);
    const done = finished();
    assert.ok(done.length >= KILLS * 0.8, `only ${done.length} runs finished`);
    assert.deepEqual(done.filter((number) => times.get(`run-${number}`) !== 1), []);
    assert.deepEqual([...times].filter(([, count]) => count !== 1), []);
    const billed = [...times.values()].length;
    console.log(`${KILLS} kills, ${done.length} runs finished, ${billed} billed, ${waited} waited in the outbox at the end`);
  });
}

function pending(): number {
  const outbox = new Outbox({ path });
  try {
    return outbox.status().pending;
  } finally {
    outbox.close();
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function killed(child: ChildProcess): Promise<void> {
  return new Promise((done) => {
    child.once('exit', () => done());
    child.kill('SIGKILL');
  });
}
