/** What the service gives us to call may be async, may fail and may hang: it is waited for, and never kills the process. */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';

import { TokenProcess, UnavailableError, withTokenProcess } from 'tokentill';

import { billed, inWorld, secondsOf, until, USER } from '../support/world.js';

const later = <T>(value?: T): Promise<T> => new Promise((resolve) => setTimeout(() => resolve(value as T), 30));

test('an async onEndError is waited for', () =>
  inWorld(async ({ server, config }) => {
    const told: unknown[] = [];
    const onEndError = async (error: unknown) => {
      await later();
      told.push(error);
    };
    const wrapped = withTokenProcess({ ...config, onEndError }, async (_data: { user_id: string }) => {
      server.isDown = true;
      return { output_token: 4 };
    });
    assert.deepEqual(await wrapped(USER), { output_token: 4 });
    assert.ok(told[0] instanceof UnavailableError);
  }));

test('an onEndError that hangs costs the caller five seconds, not the result', () =>
  inWorld(
    async ({ server, config }) => {
      const onEndError = () => new Promise<void>(() => undefined);
      const wrapped = withTokenProcess({ ...config, onEndError }, async (_data: { user_id: string }) => {
        server.isDown = true;
        return { output_token: 4 };
      });
      const seconds = await secondsOf(async () => assert.deepEqual(await wrapped(USER), { output_token: 4 }));
      assert.ok(seconds > 4.5 && seconds < 8, `${seconds} s`);
    },
    1000,
    { totalTimeoutSeconds: 0.2 },
  ));

test('everything that is called may be async: the user, the hold, the signal, the reader', () =>
  inWorld(async (world) => {
    const config = {
      ...world.config,
      user_id: (args: [{ user_id: string }]) => later(args[0].user_id),
      hold_token: () => later(5),
      signal: () => later(new AbortController().signal),
      usage: async (value: unknown) => later(typeof value === 'string' ? { output_token: value.length } : undefined),
    };
    assert.equal(await withTokenProcess(config, async (_data: { user_id: string }) => 'four')(USER), 'four');
    const stream = withTokenProcess(config, async function* (_data: { user_id: string }) {
      yield 'four';
      yield 'four';
    });
    for await (const text of stream(USER)) assert.equal(text, 'four');
    assert.deepEqual(billed(world), [
      [0, 4, undefined],
      [0, 8, undefined],
    ]);
    assert.equal(world.server.seen[0]?.body.hold_token, 5);
  }));

test('a user, a hold or a signal that can’t be found is the caller’s to hear, and nothing runs', () =>
  inWorld(async ({ config, server }) => {
    const fails = () => Promise.reject(new RangeError('mine'));
    for (const broken of [{ ...config, user_id: fails }, { ...config, hold_token: fails }, { ...config, signal: fails }]) {
      await assert.rejects(withTokenProcess(broken, async (_data: { user_id: string }) => assert.fail('ran'))(USER), RangeError);
    }
    assert.deepEqual(server.seen, []);
  }));

// Each rejects, or throws, a moment after it was called: unheard, that ends a Node process with status 1.
const CALLBACKS: Record<string, string> = {
  'onEndError that rejects': 'onEndError: async () => { await pause(5); throw new Error("mine"); }',
  'onEndError that throws': 'onEndError: () => { throw new Error("mine"); }',
  'onEndError whose thenable throws': 'onEndError: () => ({ then() { throw new Error("mine"); } })',
  'reader that rejects': 'usage: async () => { await pause(5); throw new Error("mine"); }',
  'reader that throws': 'usage: () => { throw new Error("mine"); }',
  'hooks that reject': 'client: make({ hooks: { onCall: bad, onRetry: bad, onOutbox: bad } })',
  'hooks that throw': 'client: make({ hooks: { onCall: worse, onRetry: worse, onOutbox: worse } })',
};

for (const [name, setting] of Object.entries(CALLBACKS)) {
  test(`${name}: the process lives and the caller has its results`, () =>
    inWorld(
      async ({ server }) => {
        const program = `
        const { TokenProcess, withTokenProcess } = require('tokentill');
        console.error = console.warn = () => undefined;
        const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
        const bad = async () => { await pause(5); throw new Error('mine'); };
        const worse = () => { throw new Error('mine'); };
        const make = (more) => new TokenProcess({ url: process.argv[1], apiKey: 'key', startTimeoutSeconds: 20, endTimeoutSeconds: 0.4, ...more });
        const config = { feature_endpoint_id: 'f', user_id: 'u', client: make({}), ${setting} };
        (async () => {
          const { text } = await withTokenProcess(config, async () => ({ text: 'result', output_token: 4 }))();
          let chunks = 0;
          for await (const chunk of withTokenProcess(config, async function* () { yield { output_token: 4 }; yield { output_token: 4 }; })()) chunks += 1;
          const left = withTokenProcess(config, async function* () { yield { output_token: 4 }; yield 1; })();
          await left.next();
          await left.return();
          await pause(1000);
          console.log(text, chunks);
        })();`;
        // Starts are answered, ends are not: each run ends with something to tell.
        const status = await new Promise<{ code: unknown; stdout: string; stderr: string }>((resolve) => {
          execFile(process.execPath, ['-e', program, server.url], { timeout: 30_000 }, (error, stdout, stderr) =>
            resolve({ code: error ? (error.code ?? error.signal) : 0, stdout, stderr }),
          );
        });
        assert.deepEqual(status, { code: 0, stdout: 'result 2\n', stderr: '' });
      },
      1000,
      {},
      ({ path }) => (path.endsWith('/start') ? undefined : { status: 503, body: { success: false, status: 503, message: 'busy' } }),
    ));
}

test('a hook that hangs keeps no finished program alive', () =>
  inWorld(async ({ server }) => {
    const program = `
      const { TokenProcess } = require('tokentill');
      const hang = () => new Promise(() => undefined);
      const client = new TokenProcess({ url: process.argv[1], apiKey: 'key', hooks: { onCall: hang } });
      client.start({ user_id: 'u', feature_endpoint_id: 'f' }).then(() => { const at = Date.now(); process.on('exit', () => console.log(Date.now() - at)); });`;
    const stdout = await new Promise<string>((resolve, reject) => {
      execFile(process.execPath, ['-e', program, server.url], { timeout: 30_000 }, (error, out) => (error ? reject(error) : resolve(out)));
    });
    assert.ok(Number(stdout) < 3_000, stdout);
  }));

test('a client that is replaced and can’t be closed is only logged', () =>
  inWorld(async () => {
    const program = `
      const t = require('tokentill');
      const said = [];
      console.error = (...words) => said.push(words.join(' '));
      t.configureTokenProcess().close = async () => { throw new Error('mine'); };
      t.configureTokenProcess();
      setTimeout(() => console.log(said.length), 50);`;
    const stdout = await new Promise((resolve, reject) => {
      execFile(process.execPath, ['-e', program], { timeout: 30_000 }, (error, out) => (error ? reject(error) : resolve(out)));
    });
    assert.equal(stdout, '1\n');
  }));

test('what is sent on behind callers who have gone is waited for by close', () =>
  inWorld(async ({ server, config, client, wallet, problems }) => {
    const stream = withTokenProcess(config, async function* (_data: { user_id: string }) {
      yield { output_token: 4 };
    })(USER);
    await stream.next();
    server.faults = [{ kind: 'delay', ms: 900 }];
    await stream.return();
    assert.equal(wallet.token, 1000);
    await client.close();
    assert.equal(wallet.token, 999);
    assert.deepEqual(problems, []);
    await until('nothing is left', () => wallet.holds.size === 0);
    assert.ok(client instanceof TokenProcess);
  }));
