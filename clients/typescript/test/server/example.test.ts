/** The example runs as its page says, and costs what it says. */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';

import { addressOfTest, Admin } from '../support/admin.js';

test('the OpenAI-compatible example bills a completion, a stream, and what flowed of one that was left', async () => {
  const { url, serverKey } = addressOfTest();
  const admin = new Admin(addressOfTest());
  const { user_id, feature_endpoint_id } = await admin.userWithFeature(1000);
  const example = join(require.resolve('tokentill/package.json'), '..', 'examples', 'openai-compatible.mjs');
  const env = {
    ...process.env,
    TOKEN_SERVER_URL: url,
    SERVER_API_KEY: serverKey,
    USER_ID: user_id,
    FEATURE_ENDPOINT_ID: feature_endpoint_id,
  };
  delete (env as NodeJS.ProcessEnv)['OPENAI_BASE_URL'];
  const out = await new Promise<string>((done, failed) => {
    execFile(process.execPath, [example, '--demo'], { env, timeout: 60_000 }, (error, stdout, stderr) => {
      if (error) failed(new Error(`${error.message}\n${stderr}`));
      else done(stdout);
    });
  });
  assert.match(out, /^a completion: 40 output tokens; 1000 tokens before, 988 after$/m);
  assert.match(out, /^a stream: 40 pieces; 988 tokens before, 976 after$/m);
  const wallet = await admin.settled(user_id);
  const [whole, streamed, left, ...others] = await admin.usage(user_id);
  assert.deepEqual(
    [whole, streamed].map((row) => [row?.input_token, row?.output_token, row?.model]),
    [
      [12, 40, 'stand-in'],
      [12, 40, 'stand-in'],
    ],
  );
  assert.deepEqual(others, []);
  const pieces = left?.output_token ?? 0;
  assert.ok(pieces > 0 && pieces < 40, `${pieces} pieces were billed`);
  assert.equal(wallet.posted_token, Math.round((976 - pieces * 0.3) * 1e6) / 1e6);
  assert.equal(wallet.held_token, 0);
});
