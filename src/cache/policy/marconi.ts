/**
 * Marconi's eviction: recency plus alpha times FLOP efficiency over nodes with at most one child (marconi.md sections 4
 * and 5), and the index that finds the minimum without scoring every candidate. The tuning of alpha is in alpha-tuner.ts.
 *
 * score(n) = norm(1 / (now - lastAccess)) + alpha * norm(FLOPs saved beyond the parent / bytes of the whole prefix)
 *
 * where norm maps the candidates' minimum to 0 and their maximum to 1. Pinned nodes count for norm; a pinned leaf is no victim.
 */
import type { Cost } from "../../shape/cost.ts";
import { flopsBetween } from "../../shape/cost.ts";
import type { Admission, PrefixPolicy } from "./policy.ts";
import { branchPoint, touchPath } from "./policy.ts";
import type { RadixNode, Walk } from "../tree/radix.ts";
import { startOf } from "../tree/radix.ts";

export class MarconiPolicy implements PrefixPolicy {
  readonly name = "marconi";
  readonly mergesChains = true;
  readonly keepsOversize = false;
  readonly snapshotReason = "branch";
  /** Set by the tuner between requests. */
  alpha: number;
  private readonly cost: Cost;
  private readonly index = new CandidateIndex();

  constructor(cost: Cost, alpha: number) {
    this.cost = cost;
    this.alpha = alpha;
  }

  snapshotPositions(request: Admission): number[] {
    return branchPoint(request);
  }

  keepTokens(tokens: Int32Array): number {
    return tokens.length;
  }

  /** Only the deepest node is refreshed, not its ancestors: their snapshots were not used. Without snapshots the whole
   * path was, so that alpha = 0 is LRU there. */
  touch(walk: Walk, now: number, why: "match" | "insert"): void {
    const uses = why === "match" ? 1 : 0;
    if (this.cost.bytesPerSnapshot === 0) touchPath(walk.node, now, uses);
    else {
      walk.node.lastAccess = now;
      walk.node.uses += uses;
    }
    this.changed(walk.node);
  }

  changed(node: RadixNode): void {
    this.index.remove(node);
    if (isPrunable(node)) this.index.add(node, node.lastAccess, efficiency(node, this.cost));
  }

  removed(node: RadixNode): void {
    this.index.remove(node);
  }

  victim(now: number, fits: (node: RadixNode) => boolean): RadixNode | undefined {
    return this.index.minimum(now, this.alpha, (node) => isFreeNow(node) && fits(node));
  }
}

/** Leaves, and nodes with one child that have a snapshot to lose. */
export function isPrunable(node: RadixNode): boolean {
  if (node.parent === undefined) return false;
  return node.children.size === 0 || (node.children.size === 1 && node.snapshot !== undefined);
}

/** Pins hold KV, not states: the snapshot of a pinned inner node may go, because whoever starts from it holds its slot
 * until the copy is made. */
export function isFreeNow(node: RadixNode): boolean {
  return node.pins === 0 || node.children.size === 1;
}

/** FLOPs that the node saves beyond the nearest snapshot above it; beyond its parent in a model without snapshots. */
export function savedFlops(node: RadixNode, cost: Cost): number {
  let base = startOf(node);
  if (cost.bytesPerSnapshot > 0) {
    let at = node.parent;
    while (at?.parent !== undefined && at.snapshot === undefined) at = at.parent;
    base = at?.end ?? 0;
  }
  return flopsBetween(cost, base, node.end);
}

/** Saved FLOPs for each byte of the whole prefix. The denominator is not the edge's own bytes: see the ablation in
 * marconi.md. */
function efficiency(node: RadixNode, cost: Cost): number {
  return savedFlops(node, cost) / (cost.bytesPerSnapshot + cost.bytesPerToken * node.end);
}

/**
 * Candidates in the order in which they were last used, under a binary tree of bounds (least and greatest time and
 * efficiency of each half). A used node moves to the end; the log is sorted and packed when it is full. The minimum of
 * time-score plus alpha * efficiency-score is found by branch and bound: a half whose two minima together do not beat
 * the best so far is not entered.
 */
export class CandidateIndex {
  private leaves = 64;
  private used = 0;
  private live = 0;
  private nodes: (RadixNode | undefined)[] = new Array<undefined>(64);
  private minTime = new Float64Array(128).fill(Infinity);
  private maxTime = new Float64Array(128).fill(-Infinity);
  private minGain = new Float64Array(128).fill(Infinity);
  private maxGain = new Float64Array(128).fill(-Infinity);
  /** Of the search: two entries a level at most. */
  private readonly stack = new Int32Array(128);

  get size(): number {
    return this.live;
  }

  add(node: RadixNode, time: number, gain: number): void {
    if (this.used === this.leaves) this.pack();
    this.place(this.used++, node, time, gain);
    this.live++;
  }

  remove(node: RadixNode): void {
    if (node.queuedAt < 0) return;
    this.nodes[node.queuedAt] = undefined;
    this.setBounds(node.queuedAt, Infinity, -Infinity, Infinity, -Infinity);
    node.queuedAt = -1;
    this.live--;
  }

  minimum(now: number, alpha: number, fits: (node: RadixNode) => boolean): RadixNode | undefined {
    if (this.live === 0) return undefined;
    const { leaves, minTime, minGain, stack } = this;
    const [oldest, newest] = [1 / (now - minTime[1]!), 1 / (now - this.maxTime[1]!)];
    const [leastGain, mostGain] = [minGain[1]!, this.maxGain[1]!];
    const bound = (at: number): number =>
      normal(1 / (now - minTime[at]!), oldest, newest) + alpha * normal(minGain[at]!, leastGain, mostGain);
    let best: RadixNode | undefined;
    let bestScore = Infinity;
    let depth = 0;
    stack[depth++] = 1;
    while (depth > 0) {
      const at = stack[--depth]!;
      if (minTime[at] === Infinity) continue;
      const score = bound(at);
      if (score >= bestScore) continue;
      if (at >= leaves) {
        const node = this.nodes[at - leaves]!;
        if (!fits(node)) continue;
        best = node;
        bestScore = score;
        continue;
      }
      const left = 2 * at;
      const leftFirst = minTime[left + 1] === Infinity || bound(left) <= bound(left + 1);
      stack[depth++] = leftFirst ? left + 1 : left;
      stack[depth++] = leftFirst ? left : left + 1;
    }
    return best;
  }

  private place(at: number, node: RadixNode, time: number, gain: number): void {
    this.nodes[at] = node;
    node.queuedAt = at;
    this.setBounds(at, time, time, gain, gain);
  }

  private setBounds(leaf: number, minTime: number, maxTime: number, minGain: number, maxGain: number): void {
    const { minTime: leastTime, maxTime: mostTime, minGain: leastGain, maxGain: mostGain } = this;
    let at = leaf + this.leaves;
    leastTime[at] = minTime;
    mostTime[at] = maxTime;
    leastGain[at] = minGain;
    mostGain[at] = maxGain;
    for (at >>= 1; at >= 1; at >>= 1) {
      const [left, right] = [2 * at, 2 * at + 1];
      const timeFrom = Math.min(leastTime[left]!, leastTime[right]!);
      const timeTo = Math.max(mostTime[left]!, mostTime[right]!);
      const gainFrom = Math.min(leastGain[left]!, leastGain[right]!);
      const gainTo = Math.max(mostGain[left]!, mostGain[right]!);
      const isSame =
        timeFrom === leastTime[at] &&
        timeTo === mostTime[at] &&
        gainFrom === leastGain[at] &&
        gainTo === mostGain[at];
      if (isSame) return; // and so it is above
      leastTime[at] = timeFrom;
      mostTime[at] = timeTo;
      leastGain[at] = gainFrom;
      mostGain[at] = gainTo;
    }
  }

  /** Sorts the live candidates by time into a log that is at most half full. */
  private pack(): void {
    const live = this.nodes.flatMap((node, at) =>
      node === undefined
        ? []
        : [{ node, time: this.minTime[this.leaves + at]!, gain: this.minGain[this.leaves + at]! }],
    );
    live.sort((a, b) => a.time - b.time);
    while (this.leaves < 2 * live.length) this.leaves *= 2;
    this.nodes = new Array<undefined>(this.leaves);
    this.minTime = new Float64Array(2 * this.leaves).fill(Infinity);
    this.maxTime = new Float64Array(2 * this.leaves).fill(-Infinity);
    this.minGain = new Float64Array(2 * this.leaves).fill(Infinity);
    this.maxGain = new Float64Array(2 * this.leaves).fill(-Infinity);
    live.forEach(({ node, time, gain }, at) => this.place(at, node, time, gain));
    this.used = live.length;
  }
}

/** Min-max normalisation to [0, 1]; all equal becomes 1. */
function normal(value: number, min: number, max: number): number {
  return max > min ? (value - min) / (max - min) : 1;
}
