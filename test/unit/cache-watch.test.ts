/** What the cache tells of itself: outlines and events against the tree, readings with tiers against a plain list of keys. */
import { afterEach, describe, expect, test, vi } from "vitest";
import { Random } from "../../src/base.ts";
import { BlockPool } from "../../src/cache/blocks.ts";
import type { Cost } from "../../src/shape/cost.ts";
import { createPrefixCache } from "../../src/cache/policy/create.ts";
import type { CacheEvent as Decision } from "../../src/cache/events.ts";
import { Outliner } from "../../src/cache/tree/outline.ts";
import type { PrefixCache } from "../../src/cache/prefix.ts";
import type { RadixNode } from "../../src/cache/tree/radix.ts";
import { StateSlotPool } from "../../src/cache/state-slot-pool.ts";
import { chainKeys, fingerprintOf, recordKey, rootKey, type Key } from "../../src/tier/record/keys.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import { CacheEvents } from "../../src/worker/cache/events.ts";
import { TreeReader } from "../../src/worker/cache/tree.ts";
import { TIER_GPU, TIER_RAM, type CacheEvent, type CacheTree } from "../../src/wire/protocol.ts";
import { testSeed } from "../support/seed.ts";

const BLOCK = 4;
const dense: Cost = { flopsLinear: 1000, flopsQuadratic: 1, bytesPerToken: 8, bytesPerSnapshot: 0 };
const hybrid: Cost = { ...dense, bytesPerSnapshot: 64 };

function cacheOf(kind: "dense" | "hybrid"): PrefixCache {
  const pools = { pool: new BlockPool(24), snapshotPool: new StateSlotPool(kind === "hybrid" ? 6 : 0) };
  const cost = kind === "hybrid" ? hybrid : dense;
  return createPrefixCache({ policy: "marconi", alpha: 0.1, blockTokens: BLOCK, cost, ...pools }).cache;
}

/** A whole request, as an engine serves it. */
function serve(cache: PrefixCache, tokens: Int32Array, requestId: number): void {
  const lease = cache.acquire(tokens, tokens.length - 1, requestId);
  if (lease.snapshot) cache.snapshotCopied(lease);
  const positions = [
    ...cache.snapshotPositions(tokens, lease),
    ...(cache.cost.bytesPerSnapshot > 0 ? [tokens.length] : []),
  ];
  if (cache.extend(lease, Math.ceil(tokens.length / BLOCK) - lease.table.length)) {
    const taken = positions.map((at) => cache.snapshotSlots(at)).filter((one) => one !== undefined);
    cache.insert(lease, tokens, taken);
  }
  cache.release(lease);
}

/** Few tokens and shared beginnings, so that sequences branch everywhere. */
function sequenceFrom(random: Random, known: Int32Array[]): Int32Array {
  const from =
    known.length > 0 && random.below(3) > 0 ? known[random.below(known.length)]! : new Int32Array(0);
  const kept = from.subarray(0, random.below(from.length + 1));
  const more = Array.from({ length: 2 + random.below(20) }, () => random.below(3));
  return Int32Array.from([...kept, ...more]).subarray(0, 60);
}

describe.each(["dense", "hybrid"] as const)("a %s model's cache", (kind) => {
  test("outlines are the tree, keep ids, and keep within their limit; events add up to what is there", () => {
    const random = new Random(testSeed(`cache-watch-${kind}`));
    const cache = cacheOf(kind);
    const outliner = new Outliner();
    const events: Decision[] = [];
    cache.listen((event) => events.push(event));
    const known: Int32Array[] = [];
    const ids = new Map<RadixNode, number>();
    for (let request = 0; request < 200; request++) {
      const tokens = sequenceFrom(random, known);
      known.push(tokens);
      serve(cache, tokens, request);
      if (random.below(60) === 0) cache.clear();
      const { nodes, omittedBlocks } = outliner.outline(cache.tree, 10_000);
      expect([nodes.length, omittedBlocks]).toEqual([cache.tree.nodeCount, 0]);
      const byLabel = new Map(nodes.map((node) => [node.label, node]));
      for (const node of cache.tree.nodes()) {
        const entry = byLabel.get(node.label)!;
        expect(ids.get(node) ?? entry.id).toBe(entry.id);
        ids.set(node, entry.id);
        const parent = node.parent?.parent === undefined ? 0 : byLabel.get(node.parent.label)!.id;
        expect([entry.parent, entry.end, entry.blocks]).toEqual([
          parent,
          node.end,
          cache.tree.blocksOf(node),
        ]);
        expect(entry.hasSnapshot).toBe(node.snapshot !== undefined);
      }
      const few = outliner.outline(cache.tree, 7);
      const blocks = few.nodes.reduce((sum, node) => sum + node.blocks, 0);
      expect(blocks).toBeLessThanOrEqual(7);
      expect(blocks + few.omittedBlocks).toBe(cache.tree.blockCount);
      const seen = new Set([0]);
      for (const { id, parent } of few.nodes) {
        expect(seen.has(parent)).toBe(true);
        seen.add(id);
      }
    }
    const sum = (of: string, what: (event: Decision) => number): number =>
      events.filter(({ kind }) => kind === of).reduce((total, event) => total + what(event), 0);
    expect(sum("admitted", ({ blocks }) => blocks) - sum("evicted", ({ blocks }) => blocks)).toBe(
      cache.tree.blockCount,
    );
    expect(sum("matched", ({ tokens }) => tokens)).toBe(cache.stats.tokensMatched);
    expect(sum("evicted", () => 1)).toBe(cache.stats.evictions);
    const states = sum("snapshot", () => 1) - sum("evicted", ({ isSnapshot }) => (isSnapshot ? 1 : 0));
    expect(states).toBe(cache.tree.snapshotCount);
    if (kind === "hybrid") expect(events.some(({ why }) => why === "branch")).toBe(true);
    cache.listen(undefined);
    const before = events.length;
    serve(cache, Int32Array.from([1, 2, 0, 1, 1]), 999);
    expect(events.length).toBe(before);
  });

  test("a reading tells where each block is, also of what only the store has, and goes on where edges are cut", async () => {
    const random = new Random(testSeed(`cache-tree-${kind}`));
    const cache = cacheOf(kind);
    const store = await TierStore.open({ ramBytes: 1e6 });
    const fingerprint = fingerprintOf({ model: "m" });
    const root = rootKey(fingerprint, "");
    const reader = new TreeReader({ cache, lower: { store, root }, idleMsOf: () => -1 });
    const known: Int32Array[] = [];
    for (let request = 0; request < 30; request++) {
      const tokens = sequenceFrom(random, known);
      known.push(tokens);
      serve(cache, tokens, request);
      if (random.below(2) === 0) putBlocks(store, fingerprint, tokens);
      const tree = await reader.read(10_000);
      expect(countsOf(tree)).toEqual(naiveCounts(cache, store, fingerprint, known));
      checkShape(tree);
    }
    const few = await reader.read(5);
    expect(few.nodes.reduce((sum, { tiers }) => sum + tiers.length, 0)).toBeLessThanOrEqual(5);
    expect(few.omittedBlocks > 0 || few.moreStored).toBe(true);
    await store.close();
  });
});

function putBlocks(store: TierStore, fingerprint: Key, tokens: Int32Array): void {
  let parentKey = rootKey(fingerprint, "");
  for (let block = 0; (block + 1) * BLOCK <= tokens.length; block++) {
    const part = Uint32Array.from(tokens.subarray(block * BLOCK, (block + 1) * BLOCK));
    const fields = {
      kind: "block",
      fingerprint,
      namespace: "",
      parentKey,
      blockIndex: block,
      tokens: part,
    } as const;
    store.put({ ...fields, payload: new Uint8Array(10), rebuildCost: 1 });
    parentKey = recordKey("block", parentKey, part);
  }
}

/** How many blocks each combination of places has. */
function countsOf({ nodes }: CacheTree): Record<number, number> {
  const counts: Record<number, number> = {};
  for (const { tiers } of nodes) for (const bits of tiers) counts[bits] = (counts[bits] ?? 0) + 1;
  return counts;
}

/** The same, by going through all sequences that there ever were. */
function naiveCounts(
  cache: PrefixCache,
  store: TierStore,
  fingerprint: Key,
  known: Int32Array[],
): Record<number, number> {
  const bits = new Map<Key, number>();
  for (const tokens of known) {
    const there = Math.floor(cache.tree.walk(tokens).tokens / BLOCK);
    chainKeys(fingerprint, "", tokens, BLOCK).forEach((key, block) => {
      const found = (block < there ? TIER_GPU : 0) | (store.tiersOf(key).includes("ram") ? TIER_RAM : 0);
      bits.set(key, found);
    });
  }
  const counts: Record<number, number> = {};
  for (const value of bits.values()) if (value !== 0) counts[value] = (counts[value] ?? 0) + 1;
  return counts;
}

function checkShape({ nodes }: CacheTree): void {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  for (const { id, parent, start, end, tiers } of nodes) {
    const above = byId.get(parent);
    expect(end).toBeGreaterThan(start);
    expect(tiers.length).toBe(Math.floor(end / BLOCK) - Math.floor(start / BLOCK));
    if (id > 0) expect(start).toBe(above?.end ?? 0);
    else expect(start <= (above?.end ?? 0)).toBe(true);
  }
}

describe("events on their way", () => {
  afterEach(() => void vi.useRealTimers());

  const decision = (fields: Partial<Decision>): Decision => ({
    ...{ kind: "admitted", why: "computed", tokens: 4, at: 4, blocks: 1, bytes: 32, requestId: 1 },
    ...fields,
  });

  test("blocks in a row are one event; lookups stay single; an eviction says how long nobody used it", () => {
    vi.useFakeTimers();
    const batches: CacheEvent[][] = [];
    const events = new CacheEvents((batch) => batches.push(batch));
    events.add(decision({ kind: "matched", why: "unknown", clock: 1 }));
    events.add(decision({ clock: 2 }));
    events.add(decision({ at: 8, clock: 3 }));
    events.add(decision({ at: 4, requestId: 2, clock: 4 }));
    expect(batches).toEqual([]);
    vi.advanceTimersByTime(1000);
    expect(batches[0]!.map(({ kind, blocks, at }) => [kind, blocks, at])).toEqual([
      ["matched", 1, 4],
      ["admitted", 2, 8],
      ["admitted", 1, 4],
    ]);
    events.add(decision({ kind: "evicted", why: "blocks-needed", clock: 9, lastAccess: 3 }));
    vi.advanceTimersByTime(1000);
    expect(batches[1]![0]!.idleMs).toBeGreaterThanOrEqual(1000);
    expect([events.idleMsOf(0), events.idleMsOf(4) >= 2000]).toEqual([-1, true]);
  });

  test("the queue is bounded, and what is dropped is counted; nobody listening means nothing is sent", () => {
    vi.useFakeTimers();
    const sent: [number, number][] = [];
    const events = new CacheEvents((batch, dropped) => sent.push([batch.length, dropped]));
    for (let i = 0; i < 600; i++) events.add(decision({ kind: "matched", why: "unknown" }));
    vi.advanceTimersByTime(1000);
    events.add(decision({ kind: "matched", why: "unknown" }));
    events.stop();
    vi.advanceTimersByTime(1000);
    expect(sent).toEqual([[512, 88]]);
  });
});
