/** The store: one sentence a test, small numbers, a folder in memory. */
import { describe, expect, test, vi } from "vitest";
import { Random } from "../../src/base.ts";
import { decodeArchive, encodeArchive } from "../../src/tier/record/archive.ts";
import { exportPrefix, importPrefix } from "../../src/tier/store/prefix-file.ts";
import { RamBackend } from "../../src/tier/disk/ram.ts";
import type { Key } from "../../src/tier/record/keys.ts";
import { encodeRecord, headerBytesOf, type RecordDraft } from "../../src/tier/record/record.ts";
import { SegmentBackend } from "../../src/tier/disk/segments.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import type { StoreOptions } from "../../src/tier/store/store-options.ts";
import { FakeMedium, World } from "../fault/fake-disk.ts";
import { FakeTimer, settle } from "../fault/fake-timer.ts";
import { chain, FINGERPRINT, keyOf, keysOf, payloadOf, tokensOf } from "./make.ts";

const PAYLOAD_BYTES = 100;
const RECORD_BYTES = headerBytesOf(4) + PAYLOAD_BYTES;
const A = chain(1, 4, { payloadBytes: PAYLOAD_BYTES });
const B = chain(2, 4, { payloadBytes: PAYLOAD_BYTES });

interface Setting {
  world: World;
  timer: FakeTimer;
  notices: string[];
  open(options?: Partial<StoreOptions>): Promise<TierStore>;
}

function setting(): Setting {
  const world = new World(new Random(1));
  const timer = new FakeTimer();
  const notices: string[] = [];
  let processes = 0;
  const open = (options: Partial<StoreOptions> = {}): Promise<TierStore> => {
    const process = processes++;
    return TierStore.open({
      ramBytes: 1e6,
      diskBytes: 1e6,
      disk: () => new SegmentBackend(new FakeMedium(world, process), { segmentBytes: 2000 }),
      timer,
      clock: timer,
      nowEpochMs: () => timer.nowMs() + 1,
      onNotice: (code) => notices.push(code),
      ...options,
    });
  };
  return { world, timer, notices, open };
}

function putAll(store: TierStore, drafts: readonly RecordDraft[]): void {
  for (const draft of drafts) store.put(draft);
}

async function tierOfHit(store: TierStore, key: Key): Promise<string> {
  const found = await store.get(key);
  if (!found.hit) return found.reason;
  expect(found.record.payload).toEqual(payloadOf(key, PAYLOAD_BYTES));
  return found.tier;
}

describe("store", () => {
  test("what is put is served from RAM at once, and from disk by the next process", async () => {
    const { open } = setting();
    const first = await open();
    expect(first.put(A[0]!)).toBe("stored");
    expect(first.put(A[0]!)).toBe("known");
    expect(await tierOfHit(first, keyOf(A[0]!))).toBe("ram");
    expect(await first.close()).toEqual({ left: 0 });
    const second = await open();
    expect(await tierOfHit(second, keyOf(A[0]!))).toBe("disk");
    expect(await tierOfHit(second, keyOf(A[0]!))).toBe("ram");
    const { ram, disk } = await second.stats();
    expect([ram.hits, ram.promotions, disk.hits, ram.misses.absent]).toEqual([1, 1, 1, 1]);
    await second.close();
  });

  test("a memory-only record does not reach the disk, until it is put again for the disk", async () => {
    const { open } = setting();
    const store = await open();
    store.put(A[0]!, "ram");
    await store.drain(1000);
    expect((await store.stats()).disk.records).toBe(0);
    expect(store.put(A[0]!)).toBe("stored");
    await store.drain(1000);
    expect((await store.stats()).disk.records).toBe(1);
    await store.close();
  });

  test("has() gives the longest prefix by tier and stops at the first gap", async () => {
    const { open } = setting();
    const store = await open();
    putAll(store, A);
    await store.drain(1000);
    expect(store.demote(keyOf(A[1]!))).toBe(true);
    await store.drop([keyOf(A[3]!)]);
    expect(store.has(keysOf(A))).toEqual(["ram", "disk", "ram"]);
    await store.drop([keyOf(A[0]!)]);
    expect(store.has(keysOf(A))).toEqual([]);
    await store.close();
  });

  test("RAM evicts the far end of the chain used longest ago, and the disk still has it", async () => {
    const { open } = setting();
    const store = await open({ ramBytes: 5 * RECORD_BYTES });
    putAll(store, A);
    await store.drain(1000);
    putAll(store, B.slice(0, 2));
    await store.drain(1000);
    expect(store.has(keysOf(A))).toEqual(["ram", "ram", "ram", "disk"]);
    expect((await store.stats()).ram).toMatchObject({ records: 5, demotions: 1, drops: 0 });
    await store.close();
  });

  test("the disk evicts far ends to stay within its budget, never what the new record stands behind", async () => {
    const { open, world } = setting();
    const store = await open({ ramBytes: 0, diskBytes: 3 * RECORD_BYTES });
    const left: number[][] = [];
    for (const draft of [...A, ...B]) {
      store.put(draft);
      await store.drain(1000);
      left.push([store.has(keysOf(A)).length, store.has(keysOf(B)).length]);
    }
    expect(left).toEqual([
      ...[1, 2, 3, 3].map((a) => [a, 0]),
      ...[2, 1, 0, 0].map((a, b) => [a, Math.min(b + 1, 3)]),
    ]);
    const { disk } = await store.stats();
    expect(disk.bytes).toBeLessThanOrEqual(disk.budgetBytes);
    expect(disk.drops).toBe(3);
    while (await store.maintain());
    expect(world.bytes).toBeLessThan(12 * RECORD_BYTES);
    await store.close();
  });

  test("a record for the disk takes those before it along from RAM, and stays off the disk without them", async () => {
    const { open } = setting();
    const store = await open();
    for (const draft of A.slice(0, 2)) store.put(draft, "ram");
    store.put(B[0]!, "ram");
    store.put(A[2]!);
    store.put(B[2]!);
    await store.drain(1000);
    const onDisk = store.list().filter(({ tiers }) => tiers.includes("disk"));
    expect(new Set(onDisk.map(({ key }) => key))).toEqual(new Set(keysOf(A.slice(0, 3))));
    await store.close();
  });

  test("a policy of the caller's chooses the victim", async () => {
    const { open } = setting();
    const store = await open({
      ramBytes: 3 * RECORD_BYTES,
      choose: (entries) => [...entries].at(-1)?.key,
    });
    for (const draft of A) store.put(draft, "ram");
    expect(store.has(keysOf(A))).toEqual(["ram", "ram"]);
    expect(await tierOfHit(store, keyOf(A[3]!))).toBe("ram");
    await store.close();
  });

  test("a full queue drops the record that is cheapest to rebuild, and no record before its children", async () => {
    const { open } = setting();
    const store = await open({ ramBytes: 0, queueBytes: 3 * RECORD_BYTES });
    const costly = chain(9, 1, { payloadBytes: PAYLOAD_BYTES }).map((draft) => ({
      ...draft,
      rebuildCost: 99,
    }));
    putAll(store, [...A, ...costly]);
    const { queue } = await store.stats();
    expect(queue.dropped).toBe(2);
    await store.drain(1000);
    expect(store.has(keysOf(A))).toEqual(["disk", "disk"]);
    expect(await tierOfHit(store, keyOf(costly[0]!))).toBe("disk");
    await store.close();
  });

  test("a smaller budget takes effect at once", async () => {
    const { open } = setting();
    const store = await open();
    putAll(store, A);
    await store.drain(1000);
    await store.setBudgets({ ramBytes: RECORD_BYTES, diskBytes: 2 * RECORD_BYTES });
    const { ram, disk } = await store.stats();
    expect([ram.records, disk.records]).toEqual([1, 2]);
    await store.close();
  });

  test("clearing a namespace leaves the others, and its bytes are gone from the disk", async () => {
    const { open, world } = setting();
    const store = await open();
    const alice = chain(3, 4, { namespace: "alice", payloadBytes: PAYLOAD_BYTES });
    putAll(store, [...A, ...alice]);
    await store.drain(1000);
    expect(await store.clear({ namespace: "alice" })).toEqual({ complete: true });
    expect(store.has(keysOf(alice))).toEqual([]);
    expect(store.has(keysOf(A))).toHaveLength(4);
    expect(await store.clear()).toEqual({ complete: true });
    await store.close();
    expect([...world.files.keys()]).toEqual([]);
  });

  test("an expired record is a miss, counted, and goes", async () => {
    const { open, timer } = setting();
    const store = await open();
    const [draft] = chain(4, 1, { expiresAtMs: 5000 });
    store.put(draft!);
    await store.drain(1000);
    expect((await store.get(keyOf(draft!))).hit).toBe(true);
    timer.advance(6000);
    expect(await store.get(keyOf(draft!))).toEqual({ hit: false, reason: "expired" });
    expect(store.list()).toEqual([]);
    store.put(draft!); // as old as before
    await store.drain(1000);
    expect(store.has([keyOf(draft!)])).toEqual([]);
    expect(store.list()).toEqual([]);
    expect((await store.stats()).ram.misses.expired).toBe(2);
    await store.close();
  });

  test("KV at rest in 8 bits is served by a store that asks for 8 or 4, not by one that asks for none", async () => {
    const { open } = setting();
    const layout = { layers: 1, kvHeads: 1, headDim: 32, blockTokens: 4, dtype: "f32" } as const;
    const values = Float32Array.from({ length: 256 }, (_, i) => Math.sin(i));
    const draft = { ...A[0]!, payload: new Uint8Array(values.buffer), layout };
    const quantising = await open({ atRestBits: 8 });
    quantising.put(draft);
    await quantising.close();
    const exact = await open();
    expect(await exact.match([keyOf(draft)])).toEqual([]);
    expect(await exact.get(keyOf(draft))).toEqual({ hit: false, reason: "encoding" });
    await exact.close();
    const coarse = await open({ atRestBits: 4 });
    const found = await coarse.get(keyOf(draft));
    expect(found.hit && found.record.encoding).toBe("kivi8");
    const read = found.hit ? new Float32Array(found.record.payload.slice().buffer) : [];
    values.forEach((value, i) => expect(Math.abs(value - (read[i] as number))).toBeLessThan(0.01));
    await coarse.close();
    const again = await open();
    again.put(draft);
    expect(await again.close()).toEqual({ left: 0 });
    const exactNow = await open();
    expect((await exactNow.get(keyOf(draft))).hit).toBe(true);
    await exactNow.close();
  });

  test("states at rest in 16 bits take half the room, and are served by a store that asks for them alone", async () => {
    const { open } = setting();
    const numbers = Float32Array.from({ length: 256 }, (_, i) => 30 * Math.sin(i));
    const begun = Uint8Array.from({ length: 40 }, (_, i) => i);
    const payload = new Uint8Array([...new Uint8Array(numbers.buffer), ...begun]);
    const draft = { ...A[0]!, kind: "snapshot", payload, stateBytes: 1024 } as const;
    const tooLarge = new Uint8Array(Float32Array.of(1, 70_000).buffer);
    const kept = { ...draft, tokens: A[1]!.tokens, payload: tooLarge, stateBytes: 8 };
    const halving = await open({ atRestStateBits: 16 });
    for (const each of [draft, kept]) halving.put(each);
    await halving.close();
    const exact = await open();
    expect(await exact.get(keyOf(draft))).toEqual({ hit: false, reason: "encoding" });
    expect(await exact.get(keyOf(kept))).toEqual({ hit: false, reason: "encoding" }); // raw, but it may come of half ones
    await exact.close();
    const again = await open({ atRestStateBits: 16 });
    const small = again.list().find(({ encoding }) => encoding === "half");
    expect(small?.bytes).toBe(headerBytesOf(draft.tokens.length) + 4 + 512 + 40);
    const found = await again.get(keyOf(draft));
    const bytes = found.hit ? found.record.payload.slice() : new Uint8Array(0);
    const read = new Float32Array(bytes.buffer, 0, 256);
    numbers.forEach((value, i) => expect(Math.abs(value - (read[i] as number))).toBeLessThan(0.01));
    expect(bytes.subarray(1024)).toEqual(begun);
    const raw = await again.get(keyOf(kept));
    expect(raw.hit && raw.record.payload).toEqual(tooLarge);
    await again.close();
  });

  test("what a quantising store is given counts as computed from what it gave, whatever its form", async () => {
    const { open } = setting();
    const [block, next] = A as [RecordDraft, RecordDraft]; // without a layout: stored raw
    const state = { ...next, kind: "snapshot" } as const;
    for (const atRestBits of [4, 8] as const) {
      const quantising = await open({ atRestBits });
      for (const draft of [block, state]) quantising.put(draft);
      await quantising.drain(1000);
      const marks = quantising.list().map(({ encoding, coarsest }) => [encoding, coarsest]);
      expect(marks).toEqual(Array(2).fill(["raw", `kivi${atRestBits}`]));
      expect(quantising.has([keyOf(block)])).toHaveLength(1);
      await quantising.close();
      const exact = await open();
      for (const draft of [block, state]) {
        expect(exact.has([keyOf(draft)])).toEqual([]);
        expect(await exact.get(keyOf(draft))).toEqual({ hit: false, reason: "encoding" });
      }
      await exact.close();
    }
    const better = await open({ atRestBits: 8 }); // the last to write were 8 bits
    expect((await better.get(keyOf(state))).hit).toBe(true);
    better.put(next);
    await better.close();
    const exact = await open();
    for (const draft of [block, state, next]) exact.put(draft);
    await exact.close();
    const again = await open();
    for (const draft of [block, state, next]) {
      const found = await again.get(keyOf(draft));
      expect(found.hit && found.record.coarsest).toBe("raw");
    }
    await again.close();
  });

  test("an archive carries the mark, and an exact store refuses what it would not serve", async () => {
    const quantising = await TierStore.open({ ramBytes: 1e6, atRestBits: 4 });
    putAll(quantising, A);
    const prefix = {
      fingerprint: FINGERPRINT,
      blockTokens: 4,
      tokens: tokensOf(A),
    };
    const { archive } = await exportPrefix(quantising, { ...prefix, keys: keysOf(A) });
    const content = decodeArchive(archive);
    expect(content.blocks.map(({ coarsest }) => coarsest)).toEqual(Array(4).fill("kivi4"));
    const exact = await TierStore.open({ ramBytes: 1e6 });
    expect(importPrefix(exact, content)).toEqual({ keys: [], rejected: { encoding: 4 } });
    expect(exact.list()).toEqual([]);
    const eight = await TierStore.open({ ramBytes: 1e6, atRestBits: 8 });
    expect(importPrefix(eight, content).rejected).toEqual({ encoding: 4 });
    await quantising.clear();
    expect(importPrefix(quantising, content).keys).toEqual(keysOf(A));
    const expired = chain(1, 2, { expiresAtMs: 1 }).map((draft) => encodeRecord(draft));
    const old = encodeArchive({ ...prefix, tokens: Uint32Array.from(prefix.tokens.slice(0, 8)) }, expired);
    expect(importPrefix(exact, decodeArchive(old)).rejected).toEqual({ expired: 2 });
    for (const store of [quantising, exact, eight]) await store.close();
  });

  test("a prefix moves as one file, into another namespace too", async () => {
    const { open } = setting();
    const source = await open();
    putAll(source, A);
    const whole = chain(1, 5);
    const prefix = {
      fingerprint: FINGERPRINT,
      blockTokens: 4,
      tokens: tokensOf(whole),
    };
    const { archive, blocks, missing } = await exportPrefix(source, { ...prefix, keys: keysOf(whole) });
    expect([blocks, missing]).toEqual([4, 1]);
    await source.clear();
    const content = decodeArchive(archive);
    expect(importPrefix(source, content)).toEqual({ keys: keysOf(A), rejected: {} });
    expect(source.has(keysOf(A))).toHaveLength(4);
    const bob = chain(1, 4, { namespace: "bob" });
    expect(importPrefix(source, content, { namespace: "bob" }).keys).toEqual(keysOf(bob));
    for (const draft of bob) {
      const found = await source.get(keyOf(draft), { tokens: draft.tokens });
      expect(found.hit).toBe(true);
    }
    for (const damaged of [
      archive.slice(0, -1),
      new Uint8Array(10),
      Uint8Array.from(archive, (byte) => byte ^ 1),
    ]) {
      expect(() => decodeArchive(damaged)).toThrow(/KV archive/);
    }
    await source.close();
  });

  test("without a disk the store is its RAM", async () => {
    const store = await TierStore.open({ ramBytes: 1e6 });
    putAll(store, A);
    expect(store.has(keysOf(A))).toHaveLength(4);
    expect((await store.stats()).disk.state).toBe("none");
    expect(await store.clear()).toEqual({ complete: true });
    await store.close();
    expect(store.put(A[0]!)).toBe("refused");
    expect(await store.get(keyOf(A[0]!))).toEqual({ hit: false, reason: "closed" });
  });

  test("a disk that refuses to open is told once, and the store goes on", async () => {
    const { open, notices, timer } = setting();
    const store = await open({ disk: () => Promise.reject(new Error("private mode")), reopenDelayMs: 10 });
    putAll(store, A);
    for (let i = 0; i < 3; i++) {
      timer.advance(20);
      await store.maintain();
    }
    expect(notices).toEqual(["disk_unavailable"]);
    expect(store.has(keysOf(A))).toHaveLength(4);
    await store.close();
  });

  test("a hung disk is let go after the time limit, told once, and opened again later", async () => {
    const { open, notices, timer, world } = setting();
    const store = await open({ reopenDelayMs: 100, ioTimeoutMs: 50 });
    world.rates = { hang: 1 };
    putAll(store, A);
    await settle(timer, store.drain(1000));
    expect(notices).toEqual(["disk_hung"]);
    expect(store.stateOf("disk")).toBe("lost");
    expect(store.has(keysOf(A))).toHaveLength(4);
    world.rates = {};
    timer.advance(200);
    await store.maintain();
    expect(notices).toEqual(["disk_hung", "disk_back"]);
    putAll(store, B);
    await settle(timer, store.drain(1000));
    expect((await store.stats()).disk.records).toBe(4);
    await settle(timer, store.close());
  });

  test("a full disk is told once; the store frees room and goes on", async () => {
    const { open, notices, timer, world } = setting();
    const store = await open();
    putAll(store, A);
    await store.drain(1000);
    world.rates = { full: 1 };
    putAll(store, B);
    await settle(timer, store.drain(1000));
    expect(notices).toEqual(["disk_full"]);
    world.rates = {};
    const fresh = chain(5, 1, { payloadBytes: PAYLOAD_BYTES });
    putAll(store, fresh);
    await settle(timer, store.drain(1000));
    expect(await tierOfHit(store, keyOf(fresh[0]!))).toBe("ram");
    await store.close();
  });

  test("many who ask for one record at the same time read it once", async () => {
    const backend = new RamBackend();
    let reads = 0;
    const read = backend.read.bind(backend);
    backend.read = (key) => {
      reads++;
      return read(key);
    };
    const store = await TierStore.open({ ramBytes: 0, diskBytes: 1e6, disk: () => backend });
    store.put(A[0]!);
    await store.drain(1000);
    const found = await Promise.all(Array.from({ length: 20 }, () => store.get(keyOf(A[0]!))));
    expect(found.every(({ hit }) => hit)).toBe(true);
    expect(reads).toBe(1);
    await store.close();
  });

  test("two stores on one disk: the second reads what the first wrote", async () => {
    const { open } = setting();
    const [first, second] = [await open(), await open({ refreshAfterMs: 0 })];
    putAll(first, A);
    await first.drain(1000);
    expect(await second.match(keysOf(A))).toEqual(["disk", "disk", "disk", "disk"]);
    expect(await tierOfHit(second, keyOf(A[2]!))).toBe("disk");
    await first.close();
    await second.close();
  });

  test("more than the disk holds is written in parts, and the last of it stays", async () => {
    const { open } = setting();
    const store = await open({ ramBytes: 0, diskBytes: 3 * RECORD_BYTES });
    putAll(store, [...A, ...B]);
    expect(await store.drain(1000)).toEqual({ left: 0 });
    expect((await store.stats()).disk.records).toBe(3);
    await store.close();
  });

  test("a clear reaches the other tab's memory", async () => {
    const { open } = setting();
    const options = { hintsChannel: "tidepool-test-hints" };
    const [first, second] = [await open(options), await open(options)];
    putAll(first, A);
    await first.drain(1000);
    await second.refresh();
    for (const key of keysOf(A)) expect(await tierOfHit(second, key)).toBe("disk");
    expect((await second.stats()).ram.records).toBe(4);
    expect(await first.clear()).toEqual({ complete: true });
    await vi.waitFor(async () => expect((await second.stats()).ram.records).toBe(0));
    await first.close();
    await second.close();
  });
});
