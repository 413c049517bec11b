import { expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { BlockPool } from "../../src/cache/blocks.ts";
import type { Cost } from "../../src/shape/cost.ts";
import { createPrefixCache } from "../../src/cache/policy/create.ts";
import type { PolicyName } from "../../src/cache/policy/policy.ts";
import type { Lease, NewSnapshot, PrefixCache } from "../../src/cache/prefix.ts";
import { onDisk, onRam } from "../../src/cache/prefix.ts";
import { StateSlotPool } from "../../src/cache/state-slot-pool.ts";
import { testSeed } from "../support/seed.ts";

const dense: Cost = { flopsLinear: 1000, flopsQuadratic: 1, bytesPerToken: 8, bytesPerSnapshot: 0 };
const hybrid: Cost = { ...dense, bytesPerSnapshot: 64 };
const ids = (text: string): Int32Array => Int32Array.from(text, (c) => c.charCodeAt(0));

/** A GPU of the mind: what each KV slot and each snapshot slot holds, as the text of the prefix it was computed from. */
class Rig {
  readonly pool: BlockPool;
  readonly snapshotPool: StateSlotPool;
  readonly cache: PrefixCache;
  readonly kv = new Map<number, string>();
  readonly states = new Map<number, string>();
  readonly blockTokens = 4;
  private readonly isHybrid: boolean;

  constructor(policy: PolicyName, cost: Cost, slots: number, snapshots = 0) {
    this.isHybrid = cost.bytesPerSnapshot > 0;
    this.pool = new BlockPool(slots);
    this.snapshotPool = new StateSlotPool(snapshots);
    const pools = { pool: this.pool, snapshotPool: this.snapshotPool };
    const tuner = policy === "marconi" ? { alpha: 0.1 } : {};
    this.cache = createPrefixCache({ policy, blockTokens: 4, cost, ...pools, ...tuner }).cache;
  }

  /** Checks that everything that a match promises is what the prefix needs. */
  start(text: string): Lease {
    const lease = this.cache.acquire(ids(text), text.length - 1);
    expect(lease.tokens).toBeLessThan(text.length);
    lease.blocks.forEach((block, i) => expect(this.kv.get(block.slot)).toBe(text.slice(0, (i + 1) * 4)));
    expect(lease.blocks.length).toBe(Math.floor(lease.tokens / 4));
    if (this.isHybrid && lease.tokens > 0) {
      expect(this.states.get(lease.snapshot!.slot)).toBe(text.slice(0, lease.tokens));
      if (lease.tokens % 4 !== 0) expect(this.kv.get(lease.snapshot!.tail)).toBe(text.slice(0, lease.tokens));
      this.cache.snapshotCopied(lease);
    }
    return lease;
  }

  /** Computes up to `end`: allocates and fills blocks. False where the pool is exhausted. */
  compute(lease: Lease, text: string, end: number): boolean {
    const needed = Math.ceil(end / 4) - lease.table.length;
    if (needed > 0 && !this.cache.extend(lease, needed)) return false;
    for (let i = lease.blocks.length; i < Math.ceil(end / 4); i++) {
      this.kv.set(lease.table[i]!, text.slice(0, Math.min(end, (i + 1) * 4)));
    }
    return true;
  }

  snapshot(text: string, at: number): NewSnapshot | undefined {
    const slot = this.cache.snapshotSlot();
    if (slot === undefined) return undefined;
    let tail = -1;
    if (at % 4 !== 0) {
      const copy = this.cache.evict({ blocks: 1 }) ? this.pool.allocateOne() : undefined;
      if (copy === undefined) {
        this.cache.dropSnapshotSlot(slot);
        return undefined;
      }
      this.kv.set(copy, text.slice(0, at));
      tail = copy;
    }
    this.states.set(slot, text.slice(0, at));
    return { at, slot, tail };
  }

  /** A whole request alone; returns the tokens that it could reuse. */
  run(text: string): number {
    const lease = this.start(text);
    const positions = this.cache.snapshotPositions(ids(text), lease);
    expect(this.compute(lease, text, text.length)).toBe(true);
    const wanted = this.isHybrid ? [...positions, text.length] : [];
    const snapshots = wanted.map((at) => this.snapshot(text, at)).filter((one) => one !== undefined);
    this.cache.insert(lease, ids(text), snapshots);
    this.cache.release(lease);
    this.cache.check();
    return lease.tokens;
  }
}

test("full blocks are shared, the begun one and the last token never", () => {
  const rig = new Rig("lru", dense, 8);
  expect(rig.run("abcdefghij")).toBe(0);
  expect(rig.run("abcdefghij")).toBe(8);
  expect(rig.run("abcdefgh")).toBe(4);
  expect(rig.run("abcdxxxxx")).toBe(4);
  expect(rig.pool.counts()).toEqual({ total: 8, free: 5, cached: 3, inUse: 0 });
});

test("requests that run together share the blocks of their prefix", () => {
  const rig = new Rig("lru", dense, 4);
  const first = rig.start("abcdefghx");
  rig.compute(first, "abcdefghx", 8);
  rig.cache.insert(first, ids("abcdefgh"));
  const second = rig.start("abcdefghy");
  expect(second.table).toEqual(first.table);
  expect(rig.pool.usersOf(first.table[0]!)).toBe(2);
  rig.cache.release(first);
  expect(rig.pool.inUseCount).toBe(2);
  rig.cache.release(second);
  expect(() => rig.cache.release(second)).toThrow(/twice/);
  expect(rig.pool.counts()).toEqual({ total: 4, free: 2, cached: 2, inUse: 0 });
});

test("a block computed twice stays the second request's own and is freed with it", () => {
  const rig = new Rig("lru", dense, 8);
  const [first, second] = [rig.start("abcdefgh!"), rig.start("abcdefgh?")];
  for (const lease of [first, second]) rig.compute(lease, "abcdefgh", 8);
  expect(rig.cache.insert(first, ids("abcdefgh")).owned).toEqual(first.table);
  expect(rig.cache.insert(second, ids("abcdefgh"))).toEqual({
    tokens: 8,
    owned: [],
    duplicates: second.table,
    placed: [],
  });
  rig.cache.release(second);
  rig.cache.release(first);
  rig.cache.check();
  expect(rig.pool.cachedCount).toBe(2);
});

test("eviction takes the least recent leaf's tail and never what is pinned", () => {
  const rig = new Rig("lru", dense, 6);
  rig.run("aaaabbbbcccc.");
  rig.run("xxxxyyyy.");
  const pinned = rig.start("xxxxyyyy.");
  expect(rig.cache.evict({ blocks: 2 })).toBe(true);
  expect(rig.cache.match(ids("aaaabbbbcccc")).tokens).toBe(8);
  expect(rig.cache.evict({ blocks: 5 })).toBe(false);
  expect(rig.cache.match(ids("xxxxyyyy")).tokens).toBe(8);
  rig.cache.release(pinned);
  expect(rig.cache.evict({ blocks: 6 })).toBe(true);
  expect(rig.cache.tree.nodeCount).toBe(0);
});

test("blocks carry the marks of the tiers that hold copies, through splits", () => {
  const rig = new Rig("lru", dense, 8);
  rig.run("aaaabbbbcccc.");
  rig.cache.mark(ids("aaaabbbbcccc"), onDisk, true, 0, 2);
  rig.cache.mark(ids("aaaabbbbcccc"), onRam, true, 1, 3);
  rig.run("aaaazzzz.");
  expect(rig.cache.match(ids("aaaabbbbcccc")).blocks.map((b) => b.tiers)).toEqual([
    onDisk,
    onDisk | onRam,
    onRam,
  ]);
  rig.cache.mark(ids("aaaabbbbcccc"), onDisk, false, 0, 3);
  expect(rig.cache.match(ids("aaaabbbbcccc")).blocks.map((b) => b.tiers)).toEqual([0, onRam, onRam]);
  rig.cache.evict({ blocks: 8 });
  expect(rig.cache.stats.blocksForgotten).toBe(2);
});

test("a hybrid prefix is reused only where a snapshot is: at the end, and at a branch from the third time on", () => {
  const rig = new Rig("marconi", hybrid, 32, 8);
  expect(rig.run("systemprompt-one")).toBe(0);
  expect(rig.run("systemprompt-two")).toBe(0); // discovers the branch point and takes a snapshot there
  expect(rig.run("systemprompt-six")).toBe("systemprompt-".length);
  expect(rig.run("systemprompt-one more")).toBe("systemprompt-one".length);
  expect(rig.cache.stats).toMatchObject({ branchHits: 1, endHits: 1 });
});

test("a node with one child loses its snapshot, and the child takes its KV", () => {
  const rig = new Rig("marconi", hybrid, 32, 2);
  rig.run("aaaabbbb");
  rig.run("aaaabbbbcccc");
  rig.run("aaaabbbbccccdddd");
  expect(rig.cache.tree.snapshotCount).toBe(2);
  expect(rig.cache.stats.snapshotsEvicted).toBe(1);
  expect(rig.cache.stats.blocksEvicted).toBe(0);
  expect(rig.run("aaaabbbbccccdddd!")).toBe(16);
});

test("a hybrid's prompt is also saved where others want it, each position once", () => {
  const rig = new Rig("marconi", hybrid, 16, 4);
  const text = "system: one";
  const own = rig.cache.snapshotPositions(ids(text), rig.start(text));
  const all = rig.cache.snapshotPositions(ids(text), rig.start(text), [8, 3, ...own]);
  expect(all).toEqual([...new Set([...own, 3, 8])].sort((x, y) => x - y));
});

test("the state that a request starts from is held until it has been copied", () => {
  const rig = new Rig("marconi", hybrid, 32, 1);
  rig.run("aaaabbbb");
  const lease = rig.cache.acquire(ids("aaaabbbbcccc"), 11);
  rig.compute(lease, "aaaabbbbcccc", 12);
  rig.cache.insert(lease, ids("aaaabbbbcccc"));
  expect(rig.cache.snapshotSlot()).toBeUndefined(); // evicted, but not free yet
  rig.cache.snapshotCopied(lease);
  expect(rig.cache.snapshotSlot()).toBe(lease.snapshot!.slot);
  rig.cache.dropSnapshotSlot(lease.snapshot!.slot);
  rig.cache.release(lease);
  rig.cache.check();
});

test("clear forgets everything that is not pinned", () => {
  const rig = new Rig("marconi", hybrid, 32, 8);
  for (const text of ["aaaabbbb", "aaaacccc", "aaaacccd", "zz"]) rig.run(text);
  const lease = rig.start("aaaabbbb!");
  rig.cache.clear();
  expect(rig.cache.match(ids("aaaabbbb")).tokens).toBe(8);
  rig.cache.release(lease);
  rig.cache.clear();
  expect([rig.cache.bytes, rig.pool.freeCount, rig.snapshotPool.freeCount]).toEqual([0, 32, 8]);
});

/** Many requests at once over few prefixes, in pools too small for all: chunks, aborts, snapshots, evictions. */
function swarm(random: Random, policy: PolicyName, cost: Cost, steps: number): number {
  const rig = new Rig(policy, cost, 12 + random.below(30), 1 + random.below(6));
  const prefixes = Array.from({ length: 4 }, () => word(random, 3 + random.below(20)));
  const running: { lease: Lease; text: string; done: number; snapshots: NewSnapshot[] }[] = [];
  let reused = 0;
  const giveBack = (snapshots: NewSnapshot[]): void => {
    for (const { slot, tail } of snapshots) {
      rig.cache.dropSnapshotSlot(slot);
      if (tail >= 0) rig.pool.release(tail);
    }
  };
  for (let step = 0; step < steps; step++) {
    if (running.length < 6 && random.below(3) === 0) {
      const text = random.pick(prefixes) + word(random, 1 + random.below(14));
      const lease = rig.start(text);
      reused += lease.tokens;
      running.push({ lease, text, done: lease.tokens, snapshots: [] });
    } else if (running.length > 0) {
      const at = random.below(running.length);
      const one = running[at]!;
      const end = Math.min(one.text.length, one.done + 1 + random.below(6));
      const isAborted = random.below(12) === 0 || !rig.compute(one.lease, one.text, end);
      if (!isAborted) {
        one.done = end;
        const wants = cost.bytesPerSnapshot > 0 && (end === one.text.length || random.below(4) === 0);
        const taken = wants ? rig.snapshot(one.text, end) : undefined;
        if (taken !== undefined) one.snapshots.push(taken);
        rig.cache.insert(one.lease, ids(one.text.slice(0, end)), one.snapshots);
        one.snapshots = [];
      }
      if (isAborted || one.done === one.text.length) {
        giveBack(one.snapshots);
        rig.cache.release(one.lease);
        running.splice(at, 1);
      }
    }
    rig.cache.check();
  }
  for (const { lease } of running) rig.cache.release(lease);
  rig.cache.check();
  rig.cache.clear();
  expect(rig.pool.freeCount).toBe(rig.pool.slotCount);
  expect(rig.snapshotPool.freeCount).toBe(rig.snapshotPool.slotCount);
  expect(rig.cache.bytes).toBe(0);
  return reused;
}

const word = (random: Random, length: number): string =>
  Array.from({ length }, () => "ab"[random.below(2)]).join("");

for (const [policy, cost] of [
  ["lru", dense],
  ["lfu", dense],
  ["length-aware", dense],
  ["marconi", dense],
  ["marconi", hybrid],
  ["sglang", hybrid],
  ["vllm", hybrid],
] as const) {
  const kind = cost === hybrid ? "hybrid" : "dense";
  test(`a swarm of requests under ${policy} (${kind}) gets only what it was promised and leaks nothing`, () => {
    const random = new Random(testSeed(`cache-prefix ${policy} ${kind}`));
    let reused = 0;
    for (let life = 0; life < 10; life++) reused += swarm(random, policy, cost, 250);
    expect(reused).toBeGreaterThan(0);
  });
}
