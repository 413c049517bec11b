/**
 * What work costs on this machine, as far as it is known: rates are measured as work ends, and assumed before that;
 * predictions follow from them. Pure: time is handed in, and choosing by the predictions is for others
 * (restore/restore.ts).
 */
import type { LowerTier } from "./request.ts";
import { MAX_LOADS } from "./restore/restore.ts";

/** Weight of the newest measurement in a rate. */
const RATE_WEIGHT = 0.5;

/** Blocks of a chunk whose measurement has that weight; a shorter one has less, since more of its time is no arithmetic. */
const FULL_CHUNK_BLOCKS = 8;

/** Rates that are assumed until they are measured: a restore finds out soon, but must begin somehow. */
const ASSUMED_BYTES_PER_SECOND = { memory: 4e9, medium: 5e8 };
const ASSUMED_FLOPS_PER_SECOND = { gpu: 5e11, software: 1e9 };

/** What is assumed follows from these, before anything is measured. */
export interface CostFacts {
  blockTokens: number;
  bytesPerBlock: number;
  flopsPerToken: number;
  isSoftware: boolean;
  /** The tiers below the GPU. */
  tiers: readonly { name: LowerTier; isInMemory: boolean }[];
}

export class CostModel {
  /** What cached tokens would have taken to compute. */
  readonly timeSavedMs: Record<LowerTier | "gpu", number>;
  /** Cached tokens whose worth is not known yet. */
  private uncounted: Readonly<Record<LowerTier | "gpu", number>> = {};
  private facts: CostFacts;
  private readonly loads = new Map<LowerTier, LoadRate>();
  /** Tokens per second, 0 until measured. */
  private computeRate = 0;
  private computedAtMs = -Infinity;

  constructor(facts: CostFacts) {
    this.facts = facts;
    this.timeSavedMs = Object.fromEntries(
      ["gpu", ...facts.tiers.map(({ name }) => name)].map((name) => [name, 0]),
    );
  }

  /** Another device computes from now on. */
  moveTo(facts: CostFacts): void {
    this.facts = facts;
    this.computeRate = 0;
  }

  /** The loads of one tier, to be told when one begins and ends. */
  loadsOf(tier: LowerTier): LoadRate {
    let rate = this.loads.get(tier);
    if (rate === undefined) this.loads.set(tier, (rate = new LoadRate(this.facts.blockTokens)));
    return rate;
  }

  /** What loading one block is expected to take. */
  loadMs(tier: LowerTier): number {
    const { blockTokens, bytesPerBlock, tiers } = this.facts;
    const isInMemory = tiers.some((each) => each.name === tier && each.isInMemory);
    const assumed =
      (blockTokens * ASSUMED_BYTES_PER_SECOND[isInMemory ? "memory" : "medium"]) / bytesPerBlock;
    return (1000 * blockTokens) / (this.loadsOf(tier).perSecond || assumed);
  }

  /** What computing one block is expected to take. */
  computeMs(): number {
    const { blockTokens, flopsPerToken, isSoftware } = this.facts;
    const assumed = ASSUMED_FLOPS_PER_SECOND[isSoftware ? "software" : "gpu"] / flopsPerToken;
    return (1000 * blockTokens) / (this.computeRate || assumed);
  }

  /**
   * A prefill chunk, submitted `ms` ago, has run; it began when the one before it had ended. One shorter than a block is not
   * counted: what is left of a prompt behind a restore would make computing seem slower than it is.
   */
  computed(tokens: number, ms: number, nowMs: number): void {
    const tookMs = Math.max(0.01, Math.min(ms, nowMs - this.computedAtMs));
    this.computedAtMs = nowMs;
    const blocks = tokens / this.facts.blockTokens;
    if (blocks < 1) return;
    const weight = RATE_WEIGHT * Math.min(1, blocks / FULL_CHUNK_BLOCKS);
    this.computeRate = blend(this.computeRate, (1000 * tokens) / tookMs, weight);
    this.count();
  }

  /** Counts a request's cached tokens as time saved, as soon as a rate of computing is known. */
  credit(cachedTokens: Readonly<Record<LowerTier | "gpu", number>>): void {
    this.uncounted = added(this.uncounted, cachedTokens);
    this.count();
  }

  private count(): void {
    if (this.computeRate === 0) return;
    for (const [tier, tokens] of Object.entries(this.uncounted))
      this.timeSavedMs[tier] = (this.timeSavedMs[tier] ?? 0) + (1000 * tokens) / this.computeRate;
    this.uncounted = {};
  }
}

/**
 * Tokens per second of all loads from one tier, while any is under way: what one takes by itself says little, because
 * several share the medium. Measured anew each time as many have ended as may be under way at once, or none is left.
 */
class LoadRate {
  /** 0 until measured. */
  perSecond = 0;
  private readonly windowTokens: number;
  private underWay = 0;
  private sinceMs = 0;
  private tokens = 0;

  constructor(blockTokens: number) {
    this.windowTokens = MAX_LOADS * blockTokens;
  }

  begin(nowMs: number): void {
    if (this.underWay++ > 0) return;
    this.sinceMs = nowMs;
    this.tokens = 0;
  }

  end(nowMs: number, tokens: number): void {
    this.tokens += tokens;
    this.underWay--;
    if (this.tokens === 0 || (this.underWay > 0 && this.tokens < this.windowTokens)) return;
    this.perSecond = blend(this.perSecond, (1000 * this.tokens) / Math.max(nowMs - this.sinceMs, 0.01));
    this.sinceMs = nowMs;
    this.tokens = 0;
  }
}

/** Sums by name. */
function added(
  a: Readonly<Record<string, number>>,
  b: Readonly<Record<string, number>>,
): Record<string, number> {
  const names = new Set([...Object.keys(a), ...Object.keys(b)]);
  return Object.fromEntries([...names].map((name) => [name, (a[name] ?? 0) + (b[name] ?? 0)]));
}

/** Geometric, so that a rate that was far too high is left as soon as one that was far too low. */
function blend(rate: number, measured: number, weight = RATE_WEIGHT): number {
  return rate === 0 ? measured : rate ** (1 - weight) * measured ** weight;
}
