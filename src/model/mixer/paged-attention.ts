/**
 * The ops of softmax attention over the paged KV cache: they write k and v of a step's rows into their places, pack the blocks that
 * are complete if the cache is packed, and read the cache in prefill (one kernel) or decode (runs of keys, then a merge). They hold
 * no cache: which slot holds what is the block table's business.
 */
import decodeCode from "../../../shaders/attention-decode.wgsl";
import mergeCode from "../../../shaders/attention-merge.wgsl";
import prefillCode from "../../../shaders/attention-prefill.wgsl";
import kvPackCode from "../../../shaders/kv-pack.wgsl";
import kvWriteCode from "../../../shaders/kv-write.wgsl";
import blocksExact from "../../../shaders/lib/blocks-exact.wgsl";
import blocksPacked from "../../../shaders/lib/blocks-packed.wgsl";
import bounded from "../../../shaders/lib/bounded.wgsl";
import keysCached from "../../../shaders/lib/keys-cached.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import { assert } from "../../base.ts";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import { uniformBuffer, type Op, type StepShape } from "../../gpu/op.ts";
import { packedWords, type PackedBits } from "../../gpu/packed.ts";
import { absentBuffer, largestFinite, reduceFragment } from "../op/kernel-parts.ts";

/** Entries of a value head at most: each belongs to one invocation of the kernels, four at a time. */
export const MAX_HEAD_DIM = 512;
/** Two queries of this size lie in the workgroup memory of decode attention. */
export const MAX_KEY_DIM = 576;

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
  /** kv_t [slot][kvHeads][blockTokens][headDim]; of a packed cache the tails, with rows[].write among them. */
  keys: GPUBuffer;
  /** The same buffer as `keys` if values are parts of keys. */
  values: GPUBuffer;
  /** The slots of a packed cache; default: it is exact. */
  packed?: PackedBuffers | undefined;
}

/** Blocks as lib/blocks-packed.wgsl lays them out. */
export interface PackedBuffers {
  bits: PackedBits;
  keys: GPUBuffer;
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

export interface KvWriteInput extends HeadShape, KvBuffers {
  label?: string;
  /** Default: behind all queries. */
  firstKey?: number;
  /** Of a packed cache. */
  phase?: "prefill" | "decode";
}

/** The ops that put k and v of the step's rows into the cache. */
export async function kvWriteOps(kernels: Kernels, types: KernelTypes, input: KvWriteInput): Promise<Op[]> {
  const write = await kvWriteOp(kernels, types, input);
  const { packed } = input;
  return packed ? [write, await kvPackOp(kernels, types, { ...input, packed })] : [write];
}

/** Copies k and v of the step's rows into the places that the step gives them (rows[].write). */
export async function kvWriteOp(kernels: Kernels, types: KernelTypes, input: KvWriteInput): Promise<Op> {
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
      LIMIT: largestFinite(input.packed ? "f16" : types.kv), // of a packed cache the same in both types
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

/** Packs the blocks that the step completes. */
async function kvPackOp(
  kernels: Kernels,
  types: KernelTypes,
  input: KvWriteInput & { packed: PackedBuffers },
): Promise<Op> {
  const { kvHeads, headDim, blockTokens, keys, values, packed, phase } = input;
  const hasValues = values !== keys;
  const pipeline = await kernels.pipeline({ name: "kv-pack", code: kvPackCode, libs: [stepLib] }, types, {
    ...{ WG: WORKGROUP, PREFILL: phase === "prefill" ? 1 : 0, VALUES: hasValues ? 1 : 0 },
  });
  const absent = (): GPUBuffer => absentBuffer(kernels.gpu.device);
  const jobs =
    headDim + (hasValues ? blockTokens * packedWords(headDim, blockTokens, packed.bits).groups : 0);
  const width = Math.ceil((kvHeads * jobs) / WORKGROUP);
  const blocks = ({ rows, sequences }: StepShape): number =>
    phase === "prefill" ? Math.ceil(rows / blockTokens) : sequences;
  return {
    label: "kv-pack",
    pipeline,
    group: kernels.bind(pipeline, 0, [
      packUniform(kernels.gpu.device, input),
      keys,
      hasValues ? values : absent(),
      packed.keys,
      hasValues ? packed.values : absent(),
    ]),
    grid: (step) => [width, blocks(step), 1],
  };
}

/** struct Op of kv-pack. */
function packUniform(
  device: GPUDevice,
  { kvHeads, headDim, blockTokens, packed: { bits } }: HeadShape & { packed: PackedBuffers },
): GPUBuffer {
  const levels = 2 ** bits - 1;
  const { keyWords, codeWords, groups } = packedWords(headDim, blockTokens, bits);
  const words = Uint32Array.of(
    kvHeads,
    headDim,
    blockTokens,
    bits,
    32 / bits,
    keyWords,
    codeWords,
    groups,
    0,
    0,
  );
  new Float32Array(words.buffer).set([levels, 1 / levels], 8);
  return uniformBuffer(device, words, "kv-pack op");
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
  const libs = [stepLib, bounded, blocksLib(input), keysCached];
  const source = { name: "attention-prefill", code: prefillCode, libs };
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
    ...packedOverrides(input),
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
      ...packedBindings(kernels, input),
    ]),
    grid: (step) => [Math.ceil((step.rows * group) / PREFILL_QUERIES), kvHeads, 1],
  };
}

async function decodeOp(kernels: Kernels, types: KernelTypes, input: AttentionInput): Promise<Op> {
  const { heads, kvHeads, headDim, valueDim = headDim, blockTokens } = input;
  const { scratch } = requireScratch(input);
  const { lib, subgroups } = reduceFragment(kernels);
  const libs = [stepLib, bounded, blocksLib(input), lib];
  const source = { name: "attention-decode", code: decodeCode, libs, subgroups };
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
    ...packedOverrides(input),
  });
  const op = opUniform(kernels.gpu.device, input);
  return {
    label: input.label ?? "attention-decode",
    pipeline,
    group: kernels.bind(pipeline, 0, [
      ...[op, input.qkv, input.keys, input.values, scratch],
      undefined,
      ...packedBindings(kernels, input),
    ]),
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

function blocksLib({ packed }: AttentionInput): string {
  return packed ? blocksPacked : blocksExact;
}

function packedOverrides({ packed, keys, values }: AttentionInput): Record<string, number> {
  return packed ? { BITS: packed.bits, VALUES_ARE_KEYS: keys === values ? 1 : 0 } : {};
}

/** Bindings 6 and 7. */
function packedBindings(kernels: Kernels, { packed, keys, values }: AttentionInput): GPUBuffer[] {
  if (!packed) return [];
  return [packed.keys, keys === values ? absentBuffer(kernels.gpu.device) : packed.values];
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
