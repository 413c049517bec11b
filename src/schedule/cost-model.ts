/**
 * What work costs on this machine, as far as it is known: rates are measured as work ends, and assumed before that;
 * predictions follow from them. Pure: time is handed in, and choosing by the predictions is for others
 * (restore/block-restore.ts).
 */
import type { LowerTier } from "./request.ts";
import { MAX_LOADS } from "./restore/block-restore.ts";

/** Weight of the newest measurement in a rate. */
const RATE_WEIGHT = 0.5;

/** Blocks of a chunk whose measurement has that weight; a shorter one has less, since more of its time is no arithmetic. */
const FULL_CHUNK_BLOCKS = 8;

/** Rates that are assumed until they are measured: a restore finds out soon, but must begin somehow. */
const ASSUMED_BYTES_PER_SECOND: Record<LowerTier, number> = { ram: 4e9, disk: 5e8 };
const ASSUMED_FLOPS_PER_SECOND = { gpu: 5e11, software: 1e9 };

const TIERS = ["gpu", "ram", "disk"] as const;

/** What is assumed follows from these, before anything is measured. */
export interface CostFacts {
  blockTokens: number;
  bytesPerBlock: number;
  flopsPerToken: number;
  isSoftware: boolean;
}

export class CostModel {
  /** What cached tokens would have taken to compute. */
  readonly timeSavedMs = { gpu: 0, ram: 0, disk: 0 };
  /** Cached tokens whose worth is not known yet. */
  private readonly uncounted = { gpu: 0, ram: 0, disk: 0 };
  private facts: CostFacts;
  private readonly loads: Record<LowerTier, LoadRate>;
  /** Tokens per second, 0 until measured. */
  private computeRate = 0;
  private computedAtMs = -Infinity;

  constructor(facts: CostFacts) {
    this.facts = facts;
    this.loads = { ram: new LoadRate(facts.blockTokens), disk: new LoadRate(facts.blockTokens) };
  }

  /** Another device computes from now on. */
  moveTo(facts: CostFacts): void {
    this.facts = facts;
    this.computeRate = 0;
  }

  /** The loads of one tier, to be told when one begins and ends. */
  loadsOf(tier: LowerTier): LoadRate {
    return this.loads[tier];
  }

  /** What loading one block is expected to take. */
  loadMs(tier: LowerTier): number {
    const { blockTokens, bytesPerBlock } = this.facts;
    const assumed = (blockTokens * ASSUMED_BYTES_PER_SECOND[tier]) / bytesPerBlock;
    return (1000 * blockTokens) / (this.loads[tier].perSecond || assumed);
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
  credit(cachedTokens: { gpu: number; ram: number; disk: number }): void {
    for (const tier of TIERS) this.uncounted[tier] += cachedTokens[tier];
    this.count();
  }

  private count(): void {
    if (this.computeRate === 0) return;
    for (const tier of TIERS) {
      this.timeSavedMs[tier] += (1000 * this.uncounted[tier]) / this.computeRate;
      this.uncounted[tier] = 0;
    }
  }
}

/**
 * Tokens per second of all loads from one tier, while any is under way: what one takes by itself says little, because
 * several share the medium. Measured anew each time as many have ended as may be under way at once, or none is left.
 */
export class LoadRate {
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

/** Geometric, so that a rate that was far too high is left as soon as one that was far too low. */
function blend(rate: number, measured: number, weight = RATE_WEIGHT): number {
  return rate === 0 ? measured : rate ** (1 - weight) * measured ** weight;
}
