/** Keys, records, segment log entries, archives, and the small structures of the store against naive models. */
import { describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { checksum } from "../../src/tier/record/checksum.ts";
import { chainKeys, fingerprintOf, rootKey, snapshotKey, type Key } from "../../src/tier/record/keys.ts";
import {
  decodeRecord,
  encodeRecord,
  headerBytesOf,
  infoOf,
  mismatchOf,
  type RecordDraft,
  type RecordInfo,
} from "../../src/tier/record/record.ts";
import { TierIndex } from "../../src/tier/tiers/tier-index.ts";
import {
  decodeLogEntry,
  encodeRecordEntry,
  encodeTombstone,
  parseSegmentFile,
} from "../../src/tier/disk/segment-log.ts";
import { WriteQueue } from "../../src/tier/store/write-queue.ts";
import { testSeed } from "../support/seed.ts";
import { chain, encoded, FINGERPRINT, keyOf, keysOf, payloadOf } from "./make.ts";

describe("keys", () => {
  const tokens = Array.from({ length: 10 }, (_, i) => i);

  test("a chain has a key for each full block, of 128 bits, and shares those of a shared prefix", () => {
    const keys = chainKeys(FINGERPRINT, "", tokens, 4);
    expect(keys).toHaveLength(2);
    for (const key of keys) expect(key).toMatch(/^[0-9a-f]{32}$/);
    expect(chainKeys(FINGERPRINT, "", [...tokens.slice(0, 7), 99], 4)[0]).toBe(keys[0]);
    expect(chainKeys(FINGERPRINT, "", [...tokens.slice(0, 7), 99], 4)[1]).not.toBe(keys[1]);
    expect(chainKeys(FINGERPRINT, "", [99, ...tokens.slice(1)], 4)[1]).not.toBe(keys[1]);
  });

  test("model, namespace, block size and kind all change the keys", () => {
    const keys = new Set<Key>();
    for (const fingerprint of [FINGERPRINT, fingerprintOf({ weights: "v" })]) {
      for (const namespace of ["", "alice", "bob"]) {
        for (const key of chainKeys(fingerprint, namespace, tokens, 4)) keys.add(key);
        keys.add(chainKeys(fingerprint, namespace, tokens, 5)[0]!);
        keys.add(snapshotKey(fingerprint, namespace, tokens.slice(0, 4), 4));
        keys.add(snapshotKey(fingerprint, namespace, tokens, 4));
        keys.add(rootKey(fingerprint, namespace));
      }
    }
    expect(keys.size).toBe(2 * 3 * 6);
  });

  test("a fingerprint depends on names and values, not on their order", () => {
    expect(fingerprintOf({ a: 1, b: "x" })).toBe(fingerprintOf({ b: "x", a: 1 }));
    expect(fingerprintOf({ a: 1, b: "x" })).not.toBe(fingerprintOf({ a: "x", b: 1 }));
    expect(fingerprintOf({ ab: "c" })).not.toBe(fingerprintOf({ a: "bc" }));
  });
});

describe("records", () => {
  test("a payload with room for its header becomes the record without a copy", () => {
    const draft = chain(1, 1, { payloadBytes: 20 })[0]!;
    const room = headerBytesOf(draft.tokens.length);
    const buffer = new Uint8Array(room + 20).fill(7); // what is in the room does not matter
    buffer.set(draft.payload, room);
    const record = encodeRecord({ ...draft, payload: buffer.subarray(room), hasHeaderRoom: true });
    expect(record.buffer).toBe(buffer.buffer);
    expect(record).toEqual(encodeRecord(draft));
    const { payload } = draft;
    expect(() => encodeRecord({ ...draft, payload, hasHeaderRoom: true })).toThrow("room for its header");
  });

  test("what is encoded comes back, whatever the sizes", () => {
    const random = new Random(testSeed("records"));
    for (let i = 0; i < 200; i++) {
      const blockTokens = 1 + random.below(40);
      const [draft] = chain(random.below(1000), 1, { blockTokens, payloadBytes: random.below(300) });
      const bytes = encodeRecord(draft!);
      const shifted = new Uint8Array(bytes.length + 3);
      shifted.set(bytes, 3); // a view that is not aligned
      for (const view of [bytes, shifted.subarray(3)]) {
        const decoded = decodeRecord(view);
        expect(decoded.ok && [...decoded.record.tokens]).toEqual(draft!.tokens);
        expect(decoded.ok && decoded.record.payload).toEqual(draft!.payload);
        expect(decoded.ok && decoded.record.key).toBe(keyOf(draft!));
      }
    }
  });

  test("every single flipped bit of a small record is found", () => {
    const bytes = encodeRecord(chain(1, 1, { payloadBytes: 20 })[0]!);
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      bytes[bit >> 3]! ^= 1 << (bit & 7);
      expect(decodeRecord(bytes).ok).toBe(false);
      bytes[bit >> 3]! ^= 1 << (bit & 7);
    }
    expect(decodeRecord(bytes).ok).toBe(true);
  });

  test("what a record was computed from is marked, and older records, which do not say it, are a miss", () => {
    const [draft] = chain(1, 1);
    const markOf = (more: Partial<RecordDraft>) => {
      const decoded = decodeRecord(encodeRecord({ ...draft!, ...more }));
      return decoded.ok ? decoded.record.coarsest : decoded.reason;
    };
    expect(markOf({})).toBe("raw");
    expect(markOf({ coarsest: "kivi8" })).toBe("kivi8");
    expect(markOf({ encoding: "kivi4" })).toBe("kivi4");
    expect(markOf({ encoding: "kivi4", coarsest: "kivi8" })).toBe("kivi4");
    const record = encodeRecord({ ...draft!, coarsest: "kivi8" });
    expect(decodeLogEntry(encodeRecordEntry(record, 0))).toMatchObject({ info: { coarsest: "kivi8" } });
    const old = record.slice();
    new DataView(old.buffer).setUint16(4, 1, true); // versions were 16 bits wide
    expect(decodeRecord(old)).toEqual({ ok: false, reason: "version" });
  });

  test("what was asked for is compared", () => {
    const [draft] = chain(1, 1, { expiresAtMs: 50 });
    const decoded = decodeRecord(encodeRecord(draft!));
    if (!decoded.ok) throw new Error(decoded.reason);
    const key = keyOf(draft!);
    expect(mismatchOf(decoded.record, { key, nowMs: 0 })).toBeUndefined();
    expect(mismatchOf(decoded.record, { key: rootKey(FINGERPRINT, ""), nowMs: 0 })).toBe("key");
    expect(mismatchOf(decoded.record, { key, nowMs: 0, tokens: [1] })).toBe("tokens");
    expect(mismatchOf(decoded.record, { key, nowMs: 50 })).toBe("expired");
  });

  test("checksums tell length, order and position", () => {
    const seen = new Set<string>();
    const inputs = [
      [],
      [0],
      [0, 0],
      [1],
      [0, 1],
      [1, 0],
      Array(16).fill(0),
      Array(17).fill(0),
      Array(32).fill(0),
    ];
    for (const input of inputs) seen.add(String(checksum(Uint8Array.from(input as number[]))));
    expect(seen.size).toBe(inputs.length);
  });

  test("log entries say what records say, and every flipped bit is found", () => {
    const [record] = encoded(chain(1, 1, { namespace: "alice", expiresAtMs: 7 })) as [Uint8Array];
    const entry = encodeRecordEntry(record, 4096);
    expect(decodeLogEntry(entry)).toEqual({ type: "record", offset: 4096, info: infoOf(record) });
    const tombstone = encodeTombstone(infoOf(record).key, {
      segment: "00000000000000ab-00000f",
      entryIndex: 3,
    });
    expect(decodeLogEntry(tombstone)).toEqual({
      type: "tombstone",
      key: infoOf(record).key,
      target: { segment: "00000000000000ab-00000f", entryIndex: 3 },
    });
    for (let bit = 0; bit < entry.length * 8; bit++) {
      const bad = entry.slice();
      bad[bit >> 3]! ^= 1 << (bit & 7);
      expect(decodeLogEntry(bad)).toBeUndefined();
    }
  });

  test("only our own file names are taken apart", () => {
    expect(parseSegmentFile("00000000000000ab-00000f.trail")).toEqual({
      segment: "00000000000000ab-00000f",
      writer: "00000000000000ab",
      part: "trail",
    });
    for (const name of ["x.trail", "00000000000000ab-1.data", "00000000000000ab-1.lock", "../x.data"]) {
      expect(parseSegmentFile(name)).toBeUndefined();
    }
  });
});

describe("structures", () => {
  const infos: RecordInfo[] = [1, 2, 3].flatMap((seed) => encoded(chain(seed, 5)).map(infoOf));

  test("the tier index agrees with a list that is searched", () => {
    const random = new Random(testSeed("tier index"));
    const index = new TierIndex();
    let model: RecordInfo[] = [];
    for (let i = 0; i < 3000; i++) {
      const info = random.pick(infos);
      const choice = random.below(4);
      const rest = model.filter(({ key }) => key !== info.key);
      if (choice === 0) {
        index.set(info);
        model = [...rest, info];
      } else if (choice === 1) {
        expect(index.delete(info.key)).toBe(model.length !== rest.length);
        model = rest;
      } else if (choice === 2) {
        index.touch(info.key);
        if (model.length !== rest.length) model = [...rest, info];
      }
      expect([...index.values()]).toEqual(model);
      expect(index.bytes).toBe(model.reduce((sum, { bytes }) => sum + bytes, 0));
      const victim = index.victim("ram", undefined, new Set());
      const childOf = (key: Key | undefined): boolean => model.some(({ parentKey }) => parentKey === key);
      expect(victim === undefined).toBe(model.length === 0);
      expect(childOf(victim)).toBe(false);
    }
  });

  test("the write queue holds its bound, keeps order, and drops only leaves of least cost", () => {
    const random = new Random(testSeed("write queue"));
    const size = infos[0]!.bytes;
    const queue = new WriteQueue(4 * size);
    let waiting: Key[] = [];
    for (let i = 0; i < 2000; i++) {
      const info = random.pick(infos);
      if (random.below(3) > 0) {
        const known = waiting.includes(info.key);
        const dropped = queue.push({ info, record: payloadOf(info.key, size) }).map((item) => item.info);
        if (!known) waiting.push(info.key);
        for (const gone of dropped) {
          const isParent = infos.some(
            ({ parentKey, key }) => parentKey === gone.key && waiting.includes(key),
          );
          expect(isParent).toBe(false);
        }
        waiting = waiting.filter((key) => !dropped.some((gone) => gone.key === key));
      } else {
        const batch = queue.takeBatch(2 * size);
        expect(batch.map((item) => item.info.key)).toEqual(waiting.slice(0, 2));
        waiting = waiting.slice(2);
        queue.settle(batch);
      }
      expect(queue.bytes).toBe(waiting.length * size);
      expect(queue.bytes).toBeLessThanOrEqual(queue.maxBytes);
      expect(queue.infos().map(({ key }) => key)).toEqual(waiting);
    }
  });

  test("the keys of a chain are those of its drafts", () => {
    const drafts = chain(5, 3);
    const tokens = drafts.flatMap((draft) => Array.from(draft.tokens));
    expect(chainKeys(FINGERPRINT, "", tokens, 4)).toEqual(keysOf(drafts));
  });
});
