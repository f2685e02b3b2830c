/** A user with tokens, a client, and a server that answers as the contract says: what the tests of the wrapper happen in. */

import assert from 'node:assert/strict';

import { TokenProcess } from 'tokentill';
import type { UnbilledEnd, WithTokenProcessConfig } from 'tokentill';

import { contractAnswers, withFaultServer } from './fault-server.js';
import type { FaultServer } from './fault-server.js';

export const START = '/api/token-process/start';
export const END = '/api/token-process/end';
export const CANCEL = '/api/token-process/cancel';
export const USER = { user_id: 'user-1' };
// Enough for a busy machine, and not too long for the tests that wait it out.
const PATIENCE = { timeoutMs: 3_000, totalTimeoutMs: 3_000 };

export interface World {
  client: TokenProcess;
  server: FaultServer;
  wallet: { token: number; holds: Set<string>; billed: Map<string, unknown> };
  config: WithTokenProcessConfig<[{ user_id: string }]>;
  /** What `onEndError` of the config was called with. */
  problems: unknown[];
  unbilled: UnbilledEnd[];
}

export function inWorld(act: (world: World) => Promise<void>, token = 1000): Promise<void> {
  const wallet = { token, holds: new Set<string>(), billed: new Map<string, unknown>() };
  return withFaultServer(contractAnswers(wallet), async (server) => {
    const client = new TokenProcess({ url: server.url, apiKey: 'key', ...PATIENCE });
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
    await act({ client, server, wallet, config, problems, unbilled });
    assert.deepEqual([...wallet.holds], [], 'a hold was left');
  });
}

/** The ends that were sent, each as [input, output, model]. */
export function billed(world: World): unknown[] {
  return world.server.seenAt(END).map(({ body }) => [body.input_token, body.output_token, body.model]);
}
