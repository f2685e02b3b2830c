/** What a run costs, as the server computes it: exact, in integer micro-tokens (1 token = 1,000,000). */

const MICROS = 1_000_000n;
const BASIS_POINTS = 10_000n;
/** The guide's rule where no price matches: a quarter of a token for each output token. */
const BASE_MICROS_PER_OUTPUT_TOKEN = 250_000n;

/** Token numbers with at most 6 decimals. A kind that isn't named costs what its whole costs. */
export interface PriceFields {
  input_per_million?: number;
  output_per_million?: number;
  cached_input_per_million?: number;
  cache_write_per_million?: number;
  reasoning_per_million?: number;
  per_request?: number;
}

/** As the body of the server's `POST /api/admin/prices`. */
export interface Price extends PriceFields {
  id?: number;
  feature_endpoint_id?: string;
  /** Exact, or with a `*` at its end. */
  model?: string;
  effective_from?: Date;
  input_per_million: number;
  output_per_million: number;
  /** The last one whose `above_input_token` the input exceeds replaces the fields that it names, for the whole run. */
  tiers?: (PriceFields & { above_input_token: number })[];
}

export interface ProfitRule {
  id?: number;
  /** 0 to 10,000, at most 2 decimals. */
  percentage: number;
  feature_endpoint_id?: string;
  model?: string;
  effective_from?: Date;
}

export interface UsageOfRun {
  feature_endpoint_id: string;
  model?: string | undefined;
  input_token: number;
  output_token: number;
  cached_input_token: number;
  cache_write_token: number;
  reasoning_token: number;
  requests: number;
}

export interface Cost {
  baseMicros: bigint;
  profitMicros: bigint;
  priceId: number | null;
  profitRuleId: number | null;
}

export function costOf(usage: UsageOfRun, prices: readonly Price[], profits: readonly ProfitRule[], at: Date): Cost {
  const price = mostSpecific(prices, usage, at, rankOfPrice);
  const baseMicros = price ? pricedMicros(usage, price) : BigInt(usage.output_token) * BASE_MICROS_PER_OUTPUT_TOKEN;
  const rule = mostSpecific(profits, usage, at, rankOfProfit);
  const profitMicros = rule ? roundedUp(baseMicros * BigInt(Math.round(rule.percentage * 100)), BASIS_POINTS) : 0n;
  return { baseMicros, profitMicros, priceId: price?.id ?? null, profitRuleId: rule?.id ?? null };
}

export function micros(tokens: number): bigint {
  const exact = tokens * Number(MICROS);
  const rounded = Math.round(exact);
  if (!Number.isFinite(tokens) || Math.abs(exact - rounded) > 1e-3) {
    throw new RangeError(`${tokens} is no number of tokens: at most 6 decimals`);
  }
  return BigInt(rounded);
}

export function tokens(amountMicros: bigint): number {
  return Number(amountMicros) / Number(MICROS);
}

function pricedMicros(usage: UsageOfRun, price: Price): bigint {
  const tier = (price.tiers ?? [])
    .filter(({ above_input_token }) => usage.input_token > above_input_token)
    .sort((one, other) => one.above_input_token - other.above_input_token)
    .at(-1);
  const fields: PriceFields = { ...price, ...tier };
  const { input_per_million = 0, output_per_million = 0 } = fields;
  const { cached_input_token: cached, cache_write_token: written, reasoning_token: reasoning } = usage;
  const perMillion = [
    [usage.input_token - cached - written, input_per_million],
    [cached, fields.cached_input_per_million ?? input_per_million],
    [written, fields.cache_write_per_million ?? input_per_million],
    [usage.output_token - reasoning, output_per_million],
    [reasoning, fields.reasoning_per_million ?? output_per_million],
  ].reduce((sum, [count = 0, each = 0]) => sum + BigInt(count) * micros(each), 0n);
  // Added up before it is rounded, once.
  return roundedUp(perMillion, MICROS) + BigInt(usage.requests) * micros(fields.per_request ?? 0);
}

function roundedUp(amount: bigint, by: bigint): bigint {
  return (amount + by - 1n) / by;
}

interface Scoped {
  feature_endpoint_id?: string;
  model?: string;
  effective_from?: Date;
}

/** Of those that cover the run the most specific; of equally specific ones the latest, then the last made. */
function mostSpecific<T extends Scoped>(all: readonly T[], usage: UsageOfRun, at: Date, rank: (one: Scoped) => number[]): T | undefined {
  const inForce = all.filter((one) => (one.effective_from?.getTime() ?? 0) <= at.getTime() && covers(one, usage));
  return inForce.reduce<T | undefined>((best, one) => (best && isBefore(rank(one), rank(best)) ? best : one), undefined);
}

function covers({ feature_endpoint_id, model }: Scoped, usage: UsageOfRun): boolean {
  if (feature_endpoint_id !== undefined && feature_endpoint_id !== usage.feature_endpoint_id) return false;
  if (model === undefined) return true;
  return model.endsWith('*') ? usage.model?.startsWith(model.slice(0, -1)) === true : usage.model === model;
}

/** Feature and exact model, feature and longest pattern, exact model, longest pattern, feature, none. */
function rankOfPrice({ feature_endpoint_id, model, effective_from }: Scoped): number[] {
  const isExact = model !== undefined && !model.endsWith('*');
  const ofFeature = feature_endpoint_id === undefined ? 0 : 1;
  const ofModel = model === undefined ? 0 : 2;
  return [ofModel + ofFeature, isExact ? Infinity : (model?.length ?? 0), effective_from?.getTime() ?? 0];
}

/** Feature and model, feature, model, none. */
function rankOfProfit({ feature_endpoint_id, model, effective_from }: Scoped): number[] {
  return [(feature_endpoint_id === undefined ? 0 : 2) + (model === undefined ? 0 : 1), effective_from?.getTime() ?? 0];
}

function isBefore(one: number[], other: number[]): boolean {
  const at = one.findIndex((value, index) => value !== other[index]);
  return at >= 0 && (one[at] ?? 0) < (other[at] ?? 0);
}
