/**
 * Multi-head latent attention in its absorbed form: queries are taken into the space of the latent vectors, attention reads
 * those alone, as keys and as values, and its output is taken out again. Its data and costs are in shape/mixer/latent.ts; the
 * kernels over the cache are attention's (paged-attention.ts), with one KV head.
 */
import headCode from "../../../shaders/head-product.wgsl";
import ropeCode from "../../../shaders/latent-rope.wgsl";
import bounded from "../../../shaders/lib/bounded.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import unitLib from "../../../shaders/lib/format-unit.wgsl";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import { uniformBuffer, type Op } from "../../gpu/op.ts";
import { keptDim, latentCost, type LatentMixer } from "../../shape/mixer/latent.ts";
import { LANES, need, needPositive } from "../arch/need.ts";
import { MATRIX, VECTOR } from "../arch/tensor-lookup.ts";
import { UNIT_COLUMNS } from "../matrix/formats.ts";
import { tilesPerRow } from "../matrix/panels.ts";
import type { PackedWeight } from "../matrix/upload.ts";
import { largestFinite, reduceFragment } from "../op/kernel-parts.ts";
import { normOp } from "../op/norm.ts";
import type { LayerLoader, Projection } from "../tensor-loader.ts";
import { attentionOps, kvWriteOps, MAX_KEY_DIM, scratchBytes, SPLIT_TOKENS } from "./paged-attention.ts";
import type { MixerContext, MixerKind } from "./kind.ts";

interface LatentWeights {
  /** To the vector between the query matrices, with its norm, and from it; or the one matrix. */
  queryIn: Projection | undefined;
  queryNorm: GPUBuffer | undefined;
  query: Projection;
  /** To what is kept. */
  kept: Projection;
  keptNorm: GPUBuffer;
  /** [heads * rank, plainDim]: queries into the latent space. */
  keys: PackedWeight;
  /** [heads * valueDim, rank]: out of it. */
  values: PackedWeight;
  output: Projection;
}

/** Entries of a latent vector at most: those of a value (paged-attention.ts). */
const MAX_RANK = 512;

export const LATENT: MixerKind<LatentMixer, LatentWeights> = {
  kind: "latent",
  safetensorsNames: {
    attn_q: "self_attn.q_proj",
    attn_q_a: "self_attn.q_a_proj",
    attn_q_a_norm: "self_attn.q_a_layernorm",
    attn_q_b: "self_attn.q_b_proj",
    attn_kv_a_mqa: "self_attn.kv_a_proj_with_mqa",
    attn_kv_a_norm: "self_attn.kv_a_layernorm",
    attn_kv_b: "self_attn.kv_b_proj",
    attn_output: "self_attn.o_proj",
  },

  keeps: (mixer) => ({ kv: { kvHeads: 1, headDim: keptDim(mixer), keysOnly: true } }),

  check(mixer, shape, where) {
    const { heads, rank, plainDim, ropeDim, valueDim } = mixer;
    const sizes = { heads, rank, plainDim, ropeDim, valueDim, queryRank: mixer.queryRank ?? LANES };
    needPositive(sizes, `${where}: latent attention`);
    for (const [name, size] of Object.entries(sizes))
      need(name === "heads" || size % LANES === 0, `${where}: ${name} ${size} is not a multiple of ${LANES}`);
    need(
      rank <= MAX_RANK && keptDim(mixer) <= MAX_KEY_DIM,
      `${where}: a latent vector of ${rank} + ${ropeDim} entries, at most ${MAX_RANK} and ${MAX_KEY_DIM} together`,
    );
    need(shape.ropeTables[0]?.rot === ropeDim, `${where}: ${ropeDim} rotated entries in a head`);
  },

  cost: (mixer, units) => latentCost(units, mixer),

  tensors: ({ queryRank }, layer) => [
    ...(queryRank === undefined
      ? ([["attn_q", MATRIX, true]] as const)
      : ([
          ["attn_q_a", MATRIX, true],
          ["attn_q_a_norm", VECTOR, true],
          ["attn_q_b", MATRIX, true],
        ] as const)),
    ["attn_kv_a_mqa", MATRIX, true],
    ["attn_kv_a_norm", VECTOR, true],
    ...(layer.has(KEYS_AND_VALUES) ? [KEYS_AND_VALUES] : ["attn_k_b", "attn_v_b"]).map(
      (name) => [name, VECTOR, true] as const,
    ),
    ["attn_output", MATRIX, true],
  ],

  async load(mixer, layer) {
    const { hiddenSize: d } = layer;
    const { heads, queryRank, rank, plainDim, ropeDim, valueDim } = mixer;
    const queries = heads * (plainDim + ropeDim);
    const hasRank = queryRank !== undefined;
    return {
      queryIn: hasRank ? await layer.projection(d, [["attn_q_a", queryRank]]) : undefined,
      queryNorm: hasRank ? await layer.norm("attn_q_a_norm", queryRank) : undefined,
      query: await layer.projection(queryRank ?? d, [[hasRank ? "attn_q_b" : "attn_q", queries]]),
      kept: await layer.projection(d, [["attn_kv_a_mqa", keptDim(mixer)]]),
      keptNorm: await layer.norm("attn_kv_a_norm", rank),
      ...(await loadHeads(mixer, layer)),
      output: await layer.projection(heads * valueDim, [["attn_output", d]]),
    };
  },

  buffers(mixer, { maxRows, elemBytes, seats, maxContext }) {
    const { heads, queryRank = 0, rank, plainDim, ropeDim, valueDim } = mixer;
    const rows = (width: number) => maxRows * width * elemBytes;
    return {
      queryRank: 4 * maxRows * queryRank,
      queryNormed: rows(queryRank),
      rawQueries: rows(heads * (plainDim + ropeDim)),
      qkv: rows(heads * keptDim(mixer)),
      latent: rows(keptDim(mixer)),
      latentAttended: rows(heads * rank),
      attended: rows(heads * valueDim),
      scratch: scratchBytes(headShape(mixer), seats, maxContext),
    };
  },

  maxContext: (mixer, seats, bytes) =>
    SPLIT_TOKENS * Math.floor(bytes / scratchBytes(headShape(mixer), seats, SPLIT_TOKENS)),

  async ops(mixer, weights, context) {
    const { kernels, dtype } = context;
    const types = context.types();
    const { heads, rank, plainDim, ropeDim, valueDim } = mixer;
    const kept = keptDim(mixer);
    const buffer = (name: string) => context.buffer(name);
    const [raw, qkv, latent] = [buffer("rawQueries"), buffer("qkv"), buffer("latent")];
    const [between, attended] = [buffer("latentAttended"), buffer("attended")];
    const inHead = plainDim + ropeDim;
    return [
      ...(await queryOps(mixer, weights, context)),
      ...(await context.project(weights.kept, context.normed, latent, kept, dtype)),
      ...(await headProductOps(kernels, types, {
        ...{ weight: weights.keys, outDim: rank, x: raw, xStride: heads * inHead, xPerHead: inHead },
        ...{ y: qkv, yStride: heads * kept, yPerHead: kept },
      })),
      await latentRopeOp(kernels, types, {
        ...{ mixer, raw, weight: weights.keptNorm, q: qkv, kept: latent },
        ...{ eps: context.shape.normEps, interleaved: context.shape.ropeLayout === "interleaved" },
      }),
      ...(await attendOps(mixer, context)),
      ...(await headProductOps(kernels, types, {
        ...{ weight: weights.values, outDim: valueDim, x: between, xStride: heads * rank, xPerHead: rank },
        ...{ y: attended, yStride: heads * valueDim, yPerHead: valueDim },
      })),
      ...(await context.output(weights.output, attended)),
    ];
  },
};

/** Of each head the rows of its keys, then those of its values (safetensors). */
const KEYS_AND_VALUES = "attn_kv_b";

/** Keys and values of each head; in the absorbed form the matrix of its keys is read by columns. */
async function loadHeads(
  { heads, rank, plainDim, valueDim }: LatentMixer,
  layer: LayerLoader,
): Promise<Pick<LatentWeights, "keys" | "values">> {
  if (!layer.has(KEYS_AND_VALUES))
    return {
      keys: await layer.stacked("attn_k_b", [plainDim, rank, heads]),
      values: await layer.stacked("attn_v_b", [rank, valueDim, heads]),
    };
  const all = { columns: rank, groups: heads, inGroup: plainDim + valueDim };
  return {
    keys: await layer.grouped(KEYS_AND_VALUES, { ...all, first: 0, rows: plainDim, isTurned: true }),
    values: await layer.grouped(KEYS_AND_VALUES, { ...all, first: plainDim, rows: valueDim }),
  };
}

function headShape(mixer: LatentMixer) {
  return { heads: mixer.heads, kvHeads: 1, headDim: keptDim(mixer), valueDim: mixer.rank };
}

async function queryOps(
  { heads, queryRank, plainDim, ropeDim }: LatentMixer,
  { queryIn, queryNorm, query }: LatentWeights,
  context: MixerContext,
): Promise<Op[]> {
  const { kernels, normed, dtype, shape } = context;
  const raw = context.buffer("rawQueries");
  const width = heads * (plainDim + ropeDim);
  if (!queryIn || queryRank === undefined) return context.project(query, normed, raw, width, dtype);
  const [rank, out] = [context.buffer("queryRank"), context.buffer("queryNormed")];
  const norm = {
    kind: "rms",
    hidden: rank,
    weight: queryNorm,
    out,
    d: queryRank,
    eps: shape.normEps,
  } as const;
  return [
    ...(await context.project(queryIn, normed, rank, queryRank, "f32")),
    await normOp(kernels, context.types(), norm),
    ...(await context.project(query, out, raw, width, dtype)),
  ];
}

async function attendOps(mixer: LatentMixer, context: MixerContext): Promise<Op[]> {
  const { kernels, phase } = context;
  const { blockTokens, maxContext } = context.limits;
  const shape = { ...headShape(mixer), blockTokens, ...context.kv };
  const latent = { qkv: context.buffer("latent"), rowWidth: keptDim(mixer), firstKey: 0, phase };
  const queries = { qkv: context.buffer("qkv"), rowWidth: mixer.heads * keptDim(mixer) };
  const ops = await attentionOps(kernels, context.types(), {
    ...{ ...shape, ...queries, out: context.buffer("latentAttended"), scratch: context.buffer("scratch") },
    ...{ phase, scale: mixer.scale, maxContext },
  });
  return [...(await kvWriteOps(kernels, context.types(), { ...shape, ...latent })), ...ops];
}

export interface HeadProductInput {
  /** [heads * outDim, columns]. */
  weight: PackedWeight;
  outDim: number;
  /** elem [rows, xStride], head h from h * xPerHead on. */
  x: GPUBuffer;
  xStride: number;
  xPerHead: number;
  /** elem [rows, yStride], head h from h * yPerHead on. */
  y: GPUBuffer;
  yStride: number;
  yPerHead: number;
}

/** Rows of x that an invocation computes. */
const HEAD_ROWS = 4;

/** y[h] = W[h] x[h] for each head. */
export async function headProductOps(
  kernels: Kernels,
  types: KernelTypes,
  { weight, outDim, x, xStride, xPerHead, y, yStride, yPerHead }: HeadProductInput,
): Promise<Op[]> {
  const { format, columns } = weight;
  const libs = [stepLib, bounded, unitLib, format.fragment];
  const source = { name: `head-product ${format.name}`, code: headCode, libs };
  const pipeline = await kernels.pipeline(source, types, { LIMIT: largestFinite(types.elem) });
  return weight.pieces.map((piece) => {
    const words = Uint32Array.of(
      ...[
        columns,
        tilesPerRow(format, columns),
        Math.ceil(columns / UNIT_COLUMNS),
        piece.firstRow,
        piece.rows,
      ],
      ...[outDim, xStride, xPerHead, yStride, yPerHead],
    );
    const uniform = uniformBuffer(kernels.gpu.device, words, source.name);
    return {
      label: `head-product ${weight.name}`,
      pipeline,
      group: kernels.bind(pipeline, 0, [uniform, piece.buffer, x, y]),
      grid: (step) => [Math.ceil(piece.rows / 64), Math.ceil(step.rows / HEAD_ROWS), 1],
    };
  });
}

export interface LatentRopeInput {
  mixer: Pick<LatentMixer, "heads" | "plainDim" | "rank" | "ropeDim">;
  /** elem [rows, heads * (plainDim + ropeDim)]. */
  raw: GPUBuffer;
  /** f32 [rank]. */
  weight: GPUBuffer;
  /** elem [rows, heads * (rank + ropeDim)]: the rotated parts are written. */
  q: GPUBuffer;
  /** elem [rows, rank + ropeDim], in place. */
  kept: GPUBuffer;
  eps: number;
  interleaved: boolean;
}

export async function latentRopeOp(
  kernels: Kernels,
  types: KernelTypes,
  input: LatentRopeInput,
): Promise<Op> {
  const { mixer, raw, weight, q, kept, eps, interleaved } = input;
  const { lib, subgroups } = reduceFragment(kernels);
  const source = { name: "latent-rope", code: ropeCode, libs: [stepLib, bounded, lib], subgroups };
  const pipeline = await kernels.pipeline(source, types, {
    ...{ WG: 64, HEADS: mixer.heads, PLAIN: mixer.plainDim, RANK: mixer.rank, ROT: mixer.ropeDim },
    ...{ INTERLEAVED: interleaved ? 1 : 0, LIMIT: largestFinite(types.elem) },
  });
  const uniform = uniformBuffer(kernels.gpu.device, new Float32Array([eps]), source.name);
  return {
    label: source.name,
    pipeline,
    group: kernels.bind(pipeline, 0, [uniform, raw, weight, q, kept]),
    grid: (step) => [mixer.heads + 1, step.rows, 1],
  };
}
