/**
 * How long this client tries, when it takes the server for away, and what it does then. Times are in seconds.
 */

import { ConfigurationError } from './errors';
import type { OutboxOptions } from './outbox';

export interface TimeLimits {
  /** One attempt of a call, from the connection to the last byte of the answer: 10 unless given. */
  timeoutSeconds: number;
  /** The whole of any call, its attempts and the pauses between them: 30 unless given. No call takes longer. */
  totalTimeoutSeconds: number;
  /** The whole of a start, which a user waits for: 3 unless given. */
  startTimeoutSeconds: number;
  /** The whole of an end: as `totalTimeoutSeconds` unless given. */
  endTimeoutSeconds: number;
  /** How long a caller that closed its stream or aborted its signal waits for its end: 0.5 unless given. It is sent on behind it. */
  cancelledEndTimeoutSeconds: number;
  /** With an outbox the end is safe already, so the caller waits this long at most for its answer: 5 unless given. */
  outboxWaitSeconds: number;
  /** The pause before the first repetition: 0.1 unless given. It doubles with every further one ... */
  baseDelaySeconds: number;
  /** ... up to this: 2 unless given. */
  maxDelaySeconds: number;
}

export interface AwaySettings {
  /** So many calls in a row without an answer, each with all its attempts, and the server counts as away: 5 unless given. */
  breakerFailures: number;
  /** While it is away nothing waits for it, but for one call every so many seconds that looks: 5 unless given. */
  breakerSeconds: number;
  /** May runs begin while the server is away? "open": within the two bounds, their ends wait in the outbox. */
  whenAway: 'closed' | 'open';
  /** How many runs may begin without the server while it is away: 100 unless given. */
  openRunsMax: number;
  /** No more of them begin once ends of so many tokens, input and output, wait for it: 100,000 unless given. */
  openTokensMax: number;
}

export interface Settings extends TimeLimits, AwaySettings {}

/** Longer than any timer can be set for is no limit. */
const SECONDS_MAX = 86_400;

const DEFAULTS: Settings = {
  timeoutSeconds: 10,
  totalTimeoutSeconds: 30,
  startTimeoutSeconds: 3,
  endTimeoutSeconds: SECONDS_MAX,
  cancelledEndTimeoutSeconds: 0.5,
  outboxWaitSeconds: 5,
  baseDelaySeconds: 0.1,
  maxDelaySeconds: 2,
  breakerFailures: 5,
  breakerSeconds: 5,
  whenAway: 'closed',
  openRunsMax: 100,
  openTokensMax: 100_000,
};

export type GivenSettings = { [Name in keyof Settings]?: Settings[Name] | undefined };

/** What was given over the defaults. Throws a ConfigurationError for what can't be a limit. */
export function settingsOf(given: GivenSettings & { outbox?: string | OutboxOptions | undefined }): Settings {
  const settings = { ...DEFAULTS };
  for (const name of Object.keys(DEFAULTS) as (keyof Settings)[]) {
    const value = given[name];
    if (value === undefined) continue;
    if (name === 'whenAway') {
      if (value !== 'closed' && value !== 'open') throw new ConfigurationError(`whenAway is "closed" or "open", not ${String(value)}`);
    } else if (typeof value !== 'number' || !(value >= 0) || (value === 0 && name !== 'cancelledEndTimeoutSeconds')) {
      throw new ConfigurationError(`${name} must be a number above 0, not ${String(value)}`);
    } else if (name.endsWith('Seconds') && value > SECONDS_MAX) {
      throw new ConfigurationError(`${name} must be ${SECONDS_MAX} (a day) at most, not ${value}`);
    }
    Object.assign(settings, { [name]: value });
  }
  if (settings.whenAway === 'open' && given.outbox === undefined) {
    throw new ConfigurationError('whenAway: "open" needs an outbox: the ends of runs that began without the server wait there');
  }
  const { outbox } = given;
  if (typeof outbox === 'object' && outbox.endsMax !== undefined && !(Number.isInteger(outbox.endsMax) && outbox.endsMax > 0)) {
    throw new ConfigurationError(`endsMax must be a whole number above 0, not ${outbox.endsMax}`);
  }
  const { totalTimeoutSeconds } = settings;
  settings.startTimeoutSeconds = Math.min(settings.startTimeoutSeconds, totalTimeoutSeconds);
  settings.endTimeoutSeconds = Math.min(settings.endTimeoutSeconds, totalTimeoutSeconds);
  settings.outboxWaitSeconds = Math.min(settings.outboxWaitSeconds, settings.endTimeoutSeconds);
  return settings;
}
