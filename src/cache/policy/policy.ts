/**
 * Which snapshots are worth taking and what to evict: one small interface, and the policies behind it that order their
 * victims by a key. (Marconi's scoring is in marconi.ts; the one that knows the future in offline.ts.) A policy reads
 * the tree and keeps its own index; it never changes the tree, frees nothing and knows no capacity.
 */
import type { RadixNode, Walk } from "../tree/radix.ts";
import { startOf } from "../tree/radix.ts";

/** All policies by name; each is described at its own code in this folder. */
export const policyNames = ["lru", "lfu", "length-aware", "vllm", "sglang", "marconi", "offline"] as const;
/** A policy of admission and eviction. */
export type PolicyName = (typeof policyNames)[number];

/** What is known of a request when its snapshots are planned, before its prefill. */
export interface Admission {
  /** The request's tokens as far as they are known, and how many of them there are to plan for. */
  tokens: Int32Array;
  /** Tokens of the prefix that can be reused, and of the raw match, which may be longer. */
  reusable: number;
  raw: number;
}

export interface EvictionPolicy {
  readonly name: PolicyName;
  /** Whether a node with one child and no snapshot is merged into the child (trees of models with snapshots). */
  readonly mergesChains: boolean;
  /** Whether a sequence for which no room can be made is kept over the budget until the next insertion, not cut short:
   * `vllm`'s blocks lie in the pool while their request runs, and the published simulator leaves them there. */
  readonly keepsOversize: boolean;
  /** The weight of FLOP efficiency in use, for policies that have one. */
  readonly alpha: number | undefined;
  /** A lookup begins. Only the policy that knows the future counts them. */
  begin?(): void;
  /** Positions in (reusable, tokens.length) at which prefill should take a snapshot, ascending. The end of the
   * sequence is not among them: its snapshot is always taken. */
  snapshotPositions(request: Admission): number[];
  /** How much of a finished sequence is worth keeping, in tokens; everything unless the policy knows better. */
  keepTokens(tokens: Int32Array): number;
  /** A sequence was looked up (`match`) or inserted (`insert`) at logical time `now`. */
  touch(walk: Walk, now: number, why: "match" | "insert"): void;
  /** Something that bears on this node's eviction changed: children, snapshot, pins, label, or it is new. */
  changed(node: RadixNode): void;
  /** The node left the tree. */
  removed(node: RadixNode): void;
  /** The next victim that `fits`: an unpinned leaf, or (Marconi) a node with one child, pinned or not, of which only
   * the snapshot goes. The caller evicts it and reports by `changed` or `removed`. Undefined where nothing can be evicted. */
  victim(now: number, fits: (node: RadixNode) => boolean): RadixNode | undefined;
}

/** Leaves that nobody uses. */
export function isFreeLeaf(node: RadixNode): boolean {
  return node.children.size === 0 && node.pins === 0 && node.parent !== undefined;
}

/** Marconi's admission: the branch point of inputs that were seen before, if no snapshot is there yet. */
export function branchPoint(request: Admission): number[] {
  const { raw, reusable, tokens } = request;
  return raw > reusable && raw < tokens.length ? [raw] : [];
}

export function everyBlock(request: Admission, snapshotEvery: number): number[] {
  const positions: number[] = [];
  const first = (Math.floor(request.reusable / snapshotEvery) + 1) * snapshotEvery;
  for (let at = first; at < request.tokens.length; at += snapshotEvery) positions.push(at);
  return positions;
}

/** Marks the path from `node` to the root as used now; `uses` is added to the use counts. */
export function touchPath(node: RadixNode, now: number, uses: number): void {
  for (let at: RadixNode | undefined = node; at !== undefined; at = at.parent) {
    at.lastAccess = now;
    at.uses += uses;
  }
}

/** Ascending keys: the node with the smaller pair is evicted first. Keys of a node may only grow while it stays in the
 * tree, so that a stored key is a lower bound and the queue can be put right when a node comes up. */
type Key = (node: RadixNode, now: number) => number;

/** A binary heap of nodes by (first, second), lazily updated: O(log n) for a victim, nothing for a use. */
export class VictimQueue {
  private readonly heap: { node: RadixNode; first: number; second: number }[] = [];
  private readonly first: Key;
  private readonly second: Key;

  constructor(first: Key, second: Key) {
    this.first = first;
    this.second = second;
  }

  add(node: RadixNode, now: number): void {
    if (node.entry >= 0) return;
    node.entry = 0;
    this.push({ node, first: this.first(node, now), second: this.second(node, now) });
  }

  /** Removes and returns the free leaf with the smallest key that `fits`. */
  take(now: number, fits: (node: RadixNode) => boolean): RadixNode | undefined {
    const skipped: RadixNode[] = [];
    let found: RadixNode | undefined;
    while (found === undefined && this.heap.length > 0) {
      const top = this.pop();
      const { node } = top;
      node.entry = -1;
      if (!isFreeLeaf(node)) continue;
      if (this.first(node, now) > top.first || this.second(node, now) > top.second) this.add(node, now);
      else if (fits(node)) found = node;
      else skipped.push(node);
    }
    for (const node of skipped) this.add(node, now);
    return found;
  }

  private push(item: { node: RadixNode; first: number; second: number }): void {
    const { heap } = this;
    let at = heap.length;
    heap.push(item);
    while (at > 0) {
      const up = (at - 1) >> 1;
      if (!before(item, heap[up]!)) break;
      heap[at] = heap[up]!;
      at = up;
    }
    heap[at] = item;
  }

  private pop(): { node: RadixNode; first: number; second: number } {
    const { heap } = this;
    const top = heap[0]!;
    const last = heap.pop()!;
    if (heap.length === 0) return top;
    let at = 0;
    for (let down = 1; down < heap.length; down = 2 * at + 1) {
      if (down + 1 < heap.length && before(heap[down + 1]!, heap[down]!)) down++;
      if (!before(heap[down]!, last)) break;
      heap[at] = heap[down]!;
      at = down;
    }
    heap[at] = last;
    return top;
  }
}

function before(a: { first: number; second: number }, b: { first: number; second: number }): boolean {
  return a.first < b.first || (a.first === b.first && a.second < b.second);
}

/** What differs between the policies that evict leaves in the order of a key. */
interface LeafOrder {
  name: PolicyName;
  first: Key;
  second: Key;
  /** SGLang refreshes a child of which only the first tokens matched, too. */
  touchesPartial: boolean;
  positions: (request: Admission) => number[];
}

class LeafPolicy implements EvictionPolicy {
  readonly name: PolicyName;
  readonly mergesChains: boolean;
  readonly keepsOversize: boolean;
  readonly alpha = undefined;
  private readonly order: LeafOrder;
  private readonly queue: VictimQueue;

  constructor(order: LeafOrder) {
    this.name = order.name;
    this.mergesChains = order.name === "sglang";
    this.keepsOversize = order.name === "vllm";
    this.order = order;
    this.queue = new VictimQueue(order.first, order.second);
  }

  snapshotPositions(request: Admission): number[] {
    return this.order.positions(request);
  }

  keepTokens(tokens: Int32Array): number {
    return tokens.length;
  }

  touch(walk: Walk, now: number, why: "match" | "insert"): void {
    touchPath(walk.node, now, why === "match" ? 1 : 0);
    if (this.order.touchesPartial && walk.partial !== undefined) walk.partial.lastAccess = now;
  }

  changed(node: RadixNode): void {
    if (isFreeLeaf(node)) this.queue.add(node, 0);
  }

  removed(): void {} // the queue drops dead nodes when they come up

  victim(now: number, fits: (node: RadixNode) => boolean): RadixNode | undefined {
    return this.queue.take(now, fits);
  }
}

const lastAccess: Key = (node) => node.lastAccess;
const uses: Key = (node) => node.uses;
/** Later positions first. A cut leaf's key grows, so the bound of VictimQueue holds. */
const latest: Key = (node) => -startOf(node);
const none: Key = () => 0;

/** The policies that need nothing but the tree. `snapshotEvery` (tokens) is the block of `vllm`.
 *
 * - `lru`: least recently used leaf.
 * - `lfu`: least often used leaf, ties by recency (mooncake.md section 6).
 * - `length-aware`: LFU in which blocks that lie later in a request go first; between requests the least recent decides
 *   (Mooncake's rule as far as it can be read: variant C). In a tree whose leaves go first anyway it is close to `lfu`.
 * - `vllm`: a snapshot at every block; leaf LRU with the whole path refreshed.
 * - `sglang`: Marconi's admission, leaf LRU with the path and a partly matched child refreshed. */
export function leafPolicy(
  name: "lru" | "lfu" | "length-aware" | "vllm" | "sglang",
  snapshotEvery: number,
): EvictionPolicy {
  const base = { name, touchesPartial: false, positions: branchPoint };
  switch (name) {
    case "lru":
      return new LeafPolicy({ ...base, first: lastAccess, second: none });
    case "lfu":
      return new LeafPolicy({ ...base, first: uses, second: lastAccess });
    case "length-aware":
      // Uses and the request's time in one key, so that the position can be the other.
      return new LeafPolicy({ ...base, first: (n) => n.uses * 2 ** 32 + n.lastAccess, second: latest });
    case "vllm":
      return new LeafPolicy({
        ...base,
        first: lastAccess,
        second: none,
        positions: (request) => everyBlock(request, snapshotEvery),
      });
    case "sglang":
      return new LeafPolicy({ ...base, first: lastAccess, second: none, touchesPartial: true });
  }
}
