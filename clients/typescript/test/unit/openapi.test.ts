/**
 * The client's types and the server's description of itself say the same: each can be given where the other is asked for.
 * The compiler is the test; what runs counts that nothing was left out.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import type {
  TTokenProcessBatchResult,
  TTokenProcessCancelPayload,
  TTokenProcessEndData,
  TTokenProcessEndPayload,
  TTokenProcessEstimateData,
  TTokenProcessFailure,
  TTokenProcessHoldExtendData,
  TTokenProcessHoldExtendPayload,
  TTokenProcessReverseData,
  TTokenProcessReversePayload,
  TTokenProcessStartData,
  TTokenProcessStartPayload,
} from 'tokentill';

import type { BatchResult, Calls, Failure } from '../support/openapi.js';

/** As it is sent: what is undefined isn't there, and the key goes in a header. */
type Sent<T, K extends PropertyKey = 'idempotency_key'> = { [P in keyof T as P extends K ? never : P]: Exclude<T[P], undefined> };
/** What isn't null of a body: null stands for absent, and the client leaves absent what isn't given. */
type Said<T> = { [P in keyof T]: Exclude<T[P], null> };
/** Of an answer, what the client has a name for. */
type Read<T, Known> = { [P in keyof T as P extends keyof Known ? P : never]: T[P] };

type Fits<A, B> = [A] extends [B] ? true : never;
/** Each fits the other, and neither has a field that the other hasn't, optional ones included. */
type Same<A, B> = Fits<A, B> & Fits<B, A> & Fits<keyof A, keyof B> & Fits<keyof B, keyof A>;

// What can be sent is what is described, field by field.
const bodies: Record<string, true> = {
  start: true satisfies Same<Sent<TTokenProcessStartPayload>, Said<Calls['start']['body']>>,
  end: true satisfies Same<Sent<TTokenProcessEndPayload>, Said<Calls['end']['body']>>,
  end_batch: true satisfies Same<Sent<TTokenProcessEndPayload, never>, Said<Calls['end_batch']['body']['ends'][number]>>,
  estimate: true satisfies Same<Sent<TTokenProcessEndPayload>, Said<Calls['estimate']['body']>>,
  cancel: true satisfies Same<Sent<TTokenProcessCancelPayload>, Said<Calls['cancel']['body']>>,
  extend_hold: true satisfies Same<Sent<TTokenProcessHoldExtendPayload>, Said<Calls['extend_hold']['body']>>,
  reverse_own_run: true satisfies Same<Sent<TTokenProcessReversePayload, never>, Said<Calls['reverse_own_run']['body']>>,
};

// What is read is described so, and an answer as described is one of the client's.
const answers: Record<string, true> = {
  start: true satisfies Same<Omit<TTokenProcessStartData, 'away'>, Calls['start']['data']>,
  end: true satisfies Same<TTokenProcessEndData, Calls['end']['data']>,
  estimate: true satisfies Same<TTokenProcessEstimateData, Calls['estimate']['data']>,
  extend_hold: true satisfies Same<
    TTokenProcessHoldExtendData,
    Read<Calls['extend_hold']['data'], TTokenProcessHoldExtendData>
  >,
  reverse_own_run: true satisfies Same<
    TTokenProcessReverseData,
    Read<Calls['reverse_own_run']['data'], TTokenProcessReverseData>
  >,
  end_batch: true satisfies Calls['end_batch']['data']['results'][number]['data'] extends TTokenProcessEndData | undefined
    ? true
    : never,
  cancel: true satisfies Calls['cancel']['data'] extends object ? true : never,
};

test('a failure as it is described is one of the client', () => {
  const described: Failure = { success: false, status: 404, message: 'User wallet not found', code: 'wallet_not_found', request_id: 'r' };
  const known: TTokenProcessFailure = described;
  const inBatch: BatchResult = { ...known, code: 'wallet_not_found', request_id: 'r' } as BatchResult;
  const result = inBatch as TTokenProcessBatchResult;
  assert.equal(result.success, false);
});

test('every call is compared', () => {
  const calls: Record<keyof Calls, true> = {
    start: true,
    end: true,
    end_batch: true,
    reverse_own_run: true,
    estimate: true,
    cancel: true,
    extend_hold: true,
  };
  assert.deepEqual(Object.keys(bodies).sort(), Object.keys(calls).sort());
  assert.deepEqual(Object.keys(answers).sort(), Object.keys(calls).sort());
});
