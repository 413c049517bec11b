/**
 * Archives, most of them hostile: whatever is wrong with one, it is refused whole, by a typed error, with nothing stored
 * and without allocating what it claims. And who signed them.
 */
import { describe, expect, test } from "vitest";
import { newSigningKey, signArchive, namedSigner, isSignatureValid } from "../../src/archive-signing.ts";
import { Random } from "../../src/base.ts";
import { TidepoolError } from "../../src/errors.ts";
import { decodeArchive, encodeArchive, MAX_ARCHIVE_STATES } from "../../src/tier/record/archive.ts";
import { checksum } from "../../src/tier/record/checksum.ts";
import { fingerprintOf, namespaceHashOf, recordKey } from "../../src/tier/record/keys.ts";
import { encodeRecord, infoOf, type RecordDraft } from "../../src/tier/record/record.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import { exportOptions } from "../../src/engine/arguments.ts";
import { cacheOptions, importOptions } from "../../src/wire/arguments.ts";
import { importIntoStore } from "../../src/worker/cache/archives.ts";
import { testSeed } from "../support/seed.ts";
import { chain, encoded, FINGERPRINT, keyOf, keysOf, tokensOf } from "./make.ts";

const BLOCKS = chain(1, 3);
const TOKENS = [...tokensOf(BLOCKS), 7, 8];
const prefix = { fingerprint: FINGERPRINT, blockTokens: 4, tokens: Uint32Array.from(TOKENS) };
const STATE: RecordDraft = {
  ...(BLOCKS[2] as RecordDraft),
  ...{ kind: "snapshot", parentKey: keyOf(BLOCKS[2]!), blockIndex: 3, tokens: [7, 8] },
};
const SOUND = encodeArchive(prefix, encoded([...BLOCKS, STATE]));

function refusal(bytes: Uint8Array): string {
  try {
    decodeArchive(bytes);
  } catch (error) {
    if (!(error instanceof TidepoolError) || error.code !== "invalid_file") throw error;
    return error.message;
  }
  return "taken";
}

/** Makes the checksums right again: a forger would. */
function resealed(archive: Uint8Array): Uint8Array {
  const bytes = archive.slice();
  bytes.set(checksum(bytes.subarray(176)), 144);
  const head = bytes.slice(0, 160);
  head.fill(0, 48, 144);
  bytes.set(checksum(head), 160);
  return bytes;
}

/** The archive with some of its bytes changed. */
function changed(change: (bytes: Uint8Array, view: DataView) => void): Uint8Array {
  const bytes = SOUND.slice();
  change(bytes, new DataView(bytes.buffer));
  return resealed(bytes);
}

describe("archives", () => {
  test("what is put in comes out, from an unaligned view too", () => {
    const shifted = new Uint8Array(SOUND.length + 3);
    shifted.set(SOUND, 3);
    for (const bytes of [SOUND, shifted.subarray(3)]) {
      const { fingerprint, blockTokens, tokens, blocks, states } = decodeArchive(bytes);
      expect([fingerprint, blockTokens, [...tokens]]).toEqual([FINGERPRINT, 4, TOKENS]);
      expect(blocks.map(({ key }) => key)).toEqual(keysOf(BLOCKS));
      expect(states.map(({ key }) => key)).toEqual([keyOf(STATE)]);
    }
  });

  test("every flipped bit is found, but for those of a signature that is not there", () => {
    for (let bit = 0; bit < SOUND.length * 8; bit++) {
      const at = bit >> 3;
      if (at >= 48 && at < 144) continue;
      const bad = SOUND.slice();
      bad[at]! ^= 1 << (bit & 7);
      expect(refusal(bad)).toMatch(/not a usable KV archive/);
    }
  });

  const other = chain(2, 3);
  const withRecords = (drafts: readonly RecordDraft[], tokens = TOKENS.slice(0, 12)) =>
    encodeArchive({ ...prefix, tokens: Uint32Array.from(tokens) }, encoded(drafts));
  const [first, second, third] = BLOCKS as [RecordDraft, RecordDraft, RecordDraft];

  test.each<[string, Uint8Array, RegExp]>([
    ["blocks of another prompt", withRecords(other), /record 0 .* other tokens/],
    [
      "a second prompt behind the first",
      withRecords([...BLOCKS, ...other]),
      /counts 6|out of order|other tokens/,
    ],
    ["a block planted in the middle", withRecords([first, other[1]!, third]), /record 1 .* other tokens/],
    ["a hole", withRecords([first, third]), /block 2 is out of order/],
    ["a beginning that is missing", withRecords([second, third]), /block 1 is out of order/],
    ["a block twice", withRecords([first, first, second]), /block 0 is out of order/],
    ["records of a namespace", withRecords(chain(1, 3, { namespace: "bob" })), /record 0/],
    [
      "a namespace on a common key",
      withRecords([{ ...first, namespace: "bob" }], TOKENS.slice(0, 4)),
      /of a namespace/,
    ],
    [
      "a record of another model",
      withRecords([{ ...first, fingerprint: fingerprintOf({ weights: "other" }) }], TOKENS.slice(0, 4)),
      /it is of the model/,
    ],
    [
      "a prompt longer than its records",
      withRecords(BLOCKS, TOKENS),
      /declares 14 tokens and has records of 12/,
    ],
    [
      "a prompt shorter than its records",
      withRecords(BLOCKS, TOKENS.slice(0, 8)),
      /counts|other tokens|has records/,
    ],
    [
      "a state of other tokens",
      withRecords([...BLOCKS, { ...STATE, tokens: [7, 9] }], TOKENS),
      /its state has other tokens/,
    ],
    [
      "a state without its blocks",
      withRecords([first, STATE], TOKENS),
      /its state stands at 14 tokens, behind 1 blocks/,
    ],
    [
      "a block behind a state",
      withRecords(
        [first, { ...STATE, parentKey: keyOf(first), blockIndex: 1, tokens: [1004] }, second],
        TOKENS.slice(0, 8),
      ),
      /out of order/,
    ],
    [
      "states without end",
      withRecords([...BLOCKS, ...Array<RecordDraft>(MAX_ARCHIVE_STATES + 1).fill(STATE)], TOKENS),
      /counts 20 records, expected at most 19/,
    ],
    [
      "a quantised payload",
      withRecords([{ ...first, encoding: "kivi4" }], TOKENS.slice(0, 4)),
      /its encoding is kivi4/,
    ],
    [
      "a cost that is no number",
      withRecords([{ ...first, rebuildCost: NaN }], TOKENS.slice(0, 4)),
      /no number/,
    ],
    [
      "an expiry without end",
      withRecords([{ ...first, expiresAtMs: Infinity }], TOKENS.slice(0, 4)),
      /no number/,
    ],
    [
      "a count of 4,294,967,295",
      changed((_, view) => view.setUint32(8, 2 ** 32 - 1, true)),
      /counts 4294967295/,
    ],
    [
      "a prompt of 4,294,967,295 tokens",
      changed((_, view) => view.setUint32(32, 2 ** 32 - 1, true)),
      /a prompt of 4294967295/,
    ],
    ["blocks of no token", changed((_, view) => view.setUint32(12, 0, true)), /blocks of 0 tokens/],
    [
      "a record longer than the file",
      changed((_, view) => view.setUint32(240, 2 ** 32 - 1, true)),
      /record 0 ends behind/,
    ],
    ["the old version", changed((_, view) => view.setUint32(4, 1, true)), /version 1, expected 2/],
    [
      "bytes behind the last record",
      resealed(new Uint8Array([...SOUND, ...new Uint8Array(16)])),
      /its records end at/,
    ],
  ])("%s", (_name, bytes, message) => {
    expect(refusal(bytes)).toMatch(message);
  });

  test("a record whose key is not that of its tokens, its checksums made right", () => {
    const forged = encodeRecord({ ...second, tokens: other[1]!.tokens }, keyOf(second));
    expect(infoOf(forged).key).toBe(recordKey("block", second.parentKey, second.tokens));
    const bytes = encodeArchive({ ...prefix, tokens: Uint32Array.from(TOKENS.slice(0, 8)) }, [
      ...encoded([first]),
      forged,
    ]);
    expect(refusal(bytes)).toMatch(/record 1 fails its check \(key\)/);
  });

  test("2,000 mutants with right checksums: taken as they were, or refused by a typed error", () => {
    const random = new Random(testSeed("archives"));
    let taken = 0;
    for (let i = 0; i < 2000; i++) {
      const mutant = mutated(SOUND, random);
      const sealed = mutant.length >= 176 ? resealed(mutant) : mutant;
      const said = refusal(sealed);
      if (said !== "taken") continue;
      taken++;
      const { tokens, blocks } = decodeArchive(sealed);
      expect([...tokens]).toEqual(TOKENS); // padding and zeros may change, and nothing else
      expect(blocks.map(({ key }) => key)).toEqual(keysOf(BLOCKS));
    }
    expect(taken).toBeLessThan(1000);
  });
});

/** Flips bits, sets words to extremes, cuts, repeats. */
function mutated(archive: Uint8Array, random: Random): Uint8Array {
  const bytes = archive.slice();
  const view = new DataView(bytes.buffer);
  const words = [0, 1, 2 ** 31, 2 ** 32 - 1, bytes.length, bytes.length - 1];
  for (let times = 1 + random.below(3); times > 0; times--) {
    const at = random.below(bytes.length - 4);
    const how = random.below(4);
    if (how === 0) bytes[at]! ^= 1 << random.below(8);
    else if (how === 1) view.setUint32(at & ~3, words[random.below(words.length)] as number, true);
    else if (how === 2) bytes.copyWithin(at, random.below(bytes.length), random.below(bytes.length));
    else return bytes.slice(0, at);
  }
  return bytes;
}

describe("who signed", () => {
  const take = async (archive: Uint8Array, trust?: string[]) => {
    const store = await TierStore.open({ ramBytes: 1e6 });
    try {
      const answer = await importIntoStore(store, archive, { ...(trust && { trust }) });
      expect(store.list()).toHaveLength(answer.keys.length);
      return answer;
    } catch (error) {
      expect(store.list()).toEqual([]);
      throw error;
    } finally {
      await store.close();
    }
  };

  test("a signed archive is taken from whoever is trusted, and from nobody else", async () => {
    const [mine, theirs] = [await newSigningKey(), await newSigningKey()];
    const signed = await signArchive(SOUND, mine.privateKey);
    expect(namedSigner(SOUND)).toBeUndefined();
    expect(namedSigner(signed)).toBe(mine.publicKey);
    expect(await isSignatureValid(signed)).toBe(true);
    expect(await take(signed, [theirs.publicKey, mine.publicKey])).toMatchObject({
      ...{ keys: keysOf([...BLOCKS, STATE]), rejected: {}, tokens: TOKENS, signedBy: mine.publicKey },
    });
    expect((await take(signed)).signedBy).toBe(mine.publicKey);
    expect((await take(SOUND)).signedBy).toBeUndefined();
    const refused = { code: "untrusted" };
    await expect(take(SOUND, [mine.publicKey])).rejects.toMatchObject(refused);
    await expect(take(signed, [theirs.publicKey])).rejects.toMatchObject(refused);
    await expect(take(signed, [])).rejects.toMatchObject(refused);
    const again = await signArchive(signed, theirs.privateKey);
    expect((await take(again, [theirs.publicKey])).signedBy).toBe(theirs.publicKey);
  });

  test("a signature does not cover for another content, header or key", async () => {
    const [mine, theirs] = [await newSigningKey(), await newSigningKey()];
    const signed = await signArchive(SOUND, mine.privateKey);
    const bySomebody = await signArchive(SOUND, theirs.privateKey);
    const content = signed.slice();
    content.set(
      encodeArchive(prefix, encoded([...BLOCKS, { ...STATE, payload: new Uint8Array(64) }])).subarray(176),
      176,
    );
    const claimed = bySomebody.slice();
    claimed.set(signed.subarray(48, 80), 48);
    const model = signed.slice();
    model[16]! ^= 1;
    const bit = signed.slice();
    bit[100]! ^= 1;
    for (const bad of [resealed(content), claimed, bit]) {
      await expect(take(bad, [mine.publicKey])).rejects.toMatchObject({ code: "untrusted" });
      await expect(take(bad)).rejects.toMatchObject({ code: "untrusted" });
    }
    await expect(take(resealed(model), [mine.publicKey])).rejects.toThrow();
  });

  test("a pair of WebCrypto's keys signs too, the private one not extractable", async () => {
    const pair = (await crypto.subtle.generateKey("Ed25519", false, ["sign", "verify"])) as CryptoKeyPair;
    const signed = await signArchive(SOUND, pair);
    expect((await take(signed)).signedBy).toBe(namedSigner(signed));
  });

  test("what is no key is refused by name", async () => {
    const bad = { code: "invalid_argument" };
    const { publicKey } = await newSigningKey();
    await expect(signArchive(SOUND, "secret")).rejects.toMatchObject(bad);
    const rsa = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    await expect(signArchive(SOUND, rsa)).rejects.toMatchObject(bad);
    for (const trust of [["short"], "x", [publicKey, publicKey.slice(1)]])
      expect(() => cacheOptions.read({ trust }, "cache")).toThrow(/cache\.trust.* is .*, expected .*key/);
    expect(cacheOptions.read({ trust: [publicKey] }, "cache")).toEqual({ trust: [publicKey] });
    for (const sign of ["secret", 5, {}, null])
      expect(() => exportOptions.read({ sign }, "")).toThrow(/sign is .*, expected an Ed25519 private key/);
    expect(() => exportOptions.read({ sign: "secret" }, "")).not.toThrow(/secret/);
    for (const verify of [-1, 0.5, "3", 1e6])
      expect(() => importOptions.read({ verify }, "")).toThrow(/verify is .*, expected a whole number/);
  });

  test("import goes into the importer's namespace", async () => {
    const store = await TierStore.open({ ramBytes: 1e6 });
    await importIntoStore(store, SOUND, { namespace: "alice" });
    const hashes = store.list().map(({ namespaceHash }) => namespaceHash);
    expect(hashes).toEqual(Array(4).fill(namespaceHashOf("alice")));
    expect(store.has(keysOf(BLOCKS))).toEqual([]);
    expect(store.has(keysOf(chain(1, 3, { namespace: "alice" })))).toHaveLength(3);
    await store.clear({ namespace: "alice" });
    expect(store.list()).toEqual([]);
    await store.close();
  });
});
