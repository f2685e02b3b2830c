/** A wallet as the server decides on it: posted balance, holds, debt, overdraft. Amounts are micro-tokens. */

export interface Hold {
  process_id: string;
  amountMicros: bigint;
  expiresAtMs: number;
}

export class Wallet {
  isActive = true;
  postedMicros = 0n;
  readonly holds = new Map<string, Hold>();
  /** Ends that the balance did not cover, oldest first. */
  private debts: bigint[] = [];

  constructor(
    readonly package_id: string,
    readonly overdraftMicros: bigint,
  ) {}

  get heldMicros(): bigint {
    return [...this.holds.values()].reduce((sum, hold) => sum + hold.amountMicros, 0n);
  }

  get debtMicros(): bigint {
    return this.debts.reduce((sum, debt) => sum + debt, 0n);
  }

  get spendableMicros(): bigint {
    return this.postedMicros - this.debtMicros - this.heldMicros;
  }

  /** May a run start that needs `minMicros` and reserves `holdMicros`? Open debt stops every start. */
  grants(minMicros: bigint, holdMicros: bigint): boolean {
    const room = this.spendableMicros + this.overdraftMicros;
    return this.debts.length === 0 && room >= (minMicros > holdMicros ? minMicros : holdMicros);
  }

  /** A run was used: its hold is over, and it is paid, or stands as debt. True: paid. */
  charge(costMicros: bigint, process_id: string | undefined): boolean {
    const ownHoldMicros = this.ownHoldMicros(process_id);
    if (process_id !== undefined) this.holds.delete(process_id);
    if (this.covers(costMicros, ownHoldMicros)) {
      this.postedMicros -= costMicros;
      return true;
    }
    this.debts.push(costMicros);
    return false;
  }

  /** A run is taken back. True: a debt went by it; else the tokens are on the balance again. */
  giveBack(costMicros: bigint): boolean {
    const at = this.debts.indexOf(costMicros);
    if (at >= 0) this.debts.splice(at, 1);
    this.post(at >= 0 ? 0n : costMicros);
    return at >= 0;
  }

  post(amountMicros: bigint): void {
    this.postedMicros += amountMicros;
    for (let [debt] = this.debts; debt !== undefined && this.postedMicros + this.overdraftMicros >= debt; [debt] = this.debts) {
      this.postedMicros -= debt;
      this.debts.shift();
    }
  }

  expire(nowMs: number): void {
    for (const hold of this.holds.values()) if (hold.expiresAtMs <= nowMs) this.holds.delete(hold.process_id);
  }

  ownHoldMicros(process_id: string | undefined): bigint {
    return (process_id === undefined ? undefined : this.holds.get(process_id))?.amountMicros ?? 0n;
  }

  /**
   * What is used is billed: it may draw on what other holds reserve, not on what debts will take, unless it stays within
   * what the run had reserved itself.
   */
  covers(costMicros: bigint, ownHoldMicros: bigint): boolean {
    const owedMicros = costMicros <= ownHoldMicros ? 0n : this.debtMicros;
    return costMicros === 0n || this.postedMicros - owedMicros + this.overdraftMicros >= costMicros;
  }
}
