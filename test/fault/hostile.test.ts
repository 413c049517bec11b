/** A hostile store: whatever lies on the disk, it is a miss with a reason, counted, and never an exception. */
import { beforeEach, describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { sameBytes } from "../../src/tier/record/checksum.ts";
import { fingerprintOf } from "../../src/tier/record/keys.ts";
import { decodeRecord, encodeRecord, type MissReason } from "../../src/tier/record/record.ts";
import { SegmentBackend } from "../../src/tier/disk/segments.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import { chain, encoded, FINGERPRINT, keyOf, keysOf, payloadOf } from "../tier/make.ts";
import { testSeed } from "../support/seed.ts";
import { FakeMedium, World } from "./fake-disk.ts";

const PAYLOAD_BYTES = 200;
const drafts = chain(1, 20, { payloadBytes: PAYLOAD_BYTES });
const keys = keysOf(drafts);
const payloads = new Map(keys.map((key) => [key, payloadOf(key, PAYLOAD_BYTES)]));

const random = new Random(testSeed("hostile store"));
let world: World;
let nextProcess = 0;

beforeEach(() => {
  world = new World(random);
});

async function openStore(): Promise<TierStore> {
  const process = nextProcess++;
  const disk = (): SegmentBackend =>
    new SegmentBackend(new FakeMedium(world, process), { segmentBytes: 4096 });
  return TierStore.open({ ramBytes: 1e6, diskBytes: 1e6, disk, nowEpochMs: () => 1000 });
}

async function fill(): Promise<void> {
  const store = await openStore();
  for (const draft of drafts) store.put(draft);
  expect(await store.close()).toEqual({ left: 0 });
}

/** Gets every key; hits must be right. Returns the counted misses. */
async function probe(): Promise<{
  hits: number;
  /** Records from the root on before the first miss. */
  unbroken: number;
  misses: Partial<Record<MissReason, number>>;
}> {
  const store = await openStore();
  let hits = 0;
  let unbroken = 0;
  for (const [index, key] of keys.entries()) {
    const found = await store.get(key, { fingerprint: FINGERPRINT });
    if (!found.hit) continue;
    hits++;
    if (unbroken === index) unbroken++;
    expect(sameBytes(found.record.payload, payloads.get(key)!)).toBe(true);
  }
  const { misses } = (await store.stats()).disk;
  await store.close();
  const counted = Object.entries(misses).filter(([, count]) => count > 0);
  return { hits, unbroken, misses: Object.fromEntries(counted) as Partial<Record<MissReason, number>> };
}

const dataFiles = (): string[] => [...world.files.keys()].filter((name) => name.endsWith(".data"));
const noise = (bytes: number): Uint8Array => Uint8Array.from({ length: bytes }, () => random.below(256));

describe("hostile store", () => {
  test(
    "1,000 flipped bits, one store each: no wrong byte, every miss counted",
    { timeout: 120_000 },
    async () => {
      await fill();
      const pristine = new Map(
        [...world.files.keys()].map((name) => [name, world.content(name) as Uint8Array]),
      );
      const reasons = new Map<string, number>();
      for (let i = 0; i < 1000; i++) {
        world.files.clear();
        for (const [name, bytes] of pristine) world.plant(name, bytes);
        world.rot();
        const { hits, unbroken, misses } = await probe();
        // One record is lost, and with it, if it is gone at the start, those behind it: nothing could reach them.
        if (hits < keys.length - 1) expect(hits).toBe(unbroken);
        expect(hits + Object.values(misses).reduce((sum, count) => sum + count, 0)).toBe(keys.length);
        for (const reason of Object.keys(misses)) reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
      }
      console.log("misses by reason:", Object.fromEntries(reasons));
      expect([...reasons.keys()].sort()).toEqual(
        expect.arrayContaining(["absent", "header", "payload"]) as unknown as string[],
      );
    },
  );

  test("1,000 flipped bits in one record's bytes: every single one is found", () => {
    const record = encodeRecord(drafts[0]!);
    for (let i = 0; i < 1000; i++) {
      const bad = record.slice();
      const bit = random.below(bad.length * 8);
      bad[bit >> 3] = (bad[bit >> 3] as number) ^ (1 << (bit & 7));
      expect(decodeRecord(bad).ok, `bit ${bit}`).toBe(false);
    }
  });

  test("every truncation of a record is a miss", () => {
    const record = encodeRecord(drafts[0]!);
    for (let length = 0; length < record.length; length++) {
      expect(decodeRecord(record.subarray(0, length))).toEqual({ ok: false, reason: "short" });
    }
  });

  test("data files of random bytes: all misses", async () => {
    await fill();
    for (const name of dataFiles()) world.plant(name, noise(world.content(name)!.length));
    const { hits, misses } = await probe();
    expect(hits).toBe(0);
    expect(misses).toEqual({ magic: keys.length });
  });

  test("truncated data files: what is whole is served, the rest are misses", async () => {
    await fill();
    for (const name of dataFiles()) world.plant(name, world.content(name)!.slice(0, 1500));
    const { hits, misses } = await probe();
    expect(hits).toBeGreaterThan(0);
    expect(hits + (misses.short ?? 0)).toBe(keys.length);
  });

  test("segment logs of random bytes and foreign files: opens, all absent, and the rubbish goes", async () => {
    await fill();
    for (const name of [...world.files.keys()]) world.plant(name, noise(1000));
    world.plant("README.txt", noise(10));
    world.plant("0000000000000000-000000.trail", noise(200_000));
    expect(await probe()).toEqual({ hits: 0, unbroken: 0, misses: { absent: keys.length } });
    const store = await openStore();
    while (await store.maintain());
    await store.close();
    expect([...world.files.keys()]).toEqual(["README.txt"]);
  });

  test("two files with their names exchanged: every record is still checked against its key", async () => {
    await fill();
    const [a, b] = dataFiles() as [string, string];
    const [first, second] = [world.content(a)!, world.content(b)!];
    world.plant(a, second);
    world.plant(b, first);
    const { hits, misses } = await probe();
    expect(hits + Object.values(misses).reduce((sum, count) => sum + count, 0)).toBe(keys.length);
    expect(misses.key ?? 0).toBeGreaterThan(0);
  });

  test("another model's records, another format version, other tokens", async () => {
    await fill();
    const store = await openStore();
    const key = keys[0]!;
    const other = fingerprintOf({ weights: "other" });
    expect(await store.get(key, { fingerprint: other })).toEqual({ hit: false, reason: "fingerprint" });
    expect(await store.get(key, { tokens: [1, 2, 3, 4] })).toEqual({ hit: false, reason: "tokens" });
    expect((await store.get(key, { tokens: drafts[0]!.tokens })).hit).toBe(true);
    await store.close();
    const [record] = encoded([drafts[0]!]) as [Uint8Array];
    record[4] = 99;
    expect(decodeRecord(record)).toEqual({ ok: false, reason: "version" });
  });

  test("a record whose checksums are right but whose tokens are not its key's is no hit", () => {
    const honest = encodeRecord(drafts[0]!);
    const forged = encodeRecord({ ...drafts[0]!, tokens: [9, 9, 9, 9] });
    forged.set(honest.subarray(16, 32), 16); // claims the honest key; its header checksum no longer fits
    expect(decodeRecord(forged)).toEqual({ ok: false, reason: "header" });
    expect(keyOf(drafts[0]!)).not.toBe(keyOf({ ...drafts[0]!, tokens: [9, 9, 9, 9] }));
  });
});
