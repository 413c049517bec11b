/** The models whose shapes the comparison knows, with capacities that make sense for them. It loads no weights. */
import type { Cost, CostShape } from "../../src/sim/index.ts";
import { costOf, namedModel } from "../../src/sim/index.ts";

export interface ModelChoice {
  name: string;
  label: string;
  /** Capacities to begin with, in GB. */
  from: number;
  to: number;
}

export const modelChoices: readonly ModelChoice[] = [
  { name: "nvidia-hybrid-7b", label: "NVIDIA hybrid 7B: 4 attention, 24 Mamba-2 layers", from: 1, to: 100 },
  { name: "llama3-8b", label: "Llama 3 8B: dense", from: 1, to: 100 },
  { name: "llama3-70b", label: "Llama 3 70B: dense", from: 10, to: 10_000 },
  { name: "qwen3-30b-a3b", label: "Qwen3 30B-A3B: mixture of experts", from: 1, to: 100 },
  { name: "tide-dense", label: "tide-dense: shipped with this page", from: 0.02, to: 2 },
  { name: "tide-hybrid", label: "tide-hybrid: shipped with this page", from: 0.02, to: 2 },
];

/** As in the files' headers (demo/models/README.md), with KV in f16 and states in f32. */
const shipped: Readonly<Record<string, CostShape>> = {
  "tide-dense": {
    ...{ name: "tide-dense", hiddenSize: 256, kvElementBytes: 2, stateElementBytes: 4 },
    layers: [
      { kind: "attention", count: 4, heads: 4, kvHeads: 2, headDim: 64 },
      { kind: "mlp", count: 4, inner: 640, matrices: 3 },
    ],
  },
  "tide-hybrid": {
    ...{ name: "tide-hybrid", hiddenSize: 256, kvElementBytes: 2, stateElementBytes: 4 },
    layers: [
      { kind: "attention", count: 3, heads: 4, kvHeads: 2, headDim: 64 },
      { kind: "short-conv", count: 3, convKernel: 3 },
      { kind: "mlp", count: 6, inner: 384, matrices: 3 },
    ],
  },
};

export function choiceOf(name: string): ModelChoice {
  return modelChoices.find((choice) => choice.name === name) ?? modelChoices[0]!;
}

export function costOfModel(name: string): Cost {
  const shape = shipped[name];
  const cost = shape ? costOf(shape) : namedModel(name);
  if (cost === undefined) throw new Error(`assertion failed: no model ${name}`);
  return cost;
}
