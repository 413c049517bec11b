/**
 * The feed-forward: W_down(activation(W_gate x) * W_up x), or W_down(activation(W_up x)) without a gate. Its data and costs are in
 * shape/ffn/mlp.ts.
 */
import code from "../../../shaders/activation.wgsl";
import sparsifyCode from "../../../shaders/sparsify.wgsl";
import bounded from "../../../shaders/lib/bounded.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import { assert } from "../../base.ts";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import { uniformBuffer, type Op } from "../../gpu/op.ts";
import { largestFinite, reduceFragment } from "../op/kernel-parts.ts";
import { mlpCost, type Activation, type MlpFeedForward, type Xielu } from "../../shape/ffn/mlp.ts";
import { LANES, need } from "../arch/need.ts";
import { MATRIX, type TensorSpec } from "../arch/tensor-lookup.ts";
import type { Part, Projection } from "../tensor-loader.ts";
import type { FeedForwardKind } from "./kind.ts";

interface MlpWeights {
  /** The gate's rows, if there is one, then those of W_up. */
  gateUp: Projection;
  down: Projection;
}

export const MLP: FeedForwardKind<MlpFeedForward, MlpWeights> = {
  kind: "mlp",
  safetensorsNames: { ffn_gate: "mlp.gate_proj", ffn_up: "mlp.up_proj", ffn_down: "mlp.down_proj" },

  check({ width }, _, where) {
    need(width % LANES === 0, `${where}: the feed-forward width ${width} is not a multiple of ${LANES}`);
  },

  cost: ({ width, gated }, units) => mlpCost(units, { width, matrices: gated ? 3 : 2 }),

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

  buffers: ({ width, gated }, { maxRows, elemBytes }) => ({
    gateUp: maxRows * (gated ? 2 : 1) * width * elemBytes,
    activated: maxRows * width * elemBytes,
  }),

  async ops({ width, activation, gated, xielu, sparsity }, { gateUp, down }, context) {
    const [between, activated] = [context.buffer("gateUp"), context.buffer("activated")];
    const input = { gateUp: between, act: activated, ff: width, activation, gated, ...(xielu && { xielu }) };
    return [
      ...(await context.project(gateUp, context.normed, between, (gated ? 2 : 1) * width, context.dtype)),
      ...(sparsity === undefined
        ? []
        : [await sparsifyOp(context.kernels, context.types(), { gateUp: between, ff: width, sparsity })]),
      await activationOp(context.kernels, context.types(), input),
      ...(await context.output(down, activated)),
    ];
  },
};

function gateUpParts({ width, gated, fused }: MlpFeedForward): Part[] {
  if (fused) return [["ffn_up", 2 * width]];
  return [...(gated ? [["ffn_gate", width] as const] : []), ["ffn_up", width]];
}

export interface ActivationInput {
  label?: string;
  /** elem [rows, 2 * ff]: gate, then up; without a gate [rows, ff]. */
  gateUp: GPUBuffer;
  /** elem [rows, ff]. */
  act: GPUBuffer;
  /** Width of the feed-forward, a multiple of 4. */
  ff: number;
  activation: Activation;
  gated: boolean;
  /** The constants of "xielu", which needs them. */
  xielu?: Xielu;
}

const WORKGROUP = 64;

/** Values of the kernel's ACTIVATION. */
const ACTIVATIONS: Readonly<Record<Activation, number>> = {
  silu: 0,
  gelu_tanh: 1,
  gelu: 2,
  relu2: 3,
  xielu: 4,
};

/** act = activation(gate) * up, or activation(up). */
export async function activationOp(
  kernels: Kernels,
  types: KernelTypes,
  input: ActivationInput,
): Promise<Op> {
  const { gateUp, act, ff, activation, gated, xielu } = input;
  assert(ff > 0 && ff % 4 === 0, `activation: the feed-forward width ${ff} is not a multiple of 4`);
  assert(xielu || activation !== "xielu", "activation: xielu without its constants");
  const pipeline = await kernels.pipeline({ name: "activation", code, libs: [stepLib, bounded] }, types, {
    WG: WORKGROUP,
    FF4: ff / 4,
    ACTIVATION: ACTIVATIONS[activation],
    GATED: gated ? 1 : 0,
    LIMIT: largestFinite(types.elem),
  });
  const { positive = 0, negative = 0, slope = 0, limit = 0 } = xielu ?? {};
  const constants = new Float32Array([positive, negative, slope, limit]);
  const op = uniformBuffer(kernels.gpu.device, constants, "activation op");
  const width = Math.ceil(ff / 4 / WORKGROUP);
  return {
    label: input.label ?? "activation",
    pipeline,
    group: kernels.bind(pipeline, 0, [op, gateUp, act]),
    grid: (step) => [width, step.rows, 1],
  };
}

export interface SparsifyInput {
  /** elem [rows, 2 * ff]: gate, then up; the gates are changed in place. */
  gateUp: GPUBuffer;
  ff: number;
  sparsity: number;
}

/** gate = max(0, gate - (mean + sparsity * standard deviation)). */
export async function sparsifyOp(kernels: Kernels, types: KernelTypes, input: SparsifyInput): Promise<Op> {
  const { gateUp, ff, sparsity } = input;
  const { lib, subgroups } = reduceFragment(kernels);
  const source = { name: "sparsify", code: sparsifyCode, libs: [stepLib, bounded, lib], subgroups };
  const pipeline = await kernels.pipeline(source, types, {
    ...{ WG: ff <= 4096 ? 64 : 256, FF4: ff / 4 },
    LIMIT: largestFinite(types.elem),
  });
  const factor = uniformBuffer(kernels.gpu.device, new Float32Array([sparsity]), source.name);
  return {
    label: source.name,
    pipeline,
    group: kernels.bind(pipeline, 0, [factor, gateUp]),
    grid: (step) => [step.rows, 1, 1],
  };
}
