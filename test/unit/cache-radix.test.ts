import { expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import type { RadixNode } from "../../src/cache/tree/radix.ts";
import { RadixTree, startOf } from "../../src/cache/tree/radix.ts";
import { tries } from "../support/full.ts";
import { testSeed } from "../support/seed.ts";

const ids = (text: string): Int32Array => Int32Array.from(text, (c) => c.charCodeAt(0));
const text = (label: Int32Array): string => String.fromCharCode(...label);

/** Adds `sequence` as far as it is new; references are numbered from `firstRef`. */
function add(tree: RadixTree, sequence: string, firstRef = 0): RadixNode {
  const tokens = ids(sequence);
  const walk = tree.walk(tokens);
  const node = tree.nodeAt(walk);
  if (walk.tokens === tokens.length) return node;
  const blocks = tree.blocksBetween(walk.tokens, tokens.length);
  return tree.addLeaf(
    node,
    tokens.subarray(walk.tokens),
    Int32Array.from({ length: blocks }, (_, i) => firstRef + i),
  );
}

test("a split inside a block leaves the block's reference below it", () => {
  const tree = new RadixTree(4, true);
  const first = add(tree, "abcdefgh", 10);
  add(tree, "abxyzwvu", 20);
  const branch = first.parent as RadixNode;
  expect([text(branch.label), [...branch.refs]]).toEqual(["ab", []]);
  expect([text(first.label), [...first.refs]]).toEqual(["cdefgh", [10, 11]]);
  expect(tree.blockCount).toBe(4);
  tree.check();
});

test("a walk is read-only and reports the partly matched edge", () => {
  const tree = new RadixTree(1, true);
  const leaf = add(tree, "abcdef");
  const walk = tree.walk(ids("abcxx"));
  expect(walk).toEqual({ node: tree.root, partial: leaf, tokens: 3 });
  expect(tree.walk(ids("abcdefg"), 6).node).toBe(leaf);
  expect(tree.nodeCount).toBe(1);
});

test("the drawing at the head of radix.ts: split, remove the leaf, merge", () => {
  const tree = new RadixTree(2, true);
  const long = add(tree, "abcdef", 0);
  tree.setSnapshot(long, { slot: 1, tail: -1, tiers: 0 });
  const short = add(tree, "abxy", 5);
  const branch = long.parent as RadixNode;
  expect([[...branch.refs], [...long.refs], [...short.refs]]).toEqual([[0], [1, 2], [5]]);
  tree.removeLeaf(short);
  expect(tree.merge(branch)).toBe(long);
  expect([text(long.label), [...long.refs], long.end]).toEqual(["abcdef", [0, 1, 2], 6]);
  expect(long.snapshot?.slot).toBe(1);
  tree.check();
});

test("pins cover the path, survive a split, and forbid removal", () => {
  const tree = new RadixTree(1, true);
  const leaf = add(tree, "abcdef");
  tree.pin(leaf);
  const branch = tree.split(leaf, 2);
  expect(branch.pins).toBe(1);
  expect(() => tree.removeLeaf(leaf)).toThrow(/1 pins/);
  const freed: RadixNode[] = [];
  tree.unpin(leaf, (node) => freed.push(node));
  expect(freed).toEqual([leaf, branch, tree.root]);
});

test("truncating a leaf gives back the references behind the cut", () => {
  const tree = new RadixTree(2, true);
  const leaf = add(tree, "abcdefg", 7);
  expect([...tree.truncateLeaf(leaf, 2)]).toEqual([8, 9]);
  expect([text(leaf.label), [...leaf.refs], tree.tokenCount, tree.blockCount]).toEqual(["ab", [7], 2, 1]);
  tree.check();
});

test("misuse is refused", () => {
  const tree = new RadixTree(2, true);
  const leaf = add(tree, "abcd");
  expect(() => tree.split(leaf, 4)).toThrow(/split at 4/);
  expect(() => tree.addLeaf(tree.root, ids("ax"), new Int32Array(1))).toThrow(/begins with/);
  expect(() => tree.addLeaf(tree.root, ids("xyz"))).toThrow(/0 references for 1 blocks/);
  expect(() => tree.merge(leaf)).toThrow(/exactly one child/);
  tree.setSnapshot(leaf, { slot: 0, tail: -1, tiers: 0 });
  expect(() => tree.removeLeaf(leaf)).toThrow(/snapshot/);
  leaf.pins = -1;
  expect(() => tree.check()).toThrow(/pins/);
});

// --- The random-operation test against a naive model -----------------------------------------------------------------

/** The model knows the tree as a set of prefixes: every end of a node with its snapshot and pins, by its text. */
interface Model {
  nodes: Map<string, { snapshot: boolean; handles: number }>;
}

const parentOf = (model: Model, name: string): string => {
  for (let n = name.length - 1; n > 0; n--) if (model.nodes.has(name.slice(0, n))) return name.slice(0, n);
  return "";
};
const childrenOf = (model: Model, name: string): string[] =>
  [...model.nodes.keys()].filter(
    (other) => other !== name && other.startsWith(name) && parentOf(model, other) === name,
  );
const pinsOf = (model: Model, name: string): number => {
  let pins = 0;
  for (const [other, node] of model.nodes) if (other.startsWith(name)) pins += node.handles;
  return pins;
};
const commonPrefix = (a: string, b: string): number => {
  let n = 0;
  while (n < a.length && a[n] === b[n]) n++;
  return n;
};

function modelInsert(model: Model, sequence: string): void {
  let raw = 0;
  for (const name of model.nodes.keys()) raw = Math.max(raw, commonPrefix(name, sequence));
  if (raw > 0 && !model.nodes.has(sequence.slice(0, raw))) {
    model.nodes.set(sequence.slice(0, raw), { snapshot: false, handles: 0 });
  }
  if (!model.nodes.has(sequence)) model.nodes.set(sequence, { snapshot: false, handles: 0 });
}

const bytesPerBlock = 4096;
const bytesPerSnapshot = 100_003;

function modelBytes(model: Model, blockTokens: number): number {
  let bytes = 0;
  for (const [name, node] of model.nodes) {
    const blocks =
      Math.floor(name.length / blockTokens) - Math.floor(parentOf(model, name).length / blockTokens);
    const tail = node.snapshot && name.length % blockTokens !== 0 ? 1 : 0;
    bytes += (blocks + tail) * bytesPerBlock + (node.snapshot ? bytesPerSnapshot : 0);
  }
  return bytes;
}

const treeBytes = (tree: RadixTree): number =>
  (tree.blockCount + tree.tailCount) * bytesPerBlock + tree.snapshotCount * bytesPerSnapshot;

/** A random string over three letters: short, so that prefixes collide all the time. */
const randomSequence = (random: Random): string =>
  Array.from({ length: 1 + random.below(12) }, () => "abc"[random.below(3)]).join("");

function randomLife(random: Random, blockTokens: number, operations: number): Record<string, number> {
  const tree = new RadixTree(blockTokens, true);
  const model: Model = { nodes: new Map() };
  const pinned: RadixNode[] = [];
  let bytes = 0;
  const done: Record<string, number> = {};
  const find = (name: string): RadixNode => tree.walk(ids(name)).node;
  const tally = (what: string): void => void (done[what] = (done[what] ?? 0) + 1);
  for (let i = 0; i < operations; i++) {
    const names = [...model.nodes.keys()];
    const action = random.below(names.length > 12 ? 16 : 9);
    if (action < 3 || names.length === 0) {
      const sequence = randomSequence(random);
      const before = tree.nodeCount;
      add(tree, sequence, i);
      modelInsert(model, sequence);
      tally(tree.nodeCount - before === 2 ? "split" : "insert");
    } else {
      const name = random.pick(names);
      const state = model.nodes.get(name)!;
      const node = find(name);
      const children = childrenOf(model, name).length;
      const pins = pinsOf(model, name);
      if (action === 3) {
        const query = random.below(2) === 0 ? name : randomSequence(random);
        const raw = Math.max(0, ...names.map((other) => commonPrefix(other, query)));
        expect(tree.walk(ids(query)).tokens).toBe(raw);
        tally("match");
      } else if (action === 4) {
        if (state.snapshot) tree.dropSnapshot(node);
        else tree.setSnapshot(node, { slot: i, tail: -1, tiers: 0 });
        state.snapshot = !state.snapshot;
        tally("snapshot");
      } else if (action === 5 && pinned.length < 8) {
        tree.pin(node);
        state.handles++;
        pinned.push(node);
        tally("pin");
      } else if (action === 6 && pinned.length > 0) {
        const [handle] = pinned.splice(random.below(pinned.length), 1) as [RadixNode];
        model.nodes.get(text(tree.tokensOf(handle)))!.handles--;
        tree.unpin(handle, () => undefined);
        tally("unpin");
      } else if (action === 7 && children === 1 && !state.snapshot && state.handles === 0) {
        tree.merge(node);
        model.nodes.delete(name);
        tally("merge");
      } else if (action >= 8 && children === 0 && pins === 0) {
        if (state.snapshot) tree.dropSnapshot(node);
        const end = startOf(node) + random.below(node.label.length);
        model.nodes.delete(name);
        if (end === startOf(node)) tree.removeLeaf(node);
        else {
          tree.truncateLeaf(node, end);
          model.nodes.set(name.slice(0, end), { snapshot: false, handles: 0 });
        }
        tally("evict");
      }
    }
    const isReadOnly = names.length > 0 && (action === 3 || action === 5 || action === 6); // match, pin, unpin
    if (!isReadOnly) bytes = modelBytes(model, blockTokens);
    if (treeBytes(tree) !== bytes) {
      expect.unreachable(`operation ${i}: the tree has ${treeBytes(tree)} bytes, the model ${bytes}`);
    }
    if (i % 100 === 0) compare(tree, model);
  }
  compare(tree, model);
  return done;
}

function compare(tree: RadixTree, model: Model): void {
  tree.check();
  const found = [...tree.nodes()].map(
    (node) => [text(tree.tokensOf(node)), node.snapshot !== undefined, node.pins] as const,
  );
  const expected = [...model.nodes].map(
    ([name, node]) => [name, node.snapshot, pinsOf(model, name)] as const,
  );
  const order = (a: readonly [string, ...unknown[]], b: readonly [string, ...unknown[]]): number =>
    a[0] < b[0] ? -1 : 1;
  expect(found.sort(order)).toEqual(expected.sort(order));
}

test(
  `${tries(100_000).toLocaleString("en")} random operations agree with a naive model, bytes after every one`,
  { timeout: 300_000 },
  () => {
    const random = new Random(testSeed("cache-radix"));
    const total: Record<string, number> = {};
    for (const [blockTokens, operations] of [
      [1, tries(40_000)],
      [2, tries(30_000)],
      [4, tries(30_000)],
    ] as const) {
      const done = randomLife(random, blockTokens, operations);
      for (const [what, count] of Object.entries(done)) total[what] = (total[what] ?? 0) + count;
    }
    console.log("operations", total);
    for (const what of ["insert", "split", "match", "snapshot", "pin", "unpin", "merge", "evict"]) {
      expect(total[what], what).toBeGreaterThan(tries(500));
    }
  },
);
