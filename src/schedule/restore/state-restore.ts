/**
 * Getting a prompt back in a model with recurrent layers: its stored blocks and the snapshot of the state behind them.
 * Only all of them together are of use, so the two sides cannot meet in the middle (block-restore.ts): they race. Loading has a
 * head start; then the prompt is computed beside it, a block a step, and whoever is there first wins. Pure.
 *
 *     from                          to        at
 *     |-- blocks, loaded in order --|- tail --|   the snapshot counts as block `to`
 *     |-- computed -->
 */
import type { NewSnapshot } from "../../cache/prefix.ts";
import { MAX_LOADS, type LowerTier, type Restore, type RestoreMode, type RestoreTerms } from "./restore.ts";

/** A read may take so long before anything can be said of the medium. */
const PATIENCE_MS = 25;

/** Share of the time of computing everything that loading may have to itself: what a lost race costs at most. */
const HEAD_START = 0.1;

export class StateRestore implements Restore {
  readonly from: number;
  readonly to: number;
  /** Where the state and the partial block are loaded to. */
  readonly snapshot: NewSnapshot;
  private readonly terms: RestoreTerms;
  private readonly startedMs: number;
  private readonly tiers: (LowerTier | undefined)[];
  private next: number;
  private loading = 0;
  private failed = false;
  /** Blocks before this one have been computed. */
  private computedTo: number;

  constructor(terms: RestoreTerms, from: number, snapshot: NewSnapshot) {
    this.terms = terms;
    this.from = from;
    this.next = from;
    this.computedTo = from;
    this.to = from + terms.loadMs.length;
    this.tiers = Array<LowerTier | undefined>(terms.loadMs.length + 1).fill(undefined);
    this.snapshot = snapshot;
    this.startedMs = terms.nowMs();
  }

  /** Whether loading promises to be faster than computing, by what is known beforehand. */
  static pays({ mode, loadMs, computeMs }: RestoreTerms): boolean {
    if (mode === "load" || mode === "compute") return mode === "load";
    return loadMs.reduce((sum, ms) => sum + ms, 0) <= computeMs() * Math.max(1, loadMs.length);
  }

  /** How the prompt has come back if loading won. */
  get mode(): RestoreMode {
    return this.computedTo > this.from ? "both" : "load";
  }

  /** Everything that is not computed is in place. */
  get complete(): boolean {
    return !this.failed && this.tiers.slice(this.computedTo - this.from).every((tier) => tier !== undefined);
  }

  /** A record was missing: what is left is computed. */
  get givenUp(): boolean {
    return this.failed;
  }

  nextLoad(): number | undefined {
    this.next = Math.max(this.next, this.computedTo);
    if (this.failed || this.loading >= MAX_LOADS || this.next > this.to) return undefined;
    this.loading++;
    return this.next++;
  }

  loaded(block: number, tier: LowerTier | undefined): void {
    this.loading--;
    this.tiers[block - this.from] = tier;
    if (tier === undefined && block >= this.computedTo) this.failed = true;
  }

  isWanted(block: number): boolean {
    return !this.failed && block >= this.computedTo;
  }

  claim(_block: number, max: number): number {
    if (this.failed) return max;
    return this.terms.mode === "load" || this.elapsedMs() < this.headStartMs() ? 0 : 1;
  }

  /** Only all of them together are of use. */
  isLoaded(): boolean {
    return false;
  }

  snapshotAt(block: number): NewSnapshot | undefined {
    return block === this.to ? this.snapshot : undefined;
  }

  ran(): void {} // the race has no rate to learn

  /** Loads of blocks before `block` are not wanted any more. */
  passed(block: number): void {
    this.computedTo = Math.min(this.to, Math.max(this.computedTo, block));
  }

  /** The tokens from `start` on that loading has brought, by tier. */
  loadedTokens(start: number, blockTokens: number): Record<LowerTier, number> {
    const tokens: Record<LowerTier, number> = {};
    this.tiers.forEach((tier, index) => {
      const block = this.from + index;
      const end = block === this.to ? this.snapshot.at : (block + 1) * blockTokens;
      const loaded = Math.max(0, end - Math.max(start, block * blockTokens));
      if (tier) tokens[tier] = (tokens[tier] ?? 0) + loaded;
    });
    return tokens;
  }

  private elapsedMs(): number {
    return this.terms.nowMs() - this.startedMs;
  }

  private headStartMs(): number {
    return Math.max(PATIENCE_MS, HEAD_START * this.terms.computeMs() * (this.to - this.from + 1));
  }
}
