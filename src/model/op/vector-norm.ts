/** The op that norms q and k as whole vectors (shaders/vector-norm.wgsl). Norms of single heads live in rope.ts. */
import code from "../../../shaders/vector-norm.wgsl";
import bounded from "../../../shaders/lib/bounded.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import { assert } from "../../base.ts";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import { uniformBuffer, type Op } from "../../gpu/op.ts";
import { largestFinite, reduceFragment } from "./kernel-parts.ts";

export interface VectorNormInput {
  /** elem [rows, (heads + 2 kvHeads) * headDim]; q and k are changed in place. */
  qkv: GPUBuffer;
  heads: number;
  kvHeads: number;
  /** A multiple of 4. */
  headDim: number;
  /** f32 [heads * headDim]. */
  qWeight: GPUBuffer;
  /** f32 [kvHeads * headDim]. */
  kWeight: GPUBuffer;
  eps: number;
}

const WORKGROUP = 128;

export async function vectorNormOp(
  kernels: Kernels,
  types: KernelTypes,
  input: VectorNormInput,
): Promise<Op> {
  const { qkv, heads, kvHeads, headDim, qWeight, kWeight, eps } = input;
  assert(headDim % 4 === 0, `vector norm: the head size ${headDim} is not a multiple of 4`);
  const { lib, subgroups } = reduceFragment(kernels);
  const pipeline = await kernels.pipeline(
    { name: "vector-norm", code, libs: [stepLib, bounded, lib], subgroups },
    types,
    {
      WG: WORKGROUP,
      HEADS: heads,
      KV_HEADS: kvHeads,
      HEAD4: headDim / 4,
      LIMIT: largestFinite(types.elem),
    },
  );
  const uniform = uniformBuffer(kernels.gpu.device, new Float32Array([eps, 0, 0, 0]), "vector-norm op");
  return {
    label: "vector-norm",
    pipeline,
    group: kernels.bind(pipeline, 0, [uniform, qkv, qWeight, kWeight]),
    grid: (step) => [2, step.rows, 1],
  };
}
