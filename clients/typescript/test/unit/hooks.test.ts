/** What a service may listen to: calls, repetitions, and the spans of OpenTelemetry. */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { after, beforeEach, test } from 'node:test';

import { context, propagation, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api';
import type { Context, TextMapSetter } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base';
import { TokenProcess, UnavailableError, withTokenProcess } from 'tokentill';
import type { CallEvent, RetryEvent } from 'tokentill';

import { inWorld, USER } from '../support/world.js';

const RUN = { ...USER, feature_endpoint_id: 'feature-1' };
const exporter = new InMemorySpanExporter();
trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }));
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
propagation.setGlobalPropagator({
  inject: (from: Context, carrier: unknown, setter: TextMapSetter) =>
    setter.set(carrier, 'traceparent', `00-${trace.getSpanContext(from)?.traceId}-${trace.getSpanContext(from)?.spanId}-01`),
  extract: (from: Context) => from,
  fields: () => ['traceparent'],
});
beforeEach(() => exporter.reset());
after(() => trace.disable());

test('onCall is told of every call: how it went, how long it took, how often it was tried', async () => {
  const events: CallEvent[] = [];
  await inWorld(
    async ({ client, server, wallet }) => {
      const run = await client.begin({ ...RUN, hold_token: 5 });
      await run.extendHold({ seconds: 60 });
      server.faults = [{ kind: 'reset' }, { kind: 'delay', ms: 60 }];
      await run.end({ output_token: 4 });
      await client.endBatch([{ ...RUN, input_token: 0, output_token: 4 }]);
      await client.cancel({ ...USER, process_id: 'process-1' });
      server.faults = [{ kind: 'answer', status: 403, body: { success: false, status: 403, message: 'no' } }];
      await assert.rejects(client.start(RUN));
      server.isDown = true;
      await assert.rejects(client.start(RUN));
      wallet.holds.clear();
      assert.deepEqual(
        events.map(({ operation, status, error }) => [operation, status, error?.name]),
        [
          ['start', 200, undefined],
          ['extendHold', 200, undefined],
          ['end', 200, undefined],
          ['endBatch', 200, undefined],
          ['cancel', 200, undefined],
          ['start', 403, 'FeatureNotAvailableError'],
          ['start', undefined, 'UnavailableError'],
        ],
      );
      const end = events[2];
      assert.equal(end?.attempts, 2);
      assert.ok(end && end.latencySeconds > 0.1 && end.latencySeconds < 3);
      assert.equal(end.idempotencyKey, run.idempotencyKey);
      assert.ok(Object.isFrozen(end));
      assert.ok((events[6]?.attempts ?? 0) > 1);
    },
    1000,
    { hooks: { onCall: (event) => events.push(event) } },
  );
});

test('onRetry is told of every attempt that failed and will be repeated', async () => {
  const events: RetryEvent[] = [];
  await inWorld(
    async ({ client, server }) => {
      server.faults = [{ kind: 'reset' }, { kind: 'answer', status: 503, body: 'busy', headers: { 'retry-after': '0.3' } }];
      await client.end({ ...RUN, input_token: 0, output_token: 4 });
      assert.deepEqual(
        events.map(({ operation, attempt, error }) => [operation, attempt, error.code]),
        [
          ['end', 1, 'connection_failed'],
          ['end', 2, 'unavailable'],
        ],
      );
      assert.ok((events[0]?.pauseSeconds ?? 9) <= 0.1);
      assert.equal(events[1]?.pauseSeconds, 0.3);
    },
    1000,
    { hooks: { onRetry: (event) => events.push(event) } },
  );
});

test('a hook that is slow costs nobody anything', () =>
  inWorld(
    async ({ config }) => {
      const began = performance.now();
      await withTokenProcess(config, async (_data: { user_id: string }) => ({ output_token: 4 }))(USER);
      assert.ok(performance.now() - began < 2_000);
    },
    1000,
    { hooks: { onCall: () => new Promise((resolve) => setTimeout(resolve, 3_000)) } },
  ));

test('each call is a span, the child of the one that is current, and the server is told which', () =>
  inWorld(async ({ client, server }) => {
    const parent = trace.getTracer('test').startSpan('request');
    await context.with(trace.setSpan(context.active(), parent), async () => {
      const run = await client.begin({ ...RUN, hold_token: 5 });
      await run.extendHold({ seconds: 60 });
      server.faults = [{ kind: 'reset' }];
      await run.end({ output_token: 4 });
      await client.endBatch([{ ...RUN, input_token: 0, output_token: 4 }]);
      await run.cancel();
      assert.equal(trace.getActiveSpan(), parent);
      const end = exporter.getFinishedSpans().find(({ name }) => name === 'tokentill.end');
      assert.equal(end?.attributes['tokentill.idempotency_key'], run.idempotencyKey);
      assert.equal(end?.attributes['tokentill.attempts'], 2);
    });
    parent.end();
    const spans = exporter.getFinishedSpans();
    assert.deepEqual(
      spans.map(({ name }) => name),
      ['tokentill.start', 'tokentill.extend', 'tokentill.end', 'tokentill.end_batch', 'tokentill.cancel', 'request'],
    );
    for (const span of spans.slice(0, -1)) {
      assert.equal(span.parentSpanContext?.spanId, parent.spanContext().spanId);
      assert.equal(span.kind, SpanKind.CLIENT);
      assert.equal(span.attributes['http.response.status_code'], 200);
      assert.equal(span.status.code, SpanStatusCode.UNSET);
    }
    const { traceId, spanId } = spans[0]?.spanContext() ?? assert.fail();
    assert.equal(server.seen[0]?.headers['traceparent'], `00-${traceId}-${spanId}-01`);
  }));

test('a call that fails is a span with its error', () =>
  inWorld(
    async ({ client, server }) => {
      server.isDown = true;
      await assert.rejects(client.start(RUN), UnavailableError);
      const [span] = exporter.getFinishedSpans();
      assert.equal(span?.status.code, SpanStatusCode.ERROR);
      assert.match(span?.status.message ?? '', /No connection/);
      assert.equal(span?.events[0]?.name, 'exception');
      assert.equal(span?.attributes['http.response.status_code'], undefined);
    },
    1000,
    { totalTimeoutSeconds: 1 },
  ));

test('no span says who the user is, or what the API key', () =>
  inWorld(async ({ server }) => {
    server.faults = [{ kind: 'reset' }];
    await new TokenProcess({ url: server.url, apiKey: 'secret' }).start(RUN);
    const text = JSON.stringify(exporter.getFinishedSpans().map(({ attributes, events, status }) => ({ attributes, events, status })));
    assert.ok(!/user-1|secret/.test(text), text);
  }));

test('without OpenTelemetry everything works', () =>
  inWorld(async ({ server, wallet }) => {
    // A copy of the package where nothing else is installed.
    const dist = join(require.resolve('tokentill'), '..');
    const program = `
      const Module = require('node:module');
      const load = Module._load;
      Module._load = (name, ...rest) => {
        if (name.startsWith('@opentelemetry')) throw Object.assign(new Error('not installed'), { code: 'MODULE_NOT_FOUND' });
        return load(name, ...rest);
      };
      const { withTokenProcess, TokenProcess } = require(process.argv[1]);
      const client = new TokenProcess({ url: process.argv[2], apiKey: 'key' });
      withTokenProcess({ feature_endpoint_id: 'f', user_id: 'u', client }, async () => ({ output_token: 4 }))().then(() => console.log('works'));`;
    const out = await new Promise((resolve, reject) => {
      execFile(process.execPath, ['-e', program, dist, server.url], { timeout: 30_000 }, (error, stdout) => (error ? reject(error) : resolve(stdout)));
    });
    assert.equal(out, 'works\n');
    assert.equal(wallet.token, 999);
  }));
