/**
 * The norms of the residual stream, fused with the residual add (shaders/norm.wgsl), as an op. Per-head norms of q and k live
 * in rope.ts.
 */
import code from "../../../shaders/norm.wgsl";
import bounded from "../../../shaders/lib/bounded.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import { assert } from "../../base.ts";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import { uniformBuffer, type Op } from "../../gpu/op.ts";
import type { NormKind, PostNormOf } from "../../shape/shape.ts";
import { absentBuffer, largestFinite, reduceFragment } from "./kernel-parts.ts";

/** The weights of a norm are f32 [d] for "rms", [2 * d] for "layer": weights, then biases. */
export interface NormInput {
  label?: string;
  kind: NormKind;
  /** f32 [rows, d]: the residual stream; delta is added to it in place, unless `gather`. */
  hidden: GPUBuffer;
  /** f32 [rows, d]: what the last mixer or feed-forward produced. Absent: nothing to add. */
  delta?: GPUBuffer | undefined;
  /** A second norm: of delta before it is added (sandwich norms; needs `delta`), or of the stream after that, in place. */
  post?: { weight: GPUBuffer; of: PostNormOf } | undefined;
  /** Zero-centred weights have had their 1 added by the loader. Absent: `out` is the stream as it stands. */
  weight: GPUBuffer | undefined;
  /** elem [rows, d]; with `gather` [logitRows, d]. */
  out: GPUBuffer;
  /** Hidden size, a multiple of 4. */
  d: number;
  eps: number;
  /** Factor of delta, 1 by default. */
  residualScale?: number;
  /** Factor of the stream behind the add and its norm, 1 by default. */
  streamScale?: number | undefined;
  /** true: out row i is row `logitRow[i]`; hidden is read and not written. Default false. */
  gather?: boolean;
}

/** Values of the kernel's POST. */
const POST: Readonly<Record<PostNormOf, number>> = { output: 1, sum: 2 };

/** out = norm(hidden + residualScale * delta); see the kernel's head for the order of things. */
export async function normOp(kernels: Kernels, types: KernelTypes, input: NormInput): Promise<Op> {
  const { kind, hidden, delta, post, weight, out, d, eps, residualScale = 1, gather = false } = input;
  const { streamScale = 1 } = input;
  assert(d > 0 && d % 4 === 0, `norm: the hidden size ${d} is not a multiple of 4`);
  assert(delta || post?.of !== "output", "norm: a post-norm of delta without delta");
  const { lib, subgroups } = reduceFragment(kernels);
  const pipeline = await kernels.pipeline(
    { name: "norm", code, libs: [stepLib, bounded, lib], subgroups },
    types,
    {
      WG: invocations(d),
      D4: d / 4,
      LAYER: kind === "layer" ? 1 : 0,
      HAS_DELTA: delta ? 1 : 0,
      POST: post ? POST[post.of] : 0,
      PRE: weight ? 1 : 0,
      GATHER: gather ? 1 : 0,
      LIMIT: largestFinite(types.elem),
    },
  );
  const { device } = kernels.gpu;
  const op = uniformBuffer(device, new Float32Array([eps, residualScale, streamScale]), "norm op");
  const absent = weight ?? post?.weight ?? delta ?? absentBuffer(device);
  const group = [op, hidden, delta ?? absent, post?.weight ?? absent, weight ?? absent, out];
  return {
    label: input.label ?? "norm",
    pipeline,
    group: kernels.bind(pipeline, 0, group),
    grid: (step) => [gather ? step.logitRows : step.rows, 1, 1],
  };
}

/** A function of the width alone, so that a row's sums never depend on its batch. */
function invocations(d: number): number {
  return d <= 1024 ? 64 : d <= 4096 ? 128 : 256;
}
