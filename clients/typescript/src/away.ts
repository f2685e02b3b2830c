/**
 * Runs that begin while the server is away, where the service has chosen so: how many may, and what they have used. The
 * bounds are for one absence; they begin anew once the server has answered.
 */

import type { CircuitBreaker } from './breaker';
import type { AwaySettings } from './settings';

export interface AwayReport {
  /** The server is taken for away right now. */
  away: boolean;
  /** For how long it has counted as away; 0 when it doesn't. */
  awaySeconds: number;
  /** How often it has come to count as away since this client was made. */
  absencesTotal: number;
  /** Runs that began without the server since it last answered, of at most `openRunsMax`. */
  openRuns: number;
  /** Input and output tokens of the ends that wait for it since then; no run begins any more from `openTokensMax` on. */
  openTokens: number;
  /** The same over the life of this client. */
  openRunsTotal: number;
  openTokensTotal: number;
  /** Starts that failed because the server was away: the policy is "closed", or a bound was reached. */
  refusedRunsTotal: number;
}

export class AwayRuns {
  private openRuns = 0;
  private openTokens = 0;
  private openRunsTotal = 0;
  private openTokensTotal = 0;
  private refusedRunsTotal = 0;

  constructor(private readonly settings: AwaySettings) {}

  /** Counts a run that would begin without the server. Undefined: it may; else why not. */
  refusal(outboxProblem: () => string | undefined): string | undefined {
    const { whenAway, openRunsMax, openTokensMax } = this.settings;
    let reason: string | undefined;
    if (whenAway === 'closed') reason = 'whenAway is "closed"';
    else if (this.openRuns >= openRunsMax) reason = `${openRunsMax} runs have begun without it`;
    else if (this.openTokens >= openTokensMax) reason = `ends of ${this.openTokens} tokens wait for it`;
    else reason = outboxProblem();
    if (reason === undefined) {
      this.openRuns += 1;
      this.openRunsTotal += 1;
    } else {
      this.refusedRunsTotal += 1;
    }
    return reason;
  }

  /** An end waits in the outbox because the server is away. */
  queued(tokens: number): void {
    if (!Number.isFinite(tokens)) return;
    this.openTokens += tokens;
    this.openTokensTotal += tokens;
  }

  /** The server has answered. */
  answered(): void {
    this.openRuns = 0;
    this.openTokens = 0;
  }

  report(breaker: CircuitBreaker): AwayReport {
    const { openRuns, openTokens, openRunsTotal, openTokensTotal, refusedRunsTotal } = this;
    return {
      away: breaker.isOpen,
      awaySeconds: breaker.secondsOpen,
      absencesTotal: breaker.openings,
      openRuns,
      openTokens,
      openRunsTotal,
      openTokensTotal,
      refusedRunsTotal,
    };
  }
}
