/** Answers inside of what a feature hands over: in a list, in an object around them, in the steps of an agent. */

import { get, isPlain, isRecord, list } from './model';
import { readProvider } from './providers';

/** How far into a result is looked. */
const ITEMS_MAX = 50;

interface Inside {
  answers: readonly unknown[];
  /** What answers report that stand deeper, as in a conversation's messages: this run may have made them, or an older one. */
  hidden: readonly unknown[];
}

const NOTHING: Inside = { answers: [], hidden: [] };

/** Of a list its items; of an object around answers (`{ text, raw: completion }`) those that its fields are. */
export function answersIn(value: unknown): Inside {
  if (Array.isArray(value)) return { answers: value, hidden: [] };
  if (value instanceof Map || value instanceof Set) return { answers: [...value.values()], hidden: [] };
  if (!isRecord(value)) return NOTHING;
  const fields = fieldsOf(value);
  const readings = fields.map((field) => ({ field, reading: readProvider(field) }));
  const found = readings.filter(({ reading }) => reading !== undefined);
  // The usage by itself says again what the answer beside it says.
  const answers = found.filter(({ field, reading }) => reading?.report !== field);
  if (found.length > 0) return { answers: (answers.length > 0 ? answers : found).map(({ field }) => field), hidden: [] };
  const nested = fields.flatMap((field) => [field, ...(isPlain(field) ? fieldsOf(field) : [])]);
  const items = nested.flatMap((field) => list(field).slice(0, ITEMS_MAX));
  return { answers: [], hidden: items.flatMap((item) => readProvider(item)?.report ?? []) };
}

/** The steps of a result of the Vercel AI SDK's, where each says what it used. */
export function stepsOf(value: unknown): unknown[] | undefined {
  const steps = list(get(value, 'steps'));
  return steps.length > 0 && steps.every((step) => isRecord(get(step, 'usage'))) ? steps : undefined;
}

/** What stands in it, without calling a getter. */
function fieldsOf(value: Record<string, unknown>): unknown[] {
  const fields = Object.keys(value).slice(0, ITEMS_MAX);
  return fields.map((name): unknown => Object.getOwnPropertyDescriptor(value, name)?.value);
}
