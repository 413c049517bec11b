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
import { mlpCost, xieluOf, type Activation, type MlpFeedForward, type Xielu } from "../../shape/ffn/mlp.ts";
import { LANES, need } from "../arch/need.ts";
import { MATRIX, VECTOR, type TensorSpec } from "../arch/tensor-lookup.ts";
import type { BufferSizes } from "../layer-part.ts";
import type { OpContext } from "../op/op-context.ts";
import type { LayerLoader, Part, Projection } from "../tensor-loader.ts";
import type { FeedForwardKind } from "./kind.ts";

export interface MlpWeights {
  /** The gate's rows, if there is one, then those of W_up. */
  gateUp: Projection;
  down: Projection;
  /** The constants of "xielu", if they are tensors. */
  xielu?: Xielu;
}

export const MLP: FeedForwardKind<MlpFeedForward, MlpWeights> = {
  kind: "mlp",
  safetensorsNames: { ffn_gate: "mlp.gate_proj", ffn_up: "mlp.up_proj", ffn_down: "mlp.down_proj" },

  check({ width }, _, where) {
    need(width % LANES === 0, `${where}: the feed-forward width ${width} is not a multiple of ${LANES}`);
  },

  cost: ({ width, gated }, units) => mlpCost(units, { width, matrices: gated ? 3 : 2 }),

  tensors: (mlp) => mlpTensors(mlp),

  load: (mlp, layer) => loadMlp(mlp, layer),

  buffers: (mlp, { maxRows, elemBytes }) => mlpBuffers(mlp, maxRows * elemBytes),

  async ops(mlp, weights, context) {
    const inner = await activatedOps(mlp, weights, context);
    return [...inner, ...(await context.output(weights.down, context.buffer("activated")))];
  },
};

/** @param suffix behind the names of its tensors */
export function mlpTensors(mlp: MlpFeedForward, suffix = ""): TensorSpec[] {
  const parts = [...gateUpParts(mlp, suffix).map(([name]) => name), `ffn_down${suffix}`];
  const constants = hasXieluTensors(mlp) ? XIELU : [];
  return [
    ...parts.map((name): TensorSpec => [name, MATRIX, true]),
    ...constants.map((name): TensorSpec => [name, VECTOR, true]),
  ];
}

/** In safetensors, the constants of "xielu" are tensors of one number. */
const XIELU = ["xielu_alpha_p", "xielu_alpha_n", "xielu_beta", "xielu_eps"] as const;

function hasXieluTensors({ activation, xielu }: MlpFeedForward): boolean {
  return activation === "xielu" && !xielu;
}

async function loadXielu(layer: LayerLoader): Promise<Xielu> {
  const numbers = await Promise.all(XIELU.map((name) => layer.number(name)));
  return xieluOf(...(numbers as [number, number, number, number]));
}

export async function loadMlp(mlp: MlpFeedForward, layer: LayerLoader, suffix = ""): Promise<MlpWeights> {
  const d = layer.hiddenSize;
  return {
    gateUp: await layer.projection(d, gateUpParts(mlp, suffix)),
    down: await layer.projection(mlp.width, [[`ffn_down${suffix}`, d]]),
    ...(hasXieluTensors(mlp) && { xielu: await loadXielu(layer) }),
  };
}

/** @param rowBytes bytes of a number of each row */
export function mlpBuffers(
  { width, gated }: Pick<MlpFeedForward, "width" | "gated">,
  rowBytes: number,
): BufferSizes {
  return { gateUp: (gated ? 2 : 1) * width * rowBytes, activated: width * rowBytes };
}

/** From the layer's normed input to "activated", which W_down reads. */
export async function activatedOps(
  { width, activation, gated, sparsity, ...mlp }: MlpFeedForward,
  { gateUp, xielu = mlp.xielu }: MlpWeights,
  context: OpContext,
): Promise<Op[]> {
  const [between, act] = [context.buffer("gateUp"), context.buffer("activated")];
  const input = { gateUp: between, act, ff: width, activation, gated, ...(xielu && { xielu }) };
  return [
    ...(await context.project(gateUp, context.normed, between, (gated ? 2 : 1) * width, context.dtype)),
    ...(sparsity === undefined
      ? []
      : [await sparsifyOp(context.kernels, context.types(), { gateUp: between, ff: width, sparsity })]),
    await activationOp(context.kernels, context.types(), input),
  ];
}

function gateUpParts({ width, gated, fused }: MlpFeedForward, suffix: string): Part[] {
  if (fused) return [[`ffn_up${suffix}`, 2 * width]];
  return [...(gated ? [[`ffn_gate${suffix}`, width] as const] : []), [`ffn_up${suffix}`, width]];
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
  /** A gate and what it multiplies stand side by side. Default: all gates stand before all others. */
  alternating?: boolean;
  /** The constants of "xielu", which needs them. */
  xielu?: Xielu;
  /** Rows for each of the step's: those of its experts. Default: 1. */
  perRow?: number;
}

const WORKGROUP = 64;

/** Values of the kernel's ACTIVATION. */
const ACTIVATIONS: Readonly<Record<Activation, number>> = {
  silu: 0,
  gelu_tanh: 1,
  gelu: 2,
  relu2: 3,
  xielu: 4,
  clamped_swiglu: 5,
};

/** act = activation(gate) * up, or activation(up). */
export async function activationOp(
  kernels: Kernels,
  types: KernelTypes,
  input: ActivationInput,
): Promise<Op> {
  const { gateUp, act, ff, activation, gated, alternating, xielu, perRow = 1 } = input;
  assert(ff > 0 && ff % 4 === 0, `activation: the feed-forward width ${ff} is not a multiple of 4`);
  assert(xielu || activation !== "xielu", "activation: xielu without its constants");
  assert(gated || activation !== "clamped_swiglu", "activation: clamped_swiglu without a gate");
  const pipeline = await kernels.pipeline({ name: "activation", code, libs: [stepLib, bounded] }, types, {
    WG: WORKGROUP,
    FF4: ff / 4,
    ACTIVATION: ACTIVATIONS[activation],
    GATED: gated ? 1 : 0,
    ALTERNATING: alternating ? 1 : 0,
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
    grid: (step) => [width, perRow, step.rows],
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
