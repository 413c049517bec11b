/**
 * The feed-forward's own op: the gated activation between its matrix products (shaders/activation.wgsl).
 */
import code from "../../../shaders/activation.wgsl";
import bounded from "../../../shaders/lib/bounded.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import { assert } from "../../base.ts";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import type { Op } from "../../gpu/op.ts";
import { largestFinite } from "../kernel-parts.ts";
import type { Activation } from "../../shape/shape.ts";

export interface ActivationInput {
  label?: string;
  /** elem [rows, 2 * ff]: gate, then up. */
  gateUp: GPUBuffer;
  /** elem [rows, ff]. */
  act: GPUBuffer;
  /** Width of the feed-forward, a multiple of 4. */
  ff: number;
  activation: Activation;
}

const WORKGROUP = 64;

/** act = activation(gate) * up. */
export async function activationOp(
  kernels: Kernels,
  types: KernelTypes,
  input: ActivationInput,
): Promise<Op> {
  const { gateUp, act, ff, activation } = input;
  assert(ff > 0 && ff % 4 === 0, `activation: the feed-forward width ${ff} is not a multiple of 4`);
  const pipeline = await kernels.pipeline({ name: "activation", code, libs: [stepLib, bounded] }, types, {
    WG: WORKGROUP,
    FF4: ff / 4,
    GELU_TANH: activation === "gelu_tanh" ? 1 : 0,
    LIMIT: largestFinite(types.elem),
  });
  const width = Math.ceil(ff / 4 / WORKGROUP);
  return {
    label: input.label ?? "activation",
    pipeline,
    group: kernels.bind(pipeline, 0, [gateUp, act]),
    grid: (step) => [width, step.rows, 1],
  };
}
