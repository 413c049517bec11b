/**
 * One radix tree over token ids: KV on the edges, at most one snapshot at a node's end. It splits, merges, pins and
 * counts; it does not decide what to keep, does not know bytes, slots or tiers, and never touches a GPU.
 *
 * A node stands for its edge: `label` are the edge's tokens, `end` is the position behind the last of them.
 *
 *     "abcdef" and "abxy" with blocks of 2 tokens; [..] are block references, S a snapshot
 *
 *     before                root --abcdef--> (6)S              refs [ab][cd][ef]
 *
 *     insert abxy:          root --ab--> (2) --cdef--> (6)S    refs [ab] | [cd][ef]
 *     split at 2, add xy                  \--xy----> (4)S      refs      | [xy]
 *
 *     remove leaf xy,       root --abcdef--> (6)S              refs [ab][cd][ef]
 *     then merge (2)        (the child absorbs the label and the references of a parent with one child)
 *
 * Splits happen at any token. A block's reference lies on the edge where the block's *last* token lies, so that a
 * split inside a block leaves the reference below it; a sibling that shares only half a block has a reference of its
 * own, just as it has a GPU slot of its own. With blocks of one token this is Marconi's tree; for a trace of block ids
 * one symbol is one block.
 */
import { assert } from "../../base.ts";
import { Children } from "./children.ts";

/** What the tree remembers of a block: an integer that only the tree's owner can read (see prefix.ts). */
export type BlockRef = number;

/** The recurrent state at exactly one position. `slot` is its place in the snapshot pool, `tail` the slot that holds a
 * copy of the partial block behind the last full one; each is -1 where there is none. `tiers` are bits as in prefix.ts. */
export interface Snapshot {
  slot: number;
  tail: number;
  tiers: number;
}

export interface RadixNode {
  parent: RadixNode | undefined;
  label: Int32Array;
  /** Tokens from the root to the end of this edge. */
  end: number;
  children: Children<RadixNode>;
  /** One reference for each block whose last token lies on this edge; empty in a tree without references. */
  refs: Int32Array;
  snapshot: Snapshot | undefined;
  /** How many pins lie on this node or below it. */
  pins: number;
  /** Logical time of the last use, and the number of uses; written by the policy. */
  lastAccess: number;
  uses: number;
  /** Scratch of the policy's index; -1 where the node is not in it. */
  queuedAt: number;
}

/** How far a sequence is known. `node` is the deepest node whose edge matched completely, `partial` a child of it of
 * which only the first tokens matched, `tokens` the raw length of the match. */
export interface Walk {
  node: RadixNode;
  partial: RadixNode | undefined;
  tokens: number;
}

/** Of all leaves; never written to. */
const NO_CHILDREN = new Children<RadixNode>();
const NO_REFS = new Int32Array(0);

export class RadixTree {
  readonly root: RadixNode = newNode(undefined, new Int32Array(0), 0, NO_REFS);
  readonly blockTokens: number;
  /** Counts of the whole tree, exact at all times. The root is not counted as a node. */
  nodeCount = 0;
  tokenCount = 0;
  blockCount = 0;
  snapshotCount = 0;
  /** Snapshots that own a partial block (`end` is not a multiple of `blockTokens`). */
  tailCount = 0;
  private readonly withRefs: boolean;
  private readonly keepsViews: boolean;

  /** @param blockTokens tokens in a block, 1 or more @param withRefs whether blocks carry references @param keepsViews
   * whether labels are views of the sequences that were added, which then must never change; else they are copies */
  constructor(blockTokens: number, withRefs: boolean, keepsViews = false) {
    assert(Number.isInteger(blockTokens) && blockTokens > 0, `blockTokens is ${blockTokens}`);
    this.blockTokens = blockTokens;
    this.withRefs = withRefs;
    this.keepsViews = keepsViews;
  }

  /** The longest known prefix of `tokens[0, limit)`. Read-only: it never splits. O(limit), less what is known already.
   * @param from a node that these tokens are known to lead to, at `limit` at the latest */
  walk(tokens: Int32Array, limit = tokens.length, from = this.root): Walk {
    let node = from;
    let position = from.end;
    while (position < limit) {
      const child = node.children.get(tokens[position] as number);
      if (child === undefined) break;
      const common = commonLength(child.label, tokens, position, limit);
      position += common;
      if (common < child.label.length) return { node, partial: child, tokens: position };
      node = child;
    }
    return { node, partial: undefined, tokens: position };
  }

  /** Number of blocks whose last token lies on the node's edge. */
  blocksOf(node: RadixNode): number {
    return this.blocksBetween(startOf(node), node.end);
  }

  blocksBetween(start: number, end: number): number {
    return Math.floor(end / this.blockTokens) - Math.floor(start / this.blockTokens);
  }

  /** Cuts the edge of `node` at position `at`, strictly inside it, and returns the new upper node; `node` keeps the
   * lower part and its snapshot. Pins and access history are those of `node`. O(length of the upper part). */
  split(node: RadixNode, at: number): RadixNode {
    const start = startOf(node);
    assert(at > start && at < node.end, `split at ${at} of an edge (${start}, ${node.end}]`);
    const upperBlocks = this.withRefs ? this.blocksBetween(start, at) : 0;
    const upperRefs = upperBlocks === 0 ? NO_REFS : node.refs.slice(0, upperBlocks);
    const upper = newNode(node.parent, this.kept(node.label.subarray(0, at - start)), at, upperRefs);
    upper.pins = node.pins;
    upper.lastAccess = node.lastAccess;
    upper.uses = node.uses;
    node.parent!.children.set(upper.label[0] as number, upper);
    node.label = node.label.subarray(at - start);
    if (upperBlocks > 0) node.refs = node.refs.subarray(upperBlocks);
    node.parent = upper;
    upper.children = new Children();
    upper.children.set(node.label[0] as number, node);
    this.nodeCount++;
    return upper;
  }

  /** The node that ends exactly where `walk` ended; splits the partly matched edge if there is one. */
  nodeAt(walk: Walk): RadixNode {
    return walk.partial === undefined ? walk.node : this.split(walk.partial, walk.tokens);
  }

  /** Hangs `label` (copied, or a view) below `parent`, which must have no child that begins with the same token. `refs` has one
   * entry for each block that ends on the new edge, or is empty in a tree without references. */
  addLeaf(parent: RadixNode, label: Int32Array, refs: Int32Array = NO_REFS): RadixNode {
    assert(label.length > 0, "a leaf needs at least one token");
    const first = label[0] as number;
    assert(!parent.children.has(first), `a child that begins with ${first} exists`);
    const leaf = newNode(parent, this.kept(label), parent.end + label.length, refs);
    const blocks = this.blocksOf(leaf);
    assert(refs.length === (this.withRefs ? blocks : 0), `${refs.length} references for ${blocks} blocks`);
    if (parent.children === NO_CHILDREN) parent.children = new Children();
    parent.children.set(first, leaf);
    this.nodeCount++;
    this.tokenCount += label.length;
    this.blockCount += blocks;
    return leaf;
  }

  /** Lengthens a leaf without a snapshot by `label` and the references of the blocks that end on it. O(whole edge). */
  extendLeaf(leaf: RadixNode, label: Int32Array, refs: Int32Array = NO_REFS): void {
    assert(
      leaf.children.size === 0 && leaf.parent !== undefined,
      "extendLeaf of an inner node or of the root",
    );
    assert(leaf.snapshot === undefined, "extendLeaf of a leaf with a snapshot");
    const before = this.blocksOf(leaf);
    leaf.label = concat(leaf.label, label);
    leaf.end += label.length;
    const blocks = this.blocksOf(leaf) - before;
    assert(refs.length === (this.withRefs ? blocks : 0), `${refs.length} references for ${blocks} blocks`);
    if (refs.length > 0) leaf.refs = concat(leaf.refs, refs);
    this.tokenCount += label.length;
    this.blockCount += blocks;
  }

  /** Removes an unpinned leaf without a snapshot. Its references are the caller's to free. */
  removeLeaf(leaf: RadixNode): void {
    assert(
      leaf.children.size === 0 && leaf.parent !== undefined,
      "removeLeaf of an inner node or of the root",
    );
    assert(leaf.pins === 0, `removeLeaf of a leaf with ${leaf.pins} pins`);
    assert(leaf.snapshot === undefined, "removeLeaf of a leaf that still has a snapshot");
    this.blockCount -= this.blocksOf(leaf);
    this.tokenCount -= leaf.label.length;
    this.nodeCount--;
    leaf.parent.children.delete(leaf.label[0] as number);
    leaf.parent = undefined;
  }

  /** Shortens an unpinned leaf without a snapshot to end at `end`, strictly inside its edge; returns the references
   * that were cut off. */
  truncateLeaf(leaf: RadixNode, end: number): Int32Array {
    const start = startOf(leaf);
    assert(leaf.children.size === 0 && leaf.pins === 0, "truncateLeaf of an inner or pinned node");
    assert(leaf.snapshot === undefined, "truncateLeaf of a leaf that still has a snapshot");
    assert(end > start && end < leaf.end, `truncateLeaf to ${end} of an edge (${start}, ${leaf.end}]`);
    const keep = this.blocksBetween(start, end);
    this.blockCount -= this.blocksOf(leaf) - keep;
    this.tokenCount -= leaf.end - end;
    const cut = leaf.refs.slice(keep);
    if (this.withRefs) leaf.refs = compact(leaf.refs.subarray(0, keep));
    const label = leaf.label.subarray(0, end - start);
    leaf.label = this.keepsViews ? label : compact(label);
    leaf.end = end;
    return cut;
  }

  /** Merges `node` (one child, no snapshot) into its child, which takes its tokens and references and the later of
   * both access times. Returns the child. The child must carry as many pins as the node. O(both edges). */
  merge(node: RadixNode): RadixNode {
    assert(
      node.children.size === 1 && node.parent !== undefined,
      "merge needs a node with exactly one child",
    );
    assert(node.snapshot === undefined, "merge of a node that still has a snapshot");
    const child = node.children.first as RadixNode;
    assert(child.pins === node.pins, `merge of ${node.pins} pins into ${child.pins}`);
    child.label = concat(node.label, child.label);
    if (this.withRefs) child.refs = concat(node.refs, child.refs);
    child.lastAccess = Math.max(node.lastAccess, child.lastAccess);
    child.uses = Math.max(node.uses, child.uses);
    child.parent = node.parent;
    node.parent.children.set(child.label[0] as number, child);
    node.parent = undefined;
    node.children = NO_CHILDREN;
    this.nodeCount--;
    return child;
  }

  setSnapshot(node: RadixNode, snapshot: Snapshot): void {
    assert(node.snapshot === undefined && node.parent !== undefined, "a second snapshot, or one at the root");
    node.snapshot = snapshot;
    this.snapshotCount++;
    if (node.end % this.blockTokens !== 0) this.tailCount++;
  }

  /** Takes the snapshot off the node and returns it; what it owned is the caller's to free. */
  dropSnapshot(node: RadixNode): Snapshot {
    const snapshot = node.snapshot;
    assert(snapshot !== undefined, "dropSnapshot of a node without one");
    node.snapshot = undefined;
    this.snapshotCount--;
    if (node.end % this.blockTokens !== 0) this.tailCount--;
    return snapshot;
  }

  /** Pins `node` and everything above it. */
  pin(node: RadixNode): void {
    for (let at: RadixNode | undefined = node; at !== undefined; at = at.parent) at.pins++;
  }

  /** Takes one pin off again; `freed` is told of every node that has none left, deepest first. */
  unpin(node: RadixNode, freed: (node: RadixNode) => void): void {
    let at: RadixNode | undefined = node;
    while (at !== undefined) {
      assert(at.pins > 0, `unpin of a node without pins at ${at.end}`);
      const parent: RadixNode | undefined = at.parent;
      if (--at.pins === 0) freed(at);
      at = parent;
    }
  }

  /** Every node except the root, parents before children. */
  *nodes(): Generator<RadixNode> {
    const stack = [...this.root.children.values()];
    for (let node = stack.pop(); node !== undefined; node = stack.pop()) {
      yield node;
      stack.push(...node.children.values());
    }
  }

  /** `node` and every node below it, children before parents. */
  below(node: RadixNode): RadixNode[] {
    const found: RadixNode[] = [];
    const stack = [node];
    for (let at = stack.pop(); at !== undefined; at = stack.pop()) {
      found.push(at);
      stack.push(...at.children.values());
    }
    return found.reverse();
  }

  /** All tokens from the root to the end of `node`. */
  tokensOf(node: RadixNode): Int32Array {
    const tokens = new Int32Array(node.end);
    for (let at: RadixNode = node; at.parent !== undefined; at = at.parent) tokens.set(at.label, startOf(at));
    return tokens;
  }

  /** Recounts the whole tree and checks every link; throws with the numbers where something disagrees. */
  check(): void {
    let [nodes, tokens, blocks, snapshots, tails] = [0, 0, 0, 0, 0];
    for (const node of this.nodes()) {
      nodes++;
      tokens += node.label.length;
      blocks += this.blocksOf(node);
      if (node.snapshot !== undefined) snapshots++;
      if (node.snapshot !== undefined && node.end % this.blockTokens !== 0) tails++;
      this.checkNode(node);
    }
    const found = [nodes, tokens, blocks, snapshots, tails].join();
    const books = [
      this.nodeCount,
      this.tokenCount,
      this.blockCount,
      this.snapshotCount,
      this.tailCount,
    ].join();
    assert(found === books, `nodes,tokens,blocks,snapshots,tails: counted ${found}, the books say ${books}`);
  }

  private kept(label: Int32Array): Int32Array {
    return this.keepsViews ? label : label.slice();
  }

  private checkNode(node: RadixNode): void {
    const where = `node at ${node.end}`;
    assert(node.label.length > 0 && node.parent !== undefined, `${where} has no label or no parent`);
    assert(
      node.end === node.parent.end + node.label.length,
      `${where} behind a parent at ${node.parent.end}`,
    );
    assert(
      node.parent.children.get(node.label[0] as number) === node,
      `${where} is filed under another token`,
    );
    const refs = this.withRefs ? this.blocksOf(node) : 0;
    assert(node.refs.length === refs, `${where} has ${node.refs.length} references, not ${refs}`);
    let below = 0;
    for (const child of node.children.values()) below += child.pins;
    assert(node.pins >= below, `${where} has ${node.pins} pins, its children ${below}`);
  }
}

/** The position at which the node's edge begins. */
export function startOf(node: RadixNode): number {
  return node.end - node.label.length;
}

/** The only child of a node, or undefined where it has none or several. */
export function onlyChild(node: RadixNode): RadixNode | undefined {
  return node.children.size === 1 ? node.children.first : undefined;
}

function newNode(parent: RadixNode | undefined, label: Int32Array, end: number, refs: Int32Array): RadixNode {
  return {
    parent,
    label,
    end,
    children: NO_CHILDREN,
    refs,
    snapshot: undefined,
    pins: 0,
    lastAccess: 0,
    uses: 0,
    queuedAt: -1,
  };
}

function commonLength(label: Int32Array, tokens: Int32Array, from: number, limit: number): number {
  const most = Math.min(label.length, limit - from);
  // A view of the very same numbers.
  if (label.buffer === tokens.buffer && label.byteOffset === tokens.byteOffset + 4 * from) return most;
  let i = 0;
  while (i < most && label[i] === tokens[from + i]) i++;
  return i;
}

/** `a`, then `b`; a wider view where `b` lies right behind `a` in one buffer. */
function concat(a: Int32Array, b: Int32Array): Int32Array {
  if (a.buffer === b.buffer && a.byteOffset + a.byteLength === b.byteOffset) {
    return new Int32Array(a.buffer as ArrayBuffer, a.byteOffset, a.length + b.length);
  }
  const joined = new Int32Array(a.length + b.length);
  joined.set(a);
  joined.set(b, a.length);
  return joined;
}

/** A view keeps its whole buffer alive: copy once less than half of it is in use. */
function compact(view: Int32Array): Int32Array {
  return view.byteLength * 2 < view.buffer.byteLength ? view.slice() : view;
}
