/**
 * Carries out evictions: asks the policy for a victim, takes it out of the tree, gives its slots back and leaves the tree
 * in order. It does not choose, and does not know how much is needed in the end (prefix.ts asks until it is enough).
 */
import type { BlockPool } from "./blocks.ts";
import type { Cost } from "../shape/cost.ts";
import { onDisk, onRam, slotOf } from "./tree/block-ref.ts";
import type { CacheEventReason, CacheListener } from "./events.ts";
import type { PrefixPolicy } from "./policy/policy.ts";
import type { RadixNode, RadixTree } from "./tree/radix.ts";
import { onlyChild, startOf } from "./tree/radix.ts";
import type { PrefixStats } from "./stats.ts";

/** How much is missing: bytes of the budget, slots of either pool. */
export interface Need {
  bytes: number;
  blocks: number;
  snapshots: number;
}

export interface EvictorParts {
  tree: RadixTree;
  policy: PrefixPolicy;
  pool: BlockPool | undefined;
  snapshotPool: BlockPool | undefined;
  stats: PrefixStats;
  cost: Pick<Cost, "bytesPerToken" | "bytesPerSnapshot">;
  /** Whether only prefixes with a snapshot can be reused. */
  withSnapshots: boolean;
}

export class Evictor {
  /** Told of each victim. */
  listener: CacheListener | undefined;
  private readonly tree: RadixTree;
  private readonly policy: PrefixPolicy;
  private readonly pool: BlockPool | undefined;
  private readonly snapshotPool: BlockPool | undefined;
  private readonly stats: PrefixStats;
  private readonly cost: EvictorParts["cost"];
  private readonly withSnapshots: boolean;

  constructor(parts: EvictorParts) {
    this.tree = parts.tree;
    this.policy = parts.policy;
    this.pool = parts.pool;
    this.snapshotPool = parts.snapshotPool;
    this.stats = parts.stats;
    this.cost = parts.cost;
    this.withSnapshots = parts.withSnapshots;
  }

  private get bytesPerBlock(): number {
    return this.cost.bytesPerToken * this.tree.blockTokens;
  }

  /** Takes one victim; false where there is none. */
  takeOne(short: Need, now: number): boolean {
    const node = this.policy.victim(now, (candidate) => this.helps(candidate, short));
    if (node === undefined) return false;
    this.stats.evictions++;
    if (node.children.size === 1) {
      this.tell(node, 0, true, short, now);
      this.freeSnapshot(node);
      this.settle(node);
      return true;
    }
    const blocks = this.tree.blocksOf(node);
    const cut = Math.max(short.blocks, Math.ceil(short.bytes / this.bytesPerBlock));
    const whole = this.withSnapshots || cut >= blocks;
    this.tell(node, whole ? blocks : cut, whole && node.snapshot !== undefined, short, now);
    if (whole) this.removeLeaf(node);
    else this.cutLeaf(node, (Math.floor(node.end / this.tree.blockTokens) - cut) * this.tree.blockTokens);
    return true;
  }

  /** Takes unpinned nodes out, children before parents, that have no others below them. */
  removeAll(nodes: readonly RadixNode[]): void {
    const above = nodes.at(-1)?.parent;
    for (const node of nodes) this.removeNode(node);
    if (above) this.settle(above);
  }

  private tell(node: RadixNode, blocks: number, isSnapshot: boolean, short: Need, clock: number): void {
    this.listener?.({
      ...{ kind: "evicted", why: reasonOf(short), at: node.end, blocks, isSnapshot, clock },
      tokens: blocks * this.tree.blockTokens,
      bytes: blocks * this.bytesPerBlock + (isSnapshot ? this.cost.bytesPerSnapshot : 0),
      lastAccess: node.lastAccess,
    });
  }

  /** A leaf always helps (it frees, or it uncovers what frees); a snapshot alone frees no KV block. */
  private helps(node: RadixNode, short: Need): boolean {
    return node.children.size === 0 || short.bytes > 0 || short.snapshots > 0;
  }

  private removeLeaf(leaf: RadixNode): void {
    const parent = leaf.parent!;
    this.removeNode(leaf);
    this.settle(parent);
  }

  private removeNode(leaf: RadixNode): void {
    if (leaf.snapshot !== undefined) this.freeSnapshot(leaf);
    this.stats.blocksEvicted += this.tree.blocksOf(leaf);
    this.forget(leaf.refs);
    this.tree.removeLeaf(leaf);
    this.policy.removed(leaf);
  }

  private cutLeaf(leaf: RadixNode, end: number): void {
    this.stats.blocksEvicted += this.tree.blocksBetween(end, leaf.end);
    this.forget(this.tree.truncateLeaf(leaf, end));
    this.policy.changed(leaf);
  }

  private forget(refs: Int32Array): void {
    for (const ref of refs) {
      this.pool!.forget(slotOf(ref));
      if ((ref & (onRam | onDisk)) === 0) this.stats.blocksForgotten++;
    }
  }

  private freeSnapshot(node: RadixNode): void {
    const { slot, tail } = this.tree.dropSnapshot(node);
    if (slot >= 0) this.snapshotPool!.forget(slot);
    if (tail >= 0) this.pool!.forget(tail);
    this.stats.snapshotsEvicted++;
  }

  /** Puts a node in order that lost a child, a snapshot or its pins: tokens without KV or state behind them are cut off,
   * and a link of a chain is merged into its child. */
  settle(node: RadixNode): void {
    if (node.parent === undefined) return;
    if (node.pins === 0 && node.snapshot === undefined) {
      if (node.children.size === 0 && this.trim(node)) return;
      const child = onlyChild(node);
      if (child !== undefined && child.pins === 0 && this.withSnapshots && this.policy.mergesChains) {
        this.tree.merge(node);
        this.policy.removed(node);
        this.policy.changed(child);
        return;
      }
    }
    this.policy.changed(node);
  }

  /** Shortens a leaf without a snapshot to full blocks; removes it, and answers true, where none is left. */
  private trim(leaf: RadixNode): boolean {
    const end = Math.floor(leaf.end / this.tree.blockTokens) * this.tree.blockTokens;
    if (end === leaf.end) return false;
    if (end <= startOf(leaf)) {
      this.removeLeaf(leaf);
      return true;
    }
    this.tree.truncateLeaf(leaf, end);
    return false;
  }
}

function reasonOf({ bytes, blocks }: Need): CacheEventReason {
  if (bytes === Infinity && blocks === Infinity) return "cleared";
  if (blocks > 0) return "blocks-needed";
  return bytes > 0 ? "over-budget" : "snapshot-needed";
}
