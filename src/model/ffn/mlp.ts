/**
 * The gated feed-forward: W_down(activation(W_gate x) * W_up x). Its data and costs are in shape/ffn/mlp.ts.
 */
import code from "../../../shaders/activation.wgsl";
import bounded from "../../../shaders/lib/bounded.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import { assert } from "../../base.ts";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import type { Op } from "../../gpu/op.ts";
import { largestFinite } from "../op/kernel-parts.ts";
import { mlpCost, type Activation, type MlpFeedForward } from "../../shape/ffn/mlp.ts";
import { LANES, need } from "../arch/need.ts";
import { MATRIX, type TensorSpec } from "../arch/tensor-lookup.ts";
import type { Part, Projection } from "../tensor-loader.ts";
import type { FeedForwardKind } from "./kind.ts";

interface MlpWeights {
  gateUp: Projection;
  down: Projection;
}

export const MLP: FeedForwardKind<MlpFeedForward, MlpWeights> = {
  kind: "mlp",
  safetensorsNames: { ffn_gate: "mlp.gate_proj", ffn_up: "mlp.up_proj", ffn_down: "mlp.down_proj" },

  check({ width }, _, where) {
    need(width % LANES === 0, `${where}: the feed-forward width ${width} is not a multiple of ${LANES}`);
  },

  cost: ({ width }, units) => mlpCost(units, { width, matrices: 3 }),

  tensors: (mlp) => [
    ...gateUpParts(mlp).map(([name]): TensorSpec => [name, MATRIX, true]),
    ["ffn_down", MATRIX, true],
  ],

  async load(mlp, layer) {
    const d = layer.hiddenSize;
    return {
      gateUp: await layer.projection(d, gateUpParts(mlp)),
      down: await layer.projection(mlp.width, [["ffn_down", d]]),
    };
  },

  buffers: ({ width }, { maxRows, elemBytes }) => ({
    gateUp: maxRows * 2 * width * elemBytes,
    activated: maxRows * width * elemBytes,
  }),

  async ops({ width, activation }, { gateUp, down }, context) {
    const [between, activated] = [context.buffer("gateUp"), context.buffer("activated")];
    const input = { gateUp: between, act: activated, ff: width, activation };
    return [
      ...(await context.project(gateUp, context.normed, between, 2 * width, context.dtype)),
      await activationOp(context.kernels, context.types(), input),
      ...(await context.output(down, activated)),
    ];
  },
};

function gateUpParts({ width, fused }: MlpFeedForward): Part[] {
  if (fused) return [["ffn_up", 2 * width]];
  return [
    ["ffn_gate", width],
    ["ffn_up", width],
  ];
}

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
