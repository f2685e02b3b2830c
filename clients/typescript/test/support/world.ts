/** A client and a server on this machine that answers as the contract says, for one wrapped function after the other. */

import assert from 'node:assert/strict';

import { TokenProcess } from 'tokentill';
import type { TokenProcessOptions, UnbilledEnd, WithTokenProcessConfig } from 'tokentill';

import { contractAnswers, withFaultServer } from './fault-server.js';
import type { Answer, FaultServer, Seen, Wallet } from './fault-server.js';

export const START = '/api/token-process/start';
export const END = '/api/token-process/end';
export const CANCEL = '/api/token-process/cancel';
export const EXTEND = '/api/token-process/hold/extend';

export const USER = { user_id: 'user-1' };

export interface World {
  client: TokenProcess;
  server: FaultServer;
  wallet: Wallet;
  config: WithTokenProcessConfig<[{ user_id: string }]>;
  /** What `onEndError` of the config was called with. */
  problems: unknown[];
  unbilled: UnbilledEnd[];
}

/** What `answer` doesn't answer is answered as the contract says. */
export async function inWorld(
  act: (world: World) => Promise<void>,
  token = 1000,
  options: TokenProcessOptions = {},
  answer: (seen: Seen) => Awaited<ReturnType<Answer>> | undefined = () => undefined,
): Promise<void> {
  const wallet: Wallet = { token, holds: new Map(), billed: new Map() };
  const otherwise = contractAnswers(wallet);
  await withFaultServer((seen) => answer(seen) ?? otherwise(seen), async (server) => {
    // Enough for a busy machine, and not too long for the tests that wait it out.
    const client = new TokenProcess({ url: server.url, apiKey: 'key', timeoutSeconds: 3, totalTimeoutSeconds: 3, ...options });
    const problems: unknown[] = [];
    const unbilled: UnbilledEnd[] = [];
    const config = {
      feature_endpoint_id: 'feature-1',
      user_id: (args: [{ user_id: string }]) => args[0].user_id,
      client,
      onEndError: (error: unknown, end: UnbilledEnd) => {
        problems.push(error);
        unbilled.push(end);
      },
    };
    try {
      await act({ client, server, wallet, config, problems, unbilled });
    } finally {
      await client.close();
    }
    assert.deepEqual([...wallet.holds.keys()], [], 'a hold was left');
  });
}

export function billed({ server }: Pick<World, 'server'>): unknown[] {
  return server.seenAt(END).map(({ body }) => [body.input_token, body.output_token, body.model]);
}

export function paths({ server }: Pick<World, 'server'>): string[] {
  return server.seen.map((seen) => seen.path);
}

export async function until(what: string, condition: () => boolean, timeoutSeconds = 10): Promise<void> {
  const deadline = Date.now() + timeoutSeconds * 1000;
  while (!condition()) {
    if (Date.now() > deadline) assert.fail(`not within ${timeoutSeconds} s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export async function secondsOf(act: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await act();
  return (performance.now() - began) / 1000;
}
