/**
 * Tokentill for Node: the token process guide's functions, and the client they stand on.
 *
 *     import { tokenProcessStart, tokenProcessEnd, withTokenProcess } from 'tokentill';
 */

export {
  configureTokenProcess,
  tokenProcessCancel,
  tokenProcessEnd,
  tokenProcessHoldExtend,
  tokenProcessReverse,
  tokenProcessStart,
  withTokenProcess,
} from './functions';
export { tokenProcessMiddleware } from './ai-sdk';
export type { TokenProcessMiddleware, TokenProcessMiddlewareConfig } from './ai-sdk';
export type { AwayReport } from './away';
export { TokenProcess } from './client';
export type { CallOptions, TokenProcessOptions } from './client';
export { currentRun } from './context';
export {
  AuthenticationError,
  ConfigurationError,
  ConflictError,
  FeatureNotAvailableError,
  HoldNotFoundError,
  HoldRefusedError,
  InsufficientTokensError,
  OutboxError,
  OutboxFullError,
  OutboxUnsupportedError,
  ReversalRefusedError,
  TokenProcessError,
  UnavailableError,
  UsageError,
  UsageMissingError,
  UsageUnreadableError,
  ValidationError,
  WalletNotFoundError,
} from './errors';
export type { RepeatableCall, SeenAnswer, TokenProcessErrorResponse } from './errors';
export type { CallEvent, Hooks, Operation, OutboxEvent, RetryEvent } from './hooks';
export { Outbox } from './outbox';
export type { OutboxOptions, OutboxStatus, RefusedEnd } from './outbox';
export { TokenProcessRun } from './run';
export type { OnEndError, RunOptions, UnbilledEnd } from './run';
export type { FlushReport } from './sender';
export type { Settings } from './settings';
export { countDeltas, providerUsage } from './usage';
export type { Usage, UsageReader } from './usage';
export type { WithTokenProcessConfig, Wrapped } from './wrapper';
export type {
  TTokenProcessBatchResponse,
  TTokenProcessBatchResult,
  TTokenProcessCancelPayload,
  TTokenProcessCancelResponse,
  TTokenProcessEndData,
  TTokenProcessEstimateData,
  TTokenProcessEstimateResponse,
  TTokenProcessEndPayload,
  TTokenProcessEndResponse,
  TTokenProcessFailure,
  TTokenProcessHoldExtendData,
  TTokenProcessHoldExtendPayload,
  TTokenProcessHoldExtendResponse,
  TTokenProcessReverseData,
  TTokenProcessReversePayload,
  TTokenProcessReverseResponse,
  TTokenProcessStartData,
  TTokenProcessStartPayload,
  TTokenProcessStartResponse,
} from './wire';
