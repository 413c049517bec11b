/**
 * The ops around a layer's experts: the choice of experts for each row, the choices sorted by expert for prefill, and the
 * weighted sum of what the experts give. The products between them are in matrix/products.ts.
 */
import routeCode from "../../../shaders/route.wgsl";
import sortCode from "../../../shaders/sort-experts.wgsl";
import unimportantCode from "../../../shaders/unimportant.wgsl";
import sumCode from "../../../shaders/experts-sum.wgsl";
import bounded from "../../../shaders/lib/bounded.wgsl";
import stepLib from "../../../shaders/lib/step.wgsl";
import type { Kernels, KernelTypes } from "../../gpu/kernel.ts";
import { uniformBuffer, type Op } from "../../gpu/op.ts";
import type { ExpertRouting } from "../../shape/shape.ts";
import type { SortedChoice } from "../matrix/products.ts";
import { absentBuffer, largestFinite, reduceFragment } from "../op/kernel-parts.ts";

/** Experts of a layer at most: their scores lie in workgroup memory, of which WebGPU promises 16 KiB. */
export const MAX_ROUTED = 1024;

/** No sum that weights are divided by is smaller, as in llama.cpp: the smallest normal f16. */
const LEAST_SUM = 2 ** -14;

export interface RouteInput {
  experts: number;
  perRow: number;
  routing: ExpertRouting;
  /** f32 [rows, experts]. */
  logits: GPUBuffer;
  /** f32 [experts]: added to the scores for the choice alone. */
  isBiased: boolean;
  /** f32 [experts]: factors of the weights. */
  isScaled: boolean;
  /** Biases, then factors, of those that there are. */
  vectors: GPUBuffer | undefined;
  /** u32 and f32 [rows, perRow]: the chosen experts, and their weights. */
  chosen: GPUBuffer;
  weights: GPUBuffer;
}

export async function routeOp(kernels: Kernels, types: KernelTypes, input: RouteInput): Promise<Op> {
  const { experts, perRow, routing, logits, vectors, chosen, weights } = input;
  const { device } = kernels.gpu;
  const { lib, subgroups } = reduceFragment(kernels);
  const source = { name: "route", code: routeCode, libs: [stepLib, bounded, lib], subgroups };
  const pipeline = await kernels.pipeline(source, types, {
    ...{ WG: 64, EXPERTS: experts, CHOSEN: perRow },
    SIGMOID: routing.gate === "sigmoid" ? 1 : 0,
    BIASED: input.isBiased ? 1 : 0,
    SCALED: input.isScaled ? 1 : 0,
    RENORMALISED: routing.renormalise ? 1 : 0,
    GROUPS: routing.groups?.count ?? 1,
    GROUPS_USED: routing.groups?.used ?? 1,
  });
  const op = uniformBuffer(device, new Float32Array([routing.scale, LEAST_SUM]), "route op");
  return {
    label: "route",
    pipeline,
    group: kernels.bind(pipeline, 0, [op, logits, vectors ?? absentBuffer(device), chosen, weights]),
    grid: (step) => [1, step.rows, 1],
  };
}

export interface UnimportantInput extends Pick<RouteInput, "experts" | "perRow" | "chosen" | "weights"> {
  /** Share of a row's weight. */
  above: number;
  /** u32 [rows, perRow]: the experts chosen, and `experts` for those that are important. */
  unimportant: GPUBuffer;
}

export async function unimportantOp(
  kernels: Kernels,
  types: KernelTypes,
  { experts, perRow, chosen, weights, above, unimportant }: UnimportantInput,
): Promise<Op> {
  const source = { name: "unimportant", code: unimportantCode, libs: [stepLib] };
  const pipeline = await kernels.pipeline(source, types, { WG: 64, EXPERTS: experts, CHOSEN: perRow });
  const op = uniformBuffer(kernels.gpu.device, new Float32Array([above]), "unimportant op");
  return {
    label: "unimportant",
    pipeline,
    group: kernels.bind(pipeline, 0, [op, chosen, weights, unimportant]),
    grid: ({ rows }) => [Math.ceil((rows * perRow) / 64), 1, 1],
  };
}

export interface SortInput {
  experts: number;
  perRow: number;
  /** Choices in a tile at most. */
  height: number;
  chosen: GPUBuffer;
  /** u32 [rows * perRow], and vec4u [1 + tiles]. */
  sorted: SortedChoice;
}

export async function sortExpertsOp(kernels: Kernels, types: KernelTypes, input: SortInput): Promise<Op> {
  const { experts, perRow, height, chosen, sorted } = input;
  const source = { name: "sort-experts", code: sortCode, libs: [stepLib] };
  const overrides = { EXPERTS: experts, CHOSEN: perRow, HEIGHT: height };
  const pipeline = await kernels.pipeline(source, types, overrides);
  return {
    label: "sort-experts",
    pipeline,
    group: kernels.bind(pipeline, 0, [chosen, sorted.order, sorted.tiles]),
    grid: () => [1, 1, 1],
  };
}

export interface ExpertsSumInput {
  d: number;
  perRow: number;
  /** f32 [rows * perRow, d]: what the experts give. */
  outputs: GPUBuffer;
  weights: GPUBuffer;
  /** f32 [rows, d]: what the shared expert gives. */
  shared: GPUBuffer | undefined;
  /** f32 [rows]: the logit of its gate. */
  sharedGate: GPUBuffer | undefined;
  /** f32 [rows, d]. */
  delta: GPUBuffer;
  accumulate: boolean;
}

const SUM_WORKGROUP = 64;

export async function expertsSumOp(
  kernels: Kernels,
  types: KernelTypes,
  input: ExpertsSumInput,
): Promise<Op> {
  const { d, perRow, outputs, weights, shared, sharedGate, delta, accumulate } = input;
  const source = { name: "experts-sum", code: sumCode, libs: [stepLib, bounded] };
  const pipeline = await kernels.pipeline(source, types, {
    ...{ WG: SUM_WORKGROUP, D4: d / 4, CHOSEN: perRow, LIMIT: largestFinite("f32") },
    SHARED: shared ? 1 : 0,
    SHARED_GATE: sharedGate ? 1 : 0,
    ACCUMULATE: accumulate ? 1 : 0,
  });
  const absent = () => absentBuffer(kernels.gpu.device);
  const buffers = [outputs, weights, shared ?? absent(), sharedGate ?? absent(), delta];
  const width = Math.ceil(d / 4 / SUM_WORKGROUP);
  return {
    label: "experts-sum",
    pipeline,
    group: kernels.bind(pipeline, 0, buffers),
    grid: (step) => [width, step.rows, 1],
  };
}
