/** Tensors in another order than the one they are computed with: blocks and scales of MXFP4, and experts column by column. */
import { describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { TidepoolError } from "../../src/errors.ts";
import { arrangedTensors } from "../../src/load/arranged.ts";
import { openBytes } from "../../src/load/source.ts";
import type { TensorInfo } from "../../src/load/tensor-type.ts";

const random = new Random(7);
const noise = (bytes: number) => Uint8Array.from({ length: bytes }, () => random.below(256));

/** Tensors one behind the other in one file. */
function arranged(parts: Record<string, { type: string; shape: number[]; bytes: Uint8Array }>, type = "x") {
  const tensors = new Map<string, TensorInfo>();
  const all: number[] = [1, 2, 3]; // what stands before them
  for (const [name, { bytes, ...part }] of Object.entries(parts)) {
    tensors.set(name, { name, ...part, offset: all.length, sizeBytes: bytes.length, shard: 0 });
    all.push(...bytes);
  }
  return arrangedTensors(tensors, [openBytes(Uint8Array.from(all), "m.safetensors")], type);
}

const E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6];

/** By the format's own definition: the number at `place` of a block as published. */
function publishedNumber(nibbles: Uint8Array, exponent: number, place: number): number {
  const nibble = ((nibbles[place >> 1] as number) >> ((place & 1) * 4)) & 15;
  return (nibble & 8 ? -1 : 1) * (E2M1[nibble & 7] as number) * 2 ** (exponent - 127);
}

/** The same of a block as GGUF has it. */
function ggufNumber(block: Uint8Array, place: number): number {
  const nibble = ((block[1 + (place % 16)] as number) >> (place < 16 ? 0 : 4)) & 15;
  return (nibble & 8 ? -1 : 1) * (E2M1[nibble & 7] as number) * 2 ** ((block[0] as number) - 127);
}

describe("MXFP4 in two tensors", () => {
  const [perRow, rows, experts] = [2, 6, 3];
  const count = perRow * rows * experts;
  const [nibbles, exponents] = [noise(count * 16), noise(count).map((byte) => 100 + (byte % 50))];
  const blocks = { type: "U8", shape: [16, perRow, rows, experts], bytes: nibbles };
  const scales = { type: "U8", shape: [perRow, rows, experts], bytes: exponents };

  test("every number is where GGUF has it", async () => {
    const [only, ...others] = arranged({ w_blocks: blocks, w_scales: scales });
    expect(others).toEqual([]);
    const { tensor, source, of } = only as NonNullable<typeof only>;
    expect(tensor).toEqual({
      ...{ name: "w", type: "MXFP4", shape: [64, rows, experts], offset: 0, sizeBytes: count * 17 },
    });
    expect(of).toEqual(["w_blocks", "w_scales"]);
    const bytes = await source.read(0, tensor.sizeBytes);
    for (let block = 0; block < count; block++)
      for (let place = 0; place < 32; place++)
        expect(ggufNumber(bytes.subarray(block * 17), place)).toBe(
          publishedNumber(nibbles.subarray(block * 16), exponents[block] as number, place),
        );
  });

  test("any range is the same as in the whole", async () => {
    const [only] = arranged({ w_blocks: blocks, w_scales: scales });
    const { tensor, source } = only as NonNullable<typeof only>;
    const whole = await source.read(0, tensor.sizeBytes);
    for (let turn = 0; turn < 40; turn++) {
      const from = random.below(tensor.sizeBytes);
      const length = 1 + random.below(tensor.sizeBytes - from);
      expect(await source.read(from, length)).toEqual(whole.subarray(from, from + length));
    }
  });

  test("blocks and scales that do not fit each other are refused", () => {
    const wrong = [
      { ...blocks, shape: [16, perRow, experts, rows] },
      { ...blocks, shape: [8, 2 * perRow, rows, experts] },
      { ...blocks, type: "I8" },
    ];
    for (const w_blocks of wrong)
      expect(() => arranged({ w_blocks, w_scales: scales })).toThrow(TidepoolError);
    expect(() => arranged({ w_blocks: wrong[2] as typeof blocks, w_scales: scales })).toThrow(
      "w_blocks is I8 16 x 2 x 6 x 3, expected U8 16 x 2 x 6 x 3, as w_scales has it",
    );
  });

  test("blocks without scales are left alone", () => {
    expect(arranged({ w_blocks: blocks })).toEqual([]);
  });
});

describe("experts column by column", () => {
  const name = "model.layers.0.mlp.experts.down_proj";
  const [rows, columns, experts] = [6, 4, 3];
  const bytes = noise(2 * rows * columns * experts);
  const tensor = { type: "BF16", shape: [rows, columns, experts], bytes };
  const halves = (from: Uint8Array) => new Uint16Array(from.slice().buffer);

  test("each expert's matrix is turned, whatever range is read", async () => {
    const [only] = arranged({ [name]: tensor }, "gpt_oss");
    const { source, ...rest } = only as NonNullable<typeof only>;
    expect(rest.tensor.shape).toEqual([columns, rows, experts]);
    const whole = await source.read(0, bytes.length);
    const [from, to] = [halves(bytes), halves(whole)];
    for (let expert = 0; expert < experts; expert++)
      for (let row = 0; row < rows; row++)
        for (let column = 0; column < columns; column++)
          expect(to[(expert * rows + row) * columns + column]).toBe(
            from[(expert * columns + column) * rows + row],
          );
    for (let turn = 0; turn < 40; turn++) {
      const first = random.below(bytes.length);
      const length = 1 + random.below(bytes.length - first);
      expect(await source.read(first, length)).toEqual(whole.subarray(first, first + length));
    }
  });

  test("other model types have them row by row", () => {
    expect(arranged({ [name]: tensor }, "gemma4_text")).toEqual([]);
  });

  test("a matrix too large to be held is refused by name", () => {
    const huge = { name, type: "BF16", shape: [65_536, 1024, 1], offset: 0, sizeBytes: 2 ** 27, shard: 0 };
    const sources = [openBytes(new Uint8Array(0), "m.safetensors")];
    expect(() => arrangedTensors(new Map([[name, huge]]), sources, "gpt_oss")).toThrow(
      `${name} has matrices of 134217728 bytes to be turned, at most 67108864`,
    );
  });
});
