/**
 * Softmax attention over the paged KV cache: its tensors, and its ops. Its data and costs are in shape/mixer/attention.ts, the
 * ops that write and read the cache in paged-attention.ts. In encoders it keeps nothing: keys and values are read from the step's
 * own rows.
 */
import type { Op } from "../../gpu/op.ts";
import { attentionCost, type AttentionMixer } from "../../shape/mixer/attention.ts";
import type { Mixer, ModelShape } from "../../shape/shape.ts";
import { LANES, need } from "../arch/need.ts";
import { MATRIX, VECTOR, type LayerTensors, type TensorSpec } from "../arch/tensor-lookup.ts";
import { pairsBefore, ropeOp } from "../op/rope.ts";
import { vectorNormOp } from "../op/vector-norm.ts";
import type { LayerLoader, Part, Projection } from "../tensor-loader.ts";
import { attendRowsOp, MAX_ROW_HEAD_DIM } from "./attention-rows.ts";
import type { MixerContext, MixerKind } from "./kind.ts";
import { outputGateOp, splitQGateOp } from "./output-gate.ts";
import { attentionOps, kvWriteOps, MAX_HEAD_DIM, scratchBytes, SPLIT_TOKENS } from "./paged-attention.ts";

interface AttentionWeights {
  /** q, k and v, or q alone; if the mixer is gated, k and v, and `queryGate` has the queries. */
  qkv: Projection;
  /** [q; gate] head by head. */
  queryGate: Projection | undefined;
  qNorm: GPUBuffer | undefined;
  kNorm: GPUBuffer | undefined;
  /** f32 [heads]: scores of a key that every query sees and that has no value (gpt-oss). */
  sinks: GPUBuffer | undefined;
  output: Projection;
}

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

  keeps: ({ kvHeads, headDim, bidirectional, sharesKvOf }) =>
    bidirectional || sharesKvOf !== undefined ? {} : { kv: { kvHeads, headDim } },

  readsKvOf: ({ sharesKvOf }) => sharesKvOf,

  check: checkSizes,

  cost: (mixer, units) => attentionCost(units, mixer),

  tensors(mixer, layer) {
    const { qkNorm, sharesKvOf, valuesAreKeys, bidirectional } = mixer;
    const hasKeys = sharesKvOf === undefined;
    const own = QUERY_KEY_VALUE.slice(0, hasKeys ? (valuesAreKeys ? 2 : 3) : 1);
    const projections = hasKeys && isFused(layer) ? FUSED_QKV : own;
    return [
      ["attn_output", MATRIX, true],
      ...(bidirectional ? [] : [[SINKS_NAME, VECTOR, false] as const]),
      ...projections,
      ...(qkNorm ? normSpecs(mixer, layer).slice(0, hasKeys ? undefined : 1) : []),
    ];
  },

  async load(mixer, layer) {
    const d = layer.hiddenSize;
    const { heads, kvHeads, headDim, qkNorm, gated, sharesKvOf, valuesAreKeys } = mixer;
    const hasKeys = sharesKvOf === undefined;
    const ownWeights = qkNorm === "vector" || qkNorm === "layer";
    const normed = (count: number) => (ownWeights ? count * headDim : headDim);
    const { queries, keysAndValues } = partsOf(mixer, isFused(layer));
    const queryGate = gated ? await layer.projection(d, queries) : undefined;
    return {
      qkv: valuesAreKeys
        ? await keysTwice(mixer, layer)
        : await layer.projection(d, gated ? keysAndValues : [...queries, ...keysAndValues]),
      queryGate,
      qNorm: qkNorm ? await headNorm("attn_q_norm", heads, normed(heads), layer) : undefined,
      kNorm: qkNorm && hasKeys ? await headNorm("attn_k_norm", kvHeads, normed(kvHeads), layer) : undefined,
      sinks: layer.has(SINKS_NAME) ? await layer.vector(SINKS_NAME, heads) : undefined,
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
      ...(await attendOps(mixer, weights, context)),
      ...(weights.queryGate ? [await gateOutput(mixer, context)] : []),
      ...(await context.output(weights.output, context.buffer("attended"))),
    ];
  },
};

function checkSizes(mixer: AttentionMixer, shape: ModelShape, where: string): void {
  const { heads, kvHeads, headDim, ropeTable, sharesKvOf } = mixer;
  const most = mixer.bidirectional ? MAX_ROW_HEAD_DIM : MAX_HEAD_DIM;
  need(heads > 0 && kvHeads > 0, `${where}: attention with ${heads} heads over ${kvHeads} KV heads`);
  need(heads % kvHeads === 0, `${where}: ${heads} heads cannot share ${kvHeads} KV heads evenly`);
  need(
    headDim >= LANES && headDim <= most && headDim % LANES === 0,
    `${where}: the head size ${headDim} is not a multiple of ${LANES} up to ${most}`,
  );
  const rot = ropeTable === undefined ? 0 : (shape.ropeTables[ropeTable]?.rot ?? 0);
  need(rot <= headDim, `${where}: ${rot} rotated entries in a head of ${headDim}`);
  need(ropeTable === undefined || rot > 0, `${where}: a rotation (RoPE) of no entries`);
  if (sharesKvOf !== undefined)
    checkOwner(
      mixer,
      shape.layers[sharesKvOf]?.mixers[0],
      `${where} reads the keys and values of layer ${sharesKvOf}`,
    );
}

/** Only an attention layer that has keys and values of the same sizes can lend them. */
function checkOwner({ kvHeads, headDim }: AttentionMixer, owner: Mixer | undefined, what: string): void {
  const own = owner?.kind === "attention" && owner.sharesKvOf === undefined ? owner : undefined;
  need(own !== undefined, `${what}, which has none`);
  const isSame = own?.kvHeads === kvHeads && own.headDim === headDim;
  need(isSame, `${what}: ${own?.kvHeads} heads of ${own?.headDim} there, ${kvHeads} of ${headDim} here`);
}

/** The tensor of queries, keys and values if they have none of their own. */
const FUSED_NAME = "attn_qkv";

const SINKS_NAME = "attn_sinks";

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

/** The weights of norms of q and k: one tensor, or one of each head (StableLM 2 12B in safetensors). */
function normSpecs({ heads, kvHeads }: AttentionMixer, layer: LayerTensors): readonly TensorSpec[] {
  if (!layer.has("attn_q_norm.0")) return HEAD_NORMS;
  const each = (name: string, count: number) =>
    Array.from({ length: count }, (_, head): TensorSpec => [`${name}.${head}`, VECTOR, true]);
  return [...each("attn_q_norm", heads), ...each("attn_k_norm", kvHeads)];
}

function headNorm(name: string, heads: number, length: number, layer: LayerLoader): Promise<GPUBuffer> {
  if (!layer.has(`${name}.0`)) return layer.norm(name, length);
  return layer.joined(
    Array.from({ length: heads }, (_, head) => [`${name}.${head}`, length / heads] as const),
  );
}

/** Whether queries, keys and values stand one below the other in one tensor. */
function isFused(layer: LayerTensors): boolean {
  return !layer.has("attn_q") && layer.has(FUSED_NAME);
}

/** Queries (with their gates), keys and values: a tensor each, or rows of one. */
function partsOf(mixer: AttentionMixer, fused: boolean): Record<"queries" | "keysAndValues", Part[]> {
  const { heads, kvHeads, headDim, gated, sharesKvOf } = mixer;
  if (fused && mixer.groupedQkv) return groupedParts(mixer);
  if (fused && !gated) return { queries: [], keysAndValues: [[FUSED_NAME, qkvWidth(mixer)]] };
  const queryRows = (gated ? 2 : 1) * heads * headDim;
  if (sharesKvOf !== undefined) return { queries: [["attn_q", queryRows]], keysAndValues: [] };
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

/** The products with W_k stand where those with W_v would, too. */
async function keysTwice(
  { heads, kvHeads, headDim }: AttentionMixer,
  layer: LayerLoader,
): Promise<Projection> {
  const [queryRows, kvRows] = [heads * headDim, kvHeads * headDim];
  const queries = await layer.projection(layer.hiddenSize, [["attn_q", queryRows]]);
  const keys = await layer.projection(layer.hiddenSize, [["attn_k", kvRows]]);
  return [...queries, ...moved(keys, queryRows), ...moved(keys, queryRows + kvRows)];
}

function moved(projection: Projection, by: number): Projection {
  return projection.map((part) => ({ ...part, outOffset: part.outOffset + by }));
}

/** The rows of each KV head, put where all queries, all keys and all values stand together. */
function groupedParts(mixer: AttentionMixer): Record<"queries" | "keysAndValues", Part[]> {
  const { heads, kvHeads, headDim } = mixer;
  const of = qkvWidth(mixer);
  const queryRows = (heads / kvHeads) * headDim;
  const rowsAt = (offset: number, rows: number) =>
    Array.from({ length: kvHeads }, (_, group): Part => {
      const first = (group * of) / kvHeads + offset;
      return [FUSED_NAME, rows, { first, of }];
    });
  return {
    queries: rowsAt(0, queryRows),
    keysAndValues: [...rowsAt(queryRows, headDim), ...rowsAt(queryRows + headDim, headDim)],
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
  const keysAndValues = moved(projection, heads * headDim);
  return [
    ...(await context.project(queryGate, normed, qg, 2 * heads * headDim, dtype)),
    ...(await context.project(keysAndValues, normed, qkv, width, dtype)),
    await splitQGateOp(kernels, context.types(), { heads, kvHeads, headDim, qg, qkv }),
  ];
}

/** Norms, rotation and temperature of queries and keys, as far as the mixer has them. */
async function rotateOps(
  { heads, kvHeads, headDim, ropeTable, qkNorm, temperature, vNorm, sharesKvOf }: AttentionMixer,
  { qNorm, kNorm }: AttentionWeights,
  context: MixerContext,
): Promise<Op[]> {
  const { kernels, shape } = context;
  const sizes = { qkv: context.buffer("qkv"), heads, kvHeads, headDim };
  const norm = qNorm && { qWeight: qNorm, kWeight: kNorm, eps: shape.normEps };
  const ops: Op[] = [];
  const ofVector = qkNorm === "vector";
  if (norm && kNorm && ofVector)
    ops.push(await vectorNormOp(kernels, context.types(), { ...sizes, ...norm, kWeight: kNorm }));
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
    before: pairsBefore(shape.ropeTables, ropeTable ?? 0),
    over: sharesKvOf !== undefined ? "q" : vNorm ? "qkv" : "qk",
    ...(ofHeads && { norm: ofHeads }),
    ...(temperature && { temperature }),
  });
  return [...ops, rope];
}

async function attendOps(
  mixer: AttentionMixer,
  { sinks }: AttentionWeights,
  context: MixerContext,
): Promise<Op[]> {
  const { heads, kvHeads, headDim, scale, softCap, window, sharesKvOf } = mixer;
  const { kernels, phase } = context;
  if (mixer.bidirectional) return [await attendRowsOp(mixer, context)];
  const { blockTokens, maxContext } = context.limits;
  const shared = { heads, kvHeads, headDim, blockTokens, qkv: context.buffer("qkv"), ...context.kv };
  const ops = await attentionOps(kernels, context.types(), {
    ...{ ...shared, out: context.buffer("attended"), scratch: context.buffer("scratch") },
    ...{ phase, scale, cap: softCap, window, maxContext, ...(sinks && { sinks }) },
  });
  if (sharesKvOf !== undefined) return ops;
  return [...(await kvWriteOps(kernels, context.types(), { ...shared, phase })), ...ops];
}

function gateOutput({ heads, headDim }: AttentionMixer, context: MixerContext): Promise<Op> {
  // A row is [q; gate] head by head (queryKeyValueOps).
  return outputGateOp(context.kernels, context.types(), {
    ...{ heads, headDim, attended: context.buffer("attended"), gate: context.buffer("queryGate") },
    ...{ gateStride: 2 * heads * headDim, gateOffset: headDim, gatePerHead: 2 * headDim },
  });
}
