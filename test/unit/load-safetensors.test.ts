/** The safetensors header: what it reads, and the malformed cases of reference/gguf.md section 4. */
import { expect, test, describe } from "vitest";
import { Random } from "../../src/base.ts";
import { TidepoolError } from "../../src/errors.ts";
import { readSafetensors } from "../../src/load/safetensors.ts";
import { openBytes } from "../../src/load/source.ts";
import { f32Bytes, safetensorsBytes, writeSafetensors } from "../support/gguf-writer.ts";
import { testSeed } from "../support/seed.ts";

const parse = (bytes: Uint8Array) => readSafetensors(openBytes(bytes, "model.safetensors"));

test("reads tensors, their shapes turned round, in the file's order", async () => {
  const bytes = writeSafetensors(
    [
      { name: "w", dtype: "F32", shape: [2, 3], data: f32Bytes([1, 2, 3, 4, 5, 6]) },
      { name: "scalar", dtype: "BF16", shape: [], data: new Uint8Array(2) },
      { name: "none", dtype: "F16", shape: [0, 4], data: new Uint8Array(0) },
    ],
    { format: "pt" },
  );
  const file = await parse(bytes);
  expect([...file.metadata]).toEqual([["format", "pt"]]);
  const at = file.dataOffset;
  expect(file.tensors).toEqual([
    { name: "w", type: "F32", shape: [3, 2], offset: at, sizeBytes: 24 },
    { name: "scalar", type: "BF16", shape: [], offset: at + 24, sizeBytes: 2 },
    { name: "none", type: "F16", shape: [4, 0], offset: at + 26, sizeBytes: 0 },
  ]);
});

test("reads a tensor that nothing computes with, so that the model can be told", async () => {
  const { tensors } = await parse(safetensorsBytes(tensor("I32", "[1]", "[0,4]"), four));
  expect(tensors).toMatchObject([{ name: "t", type: "I32", sizeBytes: 4 }]);
});

test("reads a file without tensors", async () => {
  expect((await parse(safetensorsBytes("{}"))).tensors).toEqual([]);
});

const tensor = (dtype: string, shape: string, offsets: string): string =>
  `{"t":{"dtype":"${dtype}","shape":${shape},"data_offsets":${offsets}}}`;
const four = new Uint8Array(4);
const entry = (begin: number, end: number): string =>
  `{"dtype":"U8","shape":[${end - begin}],"data_offsets":[${begin},${end}]}`;

const MALFORMED: [name: string, bytes: Uint8Array, message: RegExp][] = [
  ["an empty file", new Uint8Array(0), /has 0 bytes, too few/],
  ["a cut length", new Uint8Array(7), /has 7 bytes, too few/],
  ["a header over the limit", safetensorsBytes("{}", four, 100_000_001), /header length 100000001 is over/],
  ["a header of absurd length", safetensorsBytes("{}", four, 2n ** 64n - 1n), /header length \d+ is over/],
  ["a header past the end", safetensorsBytes("{}", four, 1000), /header length 1000 runs past the end/],
  ["an empty header", safetensorsBytes("", four, 0), /does not begin with "{"/],
  ["a space before the header", safetensorsBytes(" {}"), /does not begin with "{"/],
  ["a header that is a list", safetensorsBytes("[]"), /does not begin with "{"/],
  ["a header that is not UTF-8", invalidUtf8(), /is not UTF-8/],
  ["a header that is not JSON", safetensorsBytes('{"a":'), /is not JSON/],
  ["a deep header", safetensorsBytes('{"a":'.repeat(100_000)), /header is nested 100000 levels deep/],
  [
    "a deep shape",
    safetensorsBytes(`{"t":{"dtype":"F32","shape":${"[".repeat(99)}${"]".repeat(99)}}}`),
    /header is nested 101 levels/,
  ],
  ["a tensor that is a number", safetensorsBytes('{"t":1}'), /"t" is not an object/],
  [
    "an unknown dtype",
    safetensorsBytes(tensor("F99", "[1]", "[0,4]"), four),
    /"t" has the unknown dtype "F99"/,
  ],
  [
    "a dtype off the prototype",
    safetensorsBytes(tensor("valueOf", "[1]", "[0,4]"), four),
    /unknown dtype "valueOf"/,
  ],
  ["no dtype", safetensorsBytes('{"t":{"shape":[1],"data_offsets":[0,4]}}', four), /unknown dtype undefined/],
  ["a negative dimension", safetensorsBytes(tensor("F32", "[-1]", "[0,4]"), four), /"t" has no valid shape/],
  [
    "a fractional dimension",
    safetensorsBytes(tensor("F32", "[0.5]", "[0,4]"), four),
    /"t" has no valid shape/,
  ],
  [
    "no shape",
    safetensorsBytes('{"t":{"dtype":"F32","data_offsets":[0,4]}}', four),
    /"t" has no valid shape/,
  ],
  ["one offset", safetensorsBytes(tensor("F32", "[1]", "[0]"), four), /"t" has no valid data_offsets/],
  [
    "no offsets",
    safetensorsBytes('{"t":{"dtype":"F32","shape":[1]}}', four),
    /"t" has no valid data_offsets/,
  ],
  ["an end before its begin", safetensorsBytes(tensor("F32", "[1]", "[4,0]"), four), /end before they begin/],
  ["a range unlike the shape", safetensorsBytes(tensor("F32", "[2]", "[0,4]"), four), /needs 8 bytes, has 4/],
  [
    "an overflowing shape",
    safetensorsBytes(tensor("F32", `[${2 ** 50},${2 ** 50}]`, "[0,4]"), four),
    /needs \d+ bytes/,
  ],
  [
    "half a byte",
    safetensorsBytes(tensor("F4", "[1]", "[0,1]"), four.subarray(3)),
    /does not fill whole bytes/,
  ],
  [
    "a range past the end",
    safetensorsBytes(tensor("F32", "[2]", "[0,8]"), four),
    /data has 4 bytes, the tensors cover 8/,
  ],
  [
    "trailing bytes",
    safetensorsBytes(tensor("F32", "[1]", "[0,4]"), new Uint8Array(5)),
    /data has 5 bytes.*cover 4/,
  ],
  ["bytes without tensors", safetensorsBytes("{}", four), /data has 4 bytes, the tensors cover 0/],
  [
    "a hole at the start",
    safetensorsBytes(tensor("U8", "[3]", "[1,4]"), four),
    /"t" begins at byte 1.*expected 0/,
  ],
  [
    "a hole between",
    safetensorsBytes(`{"a":${entry(0, 1)},"b":${entry(2, 4)}}`, four),
    /"b" begins at byte 2.*1/,
  ],
  [
    "an overlap",
    safetensorsBytes(`{"a":${entry(0, 3)},"b":${entry(2, 4)}}`, four),
    /"b" begins at byte 2.*3/,
  ],
  [
    "a repeated name",
    safetensorsBytes(`{"a":${entry(0, 2)},"a":${entry(2, 4)}}`, four),
    /the name "a" twice/,
  ],
  [
    "a name repeated by an escape",
    safetensorsBytes(`{"a":${entry(0, 2)},"\\u0061" :${entry(2, 4)}}`, four),
    /"a" twice/,
  ],
  ["metadata that is a list", safetensorsBytes('{"__metadata__":[]}'), /__metadata__ is not an object/],
  ["metadata of numbers", safetensorsBytes('{"__metadata__":{"k":1}}'), /__metadata__ "k" is not a string/],
];

function invalidUtf8(): Uint8Array {
  const bytes = safetensorsBytes('{"ab":1}');
  bytes[10] = 0xff;
  return bytes;
}

describe("refuses, naming the field", () => {
  test.each(MALFORMED)("%s", async (_name, bytes, message) => {
    const error: unknown = await parse(bytes).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(TidepoolError);
    expect((error as Error).message).toMatch(message);
    expect((error as Error).message).toMatch(/^[\w.]+\.safetensors: /);
  });

  test("any cut and any flipped byte: an error of ours or a file, never anything else", async () => {
    const random = new Random(testSeed("safetensors mutants"));
    const whole = writeSafetensors([
      { name: "a", dtype: "F32", shape: [2], data: f32Bytes([1, 2]) },
      { name: "b", dtype: "F16", shape: [2, 1], data: new Uint8Array(4) },
    ]);
    for (let i = 0; i < 2000; i++) {
      const mutant = whole.slice(0, random.below(4) === 0 ? random.below(whole.length) : whole.length);
      for (let flips = random.below(3); flips >= 0 && mutant.length > 0; flips--) {
        mutant[random.below(mutant.length)] = random.below(256);
      }
      const error: unknown = await parse(mutant).catch((reason: unknown) => reason);
      if (error instanceof Error) expect(error).toBeInstanceOf(TidepoolError);
    }
  });
});
