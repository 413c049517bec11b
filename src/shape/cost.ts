/**
 * What a prefix costs: FLOPs to compute it and bytes to keep it, from the shape of a model (dense, hybrid, mixture of
 * experts). Formulas of Marconi, section 2 of its camera-ready, written for general head counts and widths. It holds
 * no model weights and measures nothing.
 */
import { TidepoolError } from "../errors.ts";

/**
 * What a token costs to compute and to keep.
 *
 * @example
 * ```ts
 * const cost: Cost = { flopsLinear: 14e9, flopsQuadratic: 2e5, bytesPerToken: 65_536, bytesPerSnapshot: 0 };
 * console.log(replay(trace, { policy: "lru", capacity: { bytes: 65_536 * 10_000 }, cost }).requests > 0); // true
 * ```
 */
export interface Cost {
  /** Forward FLOPs of n tokens: flopsLinear * n + flopsQuadratic * n^2. */
  flopsLinear: number;
  flopsQuadratic: number;
  /** KV of all attention layers for one token. */
  bytesPerToken: number;
  /** State of all recurrent layers at one position; 0 for a model without recurrent layers. */
  bytesPerSnapshot: number;
}

/** A run of `count` equal layers. Sizes are in elements. */
export type LayerShape =
  /** Softmax attention with `heads` query heads and `kvHeads` key and value heads. */
  | { kind: "attention"; count: number; heads: number; kvHeads: number; headDim: number }
  /** Mamba-2: `inner` channels, `stateSize` N, `groups` of B and C, convolution over `convKernel` tokens.
   * `stateElements` defaults to inner * stateSize. */
  | {
      kind: "mamba2";
      count: number;
      inner: number;
      stateSize: number;
      groups: number;
      convKernel: number;
      stateElements?: number;
    }
  /** Gated short convolution over `convKernel` tokens of `hiddenSize` channels (lfm2). */
  | { kind: "short-conv"; count: number; convKernel: number }
  /** Gated delta rule: a keyDim x valueDim state for each of `heads` value heads, with `keyHeads` key heads. */
  | {
      kind: "gated-delta";
      count: number;
      heads: number;
      keyHeads: number;
      keyDim: number;
      valueDim: number;
      convKernel: number;
    }
  /** Feed-forward with `matrices` (2, or 3 when gated) of hiddenSize x inner; `active` experts run for each token. */
  | { kind: "mlp"; count: number; inner: number; matrices: number; active?: number };

/**
 * The layers and sizes of a model, from which its costs follow.
 *
 * @example
 * ```ts
 * const shape: ModelShape = {
 *   ...{ name: "small", hiddenSize: 512, kvElementBytes: 2, stateElementBytes: 4 },
 *   layers: [
 *     { kind: "attention", count: 8, heads: 8, kvHeads: 2, headDim: 64 },
 *     { kind: "mlp", count: 8, inner: 1536, matrices: 3 },
 *   ],
 * };
 * console.log(costOf(shape).bytesPerToken); // 4096
 * ```
 */
export interface ModelShape {
  name: string;
  hiddenSize: number;
  /** Bytes of one KV element and of one element of recurrent state. */
  kvElementBytes: number;
  stateElementBytes: number;
  layers: LayerShape[];
}

/** FLOPs that a prefix of `to` tokens saves beyond one of `from` tokens. */
export function flopsBetween(cost: Cost, from: number, to: number): number {
  return cost.flopsLinear * (to - from) + cost.flopsQuadratic * (to * to - from * from);
}

/** The same cost for a tree whose symbols are runs of `tokens` tokens. */
export function scaleCost(cost: Cost, tokens: number): Cost {
  return {
    flopsLinear: cost.flopsLinear * tokens,
    flopsQuadratic: cost.flopsQuadratic * tokens * tokens,
    bytesPerToken: cost.bytesPerToken * tokens,
    bytesPerSnapshot: cost.bytesPerSnapshot,
  };
}

/**
 * The costs of a model: the sum over its layers.
 *
 * @example
 * ```ts
 * console.log(costOf(namedShapes["llama3-8b"]!).bytesPerToken); // 131072
 * ```
 */
export function costOf(shape: ModelShape): Cost {
  const cost: Cost = { flopsLinear: 0, flopsQuadratic: 0, bytesPerToken: 0, bytesPerSnapshot: 0 };
  for (const layer of shape.layers) {
    const one = layerCost(layer, shape);
    cost.flopsLinear += layer.count * one.flopsLinear;
    cost.flopsQuadratic += layer.count * one.flopsQuadratic;
    cost.bytesPerToken += layer.count * one.bytesPerToken;
    cost.bytesPerSnapshot += layer.count * one.bytesPerSnapshot;
  }
  return cost;
}

function layerCost(layer: LayerShape, shape: ModelShape): Cost {
  const D = shape.hiddenSize;
  switch (layer.kind) {
    case "attention": {
      const queries = layer.heads * layer.headDim;
      const keysAndValues = 2 * layer.kvHeads * layer.headDim;
      const projections = 2 * D * (2 * queries + keysAndValues);
      return stateless(projections, 4 * queries, keysAndValues * shape.kvElementBytes);
    }
    case "mlp":
      return stateless(2 * layer.matrices * D * layer.inner * (layer.active ?? 1), 0, 0);
    case "mamba2": {
      const flops = 6 * D * layer.inner + 8 * layer.inner * layer.stateSize + 5 * layer.inner;
      const state = layer.stateElements ?? layer.inner * layer.stateSize;
      const conv = (layer.inner + 2 * layer.groups * layer.stateSize) * layer.convKernel;
      return recurrent(flops, (state + conv) * shape.stateElementBytes);
    }
    case "short-conv": {
      const flops = 2 * D * 3 * D + 2 * D * D + 2 * D * layer.convKernel + 2 * D;
      return recurrent(flops, D * (layer.convKernel - 1) * shape.stateElementBytes);
    }
    case "gated-delta": {
      const values = layer.heads * layer.valueDim;
      const channels = 2 * layer.keyHeads * layer.keyDim + values;
      const state = values * layer.keyDim;
      const projections = 2 * D * (channels + values) + 2 * values * D;
      const flops = projections + 8 * state + 2 * channels * layer.convKernel;
      return recurrent(flops, (state + channels * (layer.convKernel - 1)) * shape.stateElementBytes);
    }
  }
}

function stateless(flopsLinear: number, flopsQuadratic: number, bytesPerToken: number): Cost {
  return { flopsLinear, flopsQuadratic, bytesPerToken, bytesPerSnapshot: 0 };
}

function recurrent(flopsLinear: number, bytesPerSnapshot: number): Cost {
  return { flopsLinear, flopsQuadratic: 0, bytesPerToken: 0, bytesPerSnapshot };
}

/**
 * The shapes of some published models, by name; `namedModel` gives their costs.
 *
 * @example
 * ```ts
 * const { name, hiddenSize } = namedShapes["llama3-8b"]!;
 * console.log(name, hiddenSize); // llama3-8b 4096
 * ```
 */
export const namedShapes: Readonly<Record<string, ModelShape>> = {
  // Marconi's model: state counted as D x N elements (not inner x N), as in the paper.
  "nvidia-hybrid-7b": {
    name: "nvidia-hybrid-7b",
    hiddenSize: 4096,
    kvElementBytes: 2,
    stateElementBytes: 2,
    layers: [
      { kind: "attention", count: 4, heads: 32, kvHeads: 32, headDim: 128 },
      {
        kind: "mamba2",
        count: 24,
        inner: 8192,
        stateSize: 128,
        groups: 1,
        convKernel: 4,
        stateElements: 4096 * 128,
      },
      { kind: "mlp", count: 28, inner: 16384, matrices: 2 },
    ],
  },
  // Mooncake's model.
  "llama3-70b": {
    name: "llama3-70b",
    hiddenSize: 8192,
    kvElementBytes: 2,
    stateElementBytes: 2,
    layers: [
      { kind: "attention", count: 80, heads: 64, kvHeads: 8, headDim: 128 },
      { kind: "mlp", count: 80, inner: 28672, matrices: 3 },
    ],
  },
  "llama3-8b": {
    name: "llama3-8b",
    hiddenSize: 4096,
    kvElementBytes: 2,
    stateElementBytes: 2,
    layers: [
      { kind: "attention", count: 32, heads: 32, kvHeads: 8, headDim: 128 },
      { kind: "mlp", count: 32, inner: 14336, matrices: 3 },
    ],
  },
  // 128 experts, 8 for each token.
  "qwen3-30b-a3b": {
    name: "qwen3-30b-a3b",
    hiddenSize: 2048,
    kvElementBytes: 2,
    stateElementBytes: 2,
    layers: [
      { kind: "attention", count: 48, heads: 32, kvHeads: 4, headDim: 128 },
      { kind: "mlp", count: 48, inner: 768, matrices: 3, active: 8 },
    ],
  },
};

const layerFields: Readonly<Record<LayerShape["kind"], readonly string[]>> = {
  attention: ["count", "heads", "kvHeads", "headDim"],
  mamba2: ["count", "inner", "stateSize", "groups", "convKernel"],
  "short-conv": ["count", "convKernel"],
  "gated-delta": ["count", "heads", "keyHeads", "keyDim", "valueDim", "convKernel"],
  mlp: ["count", "inner", "matrices"],
};

/** Checks parsed JSON against ModelShape. Throws `invalid_file` with the name of the first bad field. */
export function parseShape(json: unknown, file: string): ModelShape {
  const fail = (field: string, need: string): never => {
    throw new TidepoolError("invalid_file", `${file}: ${field} must be ${need}`, { file, field });
  };
  const isRecord = (value: unknown): value is Record<string, unknown> =>
    typeof value === "object" && value !== null && !Array.isArray(value);
  const isCount = (value: unknown): boolean => Number.isInteger(value) && (value as number) > 0;
  if (!isRecord(json)) return fail("the model shape", "an object");
  if (typeof json["name"] !== "string") fail("name", "a string");
  for (const field of ["hiddenSize", "kvElementBytes", "stateElementBytes"]) {
    if (!isCount(json[field])) fail(field, "a positive integer");
  }
  const layers = json["layers"];
  if (!Array.isArray(layers) || layers.length === 0) return fail("layers", "a non-empty array");
  layers.forEach((layer: unknown, i) => {
    if (!isRecord(layer) || !Object.hasOwn(layerFields, String(layer["kind"]))) {
      return fail(`layers[${i}].kind`, `one of ${Object.keys(layerFields).join(", ")}`);
    }
    const required = layerFields[layer["kind"] as LayerShape["kind"]];
    const optional = ["stateElements", "active"].filter((field) => layer[field] !== undefined);
    for (const field of [...required, ...optional]) {
      if (!isCount(layer[field])) fail(`layers[${i}].${field}`, "a positive integer");
    }
  });
  return json as unknown as ModelShape;
}
