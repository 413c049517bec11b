/**
 * Attention of whole texts over their own rows, to both sides (encoders): the kernel of prefill attention with keys and
 * values read from the step's rows. It keeps nothing, so that all tokens of a text must be in one step.
 */
import prefillCode from "../../../shaders/attention-prefill.wgsl";
import blocksExact from "../../../shaders/lib/blocks-exact.wgsl";
import bounded from "../../../shaders/lib/bounded.wgsl";
import keysInRows from "../../../shaders/lib/keys-in-rows.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import { assert } from "../../base.ts";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import { uniformBuffer, type Op } from "../../gpu/op.ts";
import type { AttentionMixer } from "../../shape/mixer/attention.ts";
import { absentBuffer, largestFinite } from "../op/kernel-parts.ts";
import type { MixerContext } from "./kind.ts";

export interface RowAttentionInput {
  /** Query heads, a multiple of `kvHeads`. */
  heads: number;
  kvHeads: number;
  /** A multiple of 4, 4 to 256. */
  headDim: number;
  /** elem [rows, (heads + 2 kvHeads) * headDim]: q, k and v heads. */
  qkv: GPUBuffer;
  /** elem [rows, heads * headDim]. */
  out: GPUBuffer;
  /** Factor of q.k. */
  scale: number;
  /** Soft cap of the scores; 0: none. */
  cap: number;
  /** A key is seen if it is at most half of this away; 0: all. */
  window: number;
}

/** Each four entries of a head belong to one invocation of a workgroup. */
const WORKGROUP = 64;
export const MAX_ROW_HEAD_DIM = 4 * WORKGROUP;

/** Queries of a kv head that one workgroup owns. */
const QUERIES = 16;

/** Attention of a step of whole texts. Their last rows are the step's logit rows. */
export async function rowAttentionOp(
  kernels: Kernels,
  types: KernelTypes,
  input: RowAttentionInput,
): Promise<Op> {
  const { heads, kvHeads, headDim, qkv, out } = input;
  assert(heads > 0 && heads % kvHeads === 0, `attention: ${heads} heads over ${kvHeads} kv heads`);
  assert(
    headDim % 4 === 0 && headDim >= 4 && headDim <= MAX_ROW_HEAD_DIM,
    `attention: unsupported head size ${headDim}`,
  );
  const source = {
    name: "attention-rows",
    code: prefillCode,
    libs: [stepLib, bounded, blocksExact, keysInRows],
  };
  const pipeline = await kernels.pipeline(
    source,
    { ...types, kv: types.elem },
    {
      ...{ WG: WORKGROUP, HEADS: heads, KV_HEADS: kvHeads, HEAD4: headDim / 4, VALUE4: headDim / 4 },
      ...{ ROW4: ((heads + 2 * kvHeads) * headDim) / 4, SINKS: 0, LIMIT: largestFinite(types.elem) },
    },
  );
  const { device } = kernels.gpu;
  const group = heads / kvHeads;
  return {
    label: "attention-rows",
    pipeline,
    group: kernels.bind(pipeline, 0, [opUniform(device, input), qkv, qkv, qkv, absentBuffer(device), out]),
    grid: (step) => [Math.ceil((step.maxContext * group) / QUERIES), kvHeads, step.sequences],
  };
}

/** struct Op of attention-prefill. */
function opUniform(device: GPUDevice, { scale, cap, window, headDim }: RowAttentionInput): GPUBuffer {
  const words = new DataView(new ArrayBuffer(16));
  words.setFloat32(0, scale, true);
  words.setFloat32(4, cap, true);
  words.setUint32(8, window, true);
  words.setUint32(12, headDim / 4, true);
  return uniformBuffer(device, words, "attention-rows op");
}

/** The op of a layer whose mixer is bidirectional. */
export function attendRowsOp(mixer: AttentionMixer, context: MixerContext): Promise<Op> {
  const { heads, kvHeads, headDim, scale, softCap: cap, window } = mixer;
  return rowAttentionOp(context.kernels, context.types(), {
    ...{ heads, kvHeads, headDim, scale, cap, window },
    ...{ qkv: context.buffer("qkv"), out: context.buffer("attended") },
  });
}
