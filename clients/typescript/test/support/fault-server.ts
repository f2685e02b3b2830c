/**
 * A server on this machine that misbehaves as told: what stands between a client and the real one when things go wrong.
 * The answers to what it isn't told to spoil come from `answer`, or from the real server behind it.
 */

import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface Seen {
  path: string;
  headers: IncomingMessage['headers'];
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  body: any;
  atMs: number;
}

export type Fault =
  | { kind: 'answer'; status: number; body: unknown; headers?: Record<string, string> }
  | { kind: 'reset' }
  /** The request is taken, and answered by whoever answers, but the caller never hears of it. */
  | { kind: 'accept-then-silence' }
  | { kind: 'accept-then-reset' }
  | { kind: 'delay'; ms: number }
  /** The answer is begun, and one more space of it sent every so often, for ever. */
  | { kind: 'drip'; everyMs: number };

export type Answer = (seen: Seen) => { status: number; body: unknown } | Promise<{ status: number; body: unknown }>;

export class FaultServer {
  readonly seen: Seen[] = [];
  /** Taken one per request, first to last; then all is well. */
  faults: Fault[] = [];
  /** Every connection is reset. */
  isDown = false;
  url = '';
  private readonly server = createServer((request, response) => void this.serve(request, response));

  constructor(private readonly answer: Answer) {}

  async open(): Promise<this> {
    await new Promise<void>((resolve) => this.server.listen(0, '127.0.0.1', resolve));
    this.url = `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
    return this;
  }

  async close(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  seenAt(path: string): Seen[] {
    return this.seen.filter((seen) => seen.path === path);
  }

  private async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const atMs = Date.now();
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const text = Buffer.concat(chunks).toString();
    const seen = { path: request.url ?? '', headers: request.headers, body: JSON.parse(text || 'null'), atMs };
    this.seen.push(seen);
    const fault = this.faults.shift();
    if (this.isDown || fault?.kind === 'reset') {
      request.socket.resetAndDestroy();
      return;
    }
    if (fault?.kind === 'answer') {
      const raw = typeof fault.body === 'string';
      response.writeHead(fault.status, { 'content-type': raw ? 'text/html' : 'application/json', ...fault.headers });
      response.end(raw ? fault.body : JSON.stringify(fault.body));
      return;
    }
    if (fault?.kind === 'drip') {
      response.writeHead(200, { 'content-type': 'application/json' });
      const timer = setInterval(() => response.write(' '), fault.everyMs);
      response.once('close', () => clearInterval(timer));
      return;
    }
    if (fault?.kind === 'delay') await new Promise((resolve) => setTimeout(resolve, fault.ms));
    let answer: Awaited<ReturnType<Answer>>;
    try {
      answer = await this.answer(seen);
    } catch {
      // The server behind this one is gone: so is the connection.
      request.socket.resetAndDestroy();
      return;
    }
    if (fault?.kind === 'accept-then-silence') return;
    if (fault?.kind === 'accept-then-reset') {
      request.socket.resetAndDestroy();
      return;
    }
    if (response.destroyed) return;
    response.writeHead(answer.status, { 'content-type': 'application/json' });
    response.end(JSON.stringify(answer.body));
  }
}

export interface Wallet {
  token: number;
  /** What each open hold reserves. */
  holds: Map<string, number>;
  billed: Map<string, unknown>;
}

/** Answers as the contract says, for one user with `token` tokens and no profit; an end's key bills once. */
export function contractAnswers(state: Wallet): Answer {
  let runs = 0;
  const end = (body: Seen['body'], key: string | undefined): { status: number; body: Record<string, unknown> } => {
    const before = key === undefined ? undefined : state.billed.get(key);
    const cost = body.output_token / 4;
    if (before === undefined) {
      state.token -= cost;
      state.billed.set(key ?? `unkeyed-${state.billed.size}`, body);
    }
    state.holds.delete(body.process_id);
    const data = { user_id: body.user_id, token: state.token, cost, status: 'return-able' };
    return { status: 200, body: { success: true, message: 'ok', data } };
  };
  return ({ path, body, headers }) => {
    const say = (data: unknown) => ({ status: 200, body: { success: true, message: 'ok', data } });
    if (path === '/api/token-process/start') {
      runs += 1;
      const process_id = `process-${runs}`;
      const granted = state.token >= (body.hold_token ?? 1);
      if (granted && body.hold_token !== undefined) state.holds.set(process_id, body.hold_token);
      const status = granted ? 'access-able' : 'not-access-able';
      return say({ user_id: body.user_id, token: state.token, status, ...(granted ? { process_id } : {}) });
    }
    if (path === '/api/token-process/hold/extend') {
      const held = state.holds.get(body.process_id);
      if (held === undefined) {
        return { status: 404, body: { success: false, status: 404, message: 'Hold not found', code: 'hold_not_found' } };
      }
      const more = body.hold_token ?? 0;
      const granted = held + more <= state.token;
      if (granted) state.holds.set(body.process_id, held + more);
      const expires_at = new Date(Date.now() + 900_000).toISOString();
      const status = granted ? 'access-able' : 'not-access-able';
      return say({ token: state.token - held, hold_token: held + (granted ? more : 0), expires_at, status });
    }
    if (path === '/api/token-process/cancel') {
      state.holds.delete(body.process_id);
      return say({});
    }
    if (path === '/api/token-process/end') return end(body, headers['idempotency-key'] as string | undefined);
    if (path === '/api/token-process/end/batch') {
      return say({ results: body.ends.map((one: Seen['body']) => end(one, one.idempotency_key).body) });
    }
    return { status: 404, body: { success: false, status: 404, message: 'Not found', code: 'not_found' } };
  };
}

/** Passes everything on to the real server. */
export function passOnTo(url: string): Answer {
  return async ({ path, headers, body }) => {
    const answer = await fetch(`${url}${path}`, {
      method: 'POST',
      headers: Object.fromEntries(
        ['content-type', 'x-server-api-key', 'idempotency-key'].flatMap((name) => {
          const value = headers[name];
          return typeof value === 'string' ? [[name, value]] : [];
        }),
      ),
      body: JSON.stringify(body),
    });
    return { status: answer.status, body: await answer.json() };
  };
}

export async function withFaultServer(
  answer: Answer,
  act: (server: FaultServer) => Promise<void>,
): Promise<void> {
  const server = await new FaultServer(answer).open();
  try {
    await act(server);
  } finally {
    await server.close();
  }
}
