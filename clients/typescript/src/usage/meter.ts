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
import { add, checked, COUNTS } from './model';
import type { Counts, Reading, Usage, UsageReader } from './model';
import { answersIn, stepsOf } from './inside';
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

/**
 * Where a value was met: a result of its own, a chunk of a stream, or what a function returned at its end. An `answer` is
 * what a model was seen to answer, whatever it looks like.
 */
export type Place = 'result' | 'chunk' | 'end' | 'answer';

/**
 * One thread of answers: what comes in it without an id belongs to the answer that goes on in it. Each stream of `run.stream`
 * and each call of a model that the middleware has seen has one, so that those at the same time are not mixed up.
 */
export class Lane {
  current: Answer | undefined;
  /** Answers of the Vercel AI SDK's steps, which the end of its stream adds up. */
  steps = 0;

  constructor(readonly isCall = false) {}
}

const SEEN_MAX = 10;
const OWN_READERS: readonly unknown[] = [providerUsage, countDeltas];

export class UsageMeter {
  private readonly answers: Answer[] = [];
  private readonly byId = new Map<string, Answer>();
  private readonly readResults = new WeakSet<object>();
  /** Chunks that a stream inside of the run's own has brought, until that passes them on; and the last that is no object. */
  private readonly fromInside = new WeakSet<object>();
  private textFromInside: unknown;
  private readonly main = new Lane();
  /** What was told again of a model's words: see Reading.echo. */
  private echo: Answer | undefined;
  /** What the feature said by hand: beside all that providers report. */
  private readonly used: Counts = {};
  /** What a function returned of its own counts: about the whole run. */
  private runTotal: Counts | undefined;
  private model: string | undefined;
  private texts = 0;
  /** What answers report that stand deep inside of a result: nobody can say whether this run made them. */
  private readonly hidden: unknown[] = [];
  /** Readings that are no usage: they spoil only themselves. */
  private readonly refused: { seen: SeenAnswer; cause: unknown }[] = [];

  constructor(private readonly reader: UsageReader = providerUsage) {}

  /** Takes in what `value` says. Never throws: what can't be read is in the outcome. A promise where the reader is async. */
  read(value: unknown, place: Place, lane = this.main): void | Promise<void> {
    // Most generators return nothing, and most readers don't expect it.
    if (value === undefined || value === null) return;
    try {
      const said = this.reader(value);
      if (said === undefined || !('then' in said)) return this.take(said, value, place, lane);
      return Promise.resolve(said).then(
        (usage) => this.take(usage, value, place, lane),
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
  nextAnswer(lane = this.main): void {
    if (lane.current) lane.current.closed = true;
    lane.current = undefined;
  }

  /** The answer that goes on was left, or broke off. */
  wasLeft(lane = this.main): void {
    if (lane.current) lane.current.left = true;
    this.nextAnswer(lane);
  }

  /** A chunk of a stream inside of the run's own, which may pass it on. */
  readInside(chunk: unknown, lane: Lane): void | Promise<void> {
    if (typeof chunk === 'object' && chunk !== null) this.fromInside.add(chunk);
    else this.textFromInside = chunk;
    return this.read(chunk, 'chunk', lane);
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
    const sum = (answer: Answer): void => {
      if (answer.problem !== undefined) {
        unreadable.push(answer.seen(answer.problem));
        return;
      }
      const counts = answer.counts(leftEarly);
      if (!counts && answer.hasFailed) return;
      if (!counts || answer.lacksReport(leftEarly)) missing.push(answer.seen('no usage was reported'));
      if (!counts) return;
      known = true;
      add(usage, counts);
      usage.requests += answer.requests;
    };
    // Of a call that was left the pieces were seen at its model, and perhaps in the stream that the SDK made of it.
    const isAtModel = this.answers.some((answer) => answer.isOfCall && answer.isPieces && answer.hasPieces);
    const isRetold = (answer: Answer): boolean => isAtModel && !answer.isOfCall && answer.id === undefined && answer.isPieces;
    for (const answer of this.answers) if (!isRetold(answer)) sum(answer);
    const isSilent = (): boolean => !known && missing.length === 0 && unreadable.length === 0;
    if (this.echo && isSilent()) sum(this.echo);
    if (this.texts > 0 && isSilent()) missing.push({ texts: this.texts, why: 'text flowed and nothing said what it used' });
    if (isSilent()) {
      const why = 'an answer stands deep inside of the result, and may be older than the run: hand it to `run.read`';
      missing.push(...this.hidden.map((usage) => ({ usage, why })));
    }
    add(usage, this.used);
    Object.assign(usage, this.runTotal);
    if (this.model !== undefined) usage.model = this.model;
    // What the feature says of the whole run stands for what its answers don't say.
    const error = this.errorOf(this.runTotal ? [] : unreadable, this.runTotal ? [] : missing);
    return { usage: consistent(usage), known, ...(error ? { error } : {}) };
  }

  private take(usage: Usage | undefined, value: unknown, place: Place, lane: Lane): void | Promise<void> {
    const reading: Reading | undefined = OWN_READERS.includes(this.reader) ? usage : about(usage, readProvider(value));
    const steps = reading?.retold ? stepsOf(value) : undefined;
    if (steps) return this.readAll(steps, place, lane);
    if (reading) return this.add(reading, value, place, lane);
    const inside = answersIn(value);
    if (this.hidden.length < SEEN_MAX) this.hidden.push(...inside.hidden);
    // Each is what it would be alone.
    if (inside.answers.length > 0) return this.readAll(inside.answers, place, lane);
    if (place === 'answer') this.begin(lane);
    if (place === 'chunk' && isText(value)) this.texts += 1;
  }

  private readAll(answers: readonly unknown[], place: Place, lane: Lane): void | Promise<void> {
    const unread = place === 'end' ? answers.filter((answer) => !this.wasRead(answer, place)) : answers;
    const late = unread.map((answer) => this.read(answer, place === 'end' ? 'result' : place, lane)).filter((reading) => reading);
    return late.length > 0 ? Promise.all(late).then(() => undefined) : undefined;
  }

  private add(reading: Reading, value: unknown, place: Place, lane: Lane): void {
    let counts: Counts;
    try {
      counts = checked(reading);
    } catch (error) {
      return this.refuse(error, reading);
    }
    if (reading.left && reading.answerId === undefined) {
      if (this.echo) this.echo.left = true;
      return this.wasLeft(lane);
    }
    if (reading.echo) return (this.echo ??= new Answer()).take(reading, counts);
    if (reading.asked) {
      this.model ??= reading.model;
      return;
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
    if (this.wasRead(value, place, reading.report)) return;
    if (reading.sum && lane.steps > 0) {
      lane.steps = 0;
      return;
    }
    if (reading.retold && place === 'chunk') lane.steps += 1;
    const isWhole = reading.whole ?? (place === 'result' || place === 'answer');
    const answer = this.answerOf(reading, counts, isWhole, lane);
    answer?.take(reading, counts);
    if (reading.left) return this.wasLeft(lane);
    if (answer && (reading.final || (isWhole && reading.answerId === undefined))) answer.closed = true;
  }

  /** What is handed to `run.read`, it or its usage, and then returned, or yielded, counts once. */
  private wasRead(value: unknown, place: Place, report?: unknown): boolean {
    const known = [value, report].filter((one): one is object => typeof one === 'object' && one !== null);
    if (place === 'end' || place === 'chunk') return known.some((one) => this.readResults.has(one));
    for (const one of known) this.readResults.add(one);
    return false;
  }

  /** Undefined: it is counted already, at its model. */
  private answerOf(reading: Reading, counts: Counts, isWhole: boolean, lane: Lane): Answer | undefined {
    const { answerId } = reading;
    const known = answerId === undefined ? undefined : this.byId.get(answerId);
    const told = known ?? (reading.retold ? this.claim(counts) : undefined);
    if (told) {
      // The pieces before the end of a step are the step's, which has no id until then.
      if (reading.retold && lane.current !== told) this.drop(lane);
      if (answerId !== undefined) this.name(told, answerId);
      return known ? (lane.current = known) : undefined;
    }
    let answer = lane.current;
    // An answer may flow for a while before its id is said.
    const goesOn = answer && !answer.closed && (answerId === undefined ? !isWhole : answer.id === undefined);
    if (!answer || !goesOn) answer = this.begin(lane);
    if (lane.isCall && answerId === undefined && !reading.pieces) answer.isUnclaimed = true;
    if (answerId !== undefined) this.name(answer, answerId);
    return (lane.current = answer);
  }

  private name(answer: Answer, id: string): void {
    answer.id = id;
    answer.isUnclaimed = false;
    this.byId.set(id, answer);
  }

  private begin(lane: Lane): Answer {
    const answer = new Answer();
    answer.isOfCall = lane.isCall;
    this.answers.push(answer);
    return (lane.current = answer);
  }

  /**
   * What a model has answered under no id, and the SDK tells again: one answer with these counts, or all that are left
   * together, as `embedMany` adds up its calls.
   */
  private claim(counts: Counts): Answer | undefined {
    const unclaimed = this.answers.filter((answer) => answer.isUnclaimed);
    const one = unclaimed.find((answer) => answer.isTotal(counts));
    const all: Counts = {};
    for (const answer of unclaimed) add(all, answer.counts(false) ?? {});
    const claimed = one ? [one] : COUNTS.every((name) => (all[name] ?? 0) === (counts[name] ?? 0)) ? unclaimed : [];
    for (const answer of claimed) answer.isUnclaimed = false;
    return claimed[0];
  }

  /** Pieces that turn out to be those of an answer that is known. */
  private drop(lane: Lane): void {
    const { current } = lane;
    if (!current || current.id !== undefined || current.closed || !current.isPieces) return;
    this.answers.splice(this.answers.indexOf(current), 1);
    lane.current = undefined;
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
