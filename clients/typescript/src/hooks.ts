/**
 * What a service may listen to: every call, every repetition, and the outbox. For metrics; nothing here can change, slow
 * or break a call.
 */

import type { TokenProcessError } from './errors';

/** The client's method. What the outbox sends is `end` and `endBatch` too. */
export type Operation = 'start' | 'end' | 'endBatch' | 'estimate' | 'reverse' | 'cancel' | 'extendHold';

/** A call is over: answered, refused or given up. */
export interface CallEvent {
  readonly operation: Operation;
  /** The HTTP status of the last attempt; absent when no answer came. */
  readonly status?: number | undefined;
  /** The whole call, its repetitions and pauses included. */
  readonly latencySeconds: number;
  /** How many attempts were made; 0 when the server was taken for away and nothing was sent. */
  readonly attempts: number;
  readonly idempotencyKey?: string | undefined;
  /** Absent when it succeeded. */
  readonly error?: Error | undefined;
}

/** An attempt failed and will be repeated. */
export interface RetryEvent {
  readonly operation: Operation;
  /** The number of the failed attempt, from 1. */
  readonly attempt: number;
  /** How long until the next. */
  readonly pauseSeconds: number;
  readonly error: TokenProcessError;
}

/** An end stays in the outbox, a round of sending is over, or the outbox can't be used (`error`). */
export interface OutboxEvent {
  /** How many ends wait in it now, and how many stand in it that the server refused; absent where that can't be told. */
  readonly depth?: number | undefined;
  readonly refused?: number | undefined;
  /** Ends that stay in it since the last event: their answer didn't come. */
  readonly queued: number;
  /** What a round has sent, and what it has put off. */
  readonly sent: number;
  readonly postponed: number;
  readonly error?: Error | undefined;
}

export interface Hooks {
  onCall?: ((event: CallEvent) => unknown) | undefined;
  onRetry?: ((event: RetryEvent) => unknown) | undefined;
  onOutbox?: ((event: OutboxEvent) => unknown) | undefined;
}

/** Tells a listener, and no more: what it throws or rejects with is logged, and nobody waits for it. */
export function tell<E extends object>(listener: ((event: E) => unknown) | undefined, event: E): void {
  if (!listener) return;
  try {
    const answer = listener(Object.freeze(event));
    if (isThenable(answer)) Promise.resolve(answer).catch((error: unknown) => logFailure('A hook', error));
  } catch (error) {
    logFailure('A hook', error);
  }
}

const CALLBACK_WAIT_SECONDS = 5;

/**
 * Calls what the service gave us, plain or async, and waits for it, but not for ever: a callback that hangs costs a caller
 * five seconds. Never throws: whatever comes of it is logged.
 */
export async function quietly(what: string, call: () => unknown): Promise<void> {
  try {
    const answer = call();
    if (!isThenable(answer)) return;
    await atMost(
      Promise.resolve(answer).catch((error: unknown) => logFailure(what, error)),
      CALLBACK_WAIT_SECONDS,
    );
  } catch (error) {
    logFailure(what, error);
  }
}

function logFailure(what: string, error: unknown): void {
  console.error(`[Token Process] ${what} failed:`, error);
}

export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return value !== null && (typeof value === 'object' || typeof value === 'function') && typeof (value as { then?: unknown }).then === 'function';
}

/** Waits for a promise that never rejects, so long at most. What it stands for goes on behind. */
export async function atMost(promise: Promise<unknown>, seconds: number): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, seconds * 1000);
  });
  await Promise.race([promise, late]);
  clearTimeout(timer);
}
