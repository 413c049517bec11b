/** The GGUF parser: what it reads, and every malformed case of reference/gguf.md section 4. */
import { expect, test, describe } from "vitest";
import { Random } from "../../src/base.ts";
import { TidepoolError } from "../../src/errors.ts";
import { readGguf } from "../../src/load/gguf.ts";
import { openBytes } from "../../src/load/source.ts";
import type { Source } from "../../src/load/source.ts";
import { ByteWriter, f32Bytes, typed, writeGguf } from "../support/gguf-writer.ts";
import type { GgufInput, GgufTensorInput } from "../support/gguf-writer.ts";
import { testSeed } from "../support/seed.ts";

const weight = (name: string, count = 4): GgufTensorInput => ({
  name,
  type: "F32",
  shape: [count],
  data: f32Bytes(new Array<number>(count).fill(1)),
});

const parse = (bytes: Uint8Array) => readGguf(openBytes(bytes, "test.gguf"));

async function failure(bytes: Uint8Array): Promise<TidepoolError> {
  const error: unknown = await parse(bytes).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(TidepoolError);
  return error as TidepoolError;
}

describe("reads", () => {
  test("every value type", async () => {
    const { metadata } = await parse(
      writeGguf({
        metadata: {
          u8: typed("u8", 200),
          i8: typed("i8", -5),
          u16: typed("u16", 60_000),
          i16: typed("i16", -6),
          u32: typed("u32", 4_000_000_000),
          i32: typed("i32", -7),
          f32: typed("f32", 0.5),
          bool: true,
          text: "häi ▁",
          u64: typed("u64", 2n ** 40n),
          big: typed("u64", 2n ** 63n),
          i64: typed("i64", -8n),
          f64: typed("f64", 0.1),
          empty: typed("i32", []),
          strings: ["a", "", "▁b"],
          bools: [true, false],
          scores: typed("f32", [1, -2.5]),
          wide: typed("u64", [1n, 2n ** 33n]),
          bytes: typed("i8", [-1, 1]),
        },
      }),
    );
    expect(Object.fromEntries(metadata)).toEqual({
      u8: 200,
      i8: -5,
      u16: 60_000,
      i16: -6,
      u32: 4_000_000_000,
      i32: -7,
      f32: 0.5,
      bool: true,
      text: "häi ▁",
      u64: 2 ** 40,
      big: 2n ** 63n,
      i64: -8,
      f64: 0.1,
      empty: new Int32Array(0),
      strings: ["a", "", "▁b"],
      bools: Uint8Array.of(1, 0),
      scores: Float32Array.of(1, -2.5),
      wide: Float64Array.of(1, 2 ** 33),
      bytes: Int8Array.of(-1, 1),
    });
  });

  test.each([2, 3])("version %i: tensors with shape, place and size", async (version) => {
    const bytes = writeGguf({
      version,
      alignment: 64,
      tensors: [
        weight("a", 3),
        { name: "q", type: "Q4_0", shape: [64, 2], data: new Uint8Array(72) },
        { name: "scalar", type: "F32", shape: [], data: new Uint8Array(4) },
        { name: "none", type: "F32", shape: [0, 7], data: new Uint8Array(0) },
        weight("b", 1),
      ],
    });
    const file = await parse(bytes);
    expect(file).toMatchObject({ version, alignment: 64 });
    expect(file.dataOffset % 64).toBe(0);
    const rows = file.tensors.map((t) => [t.name, t.type, t.shape, t.offset - file.dataOffset, t.sizeBytes]);
    expect(rows).toEqual([
      ["a", "F32", [3], 0, 12],
      ["q", "Q4_0", [64, 2], 64, 72],
      ["scalar", "F32", [], 192, 4],
      ["none", "F32", [0, 7], 256, 0],
      ["b", "F32", [1], 256, 4],
    ]);
  });

  test("integers that no double holds, and arrays of arrays, which nobody reads", async () => {
    const writer = new ByteWriter().text("GGUF").u32(3).u64(0).u64(4);
    const hashes = [1n, 2n ** 64n - 1n, 3n];
    writer.string("general.hashes").u32(9).u32(10).u64(hashes.length);
    for (const hash of hashes) writer.u64(hash);
    writer
      .string("general.signed")
      .u32(9)
      .u32(11)
      .u64(1)
      .u64(-(2n ** 62n));
    writer.string("general.nested").u32(9).u32(9).u64(2).u32(4).u64(1).u32(7).u32(8).u64(1).string("x");
    writer.string("after").u32(4).u32(5);
    const { metadata } = await parse(writer.finish());
    expect(metadata.get("general.hashes")).toEqual(BigUint64Array.from(hashes));
    expect(metadata.get("general.signed")).toEqual(BigInt64Array.of(-(2n ** 62n)));
    expect(metadata.get("general.nested")).toEqual([]);
    expect(metadata.get("after")).toBe(5);
  });

  test("a tensor of a type without kernels, so that the model can be told", async () => {
    const given = { name: "t", type: 16, shape: [512], data: new Uint8Array(132) };
    const { tensors } = await parse(writeGguf({ tensors: [given] }));
    expect(tensors).toMatchObject([{ name: "t", type: "IQ2_XXS", shape: [512], sizeBytes: 132 }]);
  });

  test("a last tensor without padding behind it, and a file without tensors", async () => {
    const bytes = writeGguf({ tensors: [weight("a")] });
    expect((await parse(bytes.subarray(0, bytes.length - 16))).tensors.length).toBe(1);
    expect((await parse(writeGguf({ metadata: { a: 1 } }))).tensors).toEqual([]);
  });

  test("a header of megabytes, in few and bounded reads, and nothing behind it", async () => {
    const tokens = Array.from({ length: 150_000 }, (_, i) => `token-number-${i}`);
    const bytes = writeGguf({
      metadata: { "tokenizer.ggml.tokens": tokens, after: 7 },
      tensors: [{ name: "big", type: "F32", shape: [4_000_000], data: new Uint8Array(16_000_000) }],
    });
    const reads: number[] = [];
    const inner = openBytes(bytes, "big.gguf");
    const source: Source = {
      ...inner,
      read: (offset, length, signal) => {
        reads.push(length);
        return inner.read(offset, length, signal);
      },
    };
    const file = await readGguf(source);
    expect(file.metadata.get("tokenizer.ggml.tokens")).toEqual(tokens);
    expect(file.metadata.get("after")).toBe(7);
    expect(reads.length).toBeLessThan(12);
    expect(Math.max(...reads)).toBeLessThanOrEqual(4 * 1024 * 1024);
    expect(reads.reduce((sum, length) => sum + length)).toBeLessThan(file.dataOffset + 4 * 1024 * 1024);
  });
});

/** A header of which `keys` is all that is written, with counts as given. */
function rawHeader(write: (writer: ByteWriter) => unknown, keyCount = 1, tensorCount = 0): Uint8Array {
  const writer = new ByteWriter().text("GGUF").u32(3).u64(tensorCount).u64(keyCount);
  write(writer);
  return writer.finish();
}

const input = (changes: GgufInput): Uint8Array => writeGguf(changes);
const pad = new Uint8Array(64);

const MALFORMED: [name: string, bytes: Uint8Array, message: RegExp][] = [
  ["an empty file", new Uint8Array(0), /magic and version/],
  ["a cut magic", new TextEncoder().encode("GGU"), /magic and version/],
  ["a bad magic", input({ magic: "FUGG" }), /magic is 0x.*not "GGUF"/],
  ["version 0", input({ version: 0 }), /version 0/],
  ["version 1", input({ version: 1 }), /version 1/],
  ["a future version", input({ version: 4 }), /version 4/],
  ["a big-endian file", input({ version: 0x03000000 }), /big-endian/],
  ["no counts", new ByteWriter().text("GGUF").u32(3).finish(), /tensor count/],
  ["an absurd tensor count", input({ tensorCount: 2n ** 60n }), /tensor count \d+ is over the limit/],
  ["an absurd key count", input({ keyCount: 2n ** 60n }), /metadata key count \d+ is over the limit/],
  ["more keys than there are", input({ keyCount: 3 }), /metadata key 0/],
  ["more tensors than there are", input({ tensorCount: 3 }), /tensor "" \(dimensions\) needs/],
  [
    "a key longer than the file",
    rawHeader((w) => w.u64(60_000).raw(pad)),
    /metadata key 0 needs 60000 bytes/,
  ],
  [
    "a key of absurd length",
    rawHeader((w) => w.u64(2n ** 63n).raw(pad)),
    /metadata key 0 has \d+ bytes, over/,
  ],
  ["an empty key", rawHeader((w) => w.string("").u32(4).u32(0)), /metadata key 0 is empty/],
  [
    "a key that is not UTF-8",
    rawHeader((w) => w.u64(1).u8(0xff).u32(4).u32(0)),
    /metadata key 0 is not UTF-8/,
  ],
  ["a bad value type", rawHeader((w) => w.string("k").u32(13).raw(pad)), /"k" has the unknown value type 13/],
  [
    "a repeated key",
    input({
      metadata: [
        ["k", 1],
        ["k", 2],
      ],
    }),
    /"k" occurs twice/,
  ],
  ["a bool of 2", rawHeader((w) => w.string("k").u32(7).u8(2)), /"k" is a bool with the value 2/],
  ["a value cut off", rawHeader((w) => w.string("k").u32(10).u32(1)), /"k" needs 8 bytes, the file has 4/],
  [
    "a string of absurd length",
    rawHeader((w) =>
      w
        .string("k")
        .u32(8)
        .u64(2n ** 31n),
    ),
    /"k" has \d+ bytes, over/,
  ],
  [
    "a string longer than the file",
    rawHeader((w) => w.string("k").u32(8).u64(999).raw(pad)),
    /"k" needs 999/,
  ],
  [
    "a bad array type",
    rawHeader((w) => w.string("k").u32(9).u32(77).u64(1)),
    /"k" is an array of the unknown/,
  ],
  [
    "an array of arrays that are not there",
    rawHeader((w) => w.string("k").u32(9).u32(9).u64(1)),
    /"k" \(1 items\) needs 12 bytes/,
  ],
  [
    "arrays nested without end",
    rawHeader((w) => {
      w.string("k").u32(9);
      for (let i = 0; i < 9; i++) w.u32(9).u64(1);
    }),
    /"k".* has arrays nested more than 4 deep/,
  ],
  [
    "an absurd array",
    rawHeader((w) =>
      w
        .string("k")
        .u32(9)
        .u32(0)
        .u64(2n ** 62n),
    ),
    /"k" has \d+ items, over/,
  ],
  [
    "an array over the file",
    rawHeader((w) => w.string("k").u32(9).u32(12).u64(9).raw(pad)),
    /"k" \(9 items\) needs 72/,
  ],
  [
    "strings over the file",
    rawHeader((w) => w.string("k").u32(9).u32(8).u64(9).raw(pad)),
    /"k" \(9 items\) needs 72/,
  ],
  [
    "an array string over the file",
    rawHeader((w) => w.string("k").u32(9).u32(8).u64(1).u64(70)),
    /"k", item 0/,
  ],
  [
    "an alignment of the wrong type",
    input({ metadata: { "general.alignment": typed("u64", 32) } }),
    /alignment.*u32/,
  ],
  [
    "an alignment of 0",
    input({ metadata: { "general.alignment": 0 } }),
    /general.alignment 0 is not a power/,
  ],
  [
    "an alignment of 12",
    input({ metadata: { "general.alignment": 12 } }),
    /general.alignment 12 is not a power/,
  ],
  ["a long tensor name", input({ tensors: [weight("n".repeat(64))] }), /name of tensor 0 has 64 bytes/],
  [
    "five dimensions",
    input({ tensors: [{ ...weight("t"), shape: [1, 1, 1, 1, 4] }] }),
    /"t" has 5 dimensions/,
  ],
  [
    "a negative dimension",
    input({ tensors: [{ ...weight("t"), shape: [-1n] }] }),
    /"t" has the dimension \d+/,
  ],
  [
    "an overflowing shape",
    input({ tensors: [{ ...weight("t"), shape: [2n ** 40n, 2n ** 40n] }] }),
    /"t" of shape.*larger/,
  ],
  [
    "a tensor larger than the file",
    input({ tensors: [{ ...weight("t"), shape: [2n ** 52n] }] }),
    /"t" of shape/,
  ],
  ["an unknown type", input({ tensors: [{ ...weight("t"), type: 99 }] }), /"t" has the unknown type id 99/],
  ["a removed type", input({ tensors: [{ ...weight("t"), type: 4 }] }), /"t" has the unknown type id 4/],
  [
    "rows of broken blocks",
    input({ tensors: [{ ...weight("t", 40), type: "Q8_0" }] }),
    /"t" of type Q8_0 .* 40/,
  ],
  [
    "a wrong offset",
    input({ tensors: [weight("t"), { ...weight("u"), offset: 64 }] }),
    /"u" has offset 64, expected 32/,
  ],
  [
    "an offset off the grid",
    input({ tensors: [{ ...weight("t"), offset: 4 }] }),
    /"t" has offset 4, expected 0/,
  ],
  [
    "an absurd offset",
    input({ tensors: [{ ...weight("t"), offset: 2n ** 64n - 32n }] }),
    /"t" has offset \d+/,
  ],
  ["a repeated tensor name", input({ tensors: [weight("t"), weight("t")] }), /"t" occurs twice/],
  ["data laid out with another alignment", inconsistent(), /"u" has offset 64, expected 32/],
  [
    "data shorter than declared",
    input({ tensors: [weight("t", 64)] }).subarray(0, -100),
    /data of tensor "t" ends/,
  ],
  ["a cut directory", input({ tensors: [weight("tensor")] }).subarray(0, 50), /tensor "tensor"/],
];

/** Offsets laid out for an alignment of 64 in a file that says 32. */
function inconsistent(): Uint8Array {
  return writeGguf({
    metadata: { "general.alignment": 32 },
    tensors: [weight("t"), { ...weight("u"), offset: 64 }],
  });
}

describe("refuses, naming the field", () => {
  test.each(MALFORMED)("%s", async (_name, bytes, message) => {
    const error = await failure(bytes);
    expect(error.message).toMatch(message);
    expect(error.message).toMatch(/^test\.gguf: /);
    expect(["invalid_file", "unsupported"]).toContain(error.code);
  });

  test("any cut and any flipped byte: an error of ours or a file, never anything else", async () => {
    const random = new Random(testSeed("GGUF mutants"));
    const whole = writeGguf({
      metadata: { name: "n", list: ["a", "b"], numbers: [1, 2, 3], wide: typed("u64", 5) },
      tensors: [weight("a"), { name: "q", type: "Q8_0", shape: [32], data: new Uint8Array(34) }],
    });
    let refused = 0;
    for (let i = 0; i < 2000; i++) {
      const mutant = whole.slice(0, random.below(4) === 0 ? random.below(whole.length) : whole.length);
      for (let flips = random.below(4); flips >= 0 && mutant.length > 0; flips--) {
        mutant[random.below(mutant.length)] = random.below(256);
      }
      const error: unknown = await parse(mutant).then(
        () => undefined,
        (reason: unknown) => reason,
      );
      if (error === undefined) continue;
      expect(error).toBeInstanceOf(TidepoolError);
      refused++;
    }
    expect(refused).toBeGreaterThan(500);
  });

  test("a read that fails is the source's error, and an abort is an abort", async () => {
    const source = openBytes(writeGguf({ metadata: { a: 1 } }), "x.gguf");
    await expect(readGguf(source, AbortSignal.abort())).rejects.toMatchObject({ code: "aborted" });
  });
});
