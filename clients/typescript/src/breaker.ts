/**
 * Whether the token server is taken for away: after so many calls in a row without an answer nothing waits for it any
 * more, but for one call now and then that looks whether it is back.
 */

export type Outcome = 'answered' | 'unanswered' | 'unknown';

export class CircuitBreaker {
  /** How often it has opened. */
  openings = 0;
  private unanswered = 0;
  private openedMs = 0;
  private openUntilMs: number | undefined;
  private probing = false;

  constructor(
    private readonly failuresMax: number,
    private readonly seconds: number,
  ) {}

  get isOpen(): boolean {
    return this.openUntilMs !== undefined;
  }

  /** How long it has been open. */
  get secondsOpen(): number {
    return this.isOpen ? (performance.now() - this.openedMs) / 1000 : 0;
  }

  /** How long until a call is let through again. */
  get secondsLeft(): number {
    return Math.max(0, (this.openUntilMs ?? 0) - performance.now()) / 1000;
  }

  /** Undefined: not now. Otherwise to be called, once, with what came of the call. `insistent` calls are never held back. */
  enter(insistent: boolean): ((outcome: Outcome) => void) | undefined {
    let isProbe = false;
    if (this.openUntilMs !== undefined && !insistent) {
      if (this.probing || performance.now() < this.openUntilMs) return undefined;
      isProbe = this.probing = true;
    }
    return (outcome) => {
      if (isProbe) this.probing = false;
      if (outcome === 'answered') {
        this.unanswered = 0;
        this.openUntilMs = undefined;
      } else if (outcome === 'unanswered') {
        this.unanswered += 1;
        // A call that was under way when it opened says nothing new: only the one that looks keeps it open longer.
        if (isProbe || (this.openUntilMs === undefined && this.unanswered >= this.failuresMax)) {
          if (!this.isOpen) {
            this.openings += 1;
            this.openedMs = performance.now();
          }
          this.openUntilMs = performance.now() + this.seconds * 1000;
        }
      }
    };
  }
}
