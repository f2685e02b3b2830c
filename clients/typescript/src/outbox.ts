/**
 * Ends on disk: written before they are first sent, removed when the server has acknowledged them.
 *
 * One SQLite file, shared by any number of processes of one machine, this client's and the Python client's alike
 * (docs/clients/outbox-format.md). A row is `pending` until it is acknowledged, or `refused` when the server itself said
 * no to that very body: kept for a person to look at, never sent again by itself. Whoever sends a row leases it first;
 * if one dies, its lease runs out. The idempotency key makes a second sending harmless in any case.
 *
 * Calls block for the length of a disk write, because an end must be on disk before it may be sent.
 * Fails with OutboxUnsupportedError where Node has no node:sqlite, OutboxFullError when the bound is reached, OutboxError
 * for anything the disk or SQLite refuses.
 */

import type { DatabaseSync, SQLInputValue } from 'node:sqlite';

import { ConflictError, OutboxError, OutboxFullError, OutboxUnsupportedError, TokenProcessError, messageOf } from './errors';
import { builtin } from './platform';

const FORMAT = 1;
const APPLICATION_ID = 0x546f6b54; // "TokT"
const ENDS_MAX_DEFAULT = 100_000;
/** Waiting for another process's lock blocks the event loop: better to send the end without the outbox. */
const BUSY_TIMEOUT_SECONDS = 1;
const CREATE_TIMEOUT_SECONDS = 10;
const ERROR_LENGTH_MAX = 500;

// The format is shared with the other clients: a change here is a new FORMAT.
const SCHEMA = `
CREATE TABLE IF NOT EXISTS ends (
  id              INTEGER PRIMARY KEY,
  idempotency_key TEXT NOT NULL UNIQUE,
  body            TEXT NOT NULL,
  state           TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'refused')),
  attempts        INTEGER NOT NULL DEFAULT 0,
  created_ms      INTEGER NOT NULL,
  not_before_ms   INTEGER NOT NULL,
  leased_until_ms INTEGER NOT NULL,
  last_error      TEXT
);
CREATE INDEX IF NOT EXISTS ends_by_state ON ends (state, id);
PRAGMA application_id = ${APPLICATION_ID};
PRAGMA user_version = ${FORMAT};
`;

export interface OutboxOptions {
  path: string;
  /** How many ends it may hold: 100,000 unless given. */
  endsMax?: number | undefined;
}

export interface QueuedEnd {
  id: number;
  idempotency_key: string;
  /** JSON of an end request, without its key. */
  body: string;
  attempts: number;
}

export interface RefusedEnd {
  idempotency_key: string;
  body: string;
  error: string;
  created_ms: number;
}

export interface OutboxStatus {
  pending: number;
  /** Of the pending ends: being sent right now, or their sender died. */
  leased: number;
  refused: number;
  ends_max: number;
  /** How long the oldest pending end has been waiting. */
  oldest_seconds: number | null;
  last_error: string | null;
}

export class Outbox {
  readonly path: string;
  readonly endsMax: number;
  private readonly database: DatabaseSync;
  private closed = false;

  constructor(options: OutboxOptions) {
    this.path = nodeModule<typeof import('node:path')>('node:path').resolve(options.path);
    this.endsMax = options.endsMax ?? ENDS_MAX_DEFAULT;
    if (!Number.isInteger(this.endsMax) || this.endsMax < 1) {
      throw new OutboxError(`endsMax must be a whole number above 0, not ${options.endsMax}`);
    }
    const Database = loadSqlite();
    this.database = this.guarded(() => open(Database, this.path));
  }

  /** Makes the end durable, leased to the caller. The same key again is the same end, or a ConflictError. */
  put(key: string, body: string, leaseSeconds: number): void {
    this.inTransaction(() => {
      const [there] = this.all<{ body: string }>('SELECT body FROM ends WHERE idempotency_key = ?', key);
      if (there) {
        if (there.body === body) return;
        throw new ConflictError(`The outbox holds another end with the key ${key}`, { code: 'idempotency_conflict' });
      }
      if (this.count() >= this.endsMax) {
        throw new OutboxFullError(`The outbox ${this.path} is full: ${this.endsMax} ends wait in it`);
      }
      const now = Date.now();
      this.run(
        `INSERT INTO ends (idempotency_key, body, created_ms, not_before_ms, leased_until_ms) VALUES (?, ?, ?, ?, ?)`,
        key,
        body,
        now,
        now,
        now + Math.round(leaseSeconds * 1000),
      );
    });
  }

  /** The server has these ends: remove them. */
  acknowledge(keys: readonly string[]): void {
    this.inTransaction(() => {
      for (const key of keys) this.run('DELETE FROM ends WHERE idempotency_key = ?', key);
    });
  }

  /** The server refused this very body: keep it, send it no more. */
  refuse(key: string, error: string): void {
    this.inTransaction(() => {
      this.run(
        `UPDATE ends SET state = 'refused', attempts = attempts + 1, leased_until_ms = 0, last_error = ?
         WHERE idempotency_key = ?`,
        error.slice(0, ERROR_LENGTH_MAX),
        key,
      );
    });
  }

  /** They couldn't be sent: give the leases back and leave them alone for a while. */
  postpone(keys: readonly string[], error: string, delaySeconds: number): void {
    const notBefore = Date.now() + Math.round(delaySeconds * 1000);
    this.inTransaction(() => {
      for (const key of keys) {
        this.run(
          `UPDATE ends SET attempts = attempts + 1, leased_until_ms = 0, not_before_ms = ?, last_error = ?
           WHERE idempotency_key = ?`,
          notBefore,
          error.slice(0, ERROR_LENGTH_MAX),
          key,
        );
      }
    });
  }

  /** Leases the oldest pending ends that nobody else has in hand. `early`: also those that wait for a later try. */
  claim(options: { limit: number; bytesMax: number; leaseSeconds: number; early: boolean }): QueuedEnd[] {
    return this.inTransaction(() => {
      const now = Date.now();
      const rows = this.all<QueuedEnd>(
        `SELECT id, idempotency_key, body, attempts FROM ends
         WHERE state = 'pending' AND leased_until_ms <= ? AND (? OR not_before_ms <= ?) ORDER BY id LIMIT ?`,
        now,
        options.early ? 1 : 0,
        now,
        options.limit,
      );
      const ends: QueuedEnd[] = [];
      let bytes = 0;
      for (const row of rows) {
        // A key is plain ASCII wherever this client made it; JSON may write another's characters six times as long.
        bytes += Buffer.byteLength(row.body) + row.idempotency_key.length * 6 + 32;
        if (ends.length > 0 && bytes > options.bytesMax) break;
        ends.push(row);
      }
      for (const { id } of ends) {
        this.run('UPDATE ends SET leased_until_ms = ? WHERE id = ?', now + Math.round(options.leaseSeconds * 1000), id);
      }
      return ends;
    });
  }

  status(): OutboxStatus {
    return this.guarded(() => {
      const now = Date.now();
      const [totals] = this.all<Pick<OutboxStatus, 'pending' | 'leased' | 'refused'> & { oldest_ms: number | null }>(
        `SELECT coalesce(sum(state = 'pending'), 0) AS pending,
                coalesce(sum(state = 'pending' AND leased_until_ms > ?), 0) AS leased,
                coalesce(sum(state = 'refused'), 0) AS refused,
                min(CASE WHEN state = 'pending' THEN created_ms END) AS oldest_ms FROM ends`,
        now,
      );
      const [error] = this.all<{ last_error: string }>(
        'SELECT last_error FROM ends WHERE last_error IS NOT NULL ORDER BY not_before_ms DESC LIMIT 1',
      );
      const oldestMs = totals?.oldest_ms ?? null;
      return {
        pending: totals?.pending ?? 0,
        leased: totals?.leased ?? 0,
        refused: totals?.refused ?? 0,
        ends_max: this.endsMax,
        oldest_seconds: oldestMs === null ? null : Math.max(0, now - oldestMs) / 1000,
        last_error: error?.last_error ?? null,
      };
    });
  }

  refused(limit = 100): RefusedEnd[] {
    return this.guarded(() =>
      this.all<RefusedEnd>(
        `SELECT idempotency_key, body, coalesce(last_error, '') AS error, created_ms FROM ends
         WHERE state = 'refused' ORDER BY id LIMIT ?`,
        limit,
      ),
    );
  }

  /** Puts every refused end back in line, once the reason is gone. Answers how many. */
  retryRefused(): number {
    return this.inTransaction(() =>
      this.run(`UPDATE ends SET state = 'pending', not_before_ms = 0 WHERE state = 'refused'`),
    );
  }

  /** Removes one refused end for good; answers what it was. */
  discardRefused(key: string): RefusedEnd | undefined {
    return this.inTransaction(() => {
      const [end] = this.all<RefusedEnd>(
        `SELECT idempotency_key, body, coalesce(last_error, '') AS error, created_ms FROM ends
         WHERE state = 'refused' AND idempotency_key = ?`,
        key,
      );
      this.run(`DELETE FROM ends WHERE state = 'refused' AND idempotency_key = ?`, key);
      return end;
    });
  }

  close(): void {
    if (!this.closed) this.database.close();
    this.closed = true;
  }

  private count(): number {
    return this.all<{ ends: number }>('SELECT count(*) AS ends FROM ends')[0]?.ends ?? 0;
  }

  private all<Row>(sql: string, ...values: SQLInputValue[]): Row[] {
    return this.database.prepare(sql).all(...values) as Row[];
  }

  private run(sql: string, ...values: SQLInputValue[]): number {
    return Number(this.database.prepare(sql).run(...values).changes);
  }

  /** Begun IMMEDIATE, so that it waits for its turn instead of failing half-way. */
  private inTransaction<R>(act: () => R): R {
    return this.guarded(() => {
      this.database.exec('BEGIN IMMEDIATE');
      try {
        const result = act();
        this.database.exec('COMMIT');
        return result;
      } catch (error) {
        rollBack(this.database);
        throw error;
      }
    });
  }

  private guarded<R>(act: () => R): R {
    try {
      return act();
    } catch (error) {
      if (error instanceof TokenProcessError) throw error;
      throw new OutboxError(`The outbox ${this.path} can't be used: ${messageOf(error)}`, { cause: error });
    }
  }
}

type DatabaseConstructor = typeof DatabaseSync;

/** Looked up when an outbox is asked for, so that Node versions without SQLite can use everything else. */
function loadSqlite(): DatabaseConstructor {
  return nodeModule<typeof import('node:sqlite')>('node:sqlite').DatabaseSync;
}

function nodeModule<T>(name: string): T {
  const found = builtin<T>(name);
  if (found) return found;
  const version = typeof process === 'undefined' ? undefined : process.versions?.node;
  const here = version === undefined ? 'this platform' : `Node ${version}`;
  throw new OutboxUnsupportedError(
    `The outbox needs ${name}, which ${here} doesn't have. Use Node 22.13 or newer, or leave the outbox out`,
  );
}

function open(Database: DatabaseConstructor, path: string): DatabaseSync {
  // Readable by its owner only: it names users. SQLite gives its side files the same mode.
  const { closeSync, openSync } = nodeModule<typeof import('node:fs')>('node:fs');
  closeSync(openSync(path, 'a', 0o600));
  const database = new Database(path);
  try {
    database.exec(`PRAGMA busy_timeout = ${BUSY_TIMEOUT_SECONDS * 1000}`);
    prepare(database, path);
    // When an end has been put it has been through fsync: it survives the machine, not only the process.
    database.exec('PRAGMA synchronous = FULL');
  } catch (error) {
    database.close();
    throw error;
  }
  return database;
}

/** Creates the table in a new file; refuses a file of something else or of a newer client. */
function prepare(database: DatabaseSync, path: string): void {
  const deadline = Date.now() + CREATE_TIMEOUT_SECONDS * 1000;
  while (pragma(database, 'user_version') === 0) {
    const tables = database.prepare(`SELECT name FROM sqlite_master WHERE type = 'table'`).all();
    if (tables.some(({ name }) => name !== 'ends')) throw new OutboxError(`${path} is a SQLite file of something else`);
    try {
      database.exec('PRAGMA journal_mode = WAL');
      database.exec(`BEGIN IMMEDIATE; ${SCHEMA} COMMIT;`);
    } catch (error) {
      // Another process creates it this moment: the change to WAL doesn't wait for locks by itself.
      if (database.isTransaction) database.exec('ROLLBACK');
      if (Date.now() > deadline) throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
    }
  }
  if (pragma(database, 'user_version') > FORMAT) {
    throw new OutboxError(`The outbox ${path} was written by a newer client`);
  }
  if (pragma(database, 'application_id') !== APPLICATION_ID) {
    throw new OutboxError(`${path} is a SQLite file of something else`);
  }
}

/** SQLite rolls back by itself where the disk is full or the file broken; not every Node tells whether it has. */
function rollBack(database: DatabaseSync): void {
  try {
    database.exec('ROLLBACK');
  } catch {
    // There was no transaction left.
  }
}

function pragma(database: DatabaseSync, name: string): number {
  return Number(database.prepare(`PRAGMA ${name}`).get()?.[name]);
}
