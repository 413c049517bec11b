import { expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { flopsBetween } from "../../src/shape/cost.ts";
import { costOf, namedShapes, parseShape } from "../../src/sim/cost-shape.ts";
import type { Cost } from "../../src/shape/cost.ts";
import { createPrefixCache } from "../../src/cache/policy/create.ts";
import { CandidateIndex, savedFlops } from "../../src/cache/policy/marconi.ts";
import type { PolicyName } from "../../src/cache/policy/policy.ts";
import { isFreeLeaf, policyNames, VictimQueue, type EvictionPolicy } from "../../src/cache/policy/policy.ts";
import type { PrefixCache } from "../../src/cache/prefix.ts";
import type { RadixNode } from "../../src/cache/tree/radix.ts";
import { RadixTree } from "../../src/cache/tree/radix.ts";
import { alphaGrid } from "../../src/cache/policy/alpha-tuner.ts";
import { testSeed } from "../support/seed.ts";

const ids = (text: string): Int32Array => Int32Array.from(text, (c) => c.charCodeAt(0));
const dense: Cost = { flopsLinear: 1, flopsQuadratic: 0, bytesPerToken: 1, bytesPerSnapshot: 0 };
const hybrid: Cost = { flopsLinear: 1, flopsQuadratic: 0.01, bytesPerToken: 1, bytesPerSnapshot: 5 };

const cacheOf = (policy: PolicyName, cost: Cost, capacityBytes: number, alpha = 0): PrefixCache =>
  createPrefixCache({ policy, blockTokens: 1, cost, capacityBytes, snapshotEvery: 4, alpha }).cache;

/** Serves texts as whole requests and returns the reused tokens of each. */
const serve = (cache: PrefixCache, ...texts: string[]): number[] =>
  texts.map((text) => cache.serve(ids(text), text.length));

test("the paper's model: KV and snapshot bytes, and its FLOPs per byte", () => {
  const cost = costOf(namedShapes["nvidia-hybrid-7b"]!);
  expect(cost.bytesPerToken).toBe(65_536);
  expect(cost.bytesPerSnapshot).toBe(26_787_840);
  const perByte = (n: number): number =>
    flopsBetween(cost, 0, n) / (cost.bytesPerSnapshot + n * cost.bytesPerToken);
  expect([100, 1000, 5000, 10_000, 30_000].map((n) => Math.floor(perByte(n) / 1000))).toEqual([
    39, 142, 189, 201, 226,
  ]);
});

test("costs of attention with grouped heads, experts and recurrent layers follow the shape", () => {
  const layers = [
    { kind: "attention", count: 2, heads: 8, kvHeads: 2, headDim: 4 },
    { kind: "mlp", count: 2, inner: 16, matrices: 3, active: 2 },
    { kind: "short-conv", count: 1, convKernel: 3 },
    { kind: "gated-delta", count: 1, heads: 4, keyHeads: 2, keyDim: 8, valueDim: 8, convKernel: 4 },
  ];
  const cost = costOf(
    parseShape({ name: "x", hiddenSize: 32, kvElementBytes: 2, stateElementBytes: 4, layers }, "x"),
  );
  expect(cost.bytesPerToken).toBe(2 * 2 * 2 * 4 * 2);
  expect(cost.bytesPerSnapshot).toBe(32 * 2 * 4 + (4 * 8 * 8 + (2 * 2 * 8 + 4 * 8) * 3) * 4);
  expect(cost.flopsQuadratic).toBe(2 * 4 * 8 * 4);
});

test("a bad shape file is refused with its field", () => {
  const shape = { name: "x", hiddenSize: 32, kvElementBytes: 2, stateElementBytes: 2 };
  expect(() => parseShape([], "f.json")).toThrow(/f\.json: the model shape must be an object/);
  expect(() => parseShape({ ...shape, layers: [{ kind: "magic" }] }, "f.json")).toThrow(/layers\[0\]\.kind/);
  const layers = [{ kind: "attention", count: 1, heads: 0, kvHeads: 1, headDim: 1 }];
  expect(() => parseShape({ ...shape, layers }, "f.json")).toThrow(
    /layers\[0\]\.heads must be a positive integer/,
  );
});

test("lru keeps what was used last, lfu what was used most", () => {
  for (const [policy, kept] of [
    ["lru", "cccc"],
    ["lfu", "aaaa"],
  ] as const) {
    const cache = cacheOf(policy, dense, 8);
    serve(cache, "aaaa", "aaaa", "aaaa", "cccc", "dddd");
    expect(serve(cache, kept)).toEqual([4]);
  }
});

test("lfu breaks ties by recency", () => {
  const cache = cacheOf("lfu", dense, 8);
  serve(cache, "aaaa", "bbbb", "cccc");
  expect(cache.match(ids("aaaa")).tokens).toBe(0);
  expect(cache.match(ids("bbbb")).tokens).toBe(4);
});

test("eviction cuts exactly what is needed off a leaf", () => {
  for (const policy of ["lru", "lfu", "length-aware", "marconi"] as const) {
    const cache = cacheOf(policy, dense, 10);
    serve(cache, "aaaaaaaa", "bbbb");
    expect(cache.match(ids("aaaaaaaa")).tokens, policy).toBe(6);
    expect(cache.bytes).toBe(10);
    cache.check();
  }
});

test("vllm takes a snapshot at every block and at the end; marconi only where inputs part and at the end", () => {
  const vllm = cacheOf("vllm", hybrid, Infinity);
  serve(vllm, "abcdefghij");
  expect([...vllm.tree.nodes()].map((node) => node.end).sort((a, b) => a - b)).toEqual([4, 8, 10]);
  expect(serve(vllm, "abcdefgx")).toEqual([4]);
  const marconi = cacheOf("marconi", hybrid, Infinity);
  expect(serve(marconi, "abcdefghij", "abcdefgx", "abcdefgy", "abcdefghij!")).toEqual([0, 0, 7, 10]);
  expect(marconi.stats.snapshotsTaken).toBe(5);
});

test("marconi with weight on efficiency evicts the short prefix before the long one", () => {
  for (const [alpha, victim] of [
    [0, "llllllllllllllllllll"],
    [2, "ss"],
  ] as const) {
    const cache = cacheOf("marconi", hybrid, 40, alpha);
    serve(cache, "llllllllllllllllllll", "ss", "tttt");
    expect(cache.match(ids(victim)).tokens, `alpha ${alpha}`).toBe(0);
  }
});

test("an insertion that cannot fit is cut, and the budget holds; vllm alone keeps it until the next", () => {
  const cut = cacheOf("lru", dense, 4);
  serve(cut, "aaaaaaaa");
  expect([cut.bytes, cut.stats.insertsCut]).toEqual([4, 1]);
  const none = cacheOf("marconi", hybrid, 8);
  serve(none, "aaaaaaaa");
  expect([none.bytes, none.stats.insertsCut]).toEqual([0, 1]);
  const kept = cacheOf("vllm", hybrid, 8);
  serve(kept, "aaaaaaaa");
  expect(kept.bytes).toBe(18);
  serve(kept, "b");
  expect(kept.bytes).toBeLessThanOrEqual(8);
});

test("offline keeps only what will be used again", () => {
  const texts = ["aaaa", "bbbb", "cccc", "aaaa", "cccc"];
  const future = texts.map((text) => ({ sequence: ids(text), inputTokens: text.length }));
  const options = {
    policy: "offline",
    blockTokens: 1,
    cost: dense,
    capacityBytes: 8,
    future: () => future,
  } as const;
  expect(serve(createPrefixCache(options).cache, ...texts)).toEqual([0, 0, 0, 4, 4]);
  expect(() => createPrefixCache({ policy: "offline", blockTokens: 1, cost: dense })).toThrow(
    /only in replays/,
  );
});

test("the tuner returns to 0 without a clear gain, is bounded, and works in slices", () => {
  const { cache, tuner } = createPrefixCache({
    policy: "marconi",
    blockTokens: 1,
    cost: hybrid,
    capacityBytes: 60,
  });
  for (let i = 0; i < 600; i++) tuner!.record(ids("abcdefgh"), 8);
  expect(tuner!.dropped).toBe(600 - 512);
  let slices = 1;
  while (tuner!.work(100)) slices++;
  expect(slices).toBeGreaterThan((512 * alphaGrid.length) / 101);
  expect([cache.policy.alpha, tuner!.changes]).toEqual([0, 0]);
});

test("the tuner finds a weight where long prefixes are worth more than fresh ones", () => {
  const { cache, tuner } = createPrefixCache({
    policy: "marconi",
    blockTokens: 1,
    cost: hybrid,
    capacityBytes: 90,
  });
  const long = "l".repeat(40);
  for (let i = 0; i < 400; i++) {
    const text = i % 8 === 0 ? long : `${String.fromCharCode(300 + i)}noise`;
    cache.serve(ids(text), text.length);
    tuner!.record(ids(text), text.length);
    tuner!.work();
  }
  expect(cache.policy.alpha).toBeGreaterThan(0);
  expect(tuner!.changes).toBeGreaterThan(0);
});

/** Detached leaves with times and gains, for the index alone. */
function someLeaves(random: Random, count: number): RadixNode[] {
  const tree = new RadixTree(1, false);
  return Array.from({ length: count }, (_, i) => {
    const leaf = tree.addLeaf(
      tree.root,
      Int32Array.from({ length: 1 + random.below(50) }, () => i),
    );
    leaf.lastAccess = random.below(1000);
    leaf.uses = random.below(5);
    return leaf;
  });
}

test("marconi's index finds the same minimum as scoring every candidate", () => {
  const random = new Random(testSeed("cache-policy index"));
  const index = new CandidateIndex();
  const live = new Map<RadixNode, number>();
  const leaves = someLeaves(random, 300);
  for (let step = 0; step < 6000; step++) {
    const node = random.pick(leaves);
    index.remove(node);
    if (random.below(4) === 0) live.delete(node);
    else {
      node.lastAccess = 1000 + step;
      live.set(node, savedFlops(node, hybrid) * (1 + random.next()));
      index.add(node, node.lastAccess, live.get(node)!);
    }
    expect(index.size).toBe(live.size);
    if (step % 20 !== 0 || live.size === 0) continue;
    const now = 1001 + step;
    const alpha = random.pick(alphaGrid);
    const norm = (values: number[]): ((value: number) => number) => {
      const [min, max] = [Math.min(...values), Math.max(...values)];
      return (value) => (max > min ? (value - min) / (max - min) : 1);
    };
    const recency = norm([...live.keys()].map((n) => 1 / (now - n.lastAccess)));
    const gain = norm([...live.values()]);
    const score = (n: RadixNode): number => recency(1 / (now - n.lastAccess)) + alpha * gain(live.get(n)!);
    const allowed = (n: RadixNode): boolean => n.label.length % 3 !== 0;
    const expected = Math.min(...[...live.keys()].filter(allowed).map(score));
    const found = index.minimum(now, alpha, allowed);
    expect(found === undefined ? Infinity : score(found)).toBeCloseTo(expected, 12);
  }
});

test("the victim queue gives leaves in the order of their keys, whatever was used meanwhile", () => {
  const random = new Random(testSeed("cache-policy queue"));
  const queue = new VictimQueue<RadixNode>(
    (node) => node.uses,
    (node) => node.lastAccess,
    isFreeLeaf,
  );
  const leaves = someLeaves(random, 200);
  for (const leaf of leaves) queue.add(leaf, 0);
  const left = new Set(leaves);
  for (let now = 1000; left.size > 0; now++) {
    const used = random.pick(leaves);
    used.uses++;
    used.lastAccess = now;
    if (random.below(3) !== 0) continue;
    const victim = queue.take(now, () => true)!;
    for (const other of left) {
      const isLater =
        other.uses > victim.uses || (other.uses === victim.uses && other.lastAccess >= victim.lastAccess);
      expect(isLater).toBe(true);
    }
    left.delete(victim);
  }
  expect(queue.take(0, () => true)).toBeUndefined();
});

/** An entry that is no node of the tree: one of a model's experts, of which a few fit into memory. */
interface Expert {
  id: number;
  isRunning: boolean;
  lastUse: number;
  queuedAt: number;
}

/** Evicts the expert that was used least recently. */
class OldestExpert implements EvictionPolicy<Expert> {
  private readonly queue = new VictimQueue<Expert>(
    ({ lastUse }) => lastUse,
    ({ id }) => id,
    ({ isRunning }) => !isRunning,
  );

  touch(expert: Expert, now: number): void {
    expert.lastUse = now;
  }

  changed(expert: Expert): void {
    if (!expert.isRunning) this.queue.add(expert, 0);
  }

  removed(): void {} // only victims leave

  victim(now: number, fits: (expert: Expert) => boolean): Expert | undefined {
    return this.queue.take(now, fits);
  }
}

test("a policy evicts entries of any kind through the same interface", () => {
  const random = new Random(testSeed("cache-policy experts"));
  const policy: EvictionPolicy<Expert> = new OldestExpert();
  const resident = new Map<number, Expert>();
  for (let now = 1; now < 2000; now++) {
    const id = random.below(40);
    const expert = resident.get(id) ?? { id, isRunning: false, lastUse: 0, queuedAt: -1 };
    if (!resident.has(id) && resident.size === 8) {
      const running = random.pick([...resident.values()]);
      running.isRunning = true;
      const idle = [...resident.values()].filter((other) => other !== running);
      const wanted = idle.filter((other) => other.id % 2 === now % 2);
      const victim = policy.victim(now, (other) => other.id % 2 === now % 2);
      expect(victim).toBe(wanted.sort((a, b) => a.lastUse - b.lastUse)[0]);
      running.isRunning = false;
      policy.changed(running);
      if (!victim) continue;
      resident.delete(victim.id);
      policy.removed(victim);
    }
    const why = resident.has(id) ? "match" : "insert";
    resident.set(id, expert);
    policy.touch(expert, now, why);
    policy.changed(expert);
  }
  expect(resident.size).toBe(8);
});

test("each policy says why it asks for snapshots on the way", () => {
  const names = policyNames.filter((name) => name !== "offline");
  const reasons = names.map((name) => cacheOf(name, hybrid, 1000).policy.snapshotReason);
  expect(names.filter((_, index) => reasons[index] === "interval")).toEqual(["vllm"]);
});
