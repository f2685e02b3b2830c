/**
 * The guide's functions on one client for the whole program, made from the environment when it is first needed:
 * TOKEN_SERVER_URL, SERVER_API_KEY and, to keep ends on disk, TOKENTILL_OUTBOX.
 */

import { TokenProcess } from './client';
import type { TokenProcessOptions } from './client';
import { environment } from './platform';
import { wrap } from './wrapper';
import type { WithTokenProcessConfig, Wrapped } from './wrapper';
import type {
  TTokenProcessCancelPayload,
  TTokenProcessCancelResponse,
  TTokenProcessEndPayload,
  TTokenProcessEndResponse,
  TTokenProcessHoldExtendPayload,
  TTokenProcessHoldExtendResponse,
  TTokenProcessReversePayload,
  TTokenProcessReverseResponse,
  TTokenProcessStartPayload,
  TTokenProcessStartResponse,
} from './wire';

let shared: TokenProcess | undefined;

/** Replaces the client that the functions share, and returns it. For settings that the environment can't give. */
export function configureTokenProcess(options: TokenProcessOptions = {}): TokenProcess {
  const client = new TokenProcess({ outbox: environment('TOKENTILL_OUTBOX'), ...options });
  void shared?.close().catch((error: unknown) => console.error('[Token Process] The former client was not closed:', error));
  shared = client;
  return client;
}

export function tokenProcessStart(payload: TTokenProcessStartPayload): Promise<TTokenProcessStartResponse> {
  return withShared((client) => client.start(payload));
}

/** Bills one run, once, however often it has to be sent. */
export function tokenProcessEnd(payload: TTokenProcessEndPayload): Promise<TTokenProcessEndResponse> {
  return withShared((client) => client.end(payload));
}

/** Gives a hold back when the feature failed. */
export function tokenProcessCancel(payload: TTokenProcessCancelPayload): Promise<TTokenProcessCancelResponse> {
  return withShared((client) => client.cancel(payload));
}

/** Takes back a run that was billed, as long as its feature endpoint allows that. */
export function tokenProcessReverse(payload: TTokenProcessReversePayload): Promise<TTokenProcessReverseResponse> {
  return withShared((client) => client.reverse(payload));
}

/** Adds to an open hold, to its life, or to both. */
export function tokenProcessHoldExtend(payload: TTokenProcessHoldExtendPayload): Promise<TTokenProcessHoldExtendResponse> {
  return withShared((client) => client.extendHold(payload));
}

/** Wraps a function that returns `input_token`, `output_token` and `model`, or a stream, in start and end. */
export function withTokenProcess<TArgs extends unknown[], R>(
  config: WithTokenProcessConfig<TArgs>,
  fn: (...args: TArgs) => R,
): (...args: TArgs) => Wrapped<R> {
  return wrap(sharedClient, config, fn);
}

export function sharedClient(): TokenProcess {
  return shared ?? configureTokenProcess();
}

// A setting that can't work is thrown by the constructor: as a rejection here, as these functions promise one.
async function withShared<T>(act: (client: TokenProcess) => Promise<T>): Promise<T> {
  return act(sharedClient());
}
