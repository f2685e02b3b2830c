import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';

import { inWorld } from '../support/world.js';

// A Node that has SQLite can be started without it; one that hasn't needs no telling.
const HAS_SQLITE = process.getBuiltinModule?.('node:sqlite') !== undefined;
const FLAGS = HAS_SQLITE ? ['--no-experimental-sqlite'] : [];

const directory = mkdtempSync(join(tmpdir(), 'tokentill-'));
after(() => rmSync(directory, { recursive: true }));

const MESSAGE =
  `The outbox needs node:sqlite, which Node ${process.versions.node} doesn't have. ` + 'Use Node 22.13 or newer, or leave the outbox out';

test('without node:sqlite an outbox is said to be missing, once, and no feature is stopped for it', () =>
  inWorld(async ({ server, wallet }) => {
    const program = `
      const t = require('tokentill');
      const said = [];
      console.error = (...words) => said.push(words.map(String).join(' '));
      const wrapped = t.withTokenProcess({ feature_endpoint_id: 'f', user_id: 'u' }, async () => ({ output_token: 40 }));
      (async () => {
        for (let i = 0; i < 3; i += 1) await wrapped();
        await new Promise((resolve) => setTimeout(resolve, 1_500));
        const refused = await t.configureTokenProcess().flush().catch((error) => error);
        console.log(JSON.stringify({ said, refused, isOurs: refused instanceof t.OutboxUnsupportedError }));
      })();`;
    const env = { ...process.env, TOKEN_SERVER_URL: server.url, SERVER_API_KEY: 'key', TOKENTILL_OUTBOX: join(directory, 'ends.db') };
    const out = await new Promise<string>((resolve, reject) => {
      execFile(process.execPath, [...FLAGS, '-e', program], { env, timeout: 30_000 }, (error, stdout) => (error ? reject(error) : resolve(stdout)));
    });
    const { said, refused, isOurs } = JSON.parse(out);
    const line = `[Token Process] Outbox error: OutboxUnsupportedError: ${MESSAGE}`;
    assert.deepEqual(said, [line, line], 'once for each of the two clients');
    assert.deepEqual([refused.message, refused.code, isOurs], [MESSAGE, 'outbox_unsupported', true]);
    assert.equal(wallet.token, 970);
    assert.deepEqual(readdirSync(directory), []);
  }));

test('the command says so too', () => {
  const cli = join(require.resolve('tokentill'), '..', 'cli.js');
  const path = join(directory, 'ends.db');
  const { status, stderr } = spawnSync(process.execPath, [...FLAGS, cli, 'outbox', 'status', '--path', __filename]);
  assert.equal(status, 2);
  assert.match(stderr.toString(), /needs node:sqlite/);
  const missing = spawnSync(process.execPath, [...FLAGS, cli, 'outbox', 'status', '--path', path]);
  assert.equal(missing.stderr.toString(), `tokentill: There is no outbox at ${path}\n`);
});
