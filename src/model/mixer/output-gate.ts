/**
 * The output gate of the attention of Qwen3-Next and Qwen3.5 as ops (shaders/output-gate.wgsl): their query projection gives
 * each head [q; gate]. One op moves the queries to where RoPE and attention read them, the other gates what attention made.
 */
import code from "../../../shaders/output-gate.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import { assert } from "../../base.ts";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import { uniformBuffer, type Op } from "../../gpu/op.ts";

export interface OutputGateInput {
  label?: string;
  /** elem [rows, heads * headDim], changed in place. */
  attended: GPUBuffer;
  /** elem [rows, gateStride]; head h's gate at gateOffset + h * gatePerHead. All multiples of 4. */
  gate: GPUBuffer;
  gateStride: number;
  gateOffset: number;
  gatePerHead: number;
  heads: number;
  /** A multiple of 4. */
  headDim: number;
}

/** attended *= sigmoid(gate), entry by entry. For [q; gate] rows: stride 2 heads headDim, offset headDim, 2 headDim a head. */
export function outputGateOp(kernels: Kernels, types: KernelTypes, input: OutputGateInput): Promise<Op> {
  const { attended, gate, heads, headDim } = input;
  return perEntryOp(kernels, types, {
    label: input.label ?? "attention gate",
    copy: false,
    to: attended,
    source: gate,
    heads,
    headDim,
    toStride: heads * headDim,
    sourceStride: input.gateStride,
    sourceOffset: input.gateOffset,
    sourceHead: input.gatePerHead,
  });
}

export interface SplitQGateInput {
  label?: string;
  /** elem [rows, 2 * heads * headDim]: head by head [q; gate]. The gates stay there for `outputGateOp`. */
  qg: GPUBuffer;
  /** elem [rows, (heads + 2 kvHeads) * headDim]: the q heads are written, k and v are left alone. */
  qkv: GPUBuffer;
  heads: number;
  kvHeads: number;
  /** A multiple of 4. */
  headDim: number;
}

/** Copies the queries of [q; gate] rows into the q part of the qkv rows. */
export function splitQGateOp(kernels: Kernels, types: KernelTypes, input: SplitQGateInput): Promise<Op> {
  const { qg, qkv, heads, kvHeads, headDim } = input;
  return perEntryOp(kernels, types, {
    label: input.label ?? "split q and gate",
    copy: true,
    to: qkv,
    source: qg,
    heads,
    headDim,
    toStride: (heads + 2 * kvHeads) * headDim,
    sourceStride: 2 * heads * headDim,
    sourceOffset: 0,
    sourceHead: 2 * headDim,
  });
}

/** Sizes in elements. */
interface PerEntry {
  label: string;
  copy: boolean;
  to: GPUBuffer;
  source: GPUBuffer;
  heads: number;
  headDim: number;
  toStride: number;
  sourceStride: number;
  sourceOffset: number;
  sourceHead: number;
}

const WORKGROUP = 64;

async function perEntryOp(kernels: Kernels, types: KernelTypes, work: PerEntry): Promise<Op> {
  const { heads, headDim, toStride, sourceStride, sourceOffset, sourceHead } = work;
  for (const size of [headDim, sourceStride, sourceOffset, sourceHead])
    assert(size % 4 === 0, `${work.label}: ${size} is not a multiple of 4`);
  const pipeline = await kernels.pipeline({ name: "gate", code, libs: [stepLib] }, types, {
    COPY: work.copy ? 1 : 0,
  });
  const fours = [headDim, toStride, sourceStride, sourceOffset, sourceHead].map((size) => size / 4);
  const op = uniformBuffer(kernels.gpu.device, Uint32Array.of(heads, ...fours), "gate op");
  const each = (heads * headDim) / 4;
  return {
    label: work.label,
    pipeline,
    group: kernels.bind(pipeline, 0, [op, work.to, work.source]),
    grid: (step) => [Math.ceil((step.rows * each) / WORKGROUP), 1, 1],
  };
}
