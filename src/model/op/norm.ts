/**
 * RMS norm fused with the residual add (shaders/rmsnorm.wgsl) as an op. Per-head norms of q and k live in rope.ts.
 */
import code from "../../../shaders/rmsnorm.wgsl";
import bounded from "../../../shaders/lib/bounded.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import { assert } from "../../base.ts";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import { uniformBuffer, type Op } from "../../gpu/op.ts";
import { largestFinite, reduceFragment } from "./kernel-parts.ts";

export interface NormInput {
  label?: string;
  /** f32 [rows, d]: the residual stream; delta is added to it in place, unless `gather`. */
  hidden: GPUBuffer;
  /** f32 [rows, d]: what the last mixer or feed-forward produced. Absent: nothing to add. */
  delta?: GPUBuffer;
  /** f32 [d]: a second norm, of delta before it is added (sandwich norms). Needs `delta`. */
  postWeight?: GPUBuffer;
  /** f32 [d]. Zero-centred weights have had their 1 added by the loader. */
  weight: GPUBuffer;
  /** elem [rows, d]; with `gather` [logitRows, d]. */
  out: GPUBuffer;
  /** Hidden size, a multiple of 4. */
  d: number;
  eps: number;
  /** Factor of delta, 1 by default. */
  residualScale?: number;
  /** true: out row i is row `logitRow[i]`; hidden is read and not written. Default false. */
  gather?: boolean;
}

/** out = rmsnorm(hidden + residualScale * delta) * weight; see the kernel's head for the order of things. */
export async function normOp(kernels: Kernels, types: KernelTypes, input: NormInput): Promise<Op> {
  const { hidden, delta, postWeight, weight, out, d, eps, residualScale = 1, gather = false } = input;
  assert(d > 0 && d % 4 === 0, `rmsnorm: the hidden size ${d} is not a multiple of 4`);
  assert(delta || !postWeight, "rmsnorm: postWeight without delta");
  const { lib, subgroups } = reduceFragment(kernels);
  const pipeline = await kernels.pipeline(
    { name: "rmsnorm", code, libs: [stepLib, bounded, lib], subgroups },
    types,
    {
      WG: invocations(d),
      D4: d / 4,
      HAS_DELTA: delta ? 1 : 0,
      POST_NORM: postWeight ? 1 : 0,
      GATHER: gather ? 1 : 0,
      LIMIT: largestFinite(types.elem),
    },
  );
  const { device } = kernels.gpu;
  const op = uniformBuffer(device, new Float32Array([eps, residualScale]), "rmsnorm op");
  const absent = weight; // stands at the bindings that the pipeline's overrides leave unread
  return {
    label: input.label ?? "rmsnorm",
    pipeline,
    group: kernels.bind(pipeline, 0, [op, hidden, delta ?? absent, postWeight ?? absent, weight, out]),
    grid: (step) => [gather ? step.logitRows : step.rows, 1, 1],
  };
}

/** A function of the width alone, so that a row's sums never depend on its batch. */
function invocations(d: number): number {
  return d <= 1024 ? 64 : d <= 4096 ? 128 : 256;
}
