/** The server dies in the middle of an end and comes back: the end is billed once. Needs a stack of its own to kill. */

import assert from 'node:assert/strict';
import { after, test } from 'node:test';

import { TokenProcess } from 'tokentill';

import { Admin } from '../support/admin.js';
import { passOnTo, withFaultServer } from '../support/fault-server.js';
import { Stack } from '../support/stack.js';

if (Stack.project) {
  const stack = new Stack();
  after(() => stack.down());

  test('the server killed after it took an end, and before its client heard: billed once', async () => {
    const { url, serverKey: apiKey, adminKey } = await stack.up();
    const admin = new Admin({ url, serverKey: apiKey, adminKey });
    const run = await admin.userWithFeature(1000);
    const pass = passOnTo(url);
    let ends = 0;
    let back: Promise<unknown> | undefined;
    const dying: typeof pass = async (seen) => {
      const answer = await pass(seen);
      ends += 1;
      if (ends > 1) return answer;
      await stack.killServer();
      back = stack.up();
      return { status: 502, body: 'Bad Gateway' };
    };
    await withFaultServer(dying, async (between) => {
      const client = new TokenProcess({ url: between.url, apiKey, timeoutSeconds: 20, totalTimeoutSeconds: 120 });
      const { data } = await client.end({ ...run, input_token: 1, output_token: 40 });
      assert.deepEqual([data.cost, data.token], [12, 988]);
      assert.ok(ends > 1);
    });
    await back;
    assert.equal((await admin.settled(run.user_id)).posted_token, 988);
    assert.equal((await admin.usage(run.user_id)).length, 1);
  });
}
