/**
 * ProMoE's cache: least recently used within a layer, each layer with its share of the slots, the first layers with more,
 * since they are the hardest to predict. A prefetch is no use: its prediction protects it (expert-cache.ts), and when that has
 * passed it has the recency of its last use.
 *
 * A prefill needs nearly all experts of a layer, and then of the next. What is there stays; what is missing passes through a
 * few slots, so that a chunk does not evict what the next one needs.
 */
import type { ExpertCacheShape, ExpertEntry, ExpertPhase } from "./entry.ts";
import { firstOf, type ExpertPolicy } from "./policy.ts";

/** How many more slots the first layer has than the last, as a share. */
const EARLY_FAVOUR = 0.5;

export class ProMoeExperts implements ExpertPolicy {
  readonly name = "promoe";
  private readonly byLayer: readonly Set<ExpertEntry>[];
  private readonly shares: readonly number[];
  /** Slots of a layer through which a prefill passes what is missing. */
  private readonly streamSlots: number;
  private phase: ExpertPhase = "decode";
  /** Logical times: now, and when the step began. */
  private now = 0;
  private begunAt = 0;

  /** @param streams whether a prefill keeps what is there; it needs that to run first */
  constructor({ layers, chosen, classes }: ExpertCacheShape, streams: boolean) {
    this.byLayer = Array.from({ length: layers }, () => new Set());
    const shares = new Array<number>(layers).fill(0);
    for (const each of classes)
      sharesOf(each.slots, each.layers.length).forEach((share, i) => (shares[each.layers[i]!] = share));
    this.shares = shares;
    this.streamSlots = streams ? chosen : Infinity;
  }

  begin(phase: ExpertPhase): void {
    this.phase = phase;
    this.begunAt = this.now;
  }

  touch(entry: ExpertEntry, now: number, why: "match" | "insert"): void {
    this.now = now;
    if (why === "insert" || (this.phase === "prefill" && entry.slot < 0)) return;
    entry.lastAccess = now;
  }

  changed(entry: ExpertEntry): void {
    this.byLayer[entry.layer]!.add(entry);
  }

  removed(entry: ExpertEntry): void {
    this.byLayer[entry.layer]!.delete(entry);
  }

  victim(now: number, fits: (entry: ExpertEntry) => boolean, forLayer: number): ExpertEntry | undefined {
    this.now = now;
    const streams = this.isStreaming(forLayer);
    const mayGo = streams ? (entry: ExpertEntry) => this.isStale(entry) && fits(entry) : fits;
    const isFull = this.surplus(forLayer) >= 0;
    const own = isFull ? this.oldestOf(forLayer, mayGo) : undefined;
    return own ?? this.oldestOfOthers(mayGo, streams && isFull ? 1 : -Infinity);
  }

  /** The oldest of the layers that have the most slots beyond their share, of those with a surplus of at least `least`. */
  private oldestOfOthers(fits: (entry: ExpertEntry) => boolean, least: number): ExpertEntry | undefined {
    const layers = this.byLayer.map((_, layer) => layer).filter((layer) => this.surplus(layer) >= least);
    for (const layer of layers.sort((a, b) => this.surplus(b) - this.surplus(a))) {
      const entry = this.oldestOf(layer, fits);
      if (entry) return entry;
    }
    return undefined;
  }

  /** Whether this step has not used it. */
  private isStale({ lastAccess }: ExpertEntry): boolean {
    return lastAccess <= this.begunAt;
  }

  /** Whether a prefill has enough slots on the way already: what it has used may stay. */
  private isStreaming(layer: number): boolean {
    if (this.phase !== "prefill") return false;
    let passing = 0;
    for (const entry of this.byLayer[layer]!) if (entry.isPinned && this.isStale(entry)) passing++;
    return passing >= this.streamSlots;
  }

  private surplus(layer: number): number {
    return this.byLayer[layer]!.size - this.shares[layer]!;
  }

  /** Of those that were never used, the last to come goes first: so some of what a prefill streams stays. */
  private oldestOf(layer: number, fits: (entry: ExpertEntry) => boolean): ExpertEntry | undefined {
    return firstOf(
      this.byLayer[layer]!,
      fits,
      (a, b) => a.lastAccess - b.lastAccess || b.insertedAt - a.insertedAt,
    );
  }
}

/** Slots by layer, whole numbers that add up to all slots. */
function sharesOf(slots: number, layers: number): number[] {
  const weights = Array.from({ length: layers }, (_, i) => 1 + EARLY_FAVOUR * (1 - i / layers));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let before = 0;
  let given = 0;
  return weights.map((weight) => {
    before += weight;
    const share = Math.round((slots * before) / total) - given;
    given += share;
    return share;
  });
}
