/**
 * From a provider's report of usage to counts: which part is inside which, decided by the reported total.
 *
 * Providers agree on the words and not on the sums. Cached input is inside the input at OpenAI and beside it at
 * Anthropic; reasoning is inside the output at OpenAI and beside it at xAI and Gemini; Gemini counts the prompts of tools
 * apart. Each name has a usual place, and where the report has a total, the reading under which the total adds up is the
 * right one. When none adds up the report can't be believed: UsageUnreadableError.
 */

import { UsageUnreadableError } from '../errors';
import { add, count, get, isRecord, list } from './model';
import type { CountName, Counts } from './model';

type Path = readonly string[];
type Whole = 'input_token' | 'output_token';

const INPUT = paths(
  'prompt_tokens',
  'input_tokens',
  'promptTokens',
  'inputTokens',
  'inputTokens.total',
  'prompt_token_count',
  'promptTokenCount',
  'inputTokenCount',
  'prompt_eval_count',
  'total_input_tokens',
  // Cohere: what it charges, and else what its model has read.
  'billed_units.input_tokens',
  'billedUnits.inputTokens',
  'tokens.input_tokens',
  'tokens.inputTokens',
);
const OUTPUT = paths(
  'completion_tokens',
  'output_tokens',
  'completionTokens',
  'outputTokens',
  'outputTokens.total',
  'candidates_token_count',
  'candidatesTokenCount',
  'response_token_count',
  'responseTokenCount',
  'outputTokenCount',
  'eval_count',
  'total_output_tokens',
  'billed_units.output_tokens',
  'billedUnits.outputTokens',
  'tokens.output_tokens',
  'tokens.outputTokens',
);
const TOTAL = paths('total_tokens', 'totalTokens', 'total_token_count', 'totalTokenCount');

/** Tokens reported apart: under which names, and whether each name's tokens are usually inside the whole. */
interface Part {
  kind: CountName | undefined;
  whole: Whole;
  inside: readonly Path[];
  beside: readonly Path[];
  /** Names whose counts are added to the first: one kind, reported in pieces. */
  more?: readonly Path[];
}

// In the order in which a place is doubted, the most doubtful first.
const PARTS: readonly Part[] = [
  {
    kind: 'reasoningToken',
    whole: 'output_token',
    inside: paths(
      'completion_tokens_details.reasoning_tokens',
      'output_tokens_details.reasoning_tokens',
      'output_tokens_details.thinking_tokens',
      'output_token_details.reasoning',
      'completionTokensDetails.reasoningTokens',
      'outputTokensDetails.reasoningTokens',
      'outputTokenDetails.reasoningTokens',
      'outputTokens.reasoning',
      'reasoningTokens',
      'reasoning_tokens',
    ),
    beside: paths('thoughts_token_count', 'thoughtsTokenCount', 'total_thought_tokens'),
  },
  {
    kind: 'cachedInputToken',
    whole: 'input_token',
    inside: paths(
      'prompt_tokens_details.cached_tokens',
      'input_tokens_details.cached_tokens',
      'input_token_details.cached_tokens',
      'input_token_details.cache_read',
      'promptTokensDetails.cachedTokens',
      'inputTokensDetails.cachedTokens',
      'inputTokenDetails.cacheReadTokens',
      'inputTokens.cacheRead',
      'cachedInputTokens',
      'cached_content_token_count',
      'cachedContentTokenCount',
      'prompt_cache_hit_tokens',
      'cached_tokens',
      'total_cached_tokens',
    ),
    beside: paths('cache_read_input_tokens', 'cacheReadInputTokens', 'cacheReadInputTokenCount'),
  },
  {
    kind: 'cacheWriteToken',
    whole: 'input_token',
    inside: paths(
      'prompt_tokens_details.cache_write_tokens',
      'prompt_tokens_details.cache_creation_tokens',
      'input_tokens_details.cache_write_tokens',
      'input_token_details.cache_creation',
      'inputTokenDetails.cacheWriteTokens',
      'inputTokens.cacheWrite',
    ),
    beside: paths('cache_creation_input_tokens', 'cacheWriteInputTokens', 'cacheWriteInputTokenCount'),
    // LangChain's package for Anthropic reports what was written by how long it is kept.
    more: paths('input_token_details.ephemeral_5m_input_tokens', 'input_token_details.ephemeral_1h_input_tokens'),
  },
  {
    kind: undefined,
    whole: 'input_token',
    inside: [],
    beside: paths('tool_use_prompt_token_count', 'toolUsePromptTokenCount', 'total_tool_use_tokens'),
  },
];

interface Found {
  kind: CountName | undefined;
  whole: Whole;
  count: number;
  usuallyInside: boolean;
}

/** The counts in a provider's usage object. UsageUnreadableError where they can't be had, or don't add up. */
export function countsOf(report: Record<string, unknown>): Counts {
  const [inputPath, input] = first(report, INPUT);
  const [, output] = first(report, OUTPUT);
  const found = partsOf(report, inputPath);
  const wholes: Record<Whole, number | undefined> = { input_token: input, output_token: output };
  // Of an answer that has only thought so far, Gemini counts the thoughts and says nothing of the whole.
  if (input === undefined && output === undefined && found.length === 0) {
    throw new UsageUnreadableError('The usage has no count that is known');
  }
  const [, total] = first(report, TOTAL);
  // A total of 0 beside counts is one that nobody has set.
  const places = placesOf(found, wholes, total === 0 ? undefined : total);
  const counts: Counts = {};
  found.forEach((part, index) => {
    if (!places[index]) wholes[part.whole] = (wholes[part.whole] ?? 0) + part.count;
    if (part.kind) counts[part.kind] = part.count;
  });
  if (wholes.input_token !== undefined) counts.input_token = wholes.input_token;
  if (wholes.output_token !== undefined) counts.output_token = wholes.output_token;
  return counts;
}

/** Of Anthropic's iterations, those that its counts above them leave out: it shortened the conversation, or asked another model. */
export function asidesOf(report: Record<string, unknown>): Counts {
  const counts: Counts = {};
  for (const iteration of list(report['iterations'])) {
    const kind = get(iteration, 'type');
    if (isRecord(iteration) && (kind === 'compaction' || kind === 'advisor_message')) add(counts, countsOf(iteration));
  }
  return counts;
}

/** For each part, whether it is inside its whole: the fewest changes to what is usual that add up. */
function placesOf(found: readonly Found[], wholes: Record<Whole, number | undefined>, total: number | undefined): boolean[] {
  const possible = combinations(found.length)
    .filter((places) => fits(found, places, wholes))
    .sort((one, other) => order(changes(found, one), changes(found, other)));
  const beside = (places: boolean[]): number => sum(found.filter((_, index) => !places[index]));
  const plain = (wholes.input_token ?? 0) + (wholes.output_token ?? 0);
  const right = possible.find((places) => total === undefined || plain + beside(places) === total);
  if (right) return right;
  throw new UsageUnreadableError(`The counts of the usage don't add up to its total of ${total}`);
}

/** No whole is smaller than the parts inside it. */
function fits(found: readonly Found[], places: boolean[], wholes: Record<Whole, number | undefined>): boolean {
  return (['input_token', 'output_token'] as const).every((whole) => {
    const inside = found.filter((part, index) => places[index] && part.whole === whole);
    return sum(inside) <= (wholes[whole] ?? 0);
  });
}

function changes(found: readonly Found[], places: boolean[]): boolean[] {
  return found.map((part, index) => part.usuallyInside !== places[index]);
}

/** Few changes first; of equally few the one to the part that is doubted first. */
function order(one: boolean[], other: boolean[]): number {
  const size = (changed: boolean[]): number => changed.filter(Boolean).length;
  if (size(one) !== size(other)) return size(one) - size(other);
  return one.indexOf(true) - other.indexOf(true);
}

function sum(parts: readonly Found[]): number {
  return parts.reduce((total, part) => total + part.count, 0);
}

/** Every list of that many booleans. */
function combinations(length: number): boolean[][] {
  return Array.from({ length: 2 ** length }, (_, bits) => Array.from({ length }, (_, index) => (bits >> index) % 2 === 0));
}

function partsOf(report: Record<string, unknown>, inputPath: Path | undefined): Found[] {
  // LiteLLM repeats Anthropic's names beside OpenAI's, whose prompt_tokens hold them already.
  const asOpenAI = inputPath !== undefined && ['prompt_tokens', 'promptTokens'].includes(inputPath[0] ?? '');
  return PARTS.flatMap(({ kind, whole, inside, beside, more = [] }) => {
    const within = largest(report, inside) + more.reduce((sum, path) => sum + (at(report, path) ?? 0), 0);
    const found = within > 0 ? within : largest(report, beside);
    return found > 0 ? [{ kind, whole, count: found, usuallyInside: within > 0 || asOpenAI }] : [];
  });
}

/** Two names for the same tokens: one of them is often there and 0. */
function largest(report: Record<string, unknown>, names: readonly Path[]): number {
  return names.reduce((most, path) => Math.max(most, at(report, path) ?? 0), 0);
}

function first(report: Record<string, unknown>, names: readonly Path[]): [Path | undefined, number | undefined] {
  for (const path of names) {
    const found = at(report, path);
    if (found !== undefined) return [path, found];
  }
  return [undefined, undefined];
}

function at(report: Record<string, unknown>, path: Path): number | undefined {
  let value: unknown = report;
  for (const name of path) value = get(value, name);
  // The AI SDK's models have an object of counts where all others have the count.
  return isRecord(value) && path.length === 1 ? undefined : count(path.join('.'), value);
}

function paths(...names: string[]): Path[] {
  return names.map((name) => name.split('.'));
}
