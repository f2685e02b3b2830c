/**
 * A real Tokentill to test against: its API, its Postgres, its queue and worker, started as `make up` does.
 */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

const SERVER_KEY = 'test-server-key';
const ADMIN_KEY = 'test-admin-key';
const START_TIMEOUT_SECONDS = 180;

export interface StackAddress {
  url: string;
  serverKey: string;
  adminKey: string;
}

/** The project's folder, found upwards from here; undefined in a copy of the client alone. */
function projectOf(folder: string): string | undefined {
  if (existsSync(join(folder, 'stack', '__main__.py')) && existsSync(join(folder, '.venv', 'bin', 'python'))) return folder;
  const parent = resolve(folder, '..');
  return parent === folder ? undefined : projectOf(parent);
}

export class Stack {
  static readonly project = projectOf(__dirname);
  address: StackAddress | undefined;
  private readonly folder = mkdtempSync(join(tmpdir(), 'tokentill-stack-'));
  private ports: [string, string] | undefined;
  private child: ChildProcess | undefined;
  private output = '';

  constructor() {
    // The servers may run under another user than this one, and have to reach their data.
    chmodSync(this.folder, 0o755);
  }

  /** Starts, or starts again on the same data and the same port. */
  async up(): Promise<StackAddress> {
    if (!Stack.project) throw new Error('There is no project with a .venv above this folder');
    this.ports ??= [String(await freePort()), String(await freePort())];
    const child = spawn(join(Stack.project, '.venv', 'bin', 'python'), ['-m', 'stack', 'up'], {
      cwd: Stack.project,
      env: {
        ...process.env,
        TOKENTILL_MODE: 'local',
        PORT: this.ports[0],
        FLOWER_PORT: this.ports[1],
        DATA_DIR: join(this.folder, 'data'),
        SERVER_API_KEY: SERVER_KEY,
        ADMIN_API_KEY: ADMIN_KEY,
        PYTHONUNBUFFERED: '1',
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.child = child;
    this.output = '';
    const url = await new Promise<string>((found, failed) => {
      const timer = setTimeout(() => failed(new Error(`The stack is not ready:\n${this.output}`)), START_TIMEOUT_SECONDS * 1000);
      const settle = (act: () => void) => {
        clearTimeout(timer);
        act();
      };
      const read = (chunk: Buffer): void => {
        this.output = (this.output + chunk.toString()).slice(-20_000);
        const ready = /ready (http:\/\/\S+)/.exec(this.output);
        if (ready?.[1]) settle(() => found(ready[1] ?? ''));
      };
      child.stdout.on('data', read);
      child.stderr.on('data', read);
      child.on('exit', (status) => settle(() => failed(new Error(`The stack ended with ${status}:\n${this.output}`))));
      child.on('error', (error) => settle(() => failed(error)));
    });
    this.address = { url, serverKey: SERVER_KEY, adminKey: ADMIN_KEY };
    return this.address;
  }

  /** kill -9 of everything that answers requests; the stack notices and ends. */
  async killServer(): Promise<void> {
    const { child } = this;
    if (!child?.pid) return;
    const ended = exited(child);
    for (const pid of descendants(child.pid)) {
      if (/granian/.test(commandOf(pid))) signal(pid, 'SIGKILL');
    }
    await ended;
  }

  async down(): Promise<void> {
    const { child } = this;
    if (child && child.exitCode === null && child.signalCode === null) {
      const ended = exited(child);
      child.kill('SIGTERM');
      await ended;
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function exited(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  return new Promise((done) => child.once('exit', () => done()));
}

function descendants(pid: number): number[] {
  const children = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && parentOf(Number(name)) === pid);
  return children.flatMap((name) => [Number(name), ...descendants(Number(name))]);
}

function parentOf(pid: number): number {
  try {
    return Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
  } catch {
    return -1;
  }
}

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return '';
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It went by itself.
  }
}

function freePort(): Promise<number> {
  return new Promise((found) => {
    const probe = createServer().listen(0, '127.0.0.1', () => {
      const { port } = probe.address() as AddressInfo;
      probe.close(() => found(port));
    });
  });
}
