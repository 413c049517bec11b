/**
 * The radix tree's outline as plain data, for whoever wants to show it: edges, pins, uses, snapshots, with ids that stay
 * the same from one outline to the next. Pure; it copies no tokens, knows no tiers and changes nothing.
 */
import type { RadixNode, RadixTree } from "./radix.ts";
import { startOf } from "./radix.ts";

export interface OutlineNode {
  /** Above 0; a node keeps it as long as it lives. Where an edge is cut, the lower part keeps it. */
  id: number;
  /** 0 below the root. */
  parent: number;
  /** Tokens before the edge, and to its end. */
  start: number;
  end: number;
  /** The edge's tokens, which nobody changes: a longer or shorter edge has another array. */
  label: Int32Array;
  /** Blocks whose last token lies on the edge. */
  blocks: number;
  hasSnapshot: boolean;
  pins: number;
  uses: number;
  /** Logical time. */
  lastAccess: number;
}

export interface Outline {
  /** Parents before their children; of siblings the last used first. */
  nodes: OutlineNode[];
  /** Blocks of the tree that the limit left out. */
  omittedBlocks: number;
}

export class Outliner {
  private readonly ids = new WeakMap<RadixNode, number>();
  private nextId = 1;

  /** The most recently used part of the tree with at most `limit` blocks, and at most as many nodes. O(limit). */
  outline(tree: RadixTree, limit: number): Outline {
    const nodes: OutlineNode[] = [];
    const stack = recentLast(tree.root);
    let blocks = 0;
    for (let node = stack.pop(); node !== undefined && nodes.length < limit; node = stack.pop()) {
      const own = tree.blocksOf(node);
      if (blocks + own > limit) continue; // nor its children
      blocks += own;
      nodes.push(this.entryOf(node, own));
      for (const child of recentLast(node)) stack.push(child);
    }
    return { nodes, omittedBlocks: tree.blockCount - blocks };
  }

  private entryOf(node: RadixNode, blocks: number): OutlineNode {
    const { label, end, pins, uses, lastAccess } = node;
    const parent = node.parent?.parent === undefined ? 0 : this.idOf(node.parent);
    const hasSnapshot = node.snapshot !== undefined;
    const start = startOf(node);
    return { id: this.idOf(node), parent, start, end, label, blocks, hasSnapshot, pins, uses, lastAccess };
  }

  private idOf(node: RadixNode): number {
    const known = this.ids.get(node);
    if (known !== undefined) return known;
    this.ids.set(node, this.nextId);
    return this.nextId++;
  }
}

function recentLast(node: RadixNode): RadixNode[] {
  return [...node.children.values()].sort((a, b) => a.lastAccess - b.lastAccess);
}
