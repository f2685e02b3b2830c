#!/usr/bin/env node
/**
 * tokentill outbox status | flush | discard: looks at an outbox and sends what is in it.
 *
 * The same command as the Python client's. Exits 0 when nothing waits any more, 1 when something does, 2 when the outbox
 * or the settings can't be used.
 */

import { existsSync } from 'node:fs';

import { TokenProcess } from './client';
import { messageOf } from './errors';
import { Outbox } from './outbox';
import type { RefusedEnd } from './outbox';
import { VERSION } from './version';

const USAGE = `Usage: tokentill outbox status  [--path FILE] [--json]
       tokentill outbox flush   [--path FILE] [--url URL] [--timeout-seconds N] [--refused]
       tokentill outbox discard [--path FILE] KEY

  status    say what waits and what was refused
  flush     send everything that waits; --refused: also what was refused, once the reason is gone
  discard   remove one refused end for good, and print it

--path FILE          the outbox's file (TOKENTILL_OUTBOX)
--url URL            the server (TOKEN_SERVER_URL); SERVER_API_KEY is read from the environment
--timeout-seconds N  how long to try (60)
`;

const REFUSED_SHOWN_MAX = 100;

class UsageError extends Error {}

async function main(args: string[]): Promise<number> {
  if (args.includes('--help') || args.includes('-h')) {
    process.stdout.write(USAGE);
    return 0;
  }
  if (args[0] === '--version') {
    print(`tokentill ${VERSION} (TypeScript client)`);
    return 0;
  }
  const path = option(args, '--path') ?? process.env['TOKENTILL_OUTBOX'];
  const url = option(args, '--url');
  const timeoutSeconds = Number(option(args, '--timeout-seconds') ?? 60);
  const json = flag(args, '--json');
  const refused = flag(args, '--refused');
  const [topic, command, ...rest] = args;
  const wanted = command === 'discard' ? 1 : 0;
  const known = ['status', 'flush', 'discard'].includes(command ?? '');
  if (topic !== 'outbox' || !known || rest.length !== wanted || !(timeoutSeconds > 0)) throw new UsageError();
  if (!path) throw new Error('Give the outbox with --path, or set TOKENTILL_OUTBOX');
  if (!existsSync(path)) throw new Error(`There is no outbox at ${path}`);
  if (command === 'flush') return flush(path, url, timeoutSeconds, refused);
  const outbox = new Outbox({ path });
  try {
    return command === 'status' ? status(outbox, json) : discard(outbox, rest[0] ?? '');
  } finally {
    outbox.close();
  }
}

function status(outbox: Outbox, json: boolean): number {
  const state = outbox.status();
  const refused = outbox.refused(REFUSED_SHOWN_MAX);
  if (json) {
    print(JSON.stringify({ ...state, refused_ends: refused.map(withBody) }, null, 2));
  } else {
    const age = Math.floor(state.oldest_seconds ?? 0);
    print(`outbox    ${outbox.path}`);
    print(`pending   ${state.pending} of at most ${state.ends_max}${state.pending ? `, the oldest ${age} s old` : ''}`);
    print(`refused   ${state.refused}`);
    if (state.last_error !== null) print(`last error  ${state.last_error}`);
    for (const end of refused) print(`  ${end.idempotency_key}  ${end.error}  ${end.body}`);
  }
  return state.pending > 0 ? 1 : 0;
}

async function flush(path: string, url: string | undefined, timeoutSeconds: number, refused: boolean): Promise<number> {
  if (refused) {
    const outbox = new Outbox({ path });
    print(`${outbox.retryRefused()} refused ends are tried again`);
    outbox.close();
  }
  const client = new TokenProcess({ url, outbox: path, sendInBackground: false });
  try {
    const began = Date.now();
    const done = await client.flush({ timeoutSeconds });
    const took = ((Date.now() - began) / 1000).toFixed(1);
    print(`${done.sent} sent in ${took} s, ${done.refused} refused, ${done.postponed} still wait`);
    if (done.error && done.refused + done.postponed > 0) process.stderr.write(`tokentill: ${done.error.message}\n`);
    return done.postponed > 0 ? 1 : 0;
  } finally {
    await client.close();
  }
}

function discard(outbox: Outbox, key: string): number {
  const end = outbox.discardRefused(key);
  if (!end) throw new Error(`no refused end has the key ${key}`);
  // The last trace of it: whoever discards it may want to keep the line.
  print(JSON.stringify(withBody(end)));
  return 0;
}

function withBody(end: RefusedEnd): object {
  return { ...end, body: JSON.parse(end.body) as unknown };
}

function option(args: string[], name: string): string | undefined {
  const at = args.indexOf(name);
  if (at < 0) return undefined;
  const [, value] = args.splice(at, 2);
  if (value === undefined) throw new UsageError();
  return value;
}

function flag(args: string[], name: string): boolean {
  const at = args.indexOf(name);
  return at >= 0 && args.splice(at, 1).length > 0;
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

main(process.argv.slice(2)).then(
  (exitStatus) => {
    process.exitCode = exitStatus;
  },
  (error: unknown) => {
    process.stderr.write(error instanceof UsageError ? USAGE : `tokentill: ${messageOf(error)}\n`);
    process.exitCode = 2;
  },
);
