/** What `npm run bench` can measure, by name. A target with a model gets it as a file made on the fly. */
import {
  RANDOM_158M,
  RANDOM_28M,
  RANDOM_EXPERTS,
  STORIES_260K,
  type MatrixType,
  type RandomShape,
} from "./random-model.ts";

export interface ModelTarget {
  kind: "model" | "batch" | "load" | "load-in-chromium" | "experts";
  name: string;
  shape: RandomShape;
  type: MatrixType;
}

/** A target that brings its own subject: the adapter, the KV cache, KV stored in fewer bits, a shipped model under load. */
export interface PlainTarget {
  kind: "adapter" | "cache" | "kv-at-rest" | "kv-types" | "offered-load" | "beside" | "prefill-service";
  name: string;
}

/** A shipped model with experts. */
export interface ShippedTarget {
  kind: "shipped-experts";
  name: string;
  path: string;
}

export type Target = PlainTarget | ModelTarget | ShippedTarget;

/** Measured first in every run: the others are given as fractions of it. */
export const ADAPTER: Target = { kind: "adapter", name: "adapter" };

export const TARGETS: readonly Target[] = [
  ADAPTER,
  { kind: "model", name: "stories260K-f32", shape: STORIES_260K, type: "F32" },
  { kind: "model", name: "28m-f16", shape: RANDOM_28M, type: "F16" },
  { kind: "model", name: "28m-q4_0", shape: RANDOM_28M, type: "Q4_0" },
  { kind: "batch", name: "batch", shape: RANDOM_28M, type: "Q4_0" },
  { kind: "cache", name: "cache" },
  { kind: "load", name: "load", shape: RANDOM_158M, type: "F16" },
  { kind: "load-in-chromium", name: "chromium-load", shape: RANDOM_158M, type: "F16" },
  { kind: "kv-at-rest", name: "kv-at-rest" },
  { kind: "kv-types", name: "kv-types" },
  { kind: "offered-load", name: "offered-load" },
  { kind: "beside", name: "beside" },
  { kind: "prefill-service", name: "prefill-service" },
  { kind: "shipped-experts", name: "experts-tide-moe", path: "demo/models/tide-moe.gguf" },
  { kind: "experts", name: "experts-random", shape: RANDOM_EXPERTS, type: "Q8_0" },
];

/** The targets whose names begin with one of `names` (all where there is none), and always the adapter. */
export function chooseTargets(names: readonly string[]): Target[] {
  const matches = (target: Target, name: string) => target.name.startsWith(name);
  const unknown = names.find((name) => !TARGETS.some((target) => matches(target, name)));
  if (unknown !== undefined) {
    throw new Error(`no benchmark "${unknown}"; there are ${TARGETS.map((each) => each.name).join(", ")}`);
  }
  return TARGETS.filter(
    (target) => target === ADAPTER || names.length === 0 || names.some((name) => matches(target, name)),
  );
}

const MATRIX_BYTES: Record<MatrixType, number> = { F32: 4, F16: 2, Q4_0: 18 / 32, Q8_0: 34 / 32 };

/** Matrix elements that one token passes through: all layers and the output matrix. */
function matrixElements(shape: RandomShape, withHead: boolean): number {
  const { hiddenSize: d, heads, kvHeads, headDim, ffnWidth } = shape;
  const layer = d * headDim * (2 * heads + 2 * kvHeads) + 3 * d * ffnWidth;
  return shape.layers * layer + (withHead ? d * shape.vocabSize : 0);
}

/** Bytes that decoding one token reads at a context of `contextTokens`: every weight matrix once, and the stored KV. */
export function bytesReadPerToken({ shape, type }: ModelTarget, contextTokens: number): number {
  const kv = 2 * shape.layers * shape.kvHeads * shape.headDim * KV_BYTES * contextTokens;
  return matrixElements(shape, true) * MATRIX_BYTES[type] + kv;
}

/** Stored keys and values are f32 on software adapters; bench loads with that everywhere. */
const KV_BYTES = 4;

/** Multiply-adds of one prompt token among `promptTokens`: matrices, and attention over half of the prompt on average. */
export function multiplyAddsPerPromptToken({ shape }: ModelTarget, promptTokens: number): number {
  const attention = shape.layers * 2 * shape.heads * shape.headDim * (promptTokens / 2);
  return matrixElements(shape, false) + attention;
}
