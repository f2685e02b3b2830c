/** Answers inside of what a feature hands over: in a list, in an object around them, in the steps of an agent. */

import { get, isRecord, list } from './model';
import { readProvider } from './providers';

/** How far into a result is looked. */
const ITEMS_MAX = 50;

interface Inside {
  answers: readonly unknown[];
  /** Answers that stand deeper, as in a conversation's messages: this run may have made them, or an older one. */
  hidden: number;
}

const NOTHING: Inside = { answers: [], hidden: 0 };

/** Of a list its items; of a plain object (`{ text, raw: completion }`) the answers that its fields are. */
export function answersIn(value: unknown): Inside {
  if (Array.isArray(value)) return { answers: value, hidden: 0 };
  if (!isPlain(value) || isOfChain(value)) return NOTHING;
  const fields = fieldsOf(value);
  const readings = fields.map((field) => ({ field, reading: readProvider(field) }));
  const found = readings.filter(({ reading }) => reading !== undefined);
  // The usage by itself says again what the answer beside it says.
  const answers = found.filter(({ field, reading }) => reading?.report !== field);
  if (found.length > 0) return { answers: (answers.length > 0 ? answers : found).map(({ field }) => field), hidden: 0 };
  const lists = fields.flatMap((field) => [field, ...(isPlain(field) ? fieldsOf(field) : [])]).flatMap((field) => list(field).slice(0, ITEMS_MAX));
  return { answers: [], hidden: lists.filter((item) => readProvider(item)?.report !== undefined).length };
}

/** The steps of a result of the Vercel AI SDK's, where each says what it used. */
export function stepsOf(value: unknown): unknown[] | undefined {
  const steps = list(get(value, 'steps'));
  return steps.length > 0 && steps.every((step) => isRecord(get(step, 'usage'))) ? steps : undefined;
}

/** An event of a chain around a model, which repeats the model's. */
function isOfChain(value: Record<string, unknown>): boolean {
  const { event } = value;
  return typeof event === 'string' && event.startsWith('on_');
}

function isPlain(value: unknown): value is Record<string, unknown> {
  if (!isRecord(value)) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** What stands in it, without calling a getter. */
function fieldsOf(value: Record<string, unknown>): unknown[] {
  const fields = Object.keys(value).slice(0, ITEMS_MAX);
  return fields.map((name): unknown => Object.getOwnPropertyDescriptor(value, name)?.value);
}
