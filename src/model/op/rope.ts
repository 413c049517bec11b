/**
 * Rotary embedding: frequencies with their scalings, the table of cosines and sines of a step's positions (on the host,
 * in float64, since WGSL's sin and cos may be off by 2^-11), and the op that norms and rotates q and k.
 */
import code from "../../../shaders/rope.wgsl";
import bounded from "../../../shaders/lib/bounded.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import { assert } from "../../base.ts";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import { uniformBuffer, type Op } from "../../gpu/op.ts";
import { absentBuffer, largestFinite, reduceFragment } from "./kernel-parts.ts";
import type { ModelShape, QueryTemperature, RopeParams, RopeScaling } from "../../shape/shape.ts";

export interface RopeFrequencies {
  /** [rot/2], radians per position, scaled. */
  frequencies: Float64Array;
  /** Factor of cos and sin. */
  mscale: number;
}

/**
 * The shape with the LongRoPE factors that an engine of this context uses: the long ones if it may go beyond the context of
 * the original training. As in llama.cpp it is one choice for all positions: keys are kept rotated, and those of one choice
 * mean nothing beside those of the other.
 */
export function withRopeChoice(shape: ModelShape, contextTokens: number): ModelShape {
  const ropeTables = shape.ropeTables.map((table): RopeParams => {
    const { scaling } = table;
    if (scaling.type !== "longrope") return table;
    const chosen = contextTokens > scaling.originalContext ? "long" : "short";
    return { ...table, scaling: { ...scaling, chosen } };
  });
  return { ...shape, ropeTables };
}

/**
 * The frequency of each pair: theta^(-2i/rot), scaled (Llama 3.1's, YaRN's and LongRoPE's rules; YaRN: arXiv 2309.00071,
 * LongRoPE: arXiv 2402.13753).
 */
export function ropeFrequencies(params: RopeParams): RopeFrequencies {
  const { theta, rot, scaling, magnitude = 1 } = params;
  const divisors = params.divisors ?? longRopeFactors(scaling);
  assert(rot >= 0 && rot % 2 === 0, `rope: ${rot} rotated entries are not a whole number of pairs`);
  assert(!divisors || divisors.length === rot / 2, `rope: ${divisors?.length} divisors for ${rot / 2} pairs`);
  const factorOf = scalingOf(params);
  const frequencies = Float64Array.from({ length: rot / 2 }, (_, pair) => {
    const base = theta ** ((-2 * pair) / rot) / (divisors?.[pair] ?? 1);
    return base * factorOf(base, pair);
  });
  return { frequencies, mscale: magnitude * mscaleOf(scaling) };
}

function longRopeFactors(scaling: RopeScaling): readonly number[] | undefined {
  if (scaling.type !== "longrope") return undefined;
  const { chosen, factors } = scaling;
  assert(chosen && factors, "rope: LongRoPE without its factors, or with no choice of them");
  return factors[chosen];
}

function mscaleOf(scaling: RopeScaling): number {
  if (scaling.type === "longrope") return scaling.attentionFactor ?? 1;
  return scaling.type === "yarn" ? yarnMscale(scaling) : 1;
}

type ScaleFrequency = (frequency: number, pair: number) => number;
type Llama3 = Extract<RopeScaling, { type: "llama3" }>;
type Yarn = Extract<RopeScaling, { type: "yarn" }>;

function scalingOf({ theta, rot, scaling }: RopeParams): ScaleFrequency {
  switch (scaling.type) {
    case "none":
    case "longrope":
      return () => 1;
    case "linear":
      return () => 1 / scaling.factor;
    case "ntk":
      return (_, pair) => scaling.alpha ** ((-2 * pair) / (rot - 2));
    case "llama3":
      return (frequency) => llama3Factor(frequency, scaling);
    case "yarn":
      return yarnFactor(theta, rot, scaling);
  }
}

/** Long waves are slowed by the factor, short ones left alone, those between mixed by how often they fit. */
function llama3Factor(frequency: number, s: Llama3): number {
  const turns = (s.originalContext * frequency) / (2 * Math.PI);
  if (turns > s.highFreqFactor) return 1;
  if (turns < s.lowFreqFactor) return 1 / s.factor;
  const smooth = (turns - s.lowFreqFactor) / (s.highFreqFactor - s.lowFreqFactor);
  return (1 - smooth) / s.factor + smooth;
}

function yarnFactor(theta: number, rot: number, s: Yarn): ScaleFrequency {
  const { betaFast = 32, betaSlow = 1, truncate = true } = s;
  const pairTurning = (turns: number) =>
    (rot * Math.log(s.originalContext / (2 * Math.PI * turns))) / (2 * Math.log(theta));
  const fast = pairTurning(betaFast);
  const slow = pairTurning(betaSlow);
  const low = Math.max(0, truncate ? Math.floor(fast) : fast);
  const high = Math.min(rot - 1, truncate ? Math.ceil(slow) : slow);
  return (_, pair) => {
    const keep = 1 - clamp01((pair - low) / Math.max(0.001, high - low));
    return (1 - keep) / s.factor + keep;
  };
}

function yarnMscale({ factor, attentionFactor }: Yarn): number {
  return attentionFactor ?? (factor > 1 ? 0.1 * Math.log(factor) + 1 : 1);
}

function clamp01(x: number): number {
  return Math.min(1, Math.max(0, x));
}

/** Positions in a page of the table's memory. */
const PAGE_POSITIONS = 64;

/** Pages kept for each table; the least recently used goes first. 64 positions of 64 pairs are 32 KiB. */
const MAX_PAGES = 512;

/**
 * Cosines and sines of the positions of a step, for one or more sets of frequencies (local and global layers). Keeps what it
 * has computed in pages, so that a step costs a copy.
 */
export class RopeTable {
  /** Of all tables together. */
  readonly pairs: number;
  private readonly tables: readonly RopeFrequencies[];
  private readonly pages: Map<number, Float32Array>[];

  constructor(tables: readonly RopeFrequencies[]) {
    this.tables = tables;
    this.pages = tables.map(() => new Map<number, Float32Array>());
    this.pairs = tables.reduce((sum, { frequencies }) => sum + frequencies.length, 0);
  }

  /** Numbers that `fill` writes for `rows` rows. */
  size(rows: number): number {
    return rows * this.pairs * 2;
  }

  /** Writes [table][rows][rot/2 of the table] (cos, sin), each times mscale, to the front of `out`. */
  fill(positions: ArrayLike<number>, out: Float32Array): void {
    assert(out.length >= this.size(positions.length), "rope: the table's buffer is too small");
    let at = 0;
    for (const [table, { frequencies }] of this.tables.entries()) {
      const width = frequencies.length * 2;
      for (let row = 0; row < positions.length; row++, at += width) {
        const position = positions[row] as number;
        const inPage = (position % PAGE_POSITIONS) * width;
        out.set(this.page(table, Math.floor(position / PAGE_POSITIONS)).subarray(inPage, inPage + width), at);
      }
    }
  }

  private page(table: number, index: number): Float32Array {
    const pages = this.pages[table] as Map<number, Float32Array>;
    const page = pages.get(index) ?? turns(this.tables[table] as RopeFrequencies, index * PAGE_POSITIONS);
    pages.delete(index);
    pages.set(index, page);
    if (pages.size > MAX_PAGES) pages.delete(pages.keys().next().value as number);
    return page;
  }
}

/** (cos, sin) of a page of positions from `first` on: [PAGE_POSITIONS][pairs][2]. */
function turns({ frequencies, mscale }: RopeFrequencies, first: number): Float32Array {
  const page = new Float32Array(PAGE_POSITIONS * frequencies.length * 2);
  let at = 0;
  for (let position = first; position < first + PAGE_POSITIONS; position++) {
    for (const frequency of frequencies) {
      page[at++] = Math.cos(position * frequency) * mscale;
      page[at++] = Math.sin(position * frequency) * mscale;
    }
  }
  return page;
}

export interface RopeInput {
  label?: string;
  /** elem [rows, (heads + 2 kvHeads) * headDim], changed in place. */
  qkv: GPUBuffer;
  heads: number;
  kvHeads: number;
  /** Even. */
  headDim: number;
  /** Entries rotated, even, at most headDim; 0: norm only (layers without RoPE). */
  rot: number;
  /** true: pairs (2i, 2i+1); false: pairs (i, i + rot/2). */
  interleaved: boolean;
  /** Pairs of the step's RoPE tables before this one's (`pairsBefore`); 0 by default. */
  before?: number;
  norm?: HeadNorm;
  /** Lengthens queries by their position. */
  temperature?: QueryTemperature;
  /** Which heads: with "qkv" the v heads are normed too, without a weight. Default "qk". */
  over?: "q" | "qk" | "qkv";
}

/** Pairs of a row in the tables before table `index`. */
export function pairsBefore(tables: readonly Pick<RopeParams, "rot">[], index: number): number {
  return tables.slice(0, index).reduce((sum, { rot }) => sum + rot / 2, 0);
}

/**
 * An RMS norm of each head with weights f32 [headDim], before the rotation or after it (`isLast`); or before it a LayerNorm
 * without bias (`isLayer`), with weights f32 [heads * headDim] and [kvHeads * headDim].
 */
export interface HeadNorm {
  qWeight: GPUBuffer;
  /** May be absent if the op is over q alone. */
  kWeight: GPUBuffer | undefined;
  eps: number;
  isLast?: boolean;
  isLayer?: boolean;
}

const WORKGROUP = 32;

/** Norm, rotation and temperature of q and k, each optional. A layer with none has no such op: asking for one is a mistake. */
export async function ropeOp(kernels: Kernels, types: KernelTypes, input: RopeInput): Promise<Op> {
  const { qkv, heads, kvHeads, headDim, rot, norm, temperature, before = 0, over = "qk" } = input;
  assert(headDim % 2 === 0, `rope: odd head size ${headDim}`);
  assert(rot % 2 === 0 && rot <= headDim, `rope: ${rot} rotated entries in a head of ${headDim}`);
  assert(
    rot > 0 || norm || temperature,
    "rope: neither a rotation nor a norm nor a temperature is asked for",
  );
  assert(!(norm?.isLast && norm.isLayer), "rope: a LayerNorm of what has been rotated");
  assert(
    over !== "qkv" || (norm && !norm.isLayer),
    "rope: the norm of v needs an epsilon, and is an RMS norm",
  );
  assert(over === "q" || !norm || norm.kWeight, "rope: a norm of k without a weight");
  const { lib, subgroups } = reduceFragment(kernels);
  const pipeline = await kernels.pipeline(
    { name: "rope", code, libs: [stepLib, bounded, lib], subgroups },
    types,
    {
      WG: WORKGROUP,
      HEADS: heads,
      KV_HEADS: kvHeads,
      HEAD_DIM: headDim,
      ROT: rot,
      INTERLEAVED: input.interleaved ? 1 : 0,
      NORM: norm ? 1 : 0,
      LAYER: norm?.isLayer ? 1 : 0,
      NORM_LAST: norm?.isLast ? 1 : 0,
      TEMPERATURE: temperature ? 1 : 0,
      LIMIT: largestFinite(types.elem),
    },
  );
  const { device } = kernels.gpu;
  const words = new DataView(new ArrayBuffer(16));
  words.setUint32(0, before, true);
  words.setFloat32(4, norm?.eps ?? 0, true);
  words.setFloat32(8, temperature?.scale ?? 0, true);
  words.setUint32(12, temperature?.tokens ?? 1, true);
  const op = uniformBuffer(device, words, "rope op");
  const absent = absentBuffer(device);
  return {
    label: input.label ?? "rope",
    pipeline,
    group: kernels.bind(pipeline, 0, [op, qkv, norm?.qWeight ?? absent, norm?.kWeight ?? absent]),
    grid: (step) => [heads + (over.length - 1) * kvHeads, step.rows, 1],
  };
}
