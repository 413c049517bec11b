/**
 * Paged attention, prefill and decode: contexts around block and run borders, scrambled block tables, windows, caps,
 * sinks, all head sizes that matter. Places that hold no visible token are NaN, so that reading one is seen.
 */
import { Random } from "../../src/base.ts";
import type { Elem } from "../../src/gpu/kernel.ts";
import type { PackedBits } from "../../src/gpu/packed.ts";
import { attentionOps, scratchBytes, SPLIT_TOKENS } from "../../src/model/mixer/paged-attention.ts";
import { inEverySetting, type Case } from "../support/cases.ts";
import { asFloats, packKeys, packValues } from "../support/naive-packer.ts";
import { expectClose, expectSame, lumpy, Rig, rounded, roundOff } from "../support/rig.ts";
import { testSeed } from "../support/seed.ts";

interface Spec {
  heads: number;
  kvHeads: number;
  headDim: number;
  /** Values are the first entries of keys, in the same buffer, and a row holds queries alone (latent attention). */
  valueDim?: number;
  blockTokens: number;
  scale?: number;
  cap?: number;
  window?: number;
  sinks?: boolean;
  /** Blocks before a row's own one are packed. */
  bits?: PackedBits;
}

/** One sequence: positions of its rows are the last ones of its context. */
interface Sequence {
  context: number;
  rows: number;
}

const base: Spec = { heads: 4, kvHeads: 2, headDim: 16, blockTokens: 16 };

const prefills: Record<string, { spec: Spec; sequence: Sequence }> = {
  "one row": { spec: base, sequence: { context: 1, rows: 1 } },
  "a block and one": { spec: base, sequence: { context: 17, rows: 7 } },
  "heads of 64": {
    spec: { ...base, heads: 8, kvHeads: 4, headDim: 64, blockTokens: 32 },
    sequence: { context: 97, rows: 97 },
  },
  "heads of 8, no groups": {
    spec: { ...base, kvHeads: 4, headDim: 8, blockTokens: 64 },
    sequence: { context: 64, rows: 33 },
  },
  "heads of 256": {
    spec: { ...base, heads: 3, kvHeads: 1, headDim: 256 },
    sequence: { context: 50, rows: 33 },
  },
  "heads of 512": {
    spec: { ...base, heads: 3, kvHeads: 1, headDim: 512, scale: 0.02 },
    sequence: { context: 150, rows: 7 },
  },
  "heads of 320, window": {
    spec: { ...base, headDim: 320, window: 20 },
    sequence: { context: 135, rows: 9 },
  },
  "latent of 576": {
    spec: { ...base, heads: 5, kvHeads: 1, headDim: 576, valueDim: 512, scale: 0.02 },
    sequence: { context: 133, rows: 5 },
  },
  "latent of 20": {
    spec: { ...base, heads: 4, kvHeads: 1, headDim: 20, valueDim: 12 },
    sequence: { context: 70, rows: 33 },
  },
  "heads of 80, window": { spec: { ...base, headDim: 80, window: 20 }, sequence: { context: 150, rows: 70 } },
  "heads of 20, window of one": {
    spec: { ...base, headDim: 20, window: 1 },
    sequence: { context: 35, rows: 33 },
  },
  "cap, sinks and window": {
    spec: { ...base, headDim: 32, cap: 3, sinks: true, window: 16, scale: 0.3 },
    sequence: { context: 130, rows: 100 },
  },
};

const packedPrefills: typeof prefills = {
  "q8, two blocks and one": { spec: { ...base, bits: 8 }, sequence: { context: 33, rows: 18 } },
  "q4, heads of 64": {
    spec: { ...base, heads: 8, kvHeads: 4, headDim: 64, blockTokens: 32, bits: 4 },
    sequence: { context: 97, rows: 90 },
  },
  "q2, heads of 80, window": {
    spec: { ...base, headDim: 80, window: 20, bits: 2 },
    sequence: { context: 150, rows: 70 },
  },
  "q8, cap, sinks and window": {
    spec: { ...base, headDim: 36, cap: 3, sinks: true, window: 33, scale: 0.3, blockTokens: 32, bits: 8 },
    sequence: { context: 130, rows: 100 },
  },
  "q4, latent of 576": {
    spec: { ...base, heads: 5, kvHeads: 1, headDim: 576, valueDim: 512, scale: 0.02, bits: 4 },
    sequence: { context: 70, rows: 5 },
  },
  "q2, heads of 256": {
    spec: { ...base, heads: 3, kvHeads: 1, headDim: 256, blockTokens: 64, bits: 2 },
    sequence: { context: 130, rows: 5 },
  },
};

const decodes: Record<string, { spec: Spec; contexts: readonly number[] }> = {
  "one sequence": { spec: base, contexts: [1] },
  "around borders": {
    spec: { ...base, headDim: 64, heads: 8, kvHeads: 4, blockTokens: 32 },
    contexts: [SPLIT_TOKENS, SPLIT_TOKENS + 1, 31, 32, 33, 3 * SPLIT_TOKENS - 1, 1],
  },
  "groups of six": { spec: { ...base, heads: 12, headDim: 8 }, contexts: [150, 20] },
  "heads of 256": { spec: { ...base, heads: 4, kvHeads: 1, headDim: 256 }, contexts: [140, 3] },
  "heads of 512": {
    spec: { ...base, heads: 5, kvHeads: 1, headDim: 512, scale: 0.02 },
    contexts: [140, 3],
  },
  "heads of 320, no groups": { spec: { ...base, heads: 2, headDim: 320 }, contexts: [129] },
  "latent of 576": {
    spec: { ...base, heads: 5, kvHeads: 1, headDim: 576, valueDim: 512, scale: 0.02 },
    contexts: [140, 3],
  },
  "latent of 20": {
    spec: { ...base, heads: 6, kvHeads: 1, headDim: 20, valueDim: 12 },
    contexts: [260, 17],
  },
  "heads of 80, window": { spec: { ...base, headDim: 80, window: 20 }, contexts: [135, 148, 149, 400, 19] },
  "heads of 20, no groups": { spec: { ...base, kvHeads: 4, headDim: 20, blockTokens: 64 }, contexts: [65] },
  "cap, sinks and window": {
    spec: { ...base, headDim: 32, cap: 3, sinks: true, window: 130, scale: 0.3 },
    contexts: [16, 300],
  },
};

const packedDecodes: typeof decodes = {
  "q8, around borders": {
    spec: { ...base, headDim: 64, heads: 8, kvHeads: 4, blockTokens: 32, bits: 8 },
    contexts: [SPLIT_TOKENS, SPLIT_TOKENS + 1, 31, 32, 33, 3 * SPLIT_TOKENS - 1, 1],
  },
  "q4, heads of 80, window": {
    spec: { ...base, headDim: 80, window: 20, bits: 4 },
    contexts: [135, 148, 149, 400, 19],
  },
  "q2, cap, sinks and window": {
    spec: { ...base, headDim: 36, cap: 3, sinks: true, window: 130, scale: 0.3, bits: 2 },
    contexts: [16, 300],
  },
  "q8, latent of 20": {
    spec: { ...base, heads: 6, kvHeads: 1, headDim: 20, valueDim: 12, bits: 8 },
    contexts: [260, 17],
  },
  "q4, heads of 512": {
    spec: { ...base, heads: 5, kvHeads: 1, headDim: 512, scale: 0.02, blockTokens: 64, bits: 4 },
    contexts: [140, 3],
  },
};

/** The cache of some sequences: exact keys and values, and the pool as the GPU holds it. */
interface Cache {
  /** [sequence][position][kvHead * headDim]. */
  keys: Float64Array[];
  values: Float64Array[];
  tables: number[][];
  pool: { keys: Float32Array; values: Float32Array };
  packed: Packed | undefined;
}

/** Packed blocks: what stands in their slots, and what that stands for, as `Cache` has the exact ones. */
interface Packed extends Record<"keys" | "values", { words: Float32Array; back: Float64Array[] }> {
  bits: PackedBits;
}

const SPARE_SLOTS = 3;

function makeCache(spec: Spec, contexts: readonly number[], type: Elem, random: Random): Cache {
  const { kvHeads, headDim, blockTokens } = spec;
  const width = kvHeads * headDim;
  const fresh = (context: number) => rounded(lumpy(random, context * width, width), type);
  const tables = scrambledTables(
    contexts.map((context) => Math.ceil(context / blockTokens)),
    random,
  );
  const keys = contexts.map(fresh);
  const values = spec.valueDim === undefined ? contexts.map(fresh) : keys;
  const slots = tables.flat().length + SPARE_SLOTS;
  const place = (cached: Float64Array[]) => {
    const pool = new Float32Array(slots * blockTokens * width).fill(NaN);
    cached.forEach((sequence, s) =>
      sequence.forEach((value, i) => {
        const position = Math.floor(i / width);
        const head = Math.floor((i % width) / headDim);
        const slot = tables[s]?.[Math.floor(position / blockTokens)] as number;
        const at = (slot * kvHeads + head) * blockTokens + (position % blockTokens);
        pool[at * headDim + (i % headDim)] = value;
      }),
    );
    return pool;
  };
  const { bits } = spec;
  const pack = (cached: Float64Array[], packer: typeof packKeys) => {
    const words: number[] = [];
    const back = cached.map((sequence) => sequence.slice());
    cached.forEach((sequence, s) => {
      for (let block = 0; (block + 1) * blockTokens * width <= sequence.length; block++)
        for (let head = 0; head < kvHeads; head++) {
          const at = (i: number) =>
            (block * blockTokens + Math.floor(i / headDim)) * width + head * headDim + (i % headDim);
          const exact = Float64Array.from(
            { length: blockTokens * headDim },
            (_, i) => sequence[at(i)] as number,
          );
          const packed = packer(exact, headDim, bits ?? 8);
          packed.back.forEach((value, i) => ((back[s] as Float64Array)[at(i)] = value));
          const to = ((tables[s]?.[block] as number) * kvHeads + head) * packed.words.length;
          packed.words.forEach((word, i) => (words[to + i] = word));
        }
    });
    return { words: asFloats(Array.from(words, (word: number | undefined) => word ?? 0x7fc00000)), back };
  };
  const packed = bits && { bits, keys: pack(keys, packKeys), values: pack(values, packValues) };
  return { keys, values, tables, pool: { keys: place(keys), values: place(values) }, packed };
}

/** Block tables of these lengths over shuffled slots, some of them used by nobody. */
function scrambledTables(lengths: readonly number[], random: Random): number[][] {
  const slots = Array.from({ length: lengths.reduce((a, b) => a + b, 0) + SPARE_SLOTS }, (_, i) => i);
  for (let i = slots.length - 1; i > 0; i--) {
    const other = random.below(i + 1);
    [slots[i], slots[other]] = [slots[other] as number, slots[i] as number];
  }
  return lengths.map((length) => slots.splice(0, length));
}

export interface Attended {
  value: number;
  bound: number;
}

/** tanh of a driver is only loosely bound by WGSL; what the drivers seen stay below. */
const TANH_ERROR = 2 ** -20;

/** One query head in float64: [headDim] values, each with the bound of an f32 kernel's error. */
export function attend(
  spec: Pick<Spec, "headDim" | "valueDim" | "scale" | "cap">,
  query: Float64Array,
  keys: Float64Array[],
  values: Float64Array[],
  sink?: number,
): Attended[] {
  const { headDim, valueDim = headDim, scale = 1 / Math.sqrt(headDim), cap = 0 } = spec;
  const unit = roundOff("f32");
  const scores = keys.map((key) => {
    const dot = scale * sumOver(headDim, (c) => (query[c] as number) * (key[c] as number));
    const size = scale * sumOver(headDim, (c) => Math.abs((query[c] as number) * (key[c] as number)));
    const error = (headDim + 4) * unit * size + (cap > 0 ? cap * TANH_ERROR : 0);
    return { score: cap > 0 ? cap * Math.tanh(dot / cap) : dot, error };
  });
  const all = [...scores, ...(sink === undefined ? [] : [{ score: sink, error: 0 }])];
  const most = all.reduce((a, b) => (b.score > a.score ? b : a));
  const weights = all.map(({ score, error }) => {
    const away = most.score - score;
    const relative = error + most.error + (8 + 4 * away) * 2 * unit + (keys.length + 16) * unit;
    return { weight: Math.exp(-away), relative };
  });
  const total = weights.reduce((sum, { weight }) => sum + weight, 0);
  const totalError = weights.reduce((sum, { weight, relative }) => sum + weight * relative, 0) / total;
  return Array.from({ length: valueDim }, (_, c) => {
    const at = (j: number) => (values[j] as Float64Array)[c] as number;
    const value = sumOver(keys.length, (j) => (weights[j]?.weight as number) * at(j)) / total;
    const bound = sumOver(keys.length, (j) => {
      const { weight, relative } = weights[j] as { weight: number; relative: number };
      return weight * Math.abs(at(j)) * (relative + totalError);
    });
    return { value, bound: bound / total };
  });
}

function sumOver(count: number, term: (index: number) => number): number {
  let sum = 0;
  for (let index = 0; index < count; index++) sum += term(index);
  return sum;
}

/** All heads of a row at `position` of sequence `s`, [heads * valueDim]. */
function attendRow(
  spec: Spec,
  cache: Cache,
  s: number,
  position: number,
  row: Float64Array,
  sinks: ArrayLike<number>,
) {
  const { heads, kvHeads, headDim, window = 0 } = spec;
  const width = kvHeads * headDim;
  const first = window > 0 ? Math.max(0, position - window + 1) : 0;
  return Array.from({ length: heads }, (_, head) => {
    const kvHead = Math.floor(head / (heads / kvHeads));
    const seen = (exact: Float64Array[], packed: Float64Array[] = exact) =>
      Array.from({ length: position + 1 - first }, (_, j) => {
        const at = (first + j) * width + kvHead * headDim;
        const cached = first + j < position - (position % spec.blockTokens) ? packed : exact;
        return (cached[s] as Float64Array).subarray(at, at + headDim);
      });
    const query = row.subarray(head * headDim, (head + 1) * headDim);
    const sink = spec.sinks ? sinks[head] : undefined;
    const { packed } = cache;
    const values = spec.valueDim === undefined ? packed?.values.back : packed?.keys.back;
    return attend(spec, query, seen(cache.keys, packed?.keys.back), seen(cache.values, values), sink);
  }).flat();
}

/** A batch: what the GPU gets and the float64 rows. */
class Batch {
  readonly spec: Spec;
  readonly cache: Cache;
  readonly rows: { position: number; sequence: number }[];
  readonly qkv: Float64Array;
  readonly sinks: Float64Array;
  private readonly rig: Rig;

  constructor(rig: Rig, spec: Spec, sequences: readonly Sequence[], random: Random) {
    const { heads } = spec;
    this.rig = rig;
    this.spec = spec;
    const contexts = sequences.map(({ context }) => context);
    this.cache = makeCache(spec, contexts, rig.types.kv, random);
    this.rows = sequences.flatMap(({ context, rows }, sequence) =>
      Array.from({ length: rows }, (_, i) => ({ position: context - rows + i, sequence })),
    );
    const { width } = this;
    this.qkv = rounded(lumpy(random, this.rows.length * width, width), rig.types.elem);
    this.sinks = rounded(lumpy(random, heads, heads), "f32");
  }

  get width(): number {
    const { heads, kvHeads, headDim, valueDim } = this.spec;
    return (heads + (valueDim === undefined ? 2 * kvHeads : 0)) * headDim;
  }

  get outWidth(): number {
    const { heads, headDim, valueDim = headDim } = this.spec;
    return heads * valueDim;
  }

  /** Runs rows `from` to `to` alone as one step; returns [rows, heads * valueDim]. */
  async run(phase: "prefill" | "decode", from = 0, to = this.rows.length): Promise<Float32Array> {
    const { rig, spec, cache } = this;
    const { sinks, bits: _bits, ...shape } = spec;
    const { elem, kv } = rig.types;
    const count = (to - from) * this.outWidth;
    const out = rig.unwritten(count, elem);
    const rows = this.rows.slice(from, to);
    const first = phase === "decode" ? from : 0;
    const maxContext = 64 * SPLIT_TOKENS;
    const keys = rig.upload(cache.pool.keys, kv);
    const { packed } = cache;
    const ops = await attentionOps(rig.kernels, rig.types, {
      ...shape,
      ...(sinks && { sinks: rig.upload(this.sinks) }),
      qkv: rig.upload(this.qkv.subarray(from * this.width, to * this.width), elem),
      rowWidth: this.width,
      keys,
      values: spec.valueDim === undefined ? rig.upload(cache.pool.values, kv) : keys,
      out,
      phase,
      scratch: rig.unwritten(scratchBytes(spec, rows.length, maxContext) / 4, "f32"),
      maxContext,
      packed: packed && {
        ...{ bits: packed.bits, keys: rig.upload(packed.keys.words) },
        values: rig.upload(packed.values.words),
      },
    });
    const { blockTokens } = spec;
    rig.run(ops, {
      rows: rows.map(({ position, sequence }) => {
        const tail = cache.tables[sequence]?.[Math.floor(position / blockTokens)] as number;
        const write = tail * blockTokens + (position % blockTokens);
        return { position, sequence: sequence - first, write };
      }),
      tables: cache.tables.slice(first, phase === "decode" ? to : 1),
    });
    return rig.read(out, elem, count);
  }

  check(what: string, actual: Float32Array): void {
    const { elem } = this.rig.types;
    const expected = this.rows.flatMap(({ position, sequence }, row) => {
      const qkv = this.qkv.subarray(row * this.width, (row + 1) * this.width);
      return attendRow(this.spec, this.cache, sequence, position, qkv, this.sinks);
    });
    expectClose(
      what,
      actual,
      expected.map(({ value }) => value),
      (i) => {
        const { value, bound } = expected[i] as Attended;
        return bound + roundOff(elem) * Math.abs(value) + 2 ** -25;
      },
    );
  }
}

const prefillCases = Object.entries({ ...prefills, ...packedPrefills }).flatMap(
  ([name, { spec, sequence }]) =>
    inEverySetting(`kernel/attention/prefill/${name}`, async ({ gpu }, setting) => {
      const rig = new Rig(gpu, setting);
      const batch = new Batch(rig, spec, [sequence], new Random(testSeed(name)));
      batch.check(name, await batch.run("prefill"));
      rig.close();
    }),
);

/** Together and, bit for bit the same, each alone. */
const decodeCases = Object.entries({ ...decodes, ...packedDecodes }).flatMap(([name, { spec, contexts }]) =>
  inEverySetting(`kernel/attention/decode/${name}`, async ({ gpu }, setting) => {
    const rig = new Rig(gpu, setting);
    const sequences = contexts.map((context) => ({ context, rows: 1 }));
    const batch = new Batch(rig, spec, sequences, new Random(testSeed(name)));
    const together = await batch.run("decode");
    batch.check(name, together);
    const width = batch.outWidth;
    for (let row = 0; row < contexts.length; row++) {
      const alone = await batch.run("decode", row, row + 1);
      expectSame(`row ${row} alone`, alone, together.subarray(row * width, (row + 1) * width));
    }
    rig.close();
  }),
);

const mixed: { elem: Elem; kv: Elem }[] = [
  { elem: "f32", kv: "f16" },
  { elem: "f16", kv: "f32" },
];

/** Activations and cache of different types. */
const mixedCases = inEverySetting("kernel/attention/mixed types", async ({ gpu }, setting) => {
  for (const types of mixed) {
    const rig = new Rig(gpu, setting, types);
    const random = new Random(testSeed("kernel/attention/mixed types"));
    const prefill = new Batch(rig, base, [{ context: 40, rows: 33 }], random);
    prefill.check("prefill", await prefill.run("prefill"));
    const decode = new Batch(rig, base, [{ context: 140, rows: 1 }], random);
    decode.check("decode", await decode.run("decode"));
    rig.close();
  }
}).filter(({ needs }) => needs?.f16);

/** Of packed blocks, those that the normal run has too: the others differ in sizes, and each compiles for seconds. */
const PACKED_IN_NORMAL_RUN = ["prefill/q8, cap, sinks and window", "decode/q2, cap, sinks and window"];

const isFull = (name: string): boolean =>
  /\/q[248], /.test(name) && !PACKED_IN_NORMAL_RUN.some((part) => name.includes(part));

export const cases: Case[] = [...prefillCases, ...decodeCases, ...mixedCases].map((one) => ({
  ...one,
  full: isFull(one.name),
}));
