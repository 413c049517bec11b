/**
 * The look at a step's rows behind the last layer (shaders/check.wgsl) as an op: which of them are not finite. What that
 * means for a request is not decided here.
 */
import code from "../../../shaders/check.wgsl";
import type { Kernels } from "../../gpu/kernel.ts";
import type { Op } from "../../gpu/op.ts";

export interface CheckInput {
  /** f32 [rows, d]: the residual stream, and what the last mixer or feed-forward adds to it. */
  hidden: GPUBuffer;
  delta: GPUBuffer;
  /** u32 [rows]: 1 for a row that is not finite, else 0. */
  status: GPUBuffer;
  /** Hidden size, a multiple of 4. */
  d: number;
}

export async function checkOp(kernels: Kernels, { hidden, delta, status, d }: CheckInput): Promise<Op> {
  const types = { elem: "f32", kv: "f32", out: "f32" } as const;
  const pipeline = await kernels.pipeline({ name: "check", code, libs: [] }, types, { D4: d / 4 });
  return {
    label: "check",
    pipeline,
    group: kernels.bind(pipeline, 0, [hidden, delta, status]),
    grid: (step) => [step.rows, 1, 1],
  };
}

/** The first row of a step's statuses that is not finite; undefined if all are. */
export function firstBroken(status: ArrayBuffer): number | undefined {
  const row = new Uint32Array(status).findIndex((word) => word !== 0);
  return row < 0 ? undefined : row;
}
