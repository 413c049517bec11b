/**
 * The models of replays: their form in JSON files, those that are known by name, and what a token of them costs, by the
 * formulas of src/shape. It opens no files.
 */
import { TidepoolError } from "../errors.ts";
import { addCost, NO_COST, type Cost, type CostUnits } from "../shape/cost.ts";
import { mlpCost } from "../shape/ffn/mlp.ts";
import { attentionCost } from "../shape/mixer/attention.ts";
import { deltaCost } from "../shape/mixer/gated-delta.ts";
import { mambaCost } from "../shape/mixer/mamba2.ts";
import { shortConvCost } from "../shape/mixer/short-conv.ts";

/** A run of `count` equal layers. Sizes are in elements. */
export type CostLayer =
  /** Softmax attention with `heads` query heads and `kvHeads` key and value heads. */
  | {
      kind: "attention";
      count: number;
      heads: number;
      kvHeads: number;
      headDim: number;
    }
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
  | {
      kind: "mlp";
      count: number;
      inner: number;
      matrices: number;
      active?: number;
    };

/**
 * The layers and sizes of a model, from which its costs follow: runs of equal layers, as papers describe them. (A model
 * that runs is a ModelShape, shape/shape.ts.)
 *
 * @example
 * ```ts
 * const shape: CostShape = {
 *   ...{ name: "small", hiddenSize: 512, kvElementBytes: 2, stateElementBytes: 4 },
 *   layers: [
 *     { kind: "attention", count: 8, heads: 8, kvHeads: 2, headDim: 64 },
 *     { kind: "mlp", count: 8, inner: 1536, matrices: 3 },
 *   ],
 * };
 * console.log(costOf(shape).bytesPerToken); // 4096
 * ```
 */
export interface CostShape extends CostUnits {
  name: string;
  layers: CostLayer[];
}

/**
 * The costs of a model: the sum over its layers.
 *
 * @example
 * ```ts
 * console.log(costOf(namedShapes["llama3-8b"]!).bytesPerToken); // 131072
 * ```
 */
export function costOf(shape: CostShape): Cost {
  return shape.layers.reduce((sum, layer) => addCost(sum, layerCost(shape, layer), layer.count), NO_COST);
}

function layerCost(units: CostUnits, layer: CostLayer): Cost {
  switch (layer.kind) {
    case "attention":
      return attentionCost(units, layer);
    case "mamba2":
      return mambaCost(units, { ...layer, kernel: layer.convKernel });
    case "short-conv":
      return shortConvCost(units, { kernel: layer.convKernel });
    case "gated-delta":
      return deltaCost(units, {
        ...layer,
        valueHeads: layer.heads,
        kernel: layer.convKernel,
      });
    case "mlp":
      return mlpCost(units, { ...layer, width: layer.inner });
  }
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
export const namedShapes: Readonly<Record<string, CostShape>> = {
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

const LAYER_FIELDS: Readonly<Record<CostLayer["kind"], readonly string[]>> = {
  attention: ["count", "heads", "kvHeads", "headDim"],
  mamba2: ["count", "inner", "stateSize", "groups", "convKernel"],
  "short-conv": ["count", "convKernel"],
  "gated-delta": ["count", "heads", "keyHeads", "keyDim", "valueDim", "convKernel"],
  mlp: ["count", "inner", "matrices"],
};

/** Checks parsed JSON against CostShape. Throws `invalid_file` with the name of the first bad field. */
export function parseShape(json: unknown, file: string): CostShape {
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
    if (!isRecord(layer) || !Object.hasOwn(LAYER_FIELDS, String(layer["kind"]))) {
      return fail(`layers[${i}].kind`, `one of ${Object.keys(LAYER_FIELDS).join(", ")}`);
    }
    const required = LAYER_FIELDS[layer["kind"] as CostLayer["kind"]];
    const optional = ["stateElements", "active"].filter((field) => layer[field] !== undefined);
    for (const field of [...required, ...optional]) {
      if (!isCount(layer[field])) fail(`layers[${i}].${field}`, "a positive integer");
    }
  });
  return json as unknown as CostShape;
}
