/**
 * Tokentill for Node: the token process guide's functions, and the client they stand on.
 *
 *     import { tokenProcessStart, tokenProcessEnd, withTokenProcess } from 'tokentill';
 */

export { configureTokenProcess, tokenProcessCancel, tokenProcessEnd, tokenProcessStart, withTokenProcess } from './functions';
export { tokenProcessMiddleware } from './ai-sdk';
export type { TokenProcessMiddleware, TokenProcessMiddlewareConfig } from './ai-sdk';
export { TokenProcess } from './client';
export type { TokenProcessOptions } from './client';
export {
  AuthenticationError,
  ConfigurationError,
  ConflictError,
  FeatureNotAvailableError,
  InsufficientTokensError,
  OutboxError,
  OutboxFullError,
  OutboxUnsupportedError,
  TokenProcessError,
  UnavailableError,
  UsageError,
  UsageMissingError,
  UsageUnreadableError,
  ValidationError,
  WalletNotFoundError,
} from './errors';
export type { SeenAnswer, TokenProcessErrorResponse } from './errors';
export { Outbox } from './outbox';
export type { OutboxOptions, OutboxStatus, RefusedEnd } from './outbox';
export { TokenProcessRun } from './run';
export type { OnEndError, RunOptions, UnbilledEnd } from './run';
export type { FlushReport } from './sender';
export { countDeltas, providerUsage } from './usage';
export type { Usage, UsageReader } from './usage';
export type { WithTokenProcessConfig, Wrapped } from './wrapper';
export type {
  TTokenProcessBatchResponse,
  TTokenProcessBatchResult,
  TTokenProcessCancelPayload,
  TTokenProcessCancelResponse,
  TTokenProcessEndData,
  TTokenProcessEndPayload,
  TTokenProcessEndResponse,
  TTokenProcessFailure,
  TTokenProcessStartData,
  TTokenProcessStartPayload,
  TTokenProcessStartResponse,
} from './wire';
