/** A span for each call, where the service has OpenTelemetry. */

import type { Operation } from './hooks';
import { builtin } from './platform';
import { VERSION } from './version';

/** What is used of `@opentelemetry/api`, which need not be installed. */
interface Span {
  setAttribute(name: string, value: string | number): unknown;
  setStatus(status: { code: number; message: string }): unknown;
  recordException(error: Error): unknown;
  end(): void;
}

interface Api {
  SpanKind: { CLIENT: number };
  SpanStatusCode: { ERROR: number };
  trace: {
    getTracer(name: string, version: string): { startSpan(name: string, options: { kind: number }): Span };
    setSpan(context: unknown, span: Span): unknown;
  };
  ROOT_CONTEXT: unknown;
  context: { active(): unknown; with<R>(context: unknown, act: () => R): R };
  propagation: { inject(context: unknown, carrier: Record<string, string>): void };
}

const NAMES: Record<Operation, string> = {
  start: 'tokentill.start',
  end: 'tokentill.end',
  endBatch: 'tokentill.end_batch',
  estimate: 'tokentill.estimate',
  reverse: 'tokentill.reverse',
  cancel: 'tokentill.cancel',
  extendHold: 'tokentill.extend',
};

export interface CallSpan {
  /** The headers by which the server's own spans, if it makes any, belong to this one. */
  readonly headers: Record<string, string>;
  /** Calls with this span as the current one. */
  within<R>(act: () => R): R;
  end(outcome: { status?: number | undefined; attempts: number; error?: Error | undefined }): void;
}

const NO_SPAN: CallSpan = { headers: {}, within: (act) => act(), end: () => undefined };

let loaded: Api | null | undefined;

function api(): Api | null {
  return (loaded ??= builtin<Api>('@opentelemetry/api') ?? null);
}

/** A child of the span that is current now. Nothing where OpenTelemetry isn't installed, or fails: a trace is worth no call. */
export function spanOf(operation: Operation, idempotencyKey: string | undefined): CallSpan {
  const otel = api();
  if (!otel) return NO_SPAN;
  try {
    return begin(otel, operation, idempotencyKey);
  } catch {
    return NO_SPAN;
  }
}

/** For work that belongs to no trace, though it happens to be begun in one. */
export function outsideOfTraces<R>(act: () => R): R {
  const otel = api();
  return otel ? otel.context.with(otel.ROOT_CONTEXT, act) : act();
}

function begin(otel: Api, operation: Operation, idempotencyKey: string | undefined): CallSpan {
  const parent = otel.context.active();
  const span = otel.trace.getTracer('tokentill', VERSION).startSpan(NAMES[operation], { kind: otel.SpanKind.CLIENT });
  const context = otel.trace.setSpan(parent, span);
  const headers: Record<string, string> = {};
  otel.propagation.inject(context, headers);
  if (idempotencyKey !== undefined) span.setAttribute('tokentill.idempotency_key', idempotencyKey);
  return {
    headers,
    within: (act) => otel.context.with(context, act),
    end: ({ status, attempts, error }) => {
      span.setAttribute('tokentill.attempts', attempts);
      if (status !== undefined) span.setAttribute('http.response.status_code', status);
      if (error) {
        span.recordException(error);
        span.setStatus({ code: otel.SpanStatusCode.ERROR, message: error.message });
      }
      span.end();
    },
  };
}
