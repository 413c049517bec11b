/**
 * Tiers are data: a third tier between RAM and disk, behind the disk, or in memory beside RAM is an entry in the list, and
 * storing, finding, evicting, promoting, demoting, numbers, budgets, the tree and clearing follow from it.
 */
import { describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { RamBackend } from "../../src/tier/disk/ram.ts";
import { SegmentBackend } from "../../src/tier/disk/segments.ts";
import type { Delta } from "../../src/tier/disk/backend.ts";
import { headerBytesOf, infoOf } from "../../src/tier/record/record.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import type { AsyncTierSpec, SyncTierSpec, TierSpec } from "../../src/tier/tiers/tier-list.ts";
import { placesOf } from "../../src/worker/cache/tree.ts";
import { FakeMedium, World } from "../fault/fake-disk.ts";
import { FakeTimer } from "../fault/fake-timer.ts";
import { chain, keyOf, keysOf, payloadOf } from "./make.ts";

const PAYLOAD_BYTES = 100;
const RECORD_BYTES = headerBytesOf(4) + PAYLOAD_BYTES;
const A = chain(1, 4, { payloadBytes: PAYLOAD_BYTES });
const B = chain(2, 4, { payloadBytes: PAYLOAD_BYTES });
const [FIRST, SECOND] = keysOf(A) as [string, string];

/** The usual disk, and a toy: what is behind it lies in this process, but the store has to wait for it. */
class Toys {
  readonly world = new World(new Random(1));
  /** The toy's records, which outlive a store. */
  readonly toyRecords = new Map<string, Uint8Array>();
  private readonly timer = new FakeTimer();
  private processes = 0;

  ram(records = 100): SyncTierSpec {
    return { kind: "sync", name: "ram", maxBytes: records * RECORD_BYTES };
  }

  disk(records = 100): AsyncTierSpec {
    const make = () =>
      new SegmentBackend(new FakeMedium(this.world, this.processes++), { segmentBytes: 2000 });
    return { kind: "async", name: "disk", maxBytes: records * RECORD_BYTES, make };
  }

  toy(records = 100): AsyncTierSpec {
    return {
      kind: "async",
      name: "toy",
      maxBytes: records * RECORD_BYTES,
      make: () => new ToyBackend(this.toyRecords),
    };
  }

  open(tiers: readonly TierSpec[]): Promise<TierStore> {
    const { timer } = this;
    return TierStore.open({ tiers, timer, clock: timer, nowEpochMs: () => timer.nowMs() + 1 });
  }
}

/** Keeps its records in a map that outlives it. */
class ToyBackend extends RamBackend {
  private readonly kept: Map<string, Uint8Array>;

  constructor(kept: Map<string, Uint8Array>) {
    super();
    this.kept = kept;
    for (const [key, record] of kept) this.set(key, record);
  }

  override append(records: readonly Uint8Array[]): Promise<Delta> {
    for (const record of records) this.kept.set(infoOf(record).key, record);
    return super.append(records);
  }

  override delete(key: string): boolean {
    this.kept.delete(key);
    return super.delete(key);
  }
}

async function tierOfHit(store: TierStore, key: string): Promise<string> {
  const found = await store.get(key);
  if (!found.hit) return found.reason;
  expect(found.record.payload).toEqual(payloadOf(key, PAYLOAD_BYTES));
  return found.tier;
}

async function filled(store: TierStore): Promise<TierStore> {
  for (const draft of A) expect(store.put(draft)).toBe("stored");
  expect(await store.drain(1000)).toEqual({ left: 0 });
  return store;
}

const recordsOf = async (store: TierStore): Promise<(string | number)[][]> =>
  (await store.stats()).tiers.map(({ name, records }) => [name, records]);

describe.each([
  ["between RAM and disk", ["ram", "toy", "disk"]],
  ["behind the disk", ["ram", "disk", "toy"]],
] as const)("a tier %s", (_place, names) => {
  const list = (toys: Toys, ramRecords?: number): TierSpec[] =>
    names.map((name) => (name === "ram" ? toys.ram(ramRecords) : toys[name]()));
  const [, second, third] = names;

  test("gets what is put, stands in lists, numbers and the tree under its name, and comes before slower ones", async () => {
    const toys = new Toys();
    const store = await filled(await toys.open(list(toys)));
    expect(store.tierNames).toEqual(names);
    expect(store.tiersOf(FIRST)).toEqual(names);
    expect(store.list().map(({ tiers }) => tiers)).toEqual(A.map(() => names));
    expect(store.childrenOf(FIRST).map(({ tiers }) => tiers)).toEqual([names]);
    expect(await recordsOf(store)).toEqual(names.map((name) => [name, 4]));
    expect(placesOf(store.tierNames).map(({ name }) => name)).toEqual(["gpu", ...names]);
    expect(new Set(placesOf(store.tierNames).map(({ bit }) => bit)).size).toBe(4);
    expect([store.slowest("memory"), store.slowest("anywhere")]).toEqual(["ram", third]);
    await store.close();
  });

  test("takes only what may go so far", async () => {
    const toys = new Toys();
    const store = await toys.open(list(toys));
    store.put(A[0]!, "ram");
    store.put(B[0]!, second);
    await store.drain(1000);
    expect([store.tiersOf(FIRST), store.tiersOf(keyOf(B[0]!))]).toEqual([["ram"], ["ram", second]]);
    expect(store.persist(FIRST)).toBe(true);
    await store.drain(1000);
    expect(store.tiersOf(FIRST)).toEqual(names);
    await store.close();
  });

  test("serves the next process, and what is found in it goes into the faster tiers", async () => {
    const toys = new Toys();
    await (await filled(await toys.open(list(toys)))).close();
    const only = names.filter((name) => name !== second);
    toys.toyRecords.delete(keyOf(A[3]!));
    const missing = await toys.open(list(toys));
    expect(await tierOfHit(missing, FIRST)).toBe(second);
    expect(await tierOfHit(missing, FIRST)).toBe("ram");
    expect(await tierOfHit(missing, keyOf(A[3]!))).toBe("disk");
    await missing.close();
    const fresh = new Toys();
    await (
      await filled(await fresh.open(list(fresh).filter(({ name }) => only.includes(name as never))))
    ).close();
    const store = await fresh.open(list(fresh));
    expect(store.tiersOf(FIRST)).toEqual([third]);
    expect(await tierOfHit(store, FIRST)).toBe(third);
    await store.drain(1000);
    expect(store.tiersOf(FIRST)).toEqual(names);
    const { tiers } = await store.stats();
    expect(tiers.map(({ hits, promotions }) => [hits, promotions])).toEqual([
      [0, 1],
      [0, 0],
      [1, 1],
    ]);
    await store.close();
  });

  test("has its own budget: what it gives up the other still has, and the numbers tell", async () => {
    const toys = new Toys();
    const store = await filled(await toys.open(list(toys, 2)));
    expect((await recordsOf(store))[0]).toEqual(["ram", 2]);
    expect((await store.stats()).tiers[0]).toMatchObject({ demotions: 2, drops: 0 });
    await store.setBudgets({ [`${second}Bytes`]: RECORD_BYTES, ramBytes: 0 } as Record<
      `${string}Bytes`,
      number
    >);
    expect(await recordsOf(store)).toEqual([
      ["ram", 0],
      [second, 1],
      [third, 4],
    ]);
    expect(store.has(keysOf(A))).toEqual([second, third, third, third]);
    await store.close();
  });

  test("lets RAM free a record's place, is checked, and is cleared with the others", async () => {
    const toys = new Toys();
    const store = await filled(await toys.open(list(toys)));
    expect(store.demote(SECOND)).toBe(true);
    expect(store.has(keysOf(A))).toEqual(["ram", second, "ram", "ram"]);
    expect(await store.promote(SECOND)).toBe(true);
    expect(store.tiersOf(SECOND)).toEqual(names);
    expect(await store.verify()).toEqual({ checked: 8, bad: {} });
    expect(await store.drop([FIRST])).toBe(true);
    expect(store.tiersOf(FIRST)).toEqual([]);
    expect(await store.clear()).toEqual({ complete: true });
    expect(await recordsOf(store)).toEqual(names.map((name) => [name, 0]));
    expect(toys.toyRecords.size).toBe(0);
    await store.close();
  });

  test("that has a damaged record loses that record alone, and a slower one serves it", async () => {
    const toys = new Toys();
    await (await filled(await toys.open(list(toys)))).close();
    const damaged = toys.toyRecords.get(FIRST) as Uint8Array;
    damaged[damaged.length - 1]! ^= 1;
    const store = await toys.open(list(toys));
    expect(await tierOfHit(store, FIRST)).toBe("disk");
    const { bad } = await store.verify();
    expect(bad.payload ?? 0).toBe(second === "toy" ? 0 : 1);
    expect(store.tiersOf(FIRST)).toEqual(expect.arrayContaining(["ram", "disk"]));
    await store.close();
  });

  test("is lost and the others go on, under its own name", async () => {
    const toys = new Toys();
    const notices: string[] = [];
    const broken = { ...toys.toy(), make: () => Promise.reject(new Error("no such toy")) };
    const tiers = list(toys).map((spec) => (spec.name === "toy" ? broken : spec));
    const store = await TierStore.open({ tiers, onNotice: (code) => notices.push(code) });
    await filled(store);
    expect([notices, store.stateOf("toy"), store.isLasting]).toEqual([["toy_unavailable"], "lost", true]);
    expect(store.tiersOf(FIRST)).toEqual(["ram", "disk"]);
    await store.close();
  });
});

test("a second tier in memory takes what the first evicts, and gives it back on a hit", async () => {
  const toys = new Toys();
  const slow: SyncTierSpec = { kind: "sync", name: "slow", maxBytes: 2 * RECORD_BYTES };
  const store = await toys.open([toys.ram(2), slow]);
  for (const draft of A) store.put(draft);
  expect(store.has(keysOf(A))).toEqual(["slow", "slow", "ram", "ram"]);
  expect(await tierOfHit(store, FIRST)).toBe("slow");
  expect(store.tiersOf(FIRST)).toEqual(["ram"]);
  expect((await recordsOf(store)).map(([, records]) => records)).toEqual([2, 2]);
  store.put(B[0]!);
  const { tiers } = await store.stats();
  expect(tiers.map(({ drops }) => drops)).toEqual([0, 1]);
  await store.close();
});

test("a list that no store can work with is refused", async () => {
  const toys = new Toys();
  await expect(toys.open([toys.disk()])).rejects.toThrow("the first tier of a store must be synchronous");
  await expect(toys.open([toys.ram(), toys.toy(), toys.toy()])).rejects.toThrow("ram, toy, toy");
});
