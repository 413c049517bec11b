/**
 * Softmax attention over the paged KV cache as ops: writing k and v into their places, and reading them in prefill (one
 * kernel) or decode (runs of keys, then a merge). It holds no cache: which slot holds what is the block table's business.
 */
import decodeCode from "../../../shaders/attention-decode.wgsl";
import mergeCode from "../../../shaders/attention-merge.wgsl";
import prefillCode from "../../../shaders/attention-prefill.wgsl";
import kvWriteCode from "../../../shaders/kv-write.wgsl";
import bounded from "../../../shaders/lib/bounded.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import { assert } from "../../base.ts";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import { uniformBuffer, type Op } from "../../gpu/op.ts";
import { absentBuffer, largestFinite, reduceFragment } from "../kernel-parts.ts";

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
  const source = { name: "attention-prefill", code: prefillCode, libs: [stepLib, bounded] };
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
