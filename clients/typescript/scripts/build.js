// Compiles src/ to CommonJS in dist/, and writes the ES module beside it as a list of re-exports.
//
// One copy of the code, not two: with a CommonJS and an ES build side by side, a program that mixes both would have two
// clients, two outbox senders, and errors that are not `instanceof` each other.
'use strict';

const { execFileSync } = require('node:child_process');
const { chmodSync, rmSync, writeFileSync } = require('node:fs');
const { join } = require('node:path');

const root = join(__dirname, '..');
const dist = join(root, 'dist');

rmSync(dist, { recursive: true, force: true });
execFileSync(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', root], { stdio: 'inherit' });

for (const folder of [dist, join(dist, 'testing')]) {
  const names = Object.keys(require(folder)).sort();
  writeFileSync(join(folder, 'index.mjs'), `export {\n${names.map((name) => `  ${name},\n`).join('')}} from './index.js';\n`);
  writeFileSync(join(folder, 'index.d.mts'), "export * from './index.js';\n");
}
chmodSync(join(dist, 'cli.js'), 0o755);
