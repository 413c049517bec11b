/**
 * Paths of the tree: how far one that was walked can be reused, the blocks along it, and the cuts that make an edge end
 * where a match or a snapshot does. It pins, counts and evicts nothing.
 */
import { stateOf, type BlockState } from "./block-ref.ts";
import type { Match } from "../lease.ts";
import type { PrefixPolicy } from "../policy/policy.ts";
import { startOf, type RadixNode, type RadixTree, type Walk } from "./radix.ts";

export class Paths {
  private readonly tree: RadixTree;
  private readonly policy: PrefixPolicy;
  private readonly withBlocks: boolean;
  private readonly withSnapshots: boolean;

  /** @param withBlocks whether edges carry block references; @param withSnapshots whether only states can be started from */
  constructor(tree: RadixTree, policy: PrefixPolicy, withBlocks: boolean, withSnapshots: boolean) {
    this.tree = tree;
    this.policy = policy;
    this.withBlocks = withBlocks;
    this.withSnapshots = withSnapshots;
  }

  matchOf(walk: Walk): Match {
    if (!this.withSnapshots) {
      const blocks = Math.floor(walk.tokens / this.tree.blockTokens);
      const states = this.blockStates(walk.partial ?? walk.node, blocks);
      return {
        tokens: blocks * this.tree.blockTokens,
        rawTokens: walk.tokens,
        blocks: states,
        snapshot: undefined,
      };
    }
    let node = walk.node;
    while (node.parent !== undefined && node.snapshot === undefined) node = node.parent;
    const blocks = this.blockStates(node, Math.floor(node.end / this.tree.blockTokens));
    return { tokens: node.end, rawTokens: walk.tokens, blocks, snapshot: node.snapshot };
  }

  blockStates(node: RadixNode, count: number): BlockState[] {
    if (!this.withBlocks) return [];
    const states = new Array<BlockState>(count);
    for (let at = node; at.parent !== undefined; at = at.parent) {
      const first = Math.floor(startOf(at) / this.tree.blockTokens);
      const last = Math.min(count, first + at.refs.length);
      for (let block = first; block < last; block++) states[block] = stateOf(at.refs[block - first]!);
    }
    return states;
  }

  /** For models without snapshots a use reaches exactly as far as the match: cut the edge there, so that what lies
   * behind keeps its own history. Elsewhere the walk stays as it is. */
  exact(walk: Walk): Walk {
    if (this.withSnapshots || walk.partial === undefined) return walk;
    const end = Math.floor(walk.tokens / this.tree.blockTokens) * this.tree.blockTokens;
    if (end <= walk.node.end) return walk;
    const upper = this.tree.split(walk.partial, end);
    walk.node = upper;
    if (end === walk.tokens) walk.partial = undefined;
    this.policy.changed(upper);
    return walk;
  }

  /** The node on the way from `node` to the root that ends at `at`; cuts an edge where none does. */
  nodeEndingAt(node: RadixNode, at: number): RadixNode {
    let found = node;
    while (found.parent !== undefined && startOf(found) >= at) found = found.parent;
    if (found.parent === undefined || found.end === at) return found;
    const upper = this.tree.split(found, at);
    this.policy.changed(found);
    this.policy.changed(upper);
    return upper;
  }
}
