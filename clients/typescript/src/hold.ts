/**
 * Keeps a hold alive for as long as its run lasts: extends it when half of its life is over.
 *
 * The run is held weakly: one that was dropped without an end is not kept for ever. A hold that is lost in spite of it (the
 * server was away for too long) costs nothing but its reservation: the end bills all the same.
 */

import { HoldRefusedError, messageOf, UnavailableError } from './errors';
import { weakly } from './platform';
import type { TokenProcessRun } from './run';

const RETRY_SECONDS_MIN = 0.1;

/** How long a kept hold lives when nobody says: whoever dies gives it back after a quarter of an hour. */
export const KEPT_HOLD_SECONDS = 900;

/** Returns how to stop it. */
export function keepHold(run: TokenProcessRun, holdSeconds: number): () => void {
  const weak = weakly(run);
  let expiresMs = performance.now() + holdSeconds * 1000;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let stopped = false;

  const secondsLeft = (): number => (expiresMs - performance.now()) / 1000;
  const again = (seconds: number): void => {
    if (stopped) return;
    timer = setTimeout(() => void extend(), seconds * 1000);
    timer.unref?.();
  };
  const extend = async (): Promise<void> => {
    const kept = weak.deref();
    if (!kept) return;
    // Rounded down: a hold may not end later than a day from now.
    const seconds = Math.max(1, Math.floor(holdSeconds - secondsLeft()));
    try {
      await kept.extendHold({ seconds });
      expiresMs += seconds * 1000;
      again(Math.max(RETRY_SECONDS_MIN, secondsLeft() - holdSeconds / 2));
    } catch (error) {
      // Refused: the run has been told, and stops.
      if (stopped || error instanceof HoldRefusedError) return;
      if (error instanceof UnavailableError && secondsLeft() > 0) return again(Math.max(RETRY_SECONDS_MIN, secondsLeft() / 4));
      console.warn('[Token Process] A hold could not be kept and will expire:', messageOf(error));
    }
  };

  again(holdSeconds / 2);
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}
