/** The TypeScript in the manual and in the README compiles against this package, strictly. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { test } from 'node:test';

const root = join(require.resolve('tokentill/package.json'), '..');
const docs = join(root, '..', '..', 'docs', 'clients');
const pages = [join(root, 'README.md'), join(docs, 'typescript.md'), join(docs, 'usage.md')].filter(existsSync);

// What the examples take for granted, as the guide's do.
const PREAMBLE = `
declare const openai: { chat: { completions: { create(request: object): Promise<AsyncIterable<object>> } } };
declare const aiService: { generate(prompt: string): Promise<string> };
declare const imageProcessingService: { process(url: string): Promise<string> };
declare const translationService: { translate(text: string, language: string): Promise<string> };
declare const publicDataService: { fetch(query: string): Promise<string[]> };
declare function calculateInputTokens(text: string): number;
declare function calculateOutputTokens(text: string): number;
declare function generate(): Promise<{ text: string; tokens: number }>;
declare function send(chunk: object): boolean;
declare function textOf(chunk: object): string;
`;

for (const page of pages) {
  test(`the examples of ${relative(root, page)} compile`, () => {
    const folder = join(root, 'build', 'docs');
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    const blocks = [...readFileSync(page, 'utf8').matchAll(/^```ts\n([\s\S]*?)^```/gm)].map((match) => match[1] ?? '');
    assert.ok(blocks.length > 0);
    writeFileSync(join(folder, 'taken-for-granted.d.ts'), PREAMBLE);
    const files = blocks.map((block, i) => {
      const file = join(folder, `example-${i + 1}.mts`);
      writeFileSync(file, block);
      return file;
    });
    const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
    const flags = ['--ignoreConfig', '--noEmit', '--strict', '--target', 'es2022', '--module', 'node16', '--types', 'node', '--skipLibCheck'];
    const { status, stdout } = spawnSync(process.execPath, [tsc, ...flags, join(folder, 'taken-for-granted.d.ts'), ...files], {
      cwd: root,
    });
    assert.equal(status, 0, stdout.toString());
  });
}

test('the example of a service’s test runs', () => {
  const page = pages.find((name) => name.endsWith('typescript.md'));
  if (page === undefined) return; // a copy of the client alone
  const block = [...readFileSync(page, 'utf8').matchAll(/^```ts\n([\s\S]*?)^```/gm)].find((match) => match[1]?.includes('tokentill/testing'));
  const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', block?.[1] ?? 'process.exit(9)'], { cwd: root });
  assert.equal(status, 0, stderr.toString());
});
