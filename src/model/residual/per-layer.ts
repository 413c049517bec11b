/**
 * Per-layer embeddings (Gemma 3n, Gemma 4): each token has `width` more numbers for every layer, from a table that may be
 * most of the file, mixed with a projection of its embedding. Here are the tensors and the ops of the model and of a layer's
 * gate; a table that stays in the file is row-table.ts. All of it is f32: the gate reads the residual stream itself, which
 * f16 does not hold.
 */
import gateCode from "../../../shaders/per-layer-gate.wgsl";
import inputsCode from "../../../shaders/per-layer-inputs.wgsl";
import bounded from "../../../shaders/lib/bounded.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import { uniformBuffer, type Op } from "../../gpu/op.ts";
import type { ModelShape } from "../../shape/shape.ts";
import type { TensorSpec } from "../arch/tensor-lookup.ts";
import { embedOp, matmulOp, matvecOp } from "../matrix/products.ts";
import type { PackedWeight } from "../matrix/upload.ts";
import { reduceFragment } from "../op/kernel-parts.ts";
import type { Phase } from "../op/op-context.ts";
import { RowTable, type RowTableLimits } from "../matrix/row-table.ts";
import type { LayerLoader, Projection, TensorLoader } from "../tensor-loader.ts";

/** The tensors of the whole model. */
export const PER_LAYER_TABLE = "per_layer_token_embd";
const PROJECTION = "per_layer_model_proj";
const NORM = "per_layer_proj_norm";
export const PER_LAYER_TENSORS: readonly string[] = [PER_LAYER_TABLE, PROJECTION, NORM];

/** The tensors of a layer's gate; its norm is one of the layer's (rows.ts). */
export const PER_LAYER_GATE: readonly TensorSpec[] = [
  ["inp_gate", ["weight"], true],
  ["proj", ["weight"], true],
];

export interface PerLayerWeights {
  /** [vocabulary, layers * width]: on the GPU, or in the file. */
  table: PackedWeight | RowTable;
  projection: PackedWeight;
  norm: GPUBuffer;
}

export interface PerLayerGate {
  gate: Projection;
  output: Projection;
}

/** Numbers of a token for all layers. */
export function perLayerNumbers({ perLayerWidth = 0, layers }: ModelShape): number {
  return perLayerWidth * layers.length;
}

/** @param offGpu the table stays off the GPU, for steps of these sizes */
export async function loadPerLayer(
  loader: TensorLoader,
  shape: ModelShape,
  offGpu: RowTableLimits | undefined,
): Promise<PerLayerWeights> {
  const { names } = loader;
  const projection = names.require(names.model(PROJECTION), `${PROJECTION}.weight`);
  const tensor = names.require(names.model(PER_LAYER_TABLE), `${PER_LAYER_TABLE}.weight`);
  const sizes = [perLayerNumbers(shape), shape.vocabSize] as const;
  return {
    table: offGpu ? await loader.rowTable(tensor, ...sizes, offGpu) : await loader.matrix(tensor, ...sizes),
    projection: await loader.matrix(projection, shape.hiddenSize, perLayerNumbers(shape)),
    norm: await loader.norm(names.model(NORM), `${NORM}.weight`, shape.perLayerWidth ?? 0),
  };
}

export async function loadGate(loader: LayerLoader, width: number): Promise<PerLayerGate> {
  return {
    gate: await loader.projection(loader.hiddenSize, [["inp_gate", width]]),
    output: await loader.projection(width, [["proj", loader.hiddenSize]]),
  };
}

/** The buffers of these ops, and their bytes. */
export function perLayerBuffers(shape: ModelShape, maxRows: number): Record<string, number> {
  const { perLayerWidth } = shape;
  if (!perLayerWidth) return {};
  const rows = 4 * maxRows * perLayerNumbers(shape);
  return { perLayer: rows, perLayerProjected: rows, perLayerGate: 4 * maxRows * perLayerWidth };
}

export interface PerLayerContext {
  kernels: Kernels;
  shape: ModelShape;
  phase: Phase;
  /** f32 [rows, hidden size]. */
  hidden: GPUBuffer;
  /** The buffers of `perLayerBuffers`. */
  buffer(name: string): GPUBuffer;
}

const F32: KernelTypes = { elem: "f32", kv: "f32", out: "f32" };

/** The inputs of all layers, behind the embedding of the tokens. @param tokens u32 ids, for a table on the GPU */
export async function perLayerInputOps(
  context: PerLayerContext,
  weights: PerLayerWeights,
  tokens: GPUBuffer,
): Promise<Op[]> {
  const { kernels, shape, hidden } = context;
  const { table, projection, norm } = weights;
  const isFetched = table instanceof RowTable;
  const weight = isFetched ? table.weight : table;
  const into = { hidden: context.buffer("perLayer"), scale: Math.sqrt(shape.perLayerWidth ?? 1) };
  const ops: Op[] = [];
  for (const piece of weight.pieces) {
    const options = { weight, piece, tokens: isFetched ? table.places : tokens, ...into };
    ops.push(await embedOp(kernels, F32, options));
  }
  const projected = context.buffer("perLayerProjected");
  const scale = 1 / Math.sqrt(shape.hiddenSize);
  ops.push(...(await productOps(context, projection, hidden, projected, scale)));
  return [...ops, await inputsOp(kernels, { shape, projected, norm, inputs: into.hidden })];
}

/** From the residual stream to what the gate of layer `layer` adds, in `delta`. */
export async function gateOps(
  context: PerLayerContext,
  { gate, output }: PerLayerGate,
  layer: number,
  x: GPUBuffer,
  delta: GPUBuffer,
): Promise<Op[]> {
  const gated = context.buffer("perLayerGate");
  const ops: Op[] = [];
  for (const { weight } of gate) ops.push(...(await productOps(context, weight, x, gated)));
  ops.push(
    await gateOp(context.kernels, {
      shape: context.shape,
      layer,
      gate: gated,
      inputs: context.buffer("perLayer"),
    }),
  );
  for (const { weight } of output) ops.push(...(await productOps(context, weight, gated, delta)));
  return ops;
}

/** y = scale * W x, all of it f32. */
async function productOps(
  { kernels, phase }: Pick<PerLayerContext, "kernels" | "phase">,
  weight: PackedWeight,
  x: GPUBuffer,
  y: GPUBuffer,
  scale = 1,
): Promise<Op[]> {
  const maker = phase === "prefill" ? matmulOp : matvecOp;
  const ops: Op[] = [];
  for (const piece of weight.pieces) ops.push(await maker(kernels, F32, { weight, piece, x, y, scale }));
  return ops;
}

type Sizes = Pick<ModelShape, "perLayerWidth" | "normEps"> & { layers: { length: number } };

export interface InputsInput {
  shape: Sizes;
  /** f32 [rows, layers * width]. */
  projected: GPUBuffer;
  /** f32 [width]. */
  norm: GPUBuffer;
  /** f32 [rows, layers * width]: the table's rows; changed in place. */
  inputs: GPUBuffer;
}

const WORKGROUP = 64;

/** inputs = (rmsnorm(projected) + inputs) / sqrt(2), layer by layer. */
export async function inputsOp(
  kernels: Kernels,
  { shape, projected, norm, inputs }: InputsInput,
): Promise<Op> {
  const { layers, perLayerWidth = 0, normEps } = shape;
  const { lib, subgroups } = reduceFragment(kernels);
  const source = { name: "per-layer-inputs", code: inputsCode, libs: [stepLib, lib], subgroups };
  const overrides = { WG: WORKGROUP, LAYERS: layers.length, P4: perLayerWidth / 4 };
  const pipeline = await kernels.pipeline(source, F32, overrides);
  const eps = uniformBuffer(kernels.gpu.device, new Float32Array([normEps]), source.name);
  return {
    label: source.name,
    pipeline,
    group: kernels.bind(pipeline, 0, [eps, projected, norm, inputs]),
    grid: (step) => [layers.length, step.rows, 1],
  };
}

export interface GateInput {
  shape: Sizes;
  layer: number;
  /** f32 [rows, width], changed in place. */
  gate: GPUBuffer;
  /** f32 [rows, layers * width]. */
  inputs: GPUBuffer;
}

/** gate = gelu(gate) * the layer's part of inputs. */
export async function gateOp(kernels: Kernels, { shape, layer, gate, inputs }: GateInput): Promise<Op> {
  const { layers, perLayerWidth = 0 } = shape;
  const source = { name: "per-layer-gate", code: gateCode, libs: [stepLib, bounded] };
  const overrides = { WG: WORKGROUP, LAYERS: layers.length, P4: perLayerWidth / 4 };
  const pipeline = await kernels.pipeline(source, F32, overrides);
  const index = uniformBuffer(kernels.gpu.device, new Uint32Array([layer]), source.name);
  const width = Math.ceil(perLayerWidth / 4 / WORKGROUP);
  return {
    label: source.name,
    pipeline,
    group: kernels.bind(pipeline, 0, [index, gate, inputs]),
    grid: (step) => [width, step.rows, 1],
  };
}
