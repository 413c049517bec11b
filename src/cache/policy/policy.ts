/**
 * What to evict, of entries of any kind, and which snapshots of the prefix tree are worth taking: two small interfaces, and
 * the policies behind them that order their victims by a key. (Marconi's scoring is in marconi.ts; the one that knows the
 * future in offline.ts.) A policy reads the tree and keeps its own index; it never changes the tree, frees nothing and
 * knows no capacity.
 */
import type { RadixNode, Walk } from "../tree/radix.ts";
import { startOf } from "../tree/radix.ts";

/**
 * The names of all policies.
 *
 * @example
 * ```ts
 * const capacity = { blocks: 200 };
 * const rows = policyNames.map((policy) => replay(trace, { policy, capacity, cost }));
 * console.log(rows.length === policyNames.length); // true
 * ```
 */
export const policyNames = ["lru", "lfu", "length-aware", "vllm", "sglang", "marconi", "offline"] as const;
/**
 * The name of a policy for admission and eviction.
 *
 * @example
 * ```ts
 * const policy: PolicyName = "marconi";
 * console.log(policyNames.includes(policy)); // true
 * ```
 */
export type PolicyName = (typeof policyNames)[number];

/** What is known of a request when its snapshots are planned, before its prefill. */
export interface Admission {
  /** The request's tokens as far as they are known, and how many of them there are to plan for. */
  tokens: Int32Array;
  /** Tokens of the prefix that can be reused, and of the raw match, which may be longer. */
  reusable: number;
  raw: number;
}

/**
 * Chooses victims among entries of any kind. It is told what happens to each entry, and keeps its own index of them; what
 * an eviction frees is not its business.
 */
export interface EvictionPolicy<Entry, Use = Entry> {
  /** Something was looked up (`match`) or put in (`insert`) at logical time `now`. */
  touch(use: Use, now: number, why: "match" | "insert"): void;
  /** Something that bears on this entry's eviction changed, or it is new. */
  changed(entry: Entry): void;
  /** The entry is gone. */
  removed(entry: Entry): void;
  /** The next victim that `fits`. The caller evicts it and reports by `changed` or `removed`. Undefined if nothing can be
   * evicted. */
  victim(now: number, fits: (entry: Entry) => boolean): Entry | undefined;
}

/**
 * A policy of the prefix tree: it evicts nodes, and also decides what is worth keeping. Its victims are unpinned leaves, or
 * (Marconi) nodes with one child, pinned or not, of which only the snapshot goes; children, snapshot, pins and label bear
 * on a node's eviction.
 */
export interface PrefixPolicy extends EvictionPolicy<RadixNode, Walk> {
  readonly name: PolicyName;
  /** Whether a node with one child and no snapshot is merged into the child (trees of models with snapshots). */
  readonly mergesChains: boolean;
  /** Whether a sequence for which no room can be made is kept over the budget until the next insertion, not cut short:
   * `vllm`'s blocks lie in the pool while their request runs, and the published simulator leaves them there. */
  readonly keepsOversize: boolean;
  /** Why the policy asks for snapshots on the way: where sequences branch, or at intervals. */
  readonly snapshotReason: "branch" | "interval";
  /** The weight of FLOP efficiency in use, for policies that have one. */
  readonly alpha: number | undefined;
  /** A lookup begins. Only the policy that knows the future counts them. */
  begin?(): void;
  /** Positions in (reusable, tokens.length) at which prefill should take a snapshot, ascending. The end of the
   * sequence is not among them: its snapshot is always taken. */
  snapshotPositions(request: Admission): number[];
  /** How much of a finished sequence is worth keeping, in tokens; everything unless the policy knows better. */
  keepTokens(tokens: Int32Array): number;
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

function everyBlock(request: Admission, snapshotEvery: number): number[] {
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

/** Ascending keys: the entry with the smaller pair is evicted first. Keys of an entry may only grow while it stays, so that
 * a stored key is a lower bound and the queue can be put right when an entry comes up. */
type Key<Entry> = (entry: Entry, now: number) => number;

/** What the queue writes at an entry itself. */
export interface Queued {
  /** Scratch; -1 where the entry is not in the queue. */
  queuedAt: number;
}

interface Keys {
  first: number;
  second: number;
}

interface Item<Entry> extends Keys {
  entry: Entry;
}

/** A binary heap of entries by (first, second), lazily updated: O(log n) for a victim, nothing for a use. */
export class VictimQueue<Entry extends Queued> {
  private readonly heap: Item<Entry>[] = [];
  private readonly first: Key<Entry>;
  private readonly second: Key<Entry>;
  private readonly isFree: (entry: Entry) => boolean;

  /** @param isFree whether an entry may be evicted now; one that may not drops out until it is added again */
  constructor(first: Key<Entry>, second: Key<Entry>, isFree: (entry: Entry) => boolean) {
    this.first = first;
    this.second = second;
    this.isFree = isFree;
  }

  add(entry: Entry, now: number): void {
    if (entry.queuedAt >= 0) return;
    entry.queuedAt = 0;
    this.push({ entry, first: this.first(entry, now), second: this.second(entry, now) });
  }

  /** Removes and returns the free entry with the smallest key that `fits`. */
  take(now: number, fits: (entry: Entry) => boolean): Entry | undefined {
    const skipped: Entry[] = [];
    let found: Entry | undefined;
    while (found === undefined && this.heap.length > 0) {
      const top = this.pop();
      const { entry } = top;
      entry.queuedAt = -1;
      if (!this.isFree(entry)) continue;
      if (this.first(entry, now) > top.first || this.second(entry, now) > top.second) this.add(entry, now);
      else if (fits(entry)) found = entry;
      else skipped.push(entry);
    }
    for (const entry of skipped) this.add(entry, now);
    return found;
  }

  private push(item: Item<Entry>): void {
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

  private pop(): Item<Entry> {
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

function before(a: Keys, b: Keys): boolean {
  return a.first < b.first || (a.first === b.first && a.second < b.second);
}

/** What differs between the policies that evict leaves in the order of a key. */
interface LeafOrder {
  name: PolicyName;
  first: Key<RadixNode>;
  second: Key<RadixNode>;
  /** SGLang refreshes a child of which only the first tokens matched, too. */
  touchesPartial: boolean;
  positions: (request: Admission) => number[];
  snapshotReason: PrefixPolicy["snapshotReason"];
}

class LeafPolicy implements PrefixPolicy {
  readonly name: PolicyName;
  readonly mergesChains: boolean;
  readonly keepsOversize: boolean;
  readonly snapshotReason: PrefixPolicy["snapshotReason"];
  readonly alpha = undefined;
  private readonly order: LeafOrder;
  private readonly queue: VictimQueue<RadixNode>;

  constructor(order: LeafOrder) {
    this.name = order.name;
    this.mergesChains = order.name === "sglang";
    this.keepsOversize = order.name === "vllm";
    this.snapshotReason = order.snapshotReason;
    this.order = order;
    this.queue = new VictimQueue(order.first, order.second, isFreeLeaf);
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

const lastAccess: Key<RadixNode> = (node) => node.lastAccess;
const uses: Key<RadixNode> = (node) => node.uses;
/** Later positions first. A cut leaf's key grows, so the bound of VictimQueue holds. */
const latest: Key<RadixNode> = (node) => -startOf(node);
const none: Key<RadixNode> = () => 0;

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
): PrefixPolicy {
  const base = { name, touchesPartial: false, positions: branchPoint, snapshotReason: "branch" as const };
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
        snapshotReason: "interval",
      });
    case "sglang":
      return new LeafPolicy({ ...base, first: lastAccess, second: none, touchesPartial: true });
  }
}
