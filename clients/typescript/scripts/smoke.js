// Builds and packs the package, installs it into an empty folder, and uses it from there as an ES module, as CommonJS, from strict
// TypeScript and as a command.
'use strict';

const { execFileSync } = require('node:child_process');
const { mkdtempSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { join } = require('node:path');

require('./build.js');

const root = join(__dirname, '..');
const folder = mkdtempSync(join(tmpdir(), 'tokentill-smoke-'));
const run = (program, ...args) => execFileSync(program, args, { cwd: folder, stdio: ['ignore', 'pipe', 'inherit'] }).toString();
const write = (name, text) => writeFileSync(join(folder, name), text);

const USE = `
const server = createServer((request, response) => {
  const data = request.url.endsWith('/start')
    ? { user_id: 'u', token: 7, status: 'access-able', process_id: 'p' }
    : { user_id: 'u', token: 6, cost: 1, status: 'return-able' };
  response.setHeader('content-type', 'application/json');
  request.resume().on('end', () => response.end(JSON.stringify({ success: true, message: 'ok', data })));
}).listen(0, '127.0.0.1', async () => {
  process.env.TOKEN_SERVER_URL = 'http://127.0.0.1:' + server.address().port;
  const wrapped = withTokenProcess({ feature_endpoint_id: 'f', user_id: (args) => args[0] }, async (user) => ({ user, output_token: 4 }));
  const { user } = await wrapped('u');
  const { data } = await tokenProcessStart({ user_id: 'u', feature_endpoint_id: 'f' });
  const memory = new MemoryTokentill({ features: ['f'], wallets: { u: 9 } });
  await withTokenProcess({ feature_endpoint_id: 'f', user_id: 'u', client: memory.client() }, async () => ({ output_token: 4 }))();
  const ok = user === 'u' && data.token === 7 && memory.token('u') === 8 && new WalletNotFoundError('x') instanceof TokenProcessError;
  console.log(ok ? 'works' : 'broken');
  server.close();
  server.closeAllConnections();
});
`;
const NAMES = 'tokenProcessStart, withTokenProcess, TokenProcessError, WalletNotFoundError';

try {
  const [packed] = JSON.parse(
    execFileSync('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', folder], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'ignore'],
    }),
  );
  const stray = packed.files.filter(({ path }) => !/^(dist\/|package\.json$|README\.md$|LICENSE$)/.test(path));
  if (stray.length > 0) throw new Error(`packed too much: ${stray.map(({ path }) => path).join(', ')}`);
  write('package.json', '{"private": true}');
  run('npm', 'install', '--no-audit', '--no-fund', '--loglevel=error', '--offline', join(folder, packed.filename));

  write('use.mjs', `import { createServer } from 'node:http';\nimport { ${NAMES} } from 'tokentill';\nimport { MemoryTokentill } from 'tokentill/testing';\n${USE}`);
  write('use.cjs', `const { createServer } = require('node:http');\nconst { ${NAMES} } = require('tokentill');\nconst { MemoryTokentill } = require('tokentill/testing');\n${USE}`);
  for (const file of ['use.mjs', 'use.cjs']) expect(file, run(process.execPath, file), 'works\n');

  const typed = `
import { withTokenProcess, tokenProcessEnd, InsufficientTokensError } from 'tokentill';
import { MemoryTokentill } from 'tokentill/testing';
const wrapped = withTokenProcess(
  { feature_endpoint_id: 'f', user_id: (args) => args[0].user_id },
  async (data: { user_id: string }) => ({ text: data.user_id, output_token: 4 }),
);
export const text: Promise<string> = wrapped({ user_id: 'u' }).then((result) => result.text);
const stream = withTokenProcess({ feature_endpoint_id: 'f', user_id: 'u' }, async function* () { yield { piece: 1 }; });
export async function sum(): Promise<number> {
  let total = 0;
  for await (const { piece } of stream()) total += piece;
  return total;
}
export const cost: Promise<number> = tokenProcessEnd({ user_id: 'u', feature_endpoint_id: 'f', input_token: 1, output_token: 4 })
  .then(({ data }) => data.cost);
const memory = new MemoryTokentill({ features: ['f'], wallets: { u: 9 } });
export const left: number = memory.token('u') + memory.ends.length;
// What a stream is, it stays.
const readable = withTokenProcess({ feature_endpoint_id: 'f', user_id: 'u', client: memory.client() }, async () => new ReadableStream<string>());
export const reader: Promise<ReadableStreamDefaultReader<string>> = readable().then((stream) => stream.getReader());
export const balance = (error: unknown): number => (error instanceof InsufficientTokensError ? error.token : 0);
// The guide's own shape of a service function.
interface ServiceResult { input_token?: number; output_token?: number; model?: string }
// eslint-disable-next-line @typescript-eslint/no-explicit-any
const yourServiceFunction = async (..._args: any[]): Promise<ServiceResult> => ({ output_token: 4 });
const wrappedService = withTokenProcess({ feature_endpoint_id: 'f', user_id: (args) => args[0].user_id }, yourServiceFunction);
export const result: Promise<ServiceResult> = wrappedService({ user_id: 'user-id', other: 1 });
// @ts-expect-error the user is missing
withTokenProcess({ feature_endpoint_id: 'f' }, async () => 1);
// @ts-expect-error a count is a number
void tokenProcessEnd({ user_id: 'u', feature_endpoint_id: 'f', input_token: '1', output_token: 4 });
`;
  write('typed.mts', typed);
  write('typed.cts', typed);
  const tsc = join(root, 'node_modules/typescript/bin/tsc');
  // Without Node's types: the package's own must stand alone.
  const strict = ['--strict', '--exactOptionalPropertyTypes', '--noEmit', '--target', 'es2022', '--module', 'node16', '--types', ''];
  run(process.execPath, tsc, ...strict, 'typed.mts', 'typed.cts');

  expect('command', run(join(folder, 'node_modules/.bin/tokentill'), '--version'), `tokentill ${require('../package.json').version} (TypeScript client)\n`);
  console.log(`tokentill ${packed.version}: packed (${packed.files.length} files, ${packed.size} bytes), installed into an empty folder, works from ESM, CommonJS, strict TypeScript and as a command`);
} finally {
  rmSync(folder, { recursive: true });
}

function expect(what, found, wanted) {
  if (found !== wanted) throw new Error(`${what}: ${JSON.stringify(found)}, not ${JSON.stringify(wanted)}`);
}
