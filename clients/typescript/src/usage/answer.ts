/** One answer of a model, or of the feature itself, as far as it is known. */

import type { SeenAnswer } from '../errors';
import { add, COUNTS } from './model';
import type { CountName, Counts, Reading } from './model';

const WHOLES: readonly (readonly [CountName, ...CountName[]])[] = [
  ['input_token', 'cachedInputToken', 'cacheWriteToken'],
  ['output_token', 'reasoningToken'],
];

export class Answer {
  id: string | undefined;
  /** Nothing without an id is added to it any more. */
  closed = false;
  /** Why its latest total can't be believed. */
  problem: string | undefined;
  /** Its stream was left, or broke off: for what its provider has not said any more stand the pieces that flowed. */
  left = false;
  /** Seen at its model, by the middleware. */
  isOfCall = false;
  /** Counted at its model, under no id, and not yet told again under one: see Reading.retold. */
  isUnclaimed = false;
  /** Calls of a model that it adds up. */
  requests = 1;
  private model: string | undefined;
  private report: unknown;
  private readonly total: Counts = {};
  private readonly added: Counts = {};
  private asides: Counts = {};
  /** The provider has said that it goes on counting. */
  private isGrowing = false;
  private pieces = 0;
  /** Pieces that count only where the stream was left early. */
  private earlyPieces = 0;

  take(reading: Reading, counts: Counts): void {
    if (reading.model) this.model = reading.model;
    if (reading.pieces) {
      if (reading.pieces === 'always') this.pieces += counts.output_token ?? 0;
      else this.earlyPieces += counts.output_token ?? 0;
      return;
    }
    if (Object.keys(counts).length === 0 && reading.problem === undefined) return;
    this.report = reading.report;
    // A total that can be read makes up for an earlier one that couldn't: it is about the same tokens.
    this.problem = reading.problem;
    if (reading.kind === 'total') this.replace(reading, counts);
    else this.increase(counts);
  }

  /** All that is known of it are pieces of its output. */
  get isPieces(): boolean {
    return Object.keys(this.total).length === 0 && Object.keys(this.added).length === 0 && this.problem === undefined;
  }

  get hasPieces(): boolean {
    return this.pieces + this.earlyPieces > 0;
  }

  /** Its model failed before it said anything. */
  get hasFailed(): boolean {
    return this.left && this.isPieces && !this.hasPieces;
  }

  /** It reported these totals. */
  isTotal(counts: Counts): boolean {
    return COUNTS.every((name) => (this.total[name] ?? 0) === (counts[name] ?? 0));
  }

  /** Undefined: nothing says what it used. */
  counts(leftEarly: boolean): Counts | undefined {
    const counts: Counts = { ...this.added };
    const pieces = this.countedPieces(leftEarly);
    if (pieces > 0) counts.output_token = (counts.output_token ?? 0) + pieces;
    for (const name of COUNTS) {
      const total = this.total[name];
      if (total === undefined) continue;
      counts[name] = this.isGrowing && name === 'output_token' ? Math.max(total, counts[name] ?? 0) : total;
    }
    add(counts, this.asides);
    // Pieces flowed and nobody said how many tokens they are: what was said of the input isn't all.
    const isOpen = pieces === 0 && this.earlyPieces > 0 && (counts.output_token === undefined || this.isGrowing);
    return Object.keys(counts).length === 0 || isOpen ? undefined : counts;
  }

  /** Pieces flowed after the last report, and the stream was not left: another report should have come. */
  lacksReport(leftEarly: boolean): boolean {
    return !this.wasLeft(leftEarly) && this.earlyPieces > 0 && this.total.output_token === undefined;
  }

  private countedPieces(leftEarly: boolean): number {
    return this.pieces + (this.wasLeft(leftEarly) ? this.earlyPieces : 0);
  }

  private wasLeft(leftEarly: boolean): boolean {
    return this.left || (leftEarly && !this.closed);
  }

  seen(why: string): SeenAnswer {
    const pieces = this.pieces + this.earlyPieces;
    return {
      ...(this.id === undefined ? {} : { answer_id: this.id }),
      ...(this.model === undefined ? {} : { model: this.model }),
      ...(pieces > 0 ? { pieces } : {}),
      ...(this.report === undefined ? {} : { usage: this.report }),
      why,
    };
  }

  private replace(reading: Reading, counts: Counts): void {
    this.requests = Math.max(this.requests, reading.requests ?? 1);
    this.isGrowing = reading.final === false;
    if (reading.asides) this.asides = reading.asides;
    for (const [whole, ...parts] of WHOLES) {
      if (counts[whole] === undefined) continue;
      // The parts belong to their whole: those of an older total don't outlive it.
      const before = reading.inputAtLeast && whole === 'input_token' ? this.total : {};
      for (const name of [whole, ...parts]) this.total[name] = Math.max(before[name] ?? 0, counts[name] ?? 0);
    }
  }

  private increase(counts: Counts): void {
    if (counts.output_token !== undefined) this.pieces = this.earlyPieces = 0;
    add(this.added, counts);
  }
}
