/**
 * A feed-forward beside a layer's experts (Gemma 4): it reads the layer's normed input, the experts and their router read the residual
 * stream through norms of their own, and what the two give is normed, each by itself, and added. The experts are experts.ts's.
 */
import type { Op } from "../../gpu/op.ts";
import type { MlpFeedForward } from "../../shape/ffn/mlp.ts";
import { VECTOR, type TensorSpec } from "../arch/tensor-lookup.ts";
import type { BufferSizes } from "../layer-part.ts";
import { normOp, type NormInput } from "../op/norm.ts";
import type { OpContext } from "../op/op-context.ts";
import type { LayerLoader } from "../tensor-loader.ts";
import { activatedOps, loadMlp, mlpTensors, type MlpWeights } from "./mlp.ts";

export interface BesideWeights {
  mlp: MlpWeights;
  /** Of the experts' input, and of the router's. */
  input: GPUBuffer;
  routerInput: GPUBuffer;
  /** Of what it gives, and of what the experts give. */
  post: GPUBuffer;
  expertsPost: GPUBuffer;
}

const NORMS = { input: "pre_ffw_norm_2", post: "post_ffw_norm_1", expertsPost: "post_ffw_norm_2" } as const;
const ROUTER_SCALE = ["ffn_gate_inp", "scale"] as const;

export function besideTensors(mlp: MlpFeedForward): TensorSpec[] {
  const norms = Object.values(NORMS).map((name): TensorSpec => [name, VECTOR, true]);
  return [...mlpTensors(mlp), ...norms, [ROUTER_SCALE[0], [ROUTER_SCALE[1]], true]];
}

export async function loadBeside(mlp: MlpFeedForward, layer: LayerLoader): Promise<BesideWeights> {
  const d = layer.hiddenSize;
  return {
    mlp: await loadMlp(mlp, layer),
    input: await layer.norm(NORMS.input, d),
    routerInput: await layer.vector(ROUTER_SCALE[0], d, ROUTER_SCALE[1]),
    post: await layer.norm(NORMS.post, d),
    expertsPost: await layer.norm(NORMS.expertsPost, d),
  };
}

export function besideBuffers(maxRows: number, hiddenSize: number, elemBytes: number): BufferSizes {
  const rows = maxRows * hiddenSize;
  return { besideOutput: 4 * rows, besideSum: 4 * rows, routerInput: elemBytes * rows };
}

/** Its output, then the inputs of router and experts: "routerInput", and the layer's normed input, which is written anew. */
export async function besideOps(
  mlp: MlpFeedForward,
  weights: BesideWeights,
  context: OpContext,
): Promise<Op[]> {
  const { hidden, normed, shape } = context;
  const output = context.buffer("besideOutput");
  return [
    ...(await activatedOps(mlp, weights.mlp, context)),
    ...(await context.project(
      weights.mlp.down,
      context.buffer("activated"),
      output,
      shape.hiddenSize,
      "f32",
    )),
    await norm(context, { hidden, weight: weights.input, out: normed }),
    await norm(context, { hidden, weight: weights.routerInput, out: context.buffer("routerInput") }),
  ];
}

/** From what the experts gave, in the layer's output, to the sum of both. */
export async function besideSumOps(weights: BesideWeights, context: OpContext): Promise<Op[]> {
  const { delta } = context.target;
  const [output, sum] = [context.buffer("besideOutput"), context.buffer("besideSum")];
  const post = { weight: weights.post, of: "output" } as const;
  return [
    await norm(context, { hidden: delta, weight: weights.expertsPost, out: sum }, "f32"),
    await norm(context, { hidden: sum, delta: output, post, weight: undefined, out: delta }, "f32"),
  ];
}

function norm(
  context: OpContext,
  input: Pick<NormInput, "hidden" | "delta" | "post" | "weight" | "out">,
  elem = context.dtype,
): Promise<Op> {
  const { hiddenSize: d, normEps: eps } = context.shape;
  return normOp(context.kernels, { ...context.types(), elem }, { kind: "rms", d, eps, ...input });
}
