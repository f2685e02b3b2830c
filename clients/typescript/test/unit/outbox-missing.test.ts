import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';

// A Node that has SQLite can be started without it; one that hasn't needs no telling.
const HAS_SQLITE = process.getBuiltinModule?.('node:sqlite') !== undefined;
const FLAGS = HAS_SQLITE ? ['--no-experimental-sqlite'] : [];

const directory = mkdtempSync(join(tmpdir(), 'tokentill-'));
after(() => rmSync(directory, { recursive: true }));

function run(code: string, env: Record<string, string> = {}): { error: string; message: string } {
  const program = `const t = require('tokentill'); (async () => { ${code} })().catch((e) => console.log(JSON.stringify(
    { error: e.constructor.name, message: e.message, code: e.code, isOurs: e instanceof t.TokenProcessError })))`;
  return JSON.parse(execFileSync(process.execPath, [...FLAGS, '-e', program], { env: { ...process.env, ...env } }).toString());
}

for (const [name, code] of Object.entries({
  'a client': "new t.TokenProcess({ outbox: 'ends.db' })",
  'the functions': "await t.tokenProcessEnd({ user_id: 'u', feature_endpoint_id: 'f', input_token: 0, output_token: 4 })",
})) {
  test(`without node:sqlite ${name} that should have an outbox says so instead of working without it`, () => {
    const said = run(code, { TOKENTILL_OUTBOX: join(directory, 'ends.db') });
    assert.deepEqual(said, {
      error: 'OutboxUnsupportedError',
      message:
        `The outbox needs node:sqlite, which Node ${process.versions.node} doesn't have. ` +
        'Use Node 22.13 or newer, or leave the outbox out',
      code: 'outbox_unsupported',
      isOurs: true,
    });
    assert.deepEqual(readdirSync(directory), []);
  });
}

test('the command says so too', () => {
  const cli = join(require.resolve('tokentill'), '..', 'cli.js');
  const path = join(directory, 'ends.db');
  const { status, stderr } = spawnSync(process.execPath, [...FLAGS, cli, 'outbox', 'status', '--path', __filename]);
  assert.equal(status, 2);
  assert.match(stderr.toString(), /needs node:sqlite/);
  const missing = spawnSync(process.execPath, [...FLAGS, cli, 'outbox', 'status', '--path', path]);
  assert.equal(missing.stderr.toString(), `tokentill: There is no outbox at ${path}\n`);
});
