/** What one reading of usage says, and careful access to values that nobody here has made. */

import { isRecord, UsageUnreadableError } from '../errors';

/** Tokens that one result or chunk reports. Absent is "not said", which differs from a reported 0. */
export interface Usage {
  input_token?: number | undefined;
  output_token?: number | undefined;
  /** Within `input_token`, as is `cacheWriteToken`. */
  cachedInputToken?: number | undefined;
  cacheWriteToken?: number | undefined;
  /** Within `output_token`. */
  reasoningToken?: number | undefined;
  model?: string | undefined;
  /** Tells the answers of a run apart; without it the answer that goes on is meant. */
  answerId?: string | undefined;
  /** An increment is added to its answer, a total is all of the answer so far: the latest counts. Increment unless said. */
  kind?: 'increment' | 'total' | undefined;
  /** True: nothing follows of this answer, what comes next is another's. False: its provider goes on counting. */
  final?: boolean | undefined;
}

/** A reading together with what only this package's own readers know to say. */
export interface Reading extends Usage {
  /** True: a complete answer. False: a piece of the answer that goes on. Absent: as where it was met, result or stream. */
  whole?: boolean;
  /** The stream says of itself that it was left before its end. */
  left?: boolean;
  /** The input counts only where it is more than is known: some repeat it in part, or as 0. */
  inputAtLeast?: boolean;
  /** Calls of the model that a total adds up. */
  requests?: number;
  /** It is of the Vercel AI SDK, which tells again, under an id of its own, what its model has reported. */
  retold?: boolean;
  /** Only the model that was asked, by the name it was asked by: for want of the answer's. */
  asked?: boolean;
  /** The sum of the answers that came before it in its stream: it counts only where there were none. */
  sum?: boolean;
  /** It tells a reader again what a model said, and never what that took: it counts only where nothing else is known. */
  echo?: boolean;
  /**
   * These are pieces counted here, not tokens a provider reported, and give way to its report. `early`: they count only
   * for a stream that was left before its provider could report.
   */
  pieces?: 'always' | 'early';
  /** Counted beside the totals: what else the provider did for this answer. */
  asides?: Counts;
  /** Why the report can't be believed; there are no counts then. */
  problem?: string;
  /** The provider's report, as it came. */
  report?: unknown;
}

/** Looks at a result, or at one chunk of a stream. Undefined: it says nothing about usage. May be async. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export type UsageReader = (value: any) => Usage | undefined | PromiseLike<Usage | undefined>;

export type Counts = Partial<Record<CountName, number>>;
export const COUNTS = ['input_token', 'output_token', 'cachedInputToken', 'cacheWriteToken', 'reasoningToken'] as const;
export type CountName = (typeof COUNTS)[number];

/** A count of tokens, or undefined where there is none. UsageUnreadableError for anything else. */
export function count(name: string, value: unknown): number | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
  throw new UsageUnreadableError(`${name} is not a whole number >= 0: ${shown(value)}`);
}

/** The counts of a usage that may be anybody's. UsageUnreadableError for what is no count. */
export function checked(usage: Usage): Counts {
  const counts: Counts = {};
  for (const name of COUNTS) {
    const value = count(name, usage[name]);
    if (value !== undefined) counts[name] = value;
  }
  return counts;
}

export function add(to: Counts, counts: Counts): void {
  for (const name of COUNTS) {
    const value = counts[name];
    if (value !== undefined) to[name] = (to[name] ?? 0) + value;
  }
}

/** The first of these fields that is there: not null, no method, nothing that fails to load. */
export function get(source: unknown, ...names: string[]): unknown {
  if (typeof source !== 'object' || source === null) return undefined;
  for (const name of names) {
    let value: unknown;
    try {
      value = (source as Record<string, unknown>)[name];
    } catch {
      continue; // a getter of a stranger's object: it only wasn't what we look for
    }
    if (value !== undefined && value !== null && typeof value !== 'function') return value;
  }
  return undefined;
}

/** A name or an id, where it is one. */
export function text(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value : undefined;
}

export function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

/** An object that is nobody's: made of its fields. */
export function isPlain(value: unknown): value is Record<string, unknown> {
  if (!isRecord(value)) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

export { isRecord };

function shown(value: unknown): string {
  return (typeof value === 'string' ? JSON.stringify(value) : String(value)).slice(0, 100);
}
