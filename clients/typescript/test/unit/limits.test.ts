/** Limits of time: the whole of a call is the whole of it, and whoever has gone isn't kept waiting. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { ConfigurationError, currentRun, TokenProcess, UnavailableError, withTokenProcess } from 'tokentill';
import type { TokenProcessOptions, WithTokenProcessConfig } from 'tokentill';

import type { Fault } from '../support/fault-server.js';
import { billed, END, inWorld, paths, secondsOf, START, until, USER } from '../support/world.js';
import type { World } from '../support/world.js';

const RUN = { ...USER, feature_endpoint_id: 'feature-1' };
const SILENT: Fault = { kind: 'accept-then-silence' };

const CALLS: Record<string, (client: TokenProcess) => Promise<unknown>> = {
  start: (client) => client.start(RUN),
  end: (client) => client.end({ ...RUN, input_token: 0, output_token: 4 }),
  batch: (client) => client.endBatch([{ ...RUN, input_token: 0, output_token: 4 }]),
  cancel: (client) => client.cancel({ ...USER, process_id: 'process-1' }),
  extend: (client) => client.extendHold({ ...USER, process_id: 'process-1', hold_seconds: 60 }),
};

for (const [name, call] of Object.entries(CALLS)) {
  test(`${name}: the total limit is the whole time, whatever drips, is refused or is silent`, () =>
    inWorld(
      async ({ client, server }) => {
        server.faults = [{ kind: 'drip', everyMs: 50 }, { kind: 'reset' }, { kind: 'drip', everyMs: 50 }, SILENT, SILENT, SILENT, SILENT];
        const seconds = await secondsOf(() => assert.rejects(call(client), UnavailableError));
        assert.ok(seconds > 0.9 && seconds < 3, `${seconds} s`);
      },
      1000,
      { timeoutSeconds: 0.4, totalTimeoutSeconds: 1.2, startTimeoutSeconds: 9 },
    ));
}

test('one attempt that drips beyond every attempt’s limit is given up at the total', () =>
  inWorld(
    async ({ client, server }) => {
      server.faults = [{ kind: 'drip', everyMs: 20 }];
      const seconds = await secondsOf(() => assert.rejects(CALLS['end']?.(client) as Promise<unknown>, { code: 'timeout', message: /within 0\.5 s$/ }));
      assert.ok(seconds < 1.5, `${seconds} s`);
    },
    1000,
    { timeoutSeconds: 60, totalTimeoutSeconds: 0.5 },
  ));

test('start and end have limits of their own; a start’s is 3 seconds unless set', () =>
  inWorld(
    async ({ client, server }) => {
      assert.equal(new TokenProcess().settings.startTimeoutSeconds, 3);
      assert.equal(new TokenProcess().settings.endTimeoutSeconds, 30);
      assert.equal(new TokenProcess({ totalTimeoutSeconds: 2 }).settings.startTimeoutSeconds, 2);
      server.faults = [SILENT, SILENT];
      assert.ok((await secondsOf(() => assert.rejects(CALLS['start']?.(client) as Promise<unknown>))) < 0.8);
      const seconds = await secondsOf(() => assert.rejects(CALLS['end']?.(client) as Promise<unknown>));
      assert.ok(seconds > 0.8 && seconds < 2.5, `${seconds} s`);
    },
    1000,
    { startTimeoutSeconds: 0.2, endTimeoutSeconds: 0.9, totalTimeoutSeconds: 5 },
  ));

test('settings that are no limits are refused at once', () => {
  const wrong: TokenProcessOptions[] = [
    { timeoutSeconds: 0 },
    { totalTimeoutSeconds: -1 },
    { startTimeoutSeconds: NaN },
    { endTimeoutSeconds: '3' as unknown as number },
    // Beyond what a timer can be set to, it would go off at once.
    { totalTimeoutSeconds: 1e9 },
    { breakerFailures: 0 },
    { whenAway: 'ajar' as 'open' },
    { whenAway: 'open' },
    { outbox: { path: 'ends.db', endsMax: 0 } },
  ];
  for (const options of wrong) assert.throws(() => new TokenProcess(options), ConfigurationError, JSON.stringify(options));
});

interface Patience extends Omit<World, 'config'> {
  config: WithTokenProcessConfig<[]>;
}

/** Time enough for a server that is silent until `speak`. */
function withPatience(act: (world: Patience, speak: () => void) => Promise<void>, options: TokenProcessOptions = {}): Promise<void> {
  return inWorld(
    ({ config: { onEndError }, client, ...world }) => {
      const config = { feature_endpoint_id: 'feature-1', user_id: 'user-1', client, onEndError };
      return act({ ...world, client, config }, () => void (world.server.faults = []));
    },
    1000,
    { timeoutSeconds: 3, totalTimeoutSeconds: 20, ...options },
  );
}

test('a stream left early waits a moment for its end, which is sent on behind and billed', () =>
  withPatience(async ({ server, config, client, wallet, problems }, speak) => {
    const stream = withTokenProcess(config, async function* () {
      yield { output_token: 4 };
      server.faults = Array.from({ length: 100 }, () => SILENT);
      yield { output_token: 4 };
    })();
    await stream.next();
    await stream.next();
    const seconds = await secondsOf(() => stream.return(undefined));
    assert.ok(seconds > 0.4 && seconds < 2, `${seconds} s`);
    speak();
    await client.close();
    assert.equal(wallet.token, 998);
    assert.deepEqual(problems, []);
  }));

test('the limit of whoever has gone can be set', () =>
  withPatience(
    async ({ server, config }, speak) => {
      const stream = withTokenProcess(config, async function* () {
        server.faults = [SILENT, SILENT];
        yield { output_token: 4 };
      })();
      await stream.next();
      assert.ok((await secondsOf(() => stream.return(undefined))) < 0.4);
      speak();
    },
    { cancelledEndTimeoutSeconds: 0 },
  ));

test('a caller that aborts after a second has its answer within two, while the end is silent', () =>
  withPatience(async ({ server, config, client, wallet }, speak) => {
    const signal = AbortSignal.timeout(1_000);
    const wrapped = withTokenProcess({ ...config, signal }, async () => {
      server.faults = Array.from({ length: 100 }, () => SILENT);
      return { output_token: 4 };
    });
    const seconds = await secondsOf(() => assert.rejects(wrapped(), { name: 'TimeoutError' }));
    assert.ok(seconds > 0.9 && seconds < 2, `${seconds} s`);
    speak();
    await client.close();
    assert.equal(wallet.token, 999);
  }));

test('a caller that aborts isn’t kept waiting by a function that doesn’t listen, and what that used is billed', () =>
  withPatience(async ({ config, wallet }) => {
    const abort = new AbortController();
    let heard: unknown;
    const wrapped = withTokenProcess({ ...config, hold_token: 5, signal: () => abort.signal }, async () => {
      currentRun()?.signal.addEventListener('abort', () => (heard = currentRun()?.signal.reason));
      setTimeout(() => abort.abort(new RangeError('gone')), 50);
      await new Promise((resolve) => setTimeout(resolve, 2_000));
      return { output_token: 4 };
    });
    const seconds = await secondsOf(() => assert.rejects(wrapped(), RangeError));
    assert.ok(seconds < 1.6, `${seconds} s`);
    assert.ok(heard instanceof RangeError);
    await until('billed', () => wallet.token === 999);
  }));

test('a caller that aborts while a start is silent, or before it, hears so at once', () =>
  withPatience(async ({ server, config, client }) => {
    server.faults = [SILENT];
    const abort = new AbortController();
    const wrapped = withTokenProcess({ ...config, signal: abort.signal }, async () => assert.fail('ran'));
    setTimeout(() => abort.abort(new RangeError('gone')), 100);
    const seconds = await secondsOf(() => assert.rejects(wrapped(), RangeError));
    assert.ok(seconds < 2, `${seconds} s`);
    await assert.rejects(wrapped(), RangeError);
    assert.deepEqual(paths({ server }), [START]);
    assert.equal(client.awayReport().away, false);
  }));

test('a signal that outlives many runs gathers no listeners', () =>
  withPatience(async (world) => {
    let listeners = 0;
    const { signal } = new AbortController();
    const { addEventListener, removeEventListener } = signal;
    signal.addEventListener = (...args: Parameters<typeof addEventListener>) => {
      listeners += 1;
      addEventListener.apply(signal, args);
    };
    signal.removeEventListener = (...args: Parameters<typeof removeEventListener>) => {
      listeners -= 1;
      removeEventListener.apply(signal, args);
    };
    const config = { ...world.config, signal };
    for (let i = 0; i < 5; i += 1) await withTokenProcess(config, async () => ({ output_token: 4 }))();
    for await (const chunk of withTokenProcess(config, async function* () { yield { output_token: 4 }; })()) assert.ok(chunk);
    assert.equal(listeners, 0);
    assert.equal(billed(world).length, 6);
    assert.equal(world.server.seenAt(END).length, 6);
  }));
