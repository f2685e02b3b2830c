/** Readers of usage: what a result, or one chunk of a stream, says it used. */

import { get, isRecord, text } from './model';
import type { CountName, Reading, Usage } from './model';
import { readProvider } from './providers';

export type { Usage, UsageReader } from './model';

const GUIDE_NAMES: readonly [CountName, ...string[]][] = [
  ['input_token'],
  ['output_token'],
  ['cachedInputToken', 'cached_input_token'],
  ['cacheWriteToken', 'cache_write_token'],
  ['reasoningToken', 'reasoning_token'],
];

/** The guide's rule: `input_token`, `output_token` and `model` on the value itself. In a stream each chunk's share. */
const guideUsage = (value: unknown): Usage | undefined => {
  if (!isRecord(value)) return undefined;
  const model = text(value['model']);
  const { input_token, output_token } = value;
  if (input_token == null && output_token == null) return model === undefined ? undefined : { model };
  const usage: Reading = { ...(model === undefined ? {} : { model }) };
  for (const [name, ...others] of GUIDE_NAMES) {
    const found = get(value, name, ...others);
    // Whether it is a count is judged where it is added.
    if (found !== undefined) usage[name] = found as number;
  }
  return usage;
};

/**
 * The reader unless another is given: the guide's rule, and else what model providers and their libraries report (see
 * docs/clients/usage.md). For a stream of a model that is left before its provider reports, pieces of output are counted.
 */
export const providerUsage = (value: unknown): Usage | undefined => {
  const own = guideUsage(value);
  return own?.input_token != null || own?.output_token != null ? own : (readProvider(value) ?? own);
};

/**
 * For streams whose provider reports nothing: one output token for each piece of output, text included. Gives way to a
 * report where one comes after all.
 */
export const countDeltas = (chunk: unknown): Usage | undefined => {
  const piece: Reading = { output_token: 1, kind: 'increment', pieces: 'always' };
  if (typeof chunk === 'string') return chunk === '' ? undefined : piece;
  const usage: Reading | undefined = providerUsage(chunk);
  if (!usage?.pieces) return usage;
  const always: Reading = { ...usage, pieces: 'always' };
  return always;
};
