/**
 * Pooling (shaders/pool.wgsl) as an op: the normed rows of each text become one vector. What the texts are, and what is made
 * of the vectors, is not decided here.
 */
import code from "../../../shaders/pool.wgsl";
import bounded from "../../../shaders/lib/bounded.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import { assert } from "../../base.ts";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import type { Op } from "../../gpu/op.ts";
import type { Pooling } from "../../shape/shape.ts";
import { largestFinite } from "./kernel-parts.ts";

export interface PoolInput {
  /** elem [rows, d]. */
  normed: GPUBuffer;
  /** out [texts, d]. */
  pooled: GPUBuffer;
  /** Hidden size, a multiple of 4. */
  d: number;
  pooling: Pooling;
}

const WORKGROUP = 64;

export async function poolOp(kernels: Kernels, types: KernelTypes, input: PoolInput): Promise<Op> {
  const { normed, pooled, d, pooling } = input;
  assert(d > 0 && d % 4 === 0, `pool: the hidden size ${d} is not a multiple of 4`);
  const pipeline = await kernels.pipeline({ name: "pool", code, libs: [stepLib, bounded] }, types, {
    WG: WORKGROUP,
    D4: d / 4,
    MEAN: pooling === "mean" ? 1 : 0,
    FIRST: pooling === "cls" ? 1 : 0,
    LIMIT: largestFinite(types.out),
  });
  const width = Math.ceil(d / 4 / WORKGROUP);
  return {
    label: "pool",
    pipeline,
    group: kernels.bind(pipeline, 0, [normed, pooled]),
    grid: (step) => [width, step.logitRows, 1],
  };
}
