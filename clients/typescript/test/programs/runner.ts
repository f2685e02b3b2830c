/**
 * A service server to be killed: bills one run after the other with the outbox on, and notes every run whose result its
 * caller has received. Arguments: the outbox, the file of notes, the user, the feature, the first run's number.
 */

import { openSync, writeSync } from 'node:fs';

import { TokenProcess, withTokenProcess } from 'tokentill';

const [outbox = '', notes = '', user_id = '', feature_endpoint_id = '', first = '0'] = process.argv.slice(2);

const client = new TokenProcess({ outbox, timeoutSeconds: 1, totalTimeoutSeconds: 3, outboxWaitSeconds: 0.3 });
const noted = openSync(notes, 'a');

async function main(): Promise<void> {
  for (let number = Number(first); ; number += 1) {
    const feature = withTokenProcess(
      { feature_endpoint_id, user_id, client, onEndError: () => undefined },
      async () => ({ number, output_token: 4, model: `run-${number}` }),
    );
    try {
      const result = await feature();
      writeSync(noted, `${result.number}\n`);
    } catch {
      // The start found no server: this run did not happen.
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

void main();
