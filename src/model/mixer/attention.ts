/**
 * Softmax attention over the paged KV cache: its tensors, and its ops, which write k and v into their places and read them
 * in prefill (one kernel) or decode (runs of keys, then a merge). Its data and costs are in shape/mixer/attention.ts. It
 * holds no cache: which slot holds what is the block table's business. In encoders it keeps nothing: keys and values are
 * read from the step's own rows.
 */
import decodeCode from "../../../shaders/attention-decode.wgsl";
import mergeCode from "../../../shaders/attention-merge.wgsl";
import prefillCode from "../../../shaders/attention-prefill.wgsl";
import kvWriteCode from "../../../shaders/kv-write.wgsl";
import bounded from "../../../shaders/lib/bounded.wgsl";
import keysCached from "../../../shaders/lib/keys-cached.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import { assert } from "../../base.ts";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import { uniformBuffer, type Op } from "../../gpu/op.ts";
import { attentionCost, type AttentionMixer } from "../../shape/mixer/attention.ts";
import type { ModelShape } from "../../shape/shape.ts";
import { LANES, need } from "../arch/need.ts";
import { MATRIX, VECTOR, type LayerTensors, type TensorSpec } from "../arch/tensor-lookup.ts";
import { absentBuffer, largestFinite, reduceFragment } from "../op/kernel-parts.ts";
import { ropeOp } from "../op/rope.ts";
import { vectorNormOp } from "../op/vector-norm.ts";
import type { Part, Projection } from "../tensor-loader.ts";
import { attendRowsOp } from "./attention-rows.ts";
import type { MixerContext, MixerKind } from "./kind.ts";
import { outputGateOp, splitQGateOp } from "./output-gate.ts";

interface AttentionWeights {
  /** q, k and v; if the mixer is gated, k and v, and `queryGate` has the queries. */
  qkv: Projection;
  /** [q; gate] head by head. */
  queryGate: Projection | undefined;
  qNorm: GPUBuffer | undefined;
  kNorm: GPUBuffer | undefined;
  output: Projection;
}

const MAX_HEAD_DIM = 256;

export const ATTENTION: MixerKind<AttentionMixer, AttentionWeights> = {
  kind: "attention",
  safetensorsNames: {
    attn_q: "self_attn.q_proj",
    attn_k: "self_attn.k_proj",
    attn_v: "self_attn.v_proj",
    attn_output: "self_attn.o_proj",
    attn_q_norm: "self_attn.q_norm",
    attn_k_norm: "self_attn.k_norm",
  },

  keeps: ({ kvHeads, headDim, bidirectional }) => (bidirectional ? {} : { kv: { kvHeads, headDim } }),

  check: checkSizes,

  cost: (mixer, units) => attentionCost(units, mixer),

  tensors({ qkNorm }, layer) {
    const specs: readonly TensorSpec[] = [
      ["attn_output", MATRIX, true],
      ...(isFused(layer) ? FUSED_QKV : QUERY_KEY_VALUE),
    ];
    return qkNorm ? [...specs, ...HEAD_NORMS] : specs;
  },

  async load(mixer, layer) {
    const d = layer.hiddenSize;
    const { heads, kvHeads, headDim, qkNorm, gated } = mixer;
    const ownWeights = qkNorm === "vector" || qkNorm === "layer";
    const normed = (count: number) => (ownWeights ? count * headDim : headDim);
    const { queries, keysAndValues } = partsOf(mixer, isFused(layer));
    const queryGate = gated ? await layer.projection(d, queries) : undefined;
    return {
      qkv: await layer.projection(d, gated ? keysAndValues : [...queries, ...keysAndValues]),
      queryGate,
      qNorm: qkNorm ? await layer.norm("attn_q_norm", normed(heads)) : undefined,
      kNorm: qkNorm ? await layer.norm("attn_k_norm", normed(kvHeads)) : undefined,
      output: await layer.projection(heads * headDim, [["attn_output", d]]),
    };
  },

  buffers(mixer, { maxRows, elemBytes, seats, maxContext }) {
    const { heads, headDim, gated, bidirectional } = mixer;
    const rows = (width: number) => maxRows * width * elemBytes;
    return {
      qkv: rows(qkvWidth(mixer)),
      attended: rows(heads * headDim),
      ...(!bidirectional && { scratch: scratchBytes(mixer, seats, maxContext) }),
      ...(gated && { queryGate: rows(2 * heads * headDim) }),
    };
  },

  maxContext: (mixer, seats, bytes) =>
    mixer.bidirectional
      ? Infinity
      : SPLIT_TOKENS * Math.floor(bytes / scratchBytes(mixer, seats, SPLIT_TOKENS)),

  async ops(mixer, weights, context) {
    return [
      ...(await queryKeyValueOps(mixer, weights, context)),
      ...(await rotateOps(mixer, weights, context)),
      ...(await attendOps(mixer, context)),
      ...(weights.queryGate ? [await gateOutput(mixer, context)] : []),
      ...(await context.output(weights.output, context.buffer("attended"))),
    ];
  },
};

function checkSizes(mixer: AttentionMixer, shape: ModelShape, where: string): void {
  const { heads, kvHeads, headDim, ropeTable } = mixer;
  need(heads > 0 && kvHeads > 0, `${where}: attention with ${heads} heads over ${kvHeads} KV heads`);
  need(heads % kvHeads === 0, `${where}: ${heads} heads cannot share ${kvHeads} KV heads evenly`);
  need(
    headDim >= LANES && headDim <= MAX_HEAD_DIM && headDim % LANES === 0,
    `${where}: the head size ${headDim} is not a multiple of ${LANES} up to ${MAX_HEAD_DIM}`,
  );
  const rot = ropeTable === undefined ? 0 : (shape.ropeTables[ropeTable]?.rot ?? 0);
  need(rot <= headDim, `${where}: ${rot} rotated entries in a head of ${headDim}`);
  need(ropeTable === undefined || rot > 0, `${where}: a rotation (RoPE) of no entries`);
}

/** The tensor of queries, keys and values if they have none of their own. */
const FUSED_NAME = "attn_qkv";

const QUERY_KEY_VALUE: readonly TensorSpec[] = [
  ["attn_q", MATRIX, true],
  ["attn_k", MATRIX, true],
  ["attn_v", MATRIX, true],
];
const FUSED_QKV: readonly TensorSpec[] = [[FUSED_NAME, MATRIX, true]];
const HEAD_NORMS: readonly TensorSpec[] = [
  ["attn_q_norm", VECTOR, true],
  ["attn_k_norm", VECTOR, true],
];

/** Whether queries, keys and values stand one below the other in one tensor. */
function isFused(layer: LayerTensors): boolean {
  return !layer.has("attn_q") && layer.has(FUSED_NAME);
}

/** Queries (with their gates), keys and values: a tensor each, or rows of one. */
function partsOf(
  { heads, kvHeads, headDim, gated }: AttentionMixer,
  fused: boolean,
): Record<"queries" | "keysAndValues", Part[]> {
  const queryRows = (gated ? 2 : 1) * heads * headDim;
  const kvRows = kvHeads * headDim;
  const of = queryRows + 2 * kvRows;
  if (fused)
    return {
      queries: [[FUSED_NAME, queryRows, { first: 0, of }]],
      keysAndValues: [[FUSED_NAME, 2 * kvRows, { first: queryRows, of }]],
    };
  return {
    queries: [["attn_q", queryRows]],
    keysAndValues: [
      ["attn_k", kvRows],
      ["attn_v", kvRows],
    ],
  };
}

function qkvWidth({ heads, kvHeads, headDim }: AttentionMixer): number {
  return (heads + 2 * kvHeads) * headDim;
}

async function queryKeyValueOps(
  mixer: AttentionMixer,
  { qkv: projection, queryGate }: AttentionWeights,
  context: MixerContext,
): Promise<Op[]> {
  const { kernels, normed, dtype } = context;
  const { heads, kvHeads, headDim } = mixer;
  const qkv = context.buffer("qkv");
  const width = qkvWidth(mixer);
  if (!queryGate) return context.project(projection, normed, qkv, width, dtype);
  const qg = context.buffer("queryGate");
  const keysAndValues = projection.map((part) => ({ ...part, outOffset: part.outOffset + heads * headDim }));
  return [
    ...(await context.project(queryGate, normed, qg, 2 * heads * headDim, dtype)),
    ...(await context.project(keysAndValues, normed, qkv, width, dtype)),
    await splitQGateOp(kernels, context.types(), { heads, kvHeads, headDim, qg, qkv }),
  ];
}

/** Norms, rotation and temperature of queries and keys, as far as the mixer has them. */
async function rotateOps(
  { heads, kvHeads, headDim, ropeTable, qkNorm, temperature }: AttentionMixer,
  { qNorm, kNorm }: AttentionWeights,
  context: MixerContext,
): Promise<Op[]> {
  const { kernels, shape } = context;
  const sizes = { qkv: context.buffer("qkv"), heads, kvHeads, headDim };
  const norm = qNorm && kNorm && { qWeight: qNorm, kWeight: kNorm, eps: shape.normEps };
  const ops: Op[] = [];
  const ofVector = qkNorm === "vector";
  if (norm && ofVector) ops.push(await vectorNormOp(kernels, context.types(), { ...sizes, ...norm }));
  const ofHeads = norm &&
    !ofVector && {
      ...norm,
      isLast: qkNorm === "rotated",
      isLayer: qkNorm === "layer",
    };
  if (ropeTable === undefined && !ofHeads && !temperature) return ops;
  const rope = await ropeOp(kernels, context.types(), {
    ...sizes,
    rot: ropeTable === undefined ? 0 : (shape.ropeTables[ropeTable]?.rot ?? 0),
    interleaved: shape.ropeLayout === "interleaved",
    table: ropeTable ?? 0,
    ...(ofHeads && { norm: ofHeads }),
    ...(temperature && { temperature }),
  });
  return [...ops, rope];
}

async function attendOps(mixer: AttentionMixer, context: MixerContext): Promise<Op[]> {
  const { heads, kvHeads, headDim, scale, softCap, window } = mixer;
  const { kernels, phase } = context;
  if (mixer.bidirectional) return [await attendRowsOp(mixer, context)];
  const { blockTokens, maxContext } = context.limits;
  const shared = { heads, kvHeads, headDim, blockTokens, qkv: context.buffer("qkv"), ...context.kv };
  const ops = await attentionOps(kernels, context.types(), {
    ...{ ...shared, out: context.buffer("attended"), scratch: context.buffer("scratch") },
    ...{ phase, scale, cap: softCap, window, maxContext },
  });
  return [await kvWriteOp(kernels, context.types(), shared), ...ops];
}

function gateOutput({ heads, headDim }: AttentionMixer, context: MixerContext): Promise<Op> {
  // A row is [q; gate] head by head (queryKeyValueOps).
  return outputGateOp(context.kernels, context.types(), {
    ...{ heads, headDim, attended: context.buffer("attended"), gate: context.buffer("queryGate") },
    ...{ gateStride: 2 * heads * headDim, gateOffset: headDim, gatePerHead: 2 * headDim },
  });
}

/** The sizes that all attention kernels of a layer share. */
export interface HeadShape {
  /** Query heads, a multiple of `kvHeads`. */
  heads: number;
  kvHeads: number;
  /** A multiple of 4, 4 to 256. */
  headDim: number;
  /** Tokens of a KV block: 16, 32 or 64. */
  blockTokens: number;
}

export interface KvBuffers {
  /** elem [rows, (heads + 2 kvHeads) * headDim]: q, k and v heads. */
  qkv: GPUBuffer;
  /** kv_t [slot][kvHeads][blockTokens][headDim]. */
  keys: GPUBuffer;
  values: GPUBuffer;
}

export interface AttentionInput extends HeadShape, KvBuffers {
  label?: string;
  /** elem [rows, heads * headDim]. */
  out: GPUBuffer;
  phase: "prefill" | "decode";
  /** Factor of q.k; 1/sqrt(headDim) by default. */
  scale?: number;
  /** Soft cap of the scores: cap * tanh(score / cap). 0 (default): none. */
  cap?: number;
  /** A key is seen if position - its position < window. 0 (default): all. */
  window?: number;
  /** f32 [heads]: logits that join each head's denominator and carry no value. */
  sinks?: GPUBuffer;
  /** decode: at least `scratchBytes(...)`, shared by all layers. */
  scratch?: GPUBuffer;
  /** decode: the longest context that the engine allows, in tokens. */
  maxContext?: number;
}

/** Keys in one run of decode attention: a run stands at a multiple of this, whatever the batch is. */
export const SPLIT_TOKENS = 128;

/** Queries of a kv head that one workgroup of prefill attention owns. */
const PREFILL_QUERIES = 16;

const WORKGROUP = 64;

/** Copies k and v of the step's rows into the places that the step gives them (rows[].write). */
export async function kvWriteOp(
  kernels: Kernels,
  types: KernelTypes,
  input: HeadShape & KvBuffers & { label?: string },
): Promise<Op> {
  checkShape(input);
  const { heads, kvHeads, headDim, blockTokens } = input;
  const pipeline = await kernels.pipeline(
    { name: "kv-write", code: kvWriteCode, libs: [stepLib, bounded] },
    types,
    {
      WG: WORKGROUP,
      HEADS: heads,
      KV_HEADS: kvHeads,
      HEAD4: headDim / 4,
      BLOCK_TOKENS: blockTokens,
      LIMIT: largestFinite(types.kv),
    },
  );
  const width = Math.ceil((kvHeads * headDim) / 4 / WORKGROUP);
  return {
    label: input.label ?? "kv-write",
    pipeline,
    group: kernels.bind(pipeline, 0, [input.qkv, input.keys, input.values]),
    grid: (step) => [width, step.rows, 1],
  };
}

/** The ops that read the cache: one in prefill, two in decode, in order. */
export async function attentionOps(
  kernels: Kernels,
  types: KernelTypes,
  input: AttentionInput,
): Promise<Op[]> {
  checkShape(input);
  if (input.phase === "prefill") return [await prefillOp(kernels, types, input)];
  return [await decodeOp(kernels, types, input), await mergeOp(kernels, types, input)];
}

/** Bytes of the scratch buffer of decode attention for this many sequences of at most `maxContext` tokens. */
export function scratchBytes(
  shape: { heads: number; headDim: number },
  maxSequences: number,
  maxContext: number,
): number {
  return maxSequences * shape.heads * splits(maxContext) * (4 + shape.headDim) * 4;
}

async function prefillOp(kernels: Kernels, types: KernelTypes, input: AttentionInput): Promise<Op> {
  const { heads, kvHeads, headDim, blockTokens, sinks } = input;
  const { device } = kernels.gpu;
  const source = { name: "attention-prefill", code: prefillCode, libs: [stepLib, bounded, keysCached] };
  const pipeline = await kernels.pipeline(source, types, {
    HEADS: heads,
    KV_HEADS: kvHeads,
    HEAD4: headDim / 4,
    BLOCK_TOKENS: blockTokens,
    SINKS: sinks ? 1 : 0,
    LIMIT: largestFinite(types.elem),
  });
  const op = opUniform(device, input);
  const group = heads / kvHeads;
  return {
    label: input.label ?? "attention-prefill",
    pipeline,
    group: kernels.bind(pipeline, 0, [
      op,
      input.qkv,
      input.keys,
      input.values,
      sinks ?? absentBuffer(device),
      input.out,
    ]),
    grid: (step) => [Math.ceil((step.rows * group) / PREFILL_QUERIES), kvHeads, 1],
  };
}

async function decodeOp(kernels: Kernels, types: KernelTypes, input: AttentionInput): Promise<Op> {
  const { heads, kvHeads, headDim, blockTokens } = input;
  const { scratch } = requireScratch(input);
  const { lib, subgroups } = reduceFragment(kernels);
  const source = { name: "attention-decode", code: decodeCode, libs: [stepLib, bounded, lib], subgroups };
  const group = heads / kvHeads;
  const pipeline = await kernels.pipeline(source, types, {
    WG: WORKGROUP,
    HEADS: heads,
    KV_HEADS: kvHeads,
    HEAD4: headDim / 4,
    BLOCK_TOKENS: blockTokens,
    SPLIT_TOKENS,
    LANES: Math.min(4, group),
  });
  const op = opUniform(kernels.gpu.device, input);
  return {
    label: input.label ?? "attention-decode",
    pipeline,
    group: kernels.bind(pipeline, 0, [op, input.qkv, input.keys, input.values, scratch]),
    grid: (step) => [splits(step.maxContext), kvHeads * Math.ceil(group / 4), step.sequences],
  };
}

async function mergeOp(kernels: Kernels, types: KernelTypes, input: AttentionInput): Promise<Op> {
  const { heads, headDim, sinks, window = 0 } = input;
  const { scratch, maxContext } = requireScratch(input);
  const { device } = kernels.gpu;
  const source = { name: "attention-merge", code: mergeCode, libs: [stepLib, bounded] };
  const pipeline = await kernels.pipeline(source, types, {
    WG: WORKGROUP,
    HEADS: heads,
    HEAD4: headDim / 4,
    SPLIT_TOKENS,
    SINKS: sinks ? 1 : 0,
    LIMIT: largestFinite(types.elem),
  });
  const op = uniformBuffer(device, new Uint32Array([window, splits(maxContext)]), "attention-merge op");
  const width = Math.ceil((heads * headDim) / 4 / WORKGROUP);
  return {
    label: `${input.label ?? "attention"}-merge`,
    pipeline,
    group: kernels.bind(pipeline, 0, [op, scratch, sinks ?? absentBuffer(device), input.out]),
    grid: (step) => [width, step.sequences, 1],
  };
}

/** struct Op of attention-prefill (scale, cap, window, head4) and of attention-decode (maxSplits besides). */
function opUniform(device: GPUDevice, input: AttentionInput): GPUBuffer {
  const { headDim, scale = 1 / Math.sqrt(headDim), cap = 0, window = 0, maxContext = 0 } = input;
  const words = new DataView(new ArrayBuffer(32));
  words.setFloat32(0, scale, true);
  words.setFloat32(4, cap, true);
  words.setUint32(8, window, true);
  words.setUint32(12, headDim / 4, true);
  words.setUint32(16, splits(maxContext), true);
  return uniformBuffer(device, words, `attention-${input.phase} op`);
}

function requireScratch(input: AttentionInput): { scratch: GPUBuffer; maxContext: number } {
  const { scratch, maxContext } = input;
  assert(scratch && maxContext, "decode attention needs a scratch buffer and maxContext");
  const least = scratchBytes(input, 1, maxContext);
  assert(
    scratch.size >= least,
    `decode attention: scratch of ${scratch.size} bytes, one sequence needs ${least}`,
  );
  return { scratch, maxContext };
}

function splits(contextTokens: number): number {
  return Math.ceil(contextTokens / SPLIT_TOKENS);
}

function checkShape({ heads, kvHeads, headDim, blockTokens }: HeadShape): void {
  assert(heads > 0 && heads % kvHeads === 0, `attention: ${heads} heads over ${kvHeads} kv heads`);
  assert(headDim % 4 === 0 && headDim >= 4 && headDim <= 256, `attention: unsupported head size ${headDim}`);
  assert([16, 32, 64].includes(blockTokens), `attention: unsupported block of ${blockTokens} tokens`);
}
