/**
 * One stream in a run among others, which `run.stream` has made: a step of an agent, one of two answers at once. What
 * becomes of it becomes of the run only where nothing else is under way in that.
 */

import { weakly } from './platform';
import type { TokenProcessRun } from './run';
import type { Settling, Stoppable, StreamedRun } from './stream';
import { Lane } from './usage/meter';
import type { Place } from './usage/meter';

export class RunPart implements StreamedRun {
  readonly lane = new Lane();
  /** Held weakly, so that it can be dropped. */
  private watched: { deref(): Stoppable | undefined } | undefined;

  constructor(readonly run: TokenProcessRun) {}

  get patienceSeconds(): number {
    return this.run.patienceSeconds;
  }

  within<R>(act: () => R): R {
    return this.run.within(act);
  }

  observe(value: unknown, place: Place): void | Promise<void> {
    return this.run.observePart(this, value, place);
  }

  watch(stream: Stoppable): void {
    this.watched = weakly(stream);
    this.run.begins(this);
  }

  stop(reason: unknown): void {
    if (this.run.isOnly(this)) this.run.stop(reason);
  }

  settle(how: Settling): Promise<void> {
    return this.run.isOver(this, how);
  }

  stopStream(reason: unknown): void {
    this.watched?.deref()?.stop(reason);
  }
}
