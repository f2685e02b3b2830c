// Builds, then runs the tests: those of the client alone, and those against a real server.
//
//   node scripts/test.js [unit | server]
//
// The server is the one that TOKENTILL_TEST_URL, TOKENTILL_TEST_SERVER_KEY and TOKENTILL_TEST_ADMIN_KEY name, or else the
// project's own stack, started for the tests and stopped after them.
// TOKENTILL_TEST_NODE names another Node to run the tests with: the outbox needs one that has node:sqlite.
'use strict';

const { execFileSync, spawn } = require('node:child_process');
const { readdirSync } = require('node:fs');
const { join } = require('node:path');

const root = join(__dirname, '..');
const built = join(root, 'build', 'test');
const node = process.env.TOKENTILL_TEST_NODE || process.execPath;
const VARIABLES = ['TOKENTILL_TEST_URL', 'TOKENTILL_TEST_SERVER_KEY', 'TOKENTILL_TEST_ADMIN_KEY'];

async function main(only) {
  require('./build.js');
  execFileSync(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', join(root, 'tsconfig.test.json')], {
    stdio: 'inherit',
  });
  const version = execFileSync(node, ['--version']).toString().trim();
  const hasSqlite = ask("process.getBuiltinModule?.('node:sqlite') !== undefined") === 'true';
  const files = (kind) =>
    readdirSync(join(built, kind))
      .filter((name) => name.endsWith('.test.js') && (hasSqlite || !name.includes('.sqlite.')))
      .map((name) => join(built, kind, name));
  if (!hasSqlite) {
    console.log(`Node ${version} has no node:sqlite: of the outbox only its refusal is tested (TOKENTILL_TEST_NODE names another Node)`);
  }
  const unit = only === 'server' ? [] : files('unit');
  if (only === 'unit') return run(unit, {});
  return withServer((env) => run([...unit, ...files('server')], env));
}

async function withServer(act) {
  if (VARIABLES.every((name) => process.env[name])) return act({});
  const { Stack } = require(join(built, 'support', 'stack.js'));
  const stack = new Stack();
  try {
    const { url, serverKey, adminKey } = await stack.up();
    return await act({ TOKENTILL_TEST_URL: url, TOKENTILL_TEST_SERVER_KEY: serverKey, TOKENTILL_TEST_ADMIN_KEY: adminKey });
  } finally {
    await stack.down();
  }
}

function run(files, env) {
  const child = spawn(node, ['--test', '--test-reporter=spec', ...files], {
    cwd: root,
    env: { ...process.env, NODE_NO_WARNINGS: '1', ...env },
    stdio: 'inherit',
  });
  return new Promise((resolve) => child.on('exit', (status) => resolve(status ?? 1)));
}

function ask(expression) {
  return execFileSync(node, ['-p', expression], { env: { ...process.env, NODE_NO_WARNINGS: '1' } }).toString().trim();
}

main(process.argv[2]).then(
  (status) => {
    process.exitCode = status;
  },
  (error) => {
    console.error(error.message);
    process.exitCode = 1;
  },
);
