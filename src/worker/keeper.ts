/**
 * Blocks on their way between the GPU's slots and the lower tiers: looks stored blocks up by chain hash, loads them into
 * slots, copies full blocks down behind the steps that computed them, and measures both rates, so that the scheduler can
 * choose. It decides neither what is evicted (the policies) nor how records lie on the disk (tier/).
 */
import { background } from "../base.ts";
import type { KvPool } from "../gpu/pool.ts";
import type { LowerTier } from "../schedule/request.ts";
import { chooseRestore, MAX_LOADS, type RestoreChoice, type RestoreMode } from "../schedule/restore.ts";
import type { FullBlock, LowerTiers, Move, Sequence } from "../schedule/scheduler.ts";
import { recordKey, rootKey, type Key } from "../tier/keys.ts";
import type { KvLayout } from "../tier/kv-quant.ts";
import type { TierStore } from "../tier/store.ts";

export interface KeeperOptions {
  store: TierStore;
  pool: KvPool;
  /** Of everything that decides a block's bytes. */
  fingerprint: Key;
  /** Salts the chain, so that users of one app cannot see each other's prefixes. "" for none. */
  namespace: string;
  /** "auto" chooses by measured rates. */
  restore: RestoreMode | "auto";
  /** FLOPs of one token: what a record is worth when something must be dropped. */
  flopsPerToken: number;
  nowMs(): number;
  /** Records expire so long after they were made. Default: never. */
  maxAgeMs?: number;
}

/** Blocks read from the GPU for the lower tiers at once; more are dropped, and counted. */
const MAX_SPILLING_BLOCKS = 512;

/** Weight of the newest measurement in a rate. */
const RATE_WEIGHT = 0.3;

export class Keeper implements LowerTiers {
  readonly store: TierStore;
  readonly fingerprint: Key;
  readonly namespace: string;
  /** Blocks that were not copied down because too many were under way. */
  dropped = 0;
  /** What cached tokens would have taken to compute. */
  readonly timeSavedMs = { gpu: 0, ram: 0, disk: 0 };
  private readonly options: KeeperOptions;
  private readonly blockTokens: number;
  private readonly keys = new WeakMap<Sequence, Key[]>();
  private readonly spilling = new Set<Promise<void>>();
  private spillingBlocks = 0;
  private readonly loadRate: LoadRate;
  /** Tokens per second, 0 until measured. */
  private computeRate = 0;

  constructor(options: KeeperOptions) {
    this.options = options;
    this.store = options.store;
    this.fingerprint = options.fingerprint;
    this.namespace = options.namespace;
    this.blockTokens = options.pool.options.blockTokens;
    this.loadRate = new LoadRate(this.blockTokens);
  }

  storedBlocks(sequence: Sequence, from: number): number {
    const keys = this.keysOf(sequence).slice(from);
    const tiers = this.store.has(keys);
    if (sequence.keep !== "memory") return tiers.length;
    const onDisk = tiers.indexOf("disk");
    return onDisk < 0 ? tiers.length : onDisk;
  }

  restoreChoice(): RestoreChoice {
    const { restore } = this.options;
    const choice = chooseRestore(this.loadRate.perSecond, this.computeRate);
    return restore === "auto" ? choice : { ...choice, mode: restore };
  }

  /** Tells how long a prefill chunk took. */
  computed(tokens: number, ms: number): void {
    this.computeRate = blend(this.computeRate, (1000 * tokens) / Math.max(ms, 0.01));
  }

  /** Counts a request's cached tokens as time saved, once a rate of computing is known. */
  credit(cachedTokens: { gpu: number; ram: number; disk: number }): void {
    if (this.computeRate === 0) return;
    for (const tier of ["gpu", "ram", "disk"] as const) {
      this.timeSavedMs[tier] += (1000 * cachedTokens[tier]) / this.computeRate;
    }
  }

  /** Brings one block's bytes into its slot if it is still wanted then; the tier they came from, or undefined. */
  async load(move: Move, isWanted: () => boolean): Promise<LowerTier | undefined> {
    this.loadRate.begin(this.options.nowMs());
    let loaded = 0;
    try {
      const tier = await this.loadNow(move, isWanted);
      if (tier !== undefined) loaded = this.blockTokens;
      return tier;
    } finally {
      this.loadRate.end(this.options.nowMs(), loaded);
    }
  }

  private async loadNow(move: Move, isWanted: () => boolean): Promise<LowerTier | undefined> {
    const keys = this.keysOf(move.request);
    const start = move.block * this.blockTokens;
    const tokens = Uint32Array.from(move.request.tokens.slice(start, start + this.blockTokens));
    const found = await this.store.get(keys[move.block] as Key, { tokens, fingerprint: this.fingerprint });
    if (!found.hit || found.record.payload.byteLength !== this.options.pool.slotBytes || !isWanted())
      return undefined;
    this.options.pool.writeSlot(move.slot, found.record.payload.slice());
    return found.tier;
  }

  /** Copies full blocks down. The copy on the GPU is ordered behind the steps submitted so far. */
  spill(blocks: readonly FullBlock[]): void {
    const room = MAX_SPILLING_BLOCKS - this.spillingBlocks;
    const taken = blocks.filter(({ sequence }) => sequence.keep !== "off").slice(0, Math.max(0, room));
    this.dropped += blocks.length - taken.length;
    if (taken.length === 0) return;
    this.spillingBlocks += taken.length;
    const work = this.spillNow(taken).finally(() => {
      this.spillingBlocks -= taken.length;
      this.spilling.delete(work);
    });
    this.spilling.add(work);
    background(work, "spill");
  }

  /** Waits until everything computed so far is in the lower tiers, but no longer than `timeoutMs`. */
  async drain(timeoutMs: number): Promise<{ left: number }> {
    await Promise.allSettled(this.spilling);
    return this.store.drain(timeoutMs);
  }

  /** The keys of all full blocks of a sequence, kept while it lives. */
  keysOf(sequence: Sequence): readonly Key[] {
    const keys = this.keys.get(sequence) ?? [];
    this.keys.set(sequence, keys);
    let parent = keys.at(-1) ?? rootKey(this.fingerprint, this.namespace);
    const { tokens } = sequence;
    for (let end = (keys.length + 1) * this.blockTokens; end <= tokens.length; end += this.blockTokens) {
      parent = recordKey("block", parent, tokens.slice(end - this.blockTokens, end));
      keys.push(parent);
    }
    return keys;
  }

  private async spillNow(blocks: readonly FullBlock[]): Promise<void> {
    const { maxAgeMs } = this.options;
    const expiry = maxAgeMs === undefined ? {} : { expiresAtMs: Date.now() + maxAgeMs };
    const payloads = await this.options.pool.readSlots(blocks.map(({ slot }) => slot));
    blocks.forEach(({ sequence, block }, index) => {
      const keys = this.keysOf(sequence);
      const start = block * this.blockTokens;
      this.store.put(
        {
          kind: "block",
          parentKey: keys[block - 1] ?? rootKey(this.fingerprint, this.namespace),
          fingerprint: this.fingerprint,
          namespace: this.namespace,
          blockIndex: block,
          tokens: sequence.tokens.slice(start, start + this.blockTokens),
          payload: payloads[index] as Uint8Array,
          rebuildCost: this.options.flopsPerToken * this.blockTokens,
          ...this.layout(),
          ...expiry,
        },
        sequence.keep === "memory" ? "ram" : "disk",
      );
    });
  }

  /** Lets the store quantise; only where all layers are alike. */
  private layout(): { layout?: KvLayout } {
    const { layers, blockTokens, dtype } = this.options.pool.options;
    const { kvHeads, headDim } = layers[0] as (typeof layers)[number];
    const alike = layers.every((layer) => layer.kvHeads === kvHeads && layer.headDim === headDim);
    return alike ? { layout: { layers: layers.length, kvHeads, headDim, blockTokens, dtype } } : {};
  }
}

/**
 * Tokens per second of all loads together, while any is under way: what one takes by itself says little, because several
 * share the medium. Measured anew each time as many have ended as may be under way at once, or none is left.
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

function blend(rate: number, measured: number): number {
  return rate === 0 ? measured : rate + RATE_WEIGHT * (measured - rate);
}
