/**
 * Adds up one run: the answers it had, each counted once.
 *
 * Within an answer increments are added, the latest total takes the place of all that was counted before it, and pieces
 * counted here give way to whatever the provider reports. The answers are told apart by their ids, else by
 * `nextAnswer()` and by the ends that some providers mark. What can't be counted is never guessed: the rest is summed up,
 * and the outcome has the error that says so.
 */

import { messageOf, UsageError, UsageMissingError, UsageUnreadableError } from '../errors';
import type { SeenAnswer } from '../errors';
import { Answer } from './answer';
import { countDeltas, providerUsage } from './index';
import { add, checked } from './model';
import type { Counts, Reading, Usage, UsageReader } from './model';
import { readProvider } from './providers';

/** What is billed: counts of the whole run. */
export interface RunUsage extends Counts {
  input_token: number;
  output_token: number;
  model?: string;
  /** Answers that are added up in it. */
  requests: number;
}

export interface Outcome {
  usage: RunUsage;
  /** Something was used that `usage` doesn't hold. */
  error?: UsageError;
  /** Somebody said what was used, be it 0. */
  known: boolean;
}

/** Where a value was met: a result of its own, a chunk of a stream, or what a function returned at its end. */
export type Place = 'result' | 'chunk' | 'end';

const SEEN_MAX = 10;
const OWN_READERS: readonly unknown[] = [providerUsage, countDeltas];

export class UsageMeter {
  private readonly answers: Answer[] = [];
  private readonly byId = new Map<string, Answer>();
  private readonly readResults = new WeakSet<object>();
  /** Chunks that a stream inside of the run's own has brought, until that passes them on; and the last that is no object. */
  private readonly fromInside = new WeakSet<object>();
  private textFromInside: unknown;
  private current: Answer | undefined;
  /** What the feature said by hand: beside all that providers report. */
  private readonly used: Counts = {};
  /** What a function returned of its own counts: about the whole run. */
  private runTotal: Counts | undefined;
  private model: string | undefined;
  private left = false;
  private texts = 0;
  /** Readings that are no usage: they spoil only themselves. */
  private readonly refused: { seen: SeenAnswer; cause: unknown }[] = [];

  constructor(private readonly reader: UsageReader = providerUsage) {}

  /** Takes in what `value` says. Never throws: what can't be read is in the outcome. A promise where the reader is async. */
  read(value: unknown, place: Place): void | Promise<void> {
    // Most generators return nothing, and most readers don't expect it.
    if (value === undefined || value === null) return;
    try {
      const said = this.reader(value);
      if (said === undefined || !('then' in said)) return this.take(said, value, place);
      return Promise.resolve(said).then(
        (usage) => this.take(usage, value, place),
        (error: unknown) => this.refuse(error, {}),
      );
    } catch (error) {
      return this.refuse(error, {});
    }
  }

  /** Adds what the feature says that it used. Throws UsageUnreadableError for what is no count. */
  use(usage: Usage): void {
    add(this.used, checked(usage));
    if (usage.model) this.model = usage.model;
  }

  /** What follows is another answer's, where no id says so. */
  nextAnswer(): void {
    if (this.current) this.current.closed = true;
    this.current = undefined;
  }

  /** One of several streams begins, or is over: what has no id isn't of the answer before it. `left`: it said no more. */
  streamBoundary(left = false): void {
    if (left) this.left = true;
    this.current = undefined;
  }

  /** A chunk of a stream inside of the run's own, which may pass it on. */
  readInside(chunk: unknown): void | Promise<void> {
    if (typeof chunk === 'object' && chunk !== null) this.fromInside.add(chunk);
    else this.textFromInside = chunk;
    return this.read(chunk, 'chunk');
  }

  /** This chunk is passed on, once: it has been counted. */
  isPassedOn(chunk: unknown): boolean {
    if (typeof chunk === 'object' && chunk !== null) return this.fromInside.delete(chunk);
    const isPassedOn = chunk !== undefined && chunk === this.textFromInside;
    this.textFromInside = undefined;
    return isPassedOn;
  }

  /** What has been counted so far but for what the feature said of the whole run. */
  get counted(): { input_token: number; output_token: number } {
    const counted = { input_token: 0, output_token: 0 };
    for (const { input_token = 0, output_token = 0 } of [this.used, ...this.answers.map((answer) => answer.counts(true) ?? {})]) {
      counted.input_token += input_token;
      counted.output_token += output_token;
    }
    return counted;
  }

  /** What there is to bill. `leftEarly`: the run was closed, or failed, before its model had said all. */
  outcome(leftEarly: boolean): Outcome {
    const usage: RunUsage = { input_token: 0, output_token: 0, requests: 0 };
    const missing: SeenAnswer[] = [];
    const unreadable: SeenAnswer[] = [];
    let known = this.runTotal !== undefined || Object.keys(this.used).length > 0;
    for (const answer of this.answers) {
      if (answer.problem !== undefined) unreadable.push(answer.seen(answer.problem));
      if (answer.problem !== undefined) continue;
      const early = leftEarly || this.left;
      const counts = answer.counts(early);
      if (!counts || answer.lacksReport(early)) missing.push(answer.seen('no usage was reported'));
      if (!counts) continue;
      known = true;
      add(usage, counts);
      usage.requests += answer.requests(early);
    }
    if (this.texts > 0 && !known && missing.length === 0) {
      missing.push({ texts: this.texts, why: 'text flowed and nothing said what it used' });
    }
    add(usage, this.used);
    Object.assign(usage, this.runTotal);
    if (this.model !== undefined) usage.model = this.model;
    // What the feature says of the whole run stands for what its answers don't say.
    const error = this.errorOf(this.runTotal ? [] : unreadable, this.runTotal ? [] : missing);
    return { usage: consistent(usage), known, ...(error ? { error } : {}) };
  }

  private take(usage: Usage | undefined, value: unknown, place: Place): void | Promise<void> {
    const reading = OWN_READERS.includes(this.reader) ? usage : about(usage, readProvider(value));
    if (reading) return this.add(reading, value, place);
    if (Array.isArray(value)) {
      // A tuple or a list of results: each is what it would be alone.
      const rest = value.map((item) => this.read(item, place === 'end' ? 'result' : place)).filter((reading) => reading);
      return rest.length > 0 ? Promise.all(rest).then(() => undefined) : undefined;
    }
    if (place === 'chunk' && isText(value)) this.texts += 1;
  }

  private add(reading: Reading, value: unknown, place: Place): void {
    if (reading.left) this.left = true;
    if (reading.left) return;
    let counts: Counts;
    try {
      counts = checked(reading);
    } catch (error) {
      return this.refuse(error, reading);
    }
    if (reading.model) this.model = reading.model;
    const isOwn = reading.whole === undefined;
    if (isOwn && reading.problem === undefined && Object.keys(counts).length === 0) return;
    if (place === 'end') {
      if (reading.pieces) return;
      if (isOwn && reading.kind !== 'total' && reading.answerId === undefined) {
        this.runTotal = { ...this.runTotal, ...counts };
        return;
      }
    }
    if (this.wasRead(value, place)) return;
    const isWhole = reading.whole ?? place === 'result';
    const answer = this.answerOf(reading, isWhole);
    answer.take(reading, counts);
    if (reading.final || (isWhole && reading.answerId === undefined)) answer.closed = true;
  }

  /** What is handed to `run.read` and then returned, or yielded, counts once. */
  private wasRead(value: unknown, place: Place): boolean {
    if (typeof value !== 'object' || value === null) return false;
    if (place !== 'result') return this.readResults.has(value);
    this.readResults.add(value);
    return false;
  }

  private answerOf(reading: Reading, isWhole: boolean): Answer {
    const { answerId } = reading;
    const known = answerId === undefined ? undefined : this.byId.get(answerId);
    if (known) return (this.current = known);
    let answer = this.current;
    // An answer may flow for a while before its id is said.
    const goesOn = answer && !answer.closed && (answerId === undefined ? !isWhole : answer.id === undefined);
    if (!answer || !goesOn) {
      answer = new Answer();
      this.answers.push(answer);
    }
    if (answerId !== undefined) {
      answer.id = answerId;
      this.byId.set(answerId, answer);
    }
    return (this.current = answer);
  }

  private refuse(error: unknown, { answerId, model, report }: Reading): void {
    const isOurs = error instanceof UsageError;
    const seen: SeenAnswer = {
      ...(answerId === undefined ? {} : { answer_id: answerId }),
      ...(model === undefined ? {} : { model }),
      ...(report === undefined ? {} : { usage: report }),
      why: isOurs ? error.message : `the reader of usage failed: ${messageOf(error)}`,
    };
    this.refused.push({ seen, cause: isOurs ? undefined : error });
  }

  private errorOf(unreadable: SeenAnswer[], missing: SeenAnswer[]): UsageError | undefined {
    const unread = [...this.refused.map((one) => one.seen), ...unreadable];
    const seen = [...unread, ...missing].slice(0, SEEN_MAX);
    const cause = this.refused[0]?.cause;
    if (unread[0]) return new UsageUnreadableError(`The usage of this run can't be read: ${unread[0].why}`, { seen, cause });
    if (!missing[0]) return undefined;
    const isText = missing[0].texts !== undefined;
    return new UsageMissingError(
      isText
        ? 'A stream of text ended and nothing said what it used: read the usage with `run.read`, or say that the feature is free'
        : 'A model answered, and its usage was not reported',
      { seen },
    );
  }
}

/** What a reader of the caller's own said, about the answer that our own reading has recognised. */
function about(said: Usage | undefined, recognised: Reading | undefined): Reading | undefined {
  if (!recognised) return said;
  const { answerId, model, whole, left, pieces, output_token } = recognised;
  const names: Reading = {
    ...(answerId === undefined ? {} : { answerId }),
    ...(model === undefined ? {} : { model }),
    ...(whole === undefined ? {} : { whole }),
    ...(left === undefined ? {} : { left }),
  };
  if (!said) return pieces ? { ...names, pieces, output_token } : whole === undefined ? undefined : names;
  const given = Object.entries(said).filter(([, value]) => value !== undefined);
  return { ...names, ...(Object.fromEntries(given) as Reading) };
}

function isText(value: unknown): boolean {
  return (typeof value === 'string' && value !== '') || value instanceof Uint8Array;
}

/** A part is never more than its whole: the server would refuse the end for it. */
function consistent(usage: RunUsage): RunUsage {
  const { input_token, output_token, cachedInputToken = 0, cacheWriteToken = 0, reasoningToken = 0 } = usage;
  const cached = Math.min(cachedInputToken, input_token);
  return {
    ...usage,
    cachedInputToken: cached,
    cacheWriteToken: Math.min(cacheWriteToken, input_token - cached),
    reasoningToken: Math.min(reasoningToken, output_token),
  };
}
