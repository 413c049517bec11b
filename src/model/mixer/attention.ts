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
import type { Mixer, ModelShape } from "../../shape/shape.ts";
import { LANES, need } from "../arch/need.ts";
import { MATRIX, VECTOR, type LayerTensors, type TensorSpec } from "../arch/tensor-lookup.ts";
import { absentBuffer, largestFinite, reduceFragment } from "../op/kernel-parts.ts";
import { pairsBefore, ropeOp } from "../op/rope.ts";
import { vectorNormOp } from "../op/vector-norm.ts";
import type { LayerLoader, Part, Projection } from "../tensor-loader.ts";
import { attendRowsOp, MAX_ROW_HEAD_DIM } from "./attention-rows.ts";
import type { MixerContext, MixerKind } from "./kind.ts";
import { outputGateOp, splitQGateOp } from "./output-gate.ts";

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

/** Entries of a value head at most: each belongs to one invocation of the kernels, four at a time. */
const MAX_HEAD_DIM = 512;
/** Two queries of this size lie in the workgroup memory of decode attention. */
export const MAX_KEY_DIM = 576;

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
  return sharesKvOf === undefined ? [await kvWriteOp(kernels, context.types(), shared), ...ops] : ops;
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
  /** A multiple of 4. */
  headDim: number;
  /** The first entries of a place that are its value, a multiple of 4 up to 512. Default: `headDim`, all. */
  valueDim?: number;
  /** Tokens of a KV block: 16, 32 or 64. */
  blockTokens: number;
}

export interface KvBuffers {
  /** elem [rows, rowWidth]: q, k and v heads. */
  qkv: GPUBuffer;
  /** Default: (heads + 2 kvHeads) * headDim. */
  rowWidth?: number;
  /** kv_t [slot][kvHeads][blockTokens][headDim]. */
  keys: GPUBuffer;
  /** The same buffer as `keys` if values are parts of keys. */
  values: GPUBuffer;
}

export interface AttentionInput extends HeadShape, KvBuffers {
  label?: string;
  /** elem [rows, heads * valueDim]. */
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

/** Heads of more entries are computed by workgroups of twice as many invocations, two query heads at a time in decode. */
const WIDE_HEAD = 4 * WORKGROUP;

/** Copies k and v of the step's rows into the places that the step gives them (rows[].write). */
export async function kvWriteOp(
  kernels: Kernels,
  types: KernelTypes,
  input: HeadShape & KvBuffers & { label?: string; firstKey?: number },
): Promise<Op> {
  checkShape(input);
  const { heads, kvHeads, headDim, blockTokens, keys, values, firstKey = heads * headDim } = input;
  const hasValues = values !== keys;
  const pipeline = await kernels.pipeline(
    { name: "kv-write", code: kvWriteCode, libs: [stepLib, bounded] },
    types,
    {
      WG: WORKGROUP,
      ROW4: rowWidth(input) / 4,
      KEY4: firstKey / 4,
      VALUES: hasValues ? 1 : 0,
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
    group: kernels.bind(pipeline, 0, [
      input.qkv,
      keys,
      hasValues ? values : absentBuffer(kernels.gpu.device),
    ]),
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
  { heads, headDim, valueDim = headDim }: Pick<HeadShape, "heads" | "headDim" | "valueDim">,
  maxSequences: number,
  maxContext: number,
): number {
  return maxSequences * heads * splits(maxContext) * (4 + valueDim) * 4;
}

function rowWidth({ heads, kvHeads, headDim, rowWidth: given }: HeadShape & KvBuffers): number {
  return given ?? (heads + 2 * kvHeads) * headDim;
}

/** Invocations of a workgroup, one for each four entries of a value at least. */
function invocations(valueDim: number): number {
  return valueDim > WIDE_HEAD ? 2 * WORKGROUP : WORKGROUP;
}

async function prefillOp(kernels: Kernels, types: KernelTypes, input: AttentionInput): Promise<Op> {
  const { heads, kvHeads, headDim, valueDim = headDim, blockTokens, sinks } = input;
  const { device } = kernels.gpu;
  const source = { name: "attention-prefill", code: prefillCode, libs: [stepLib, bounded, keysCached] };
  const pipeline = await kernels.pipeline(source, types, {
    WG: invocations(valueDim),
    HEADS: heads,
    KV_HEADS: kvHeads,
    HEAD4: headDim / 4,
    VALUE4: valueDim / 4,
    ROW4: rowWidth(input) / 4,
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
  const { heads, kvHeads, headDim, valueDim = headDim, blockTokens } = input;
  const { scratch } = requireScratch(input);
  const { lib, subgroups } = reduceFragment(kernels);
  const source = { name: "attention-decode", code: decodeCode, libs: [stepLib, bounded, lib], subgroups };
  const group = heads / kvHeads;
  const lanes = Math.min(valueDim > WIDE_HEAD ? 2 : 4, group);
  const pipeline = await kernels.pipeline(source, types, {
    WG: invocations(valueDim),
    HEADS: heads,
    KV_HEADS: kvHeads,
    HEAD4: headDim / 4,
    VALUE4: valueDim / 4,
    ROW4: rowWidth(input) / 4,
    BLOCK_TOKENS: blockTokens,
    SPLIT_TOKENS,
    LANES: lanes,
  });
  const op = opUniform(kernels.gpu.device, input);
  return {
    label: input.label ?? "attention-decode",
    pipeline,
    group: kernels.bind(pipeline, 0, [op, input.qkv, input.keys, input.values, scratch]),
    grid: (step) => [splits(step.maxContext), kvHeads * Math.ceil(group / lanes), step.sequences],
  };
}

async function mergeOp(kernels: Kernels, types: KernelTypes, input: AttentionInput): Promise<Op> {
  const { heads, headDim, valueDim = headDim, sinks, window = 0 } = input;
  const { scratch, maxContext } = requireScratch(input);
  const { device } = kernels.gpu;
  const source = { name: "attention-merge", code: mergeCode, libs: [stepLib, bounded] };
  const pipeline = await kernels.pipeline(source, types, {
    WG: WORKGROUP,
    HEADS: heads,
    VALUE4: valueDim / 4,
    SPLIT_TOKENS,
    SINKS: sinks ? 1 : 0,
    LIMIT: largestFinite(types.elem),
  });
  const op = uniformBuffer(device, new Uint32Array([window, splits(maxContext)]), "attention-merge op");
  const width = Math.ceil((heads * valueDim) / 4 / WORKGROUP);
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

function checkShape({ heads, kvHeads, headDim, valueDim = headDim, blockTokens }: HeadShape): void {
  assert(heads > 0 && heads % kvHeads === 0, `attention: ${heads} heads over ${kvHeads} kv heads`);
  assert(headDim % 4 === 0 && headDim <= MAX_KEY_DIM, `attention: unsupported head size ${headDim}`);
  const isValid = valueDim % 4 === 0 && valueDim >= 4 && valueDim <= Math.min(headDim, MAX_HEAD_DIM);
  assert(isValid, `attention: unsupported value size ${valueDim}`);
  assert([16, 32, 64].includes(blockTokens), `attention: unsupported block of ${blockTokens} tokens`);
}
