/** The operator's side of a test: makes features, packages and wallets, and reads what was billed. */

import { randomUUID } from 'node:crypto';

import type { StackAddress } from './stack.js';

export interface Transaction {
  kind: string;
  token: number;
  cost: number | null;
  input_token: number | null;
  output_token: number | null;
  model: string | null;
  process_id: string | null;
  balance_after: number;
}

export interface Wallet {
  token: number;
  posted_token: number;
  pending_token: number;
  debt_token: number;
  held_token: number;
}

/** Where scripts/test.js has the server, or whoever set these variables. */
export function addressOfTest(): StackAddress {
  const [url, serverKey, adminKey] = ['URL', 'SERVER_KEY', 'ADMIN_KEY'].map(
    (name) => process.env[`TOKENTILL_TEST_${name}`] ?? '',
  );
  if (!url || !serverKey || !adminKey) throw new Error('Run these tests with `npm test`, or set TOKENTILL_TEST_*');
  return { url, serverKey, adminKey };
}

/** Changes of the catalogue reach every API process within one second. */
const CATALOGUE_MS = 1_200;

export class Admin {
  constructor(private readonly address: StackAddress) {}

  /** A feature in a package of its own with its own profit, and a user who has `token` tokens. */
  async userWithFeature(token: number, percentage = 20): Promise<{ user_id: string; feature_endpoint_id: string }> {
    const id = randomUUID();
    const feature_endpoint_id = `feature-${id}`;
    const package_id = `package-${id}`;
    await this.call('POST', '/feature-endpoints', { id: feature_endpoint_id, name: 'A feature' });
    await this.call('POST', '/packages', { id: package_id, name: 'A package', feature_endpoint_ids: [feature_endpoint_id] });
    await this.call('POST', '/profit-rules', { percentage, feature_endpoint_id });
    const user_id = await this.user(package_id, token);
    return { user_id, feature_endpoint_id };
  }

  /** Prices for that feature, which from now on starts no model without one. */
  async price(feature_endpoint_id: string, prices: readonly object[]): Promise<void> {
    for (const price of prices) await this.call('POST', '/prices', { ...price, feature_endpoint_id });
    await this.call('PATCH', `/feature-endpoints/${feature_endpoint_id}`, { unpriced: 'refuse' });
    await new Promise((resolve) => setTimeout(resolve, CATALOGUE_MS));
  }

  async allowReversals(feature_endpoint_id: string, reversal_seconds: number): Promise<void> {
    await this.call('PATCH', `/feature-endpoints/${feature_endpoint_id}`, { reversal_seconds });
    await new Promise((resolve) => setTimeout(resolve, CATALOGUE_MS));
  }

  async user(package_id: string, token: number): Promise<string> {
    const user_id = `user-${randomUUID()}`;
    await this.call('POST', '/wallets', { user_id, package_id });
    if (token > 0) await this.call('POST', `/wallets/${user_id}/top-ups`, { token, reference: 'first' });
    return user_id;
  }

  async wallet(user_id: string): Promise<Wallet> {
    return (await this.call('GET', `/wallets/${user_id}`)) as Wallet;
  }

  /** The wallet once everything that was accepted is settled. */
  async settled(user_id: string, timeoutMs = 60_000): Promise<Wallet> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const wallet = await this.wallet(user_id);
      if (wallet.pending_token === 0) return wallet;
      if (Date.now() > deadline) throw new Error(`Not settled in ${timeoutMs} ms: ${JSON.stringify(wallet)}`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  /** Every deduction, oldest first. */
  async usage(user_id: string): Promise<Transaction[]> {
    const found: Transaction[] = [];
    let cursor: string | null = null;
    do {
      const query: string = cursor === null ? '' : `&cursor=${encodeURIComponent(cursor)}`;
      const page = (await this.call('GET', `/wallets/${user_id}/transactions?limit=200${query}`)) as {
        items: Transaction[];
        next_cursor: string | null;
      };
      found.push(...page.items);
      cursor = page.next_cursor;
    } while (cursor !== null);
    return found.filter(({ kind }) => kind === 'usage').reverse();
  }

  async call(method: string, path: string, body?: object): Promise<unknown> {
    const answer = await fetch(`${this.address.url}/api/admin${path}`, {
      method,
      headers: { 'Content-Type': 'application/json', 'x-admin-api-key': this.address.adminKey },
      ...(body ? { body: JSON.stringify(body) } : {}),
    });
    const said = (await answer.json()) as { success: boolean; data: unknown };
    if (!said.success) throw new Error(`${method} ${path}: ${JSON.stringify(said)}`);
    return said.data;
  }
}
