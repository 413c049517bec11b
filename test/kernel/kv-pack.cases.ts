/**
 * kv-pack: a step's complete blocks are packed bit for bit as a plain packer does it, whatever steps the rows came in; blocks that
 * are not complete stay as they were. Among the numbers: groups of one value, of zeros, far from zero, and one with a NaN.
 */
import { Random } from "../../src/base.ts";
import { partBytes, unpacked, type PackedBits } from "../../src/gpu/packed.ts";
import { kvWriteOps } from "../../src/model/mixer/paged-attention.ts";
import { inEverySetting, type Case, type Setting } from "../support/cases.ts";
import type { Gpu } from "../../src/gpu/device.ts";
import { packKeys, packValues } from "../support/naive-packer.ts";
import { expectSame, lumpy, Rig, rounded } from "../support/rig.ts";
import { testSeed } from "../support/seed.ts";

interface Spec {
  kvHeads: number;
  headDim: number;
  blockTokens: number;
  bits: PackedBits;
  /** Values are parts of keys. */
  keysOnly?: boolean;
}

const specs: Record<string, Spec> = {
  q8: { kvHeads: 2, headDim: 64, blockTokens: 32, bits: 8 },
  "q8, heads of 20": { kvHeads: 3, headDim: 20, blockTokens: 16, bits: 8 },
  q4: { kvHeads: 2, headDim: 80, blockTokens: 64, bits: 4 },
  "q4, heads of 12": { kvHeads: 1, headDim: 12, blockTokens: 16, bits: 4 },
  q2: { kvHeads: 2, headDim: 128, blockTokens: 16, bits: 2 },
  "q2, heads of 36": { kvHeads: 2, headDim: 36, blockTokens: 32, bits: 2 },
  "q4, latent of 40": { kvHeads: 1, headDim: 40, blockTokens: 16, bits: 4, keysOnly: true },
};

/** Rows of a step. */
type Step = [length: number, phase: "prefill" | "decode"];

/** Slots of the blocks in order, and of the tails of those. */
const SLOTS = [3, 1, 4];
const TAILS = [2, 0, 1];

/** Numbers of three blocks, [position][kvHeads * headDim]. */
function numbers({ kvHeads, headDim, blockTokens }: Spec, random: Random): Float64Array {
  const width = kvHeads * headDim;
  const all = lumpy(random, SLOTS.length * blockTokens * width, width);
  for (let position = 0; position < blockTokens; position++) {
    all[position * width] = -7.3; // a constant channel
    all[position * width + 1] = 0;
    all[position * width + 2] = 500 + random.normal();
    all[position * width + 3] = (position % 2) * 1e-6;
  }
  all.fill(0.25, 2 * width, 3 * width); // a token's values
  all[(blockTokens + 5) * width + 2] = NaN;
  return all;
}

/** Writes rows in these steps, and reads the packed keys and values. */
async function packedBy(
  { gpu, setting }: { gpu: Gpu; setting: Setting },
  spec: Spec,
  { keys, values }: Record<"keys" | "values", Float64Array>,
  steps: readonly Step[],
): Promise<Uint32Array[]> {
  const { kvHeads, headDim, blockTokens, bits, keysOnly = false } = spec;
  const rig = new Rig(gpu, setting);
  const { elem, kv } = rig.types;
  const width = kvHeads * headDim;
  const tailSize = TAILS.length * blockTokens * width;
  const bytes = partBytes({ kvHeads, headDim, keysOnly }, blockTokens, `q${bits}`);
  const slots = Math.max(...SLOTS) + 1;
  const buffers = {
    keys: rig.unwritten(tailSize, kv),
    values: rig.unwritten(tailSize, kv),
    packedKeys: rig.unwritten((slots * bytes.keys) / 4, "f32"),
    packedValues: rig.unwritten((slots * bytes.values) / 4, "f32"),
  };
  let at = 0;
  for (const [length, phase] of steps) {
    const positions = Array.from({ length }, (_, row) => at + row);
    at += length;
    const qkv = positions.flatMap((position) => [
      ...keys.subarray(position * width, (position + 1) * width),
      ...(keysOnly ? [] : values.subarray(position * width, (position + 1) * width)),
    ]);
    const ops = await kvWriteOps(rig.kernels, rig.types, {
      ...{ heads: kvHeads, kvHeads, headDim, blockTokens, qkv: rig.upload(qkv, elem), firstKey: 0, phase },
      ...{ rowWidth: (keysOnly ? 1 : 2) * width, keys: buffers.keys },
      values: keysOnly ? buffers.keys : buffers.values,
      packed: { bits, keys: buffers.packedKeys, values: buffers.packedValues },
    });
    const write = (position: number): number =>
      (TAILS[Math.floor(position / blockTokens)] as number) * blockTokens + (position % blockTokens);
    rig.run(ops, {
      rows: positions.map((position) => ({ position, write: write(position) })),
      tables: [SLOTS],
    });
  }
  const read = async (buffer: GPUBuffer, size: number): Promise<Uint32Array> =>
    new Uint32Array((await rig.read(buffer, "f32", (slots * size) / 4)).slice().buffer);
  const found = [await read(buffers.packedKeys, bytes.keys)];
  if (!keysOnly) found.push(await read(buffers.packedValues, bytes.values));
  rig.close();
  return found;
}

/** What the buffers hold after that: two blocks by the plain packer, NaN elsewhere. */
function expectedWords(spec: Spec, cached: Float64Array, isKeys: boolean): Uint32Array {
  const { kvHeads, headDim, blockTokens, bits } = spec;
  const parts = partBytes({ kvHeads, headDim }, blockTokens, `q${bits}`);
  const blockWords = (isKeys ? parts.keys : parts.values) / 4;
  const all = new Uint32Array((Math.max(...SLOTS) + 1) * blockWords).fill(0x7fc00000);
  for (const block of [0, 1]) {
    const words = Array.from({ length: kvHeads }, (_, head) =>
      (isKeys ? packKeys : packValues)(headOf(spec, cached, block, head), headDim, bits),
    ).flatMap(({ words }) => words);
    all.set(words, (SLOTS[block] as number) * blockWords);
  }
  return all;
}

/** A block of a head, [blockTokens][headDim]. */
function headOf(
  { kvHeads, headDim, blockTokens }: Spec,
  cached: Float64Array,
  block: number,
  head: number,
): Float64Array {
  return Float64Array.from({ length: blockTokens * headDim }, (_, i) => {
    const position = block * blockTokens + Math.floor(i / headDim);
    return cached[(position * kvHeads + head) * headDim + (i % headDim)] as number;
  });
}

/** What the words of the first block stand for is what the plain packer says. */
function expectBack(spec: Spec, found: readonly Uint32Array[], keys: Float64Array): void {
  const { kvHeads, headDim, blockTokens, bits, keysOnly = false } = spec;
  const layer = { kvHeads, headDim, keysOnly };
  const bytes = partBytes(layer, blockTokens, `q${bits}`);
  const slot = SLOTS[0] as number;
  const words = found.flatMap((all, index) => {
    const size = (index === 0 ? bytes.keys : bytes.values) / 4;
    return [...all.subarray(slot * size, (slot + 1) * size)];
  });
  const [back] = unpacked(Uint32Array.from(words), layer, blockTokens, bits);
  const heads = Array.from({ length: kvHeads }, (_, head) => [
    ...packKeys(headOf(spec, keys, 0, head), headDim, bits).back,
  ]);
  expectSame("numbers of packed keys", back as Float32Array, Float32Array.from(heads.flat()));
}

/** The others differ in sizes. */
const IN_NORMAL_RUN = ["q8", "q4, heads of 12", "q2, heads of 36", "q4, latent of 40"];

export const cases: Case[] = Object.entries(specs).flatMap(([name, spec]) =>
  inEverySetting(`kernel/kv-pack/${name}`, async ({ gpu }, setting) => {
    const random = new Random(testSeed(name));
    const type = setting.f16 ? "f16" : "f32";
    const cached = {
      keys: rounded(numbers(spec, random), type),
      values: rounded(numbers(spec, random), type),
    };
    const { blockTokens: b } = spec;
    const once: Step[] = [[3 * b - 1, "prefill"]];
    const inParts: Step[] = [
      [b - 1, "prefill"],
      [1, "decode"],
      [b - 2, "prefill"],
      [3, "prefill"],
    ];
    for (const steps of [once, inParts]) {
      const found = await packedBy({ gpu, setting }, spec, cached, steps);
      expectSame("packed keys", found[0] as Uint32Array, expectedWords(spec, cached.keys, true));
      if (!spec.keysOnly)
        expectSame("packed values", found[1] as Uint32Array, expectedWords(spec, cached.values, false));
      expectBack(spec, found, cached.keys);
    }
  }).map((one) => ({ ...one, full: !IN_NORMAL_RUN.includes(name) })),
);
