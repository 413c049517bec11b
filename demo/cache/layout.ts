/**
 * Where each run of the cache's tree is drawn: along by tokens, down by conversations. A branch's first child goes on in its
 * row, the others get rows of their own below it. Pure: it knows nothing of canvas, colours or time.
 */
import type { CacheTree, CacheTreeNode } from "../../src/index.ts";

export interface Placed {
  node: CacheTreeNode;
  row: number;
  /** The row of the parent, where its line begins; its own where it simply goes on. */
  fromRow: number;
}

export interface Layout {
  placed: Placed[];
  rows: number;
  /** The furthest token. */
  tokens: number;
}

export function layoutOf({ nodes }: Pick<CacheTree, "nodes">): Layout {
  const children = new Map<number, CacheTreeNode[]>();
  for (const node of nodes) {
    const siblings = children.get(node.parent);
    if (siblings) siblings.push(node);
    else children.set(node.parent, [node]);
  }
  const placed: Placed[] = [];
  /** Row and end of what has its place. */
  const known = new Map<number, { row: number; end: number }>();
  let rows = 0;
  let tokens = 0;
  // Depth first, the last child at the bottom of the stack.
  const stack = inOrder(children.get(0));
  const goneOn = new Set<number>();
  for (let node = stack.pop(); node !== undefined; node = stack.pop()) {
    const parent = known.get(node.parent);
    // One that leaves its parent half-way cannot stand in its row.
    const goesOn = parent !== undefined && !goneOn.has(node.parent) && node.start >= parent.end;
    if (goesOn) goneOn.add(node.parent);
    const row = goesOn ? parent.row : rows++;
    known.set(node.id, { row, end: node.end });
    placed.push({ node, row, fromRow: parent?.row ?? row });
    tokens = Math.max(tokens, node.end);
    stack.push(...inOrder(children.get(node.id)));
  }
  return { placed, rows, tokens };
}

/** Longest first, so that the first row is a long one; last in the array is taken first. */
function inOrder(nodes: readonly CacheTreeNode[] = []): CacheTreeNode[] {
  return [...nodes].sort((a, b) => a.end - b.end || b.id - a.id);
}
