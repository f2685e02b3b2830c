/**
 * The Vercel AI SDK (`ai`): a middleware that bills every call of a model, and the results of `streamText`.
 *
 * Neither needs the package: what it hands over is told by its fields, and is the same in its versions 5 to 7.
 */

import type { TokenProcess } from './client';
import { ConfigurationError, UsageError } from './errors';
import { sharedClient } from './functions';
import type { RunOptions, TokenProcessRun } from './run';
import { meterReadableStream } from './sources';
import type { StreamedRun } from './stream';
import { Lane } from './usage/meter';
import { get, isRecord } from './usage/model';

/** What a middleware is told of a call; `model.modelId` names the model. */
export interface ModelCall {
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  params: any;
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  model: any;
}

export type TokenProcessMiddlewareConfig =
  | (RunOptions & {
      feature_endpoint_id: string;
      /** The user, or how to find the user in the call: `({ params }) => params.providerOptions.tokentill.user_id`. */
      user_id: string | ((call: ModelCall) => string | Promise<string>);
      hold_token?: number | ((call: ModelCall) => number | undefined | Promise<number | undefined>) | undefined;
      hold_seconds?: number | undefined;
      client?: TokenProcess | undefined;
    })
  /** Every call adds to this run, which somebody else ends. */
  | { run: TokenProcessRun | (() => TokenProcessRun | undefined) };

/* eslint-disable @typescript-eslint/no-explicit-any */
export interface TokenProcessMiddleware {
  readonly specificationVersion: 'v3';
  wrapGenerate(call: any): Promise<any>;
  wrapStream(call: any): Promise<any>;
  wrapEmbed(call: any): Promise<any>;
}
/* eslint-enable @typescript-eslint/no-explicit-any */

/**
 * For `wrapLanguageModel` and `wrapEmbeddingModel`: each call of the model is a run with a start and an end of its own, or
 * adds to a run that is under way. Without access the call throws InsufficientTokensError and the model isn't called.
 */
export function tokenProcessMiddleware(config: TokenProcessMiddlewareConfig): TokenProcessMiddleware {
  const call = async (asked: ModelCall, act: () => PromiseLike<unknown>): Promise<unknown> => {
    const run = await runOf(config, asked);
    let result: unknown;
    try {
      result = await act();
    } catch (error) {
      await run.settle({ leftEarly: true });
      throw error;
    }
    await run.observe(result, 'answer');
    try {
      await run.settle({ leftEarly: false });
    } catch (error) {
      if (error instanceof UsageError) error.result = result;
      throw error;
    }
    return result;
  };
  return {
    specificationVersion: 'v3',
    wrapGenerate: (asked: ModelCall & { doGenerate: () => PromiseLike<unknown> }) => call(asked, asked.doGenerate),
    wrapEmbed: (asked: ModelCall & { doEmbed: () => PromiseLike<unknown> }) => call(asked, asked.doEmbed),
    wrapStream: async (asked: ModelCall & { doStream: () => PromiseLike<{ stream: never }> }) => {
      const run = await runOf(config, asked);
      try {
        const result = await asked.doStream();
        return { ...result, stream: meterReadableStream(run, result.stream) };
      } catch (error) {
        await run.settle({ leftEarly: true });
        throw error;
      }
    },
  };
}

async function runOf(config: TokenProcessMiddlewareConfig, call: ModelCall): Promise<StreamedRun> {
  const model = get(call.model, 'modelId');
  if ('run' in config) {
    const run = typeof config.run === 'function' ? config.run() : config.run;
    if (!run) throw new ConfigurationError('tokenProcessMiddleware: there is no run that this call of a model could be added to');
    return callIn(run);
  }
  const { feature_endpoint_id, user_id, hold_token, hold_seconds } = config;
  const hold = typeof hold_token === 'function' ? await hold_token(call) : hold_token;
  const run = await (config.client ?? sharedClient()).begin(
    {
      user_id: typeof user_id === 'function' ? await user_id(call) : user_id,
      feature_endpoint_id,
      ...(hold === undefined ? {} : { hold_token: hold }),
      ...(hold_seconds === undefined ? {} : { hold_seconds }),
    },
    config,
  );
  // Unless the provider's answer names the model that it took in the end.
  if (typeof model === 'string') run.use({ model });
  return {
    run,
    patienceSeconds: run.patienceSeconds,
    within: (act) => run.within(act),
    observe: (value, place) => run.observe(asOfModel(value), place),
    watch: (stream) => run.watch(stream),
    stop: (reason) => run.stop(reason),
    settle: (how) => run.settle(how),
  };
}

/** One call of a model among others: what becomes of it is not what becomes of the run. */
function callIn(run: TokenProcessRun): StreamedRun {
  const lane = new Lane(true);
  return {
    run,
    patienceSeconds: run.patienceSeconds,
    within: (act) => run.within(act),
    observe: (value, place) => run.observe(asOfModel(value), place, lane),
    watch: () => undefined,
    stop: () => undefined,
    // The pieces of a call that was left stand for the usage that it can't report any more.
    settle: async ({ leftEarly }) => (leftEarly ? run.wasLeft(lane) : undefined),
  };
}

/** A model's part has its text where the stream for user interfaces has it, too: here it is a model's, for certain. */
function asOfModel(part: unknown): unknown {
  const delta = get(part, 'delta');
  return typeof delta === 'string' && isRecord(part) ? { ...part, text: delta, delta: undefined } : part;
}

/**
 * Counts what `streamText` returned, beside whoever reads it. The SDK hands out a branch of its stream for each reader;
 * this one reads to the end, as `result.consumeStream()` does, so the usage is known although the other may have gone.
 * An `abortSignal` stops the provider and both: what flowed until then is billed.
 */
export function followStreamResult(run: StreamedRun, result: Record<string, unknown>): void {
  const hasOneReader = typeof result['consumeStream'] !== 'function' || get(result['retention'], 'replay') === false;
  void (hasOneReader ? followUsage(run, result) : followParts(run, result)).catch((error: unknown) => {
    console.error('[Token Process] The usage of a streamText could not be followed:', error);
  });
}

async function followParts(run: StreamedRun, result: Record<string, unknown>): Promise<void> {
  let leftEarly = false;
  try {
    for await (const part of result['fullStream'] as AsyncIterable<unknown>) await run.observe(part, 'chunk');
  } catch {
    leftEarly = true; // the other branch hears of it
  }
  await run.settle({ leftEarly, unheard: true });
}

/** `streamObject`, and `streamText` in its variant for one reader: a branch would be taken from that reader. */
async function followUsage(run: StreamedRun, result: Record<string, unknown>): Promise<void> {
  let leftEarly = false;
  try {
    const [usage, response] = await Promise.all([result['totalUsage'] ?? result['usage'], result['response']]);
    await run.observe({ type: 'response-metadata', modelId: get(response, 'modelId') }, 'chunk');
    await run.observe({ type: 'finish', usage }, 'chunk');
  } catch {
    leftEarly = true;
  }
  await run.settle({ leftEarly, unheard: true });
}
