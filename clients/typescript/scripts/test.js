// Builds, then runs the tests: those of the client alone, those with the providers' packages, and those against a real
// server.
//
//   node scripts/test.js [unit | providers | server]
//
// The server is the one that TOKENTILL_TEST_URL, TOKENTILL_TEST_SERVER_KEY and TOKENTILL_TEST_ADMIN_KEY name, or else the
// project's own stack, started for the tests and stopped after them.
// The outbox needs node:sqlite. Where this Node has none, the outbox's tests run on another: the one that
// TOKENTILL_TEST_NODE names, or else the one that test/node/package-lock.json pins. The providers' packages, made for
// Node 22 and newer, run there too; where there is no other Node they are tried on this one.
'use strict';

const { execFileSync, spawn } = require('node:child_process');
const { existsSync, readdirSync } = require('node:fs');
const { join } = require('node:path');

const root = join(__dirname, '..');
const built = join(root, 'build', 'test');
const anotherNode = join(root, 'test', 'node');
const VARIABLES = ['TOKENTILL_TEST_URL', 'TOKENTILL_TEST_SERVER_KEY', 'TOKENTILL_TEST_ADMIN_KEY'];

async function main(only) {
  require('./build.js');
  execFileSync(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', join(root, 'tsconfig.test.json')], {
    stdio: 'inherit',
  });
  const isOutbox = (name) => name.includes('.sqlite.');
  const wantsNewer = (name) => isOutbox(name) || name.endsWith('.mjs');
  const kinds = only === undefined ? ['unit', 'providers', 'server'] : [only];
  const files = kinds.flatMap((kind) =>
    readdirSync(join(built, kind))
      .filter((name) => /\.test\.m?js$/.test(name))
      .map((name) => join(built, kind, name)),
  );
  if (hasSqlite(process.execPath)) return inTurn(kinds, [[process.execPath, files]]);
  const other = process.env.TOKENTILL_TEST_NODE || installedNode();
  if (other !== undefined && hasSqlite(other)) {
    const where = ask(other, 'process.version');
    console.log(`Node ${process.version} has no node:sqlite: the outbox, and the providers' packages, are tested on ${where}`);
    return inTurn(kinds, [
      [process.execPath, files.filter((name) => !wantsNewer(name))],
      [other, files.filter(wantsNewer)],
    ]);
  }
  console.log(`Node ${process.version} has no node:sqlite: of the outbox only its refusal is tested (TOKENTILL_TEST_NODE names another Node)`);
  return inTurn(kinds, [[process.execPath, files.filter((name) => !isOutbox(name))]]);
}

/** Run each list of files on its Node; the worst of the exit statuses. */
async function inTurn(kinds, runs) {
  const act = async (env) => {
    let worst = 0;
    for (const [node, files] of runs) if (files.length > 0) worst = Math.max(worst, await run(node, files, env));
    return worst;
  };
  return kinds.includes('server') ? withServer(act) : act({});
}

/** The Node of test/node, installed; undefined where there is none for this machine or it can't be had. */
function installedNode() {
  const node = join(anotherNode, 'node_modules', `node-${process.platform}-${process.arch}`, 'bin', 'node');
  if (!existsSync(node)) {
    try {
      execFileSync('npm', ['ci', '--silent'], { cwd: anotherNode, stdio: ['ignore', 'inherit', 'inherit'] });
    } catch {
      return undefined;
    }
  }
  return existsSync(node) ? node : undefined;
}

function hasSqlite(node) {
  return ask(node, "process.getBuiltinModule?.('node:sqlite') !== undefined") === 'true';
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

function run(node, files, env) {
  const child = spawn(node, ['--test', '--test-reporter=spec', ...files], {
    cwd: root,
    env: { ...process.env, NODE_NO_WARNINGS: '1', ...env },
    stdio: 'inherit',
  });
  return new Promise((resolve) => child.on('exit', (status) => resolve(status ?? 1)));
}

function ask(node, expression) {
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
