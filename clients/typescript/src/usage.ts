/**
 * Reading what a run used from what it returned, and adding it up while a stream flows.
 */

import { isRecord } from './errors';

export interface Usage {
  input_token?: number | undefined;
  output_token?: number | undefined;
  model?: string | undefined;
  /** In a stream: these are the run's totals until here, not this chunk's share. */
  so_far?: boolean | undefined;
}

/** Looks at a result, or at one chunk of a stream. Undefined: it says nothing about usage. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export type UsageReader = (value: any) => Usage | undefined;

/** The guide's rule: `input_token`, `output_token` and `model` on the value itself. In a stream each chunk's share. */
export const guideUsage: UsageReader = (value: unknown) => {
  if (!isRecord(value)) return undefined;
  const { input_token, output_token, model } = value as Usage;
  if (input_token == null && output_token == null && model == null) return undefined;
  return { input_token, output_token, model };
};

/**
 * The guide's rule, and else the usage that model providers report: OpenAI (chat completions and responses), Anthropic
 * (messages and their stream events, cached input included), Gemini, and whatever copies them. A provider repeats or
 * completes its totals while it streams.
 */
export const providerUsage: UsageReader = (value: unknown) => {
  const own = guideUsage(value);
  if (own?.input_token != null || own?.output_token != null) return own;
  if (!isRecord(value)) return own;
  for (const holder of [value, value['message'], value['response']]) {
    if (!isRecord(holder)) continue;
    const report = holder['usage'] ?? holder['usageMetadata'] ?? holder['usage_metadata'];
    if (!isRecord(report)) continue;
    const model = holder['model'] ?? holder['modelVersion'] ?? value['model'];
    return {
      input_token:
        first(report, 'prompt_tokens', 'input_tokens', 'promptTokenCount', 'prompt_token_count') +
        first(report, 'cache_creation_input_tokens') +
        first(report, 'cache_read_input_tokens'),
      output_token:
        first(report, 'completion_tokens', 'output_tokens', 'candidatesTokenCount', 'candidates_token_count') +
        first(report, 'thoughtsTokenCount', 'thoughts_token_count'),
      model: typeof model === 'string' ? model : undefined,
      so_far: true,
    };
  }
  return own;
};

/**
 * For OpenAI-compatible streams: one output token for each piece of text, corrected by the reported usage. Providers
 * report usage in the last chunk (ask with `stream_options: { include_usage: true }`), which a stream that is closed
 * early never reaches: this counts what flowed until then. Of the two the larger counts.
 */
export const countDeltas: UsageReader = (chunk: unknown) => {
  const reported = providerUsage(chunk);
  if (reported?.output_token) return reported;
  const choices = isRecord(chunk) ? chunk['choices'] : undefined;
  if (!isRecord(chunk) || !Array.isArray(choices)) return reported;
  const pieces = choices.filter((choice: unknown) => {
    const delta = isRecord(choice) ? choice['delta'] : undefined;
    return isRecord(delta) && Boolean(delta['content'] || delta['reasoning_content'] || delta['tool_calls']);
  }).length;
  if (pieces === 0) return reported;
  const { model } = chunk;
  return { output_token: pieces, model: typeof model === 'string' ? model : undefined };
};

/** Adds up a stream. Per field the larger of what was added and of the last totals counts: nothing twice. */
export class UsageMeter {
  private readonly added = { input_token: 0, output_token: 0 };
  private readonly soFar = { input_token: 0, output_token: 0 };
  private model: string | undefined;

  add(usage: Usage | undefined, soFar: boolean): void {
    if (!usage) return;
    for (const field of ['input_token', 'output_token'] as const) {
      const value = usage[field];
      if (value == null) continue;
      if (!Number.isInteger(value) || value < 0) {
        throw new TypeError(`${field} of a chunk is not a whole number >= 0: ${String(value)}`);
      }
      if (soFar) this.soFar[field] = Math.max(this.soFar[field], value);
      else this.added[field] += value;
    }
    if (usage.model) this.model = usage.model;
  }

  read(): { input_token: number; output_token: number; model?: string | undefined } {
    return {
      input_token: Math.max(this.added.input_token, this.soFar.input_token),
      output_token: Math.max(this.added.output_token, this.soFar.output_token),
      model: this.model,
    };
  }
}

function first(report: Record<string, unknown>, ...names: string[]): number {
  for (const name of names) {
    const value = report[name];
    if (typeof value === 'number') return value;
  }
  return 0;
}
