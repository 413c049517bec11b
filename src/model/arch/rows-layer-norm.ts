/**
 * Architectures from before Llama, and those that kept their ways: LayerNorm with a bias, biases on matrices, and often mixer and
 * feed-forward in parallel. What a row does not say is as in PLAIN (architecture.ts).
 */
import { PLAIN, PRE_NORMS, type Architecture } from "./architecture.ts";
import type { Hyperparameters } from "./hyperparameters.ts";
import type { LayerTensors } from "./tensor-lookup.ts";
import type { LayerNorms } from "../../shape/shape.ts";

const ONE_NORM: LayerNorms = { mixer: "attn_norm" };
const FALCON_40B_NORMS: LayerNorms = { mixer: "attn_norm_2", ffn: "attn_norm" };

const UNGATED = {
  ...PLAIN,
  norm: "layer",
  ropeLayout: "half",
  activation: "gelu_tanh",
  gated: false,
} as const;

export const LAYER_NORM: readonly Architecture[] = [
  { ...UNGATED, gguf: "starcoder2", config: ["starcoder2"], window: "all" },
  {
    ...UNGATED,
    gguf: "gpt2",
    config: ["gpt2"],
    learnedPositions: true,
    ropeTable: () => undefined,
  },
  {
    ...UNGATED,
    gguf: "gptneox",
    config: ["gpt_neox"],
    parallelFlag: true,
    skeleton: (_, { parallelResidual = true }) => ({ norms: PRE_NORMS, parallel: parallelResidual }),
  },
  {
    ...UNGATED,
    gguf: "falcon",
    config: ["falcon"],
    skeleton: (_, __, layer) => ({
      norms: layer.has("attn_norm_2") ? FALCON_40B_NORMS : ONE_NORM,
      parallel: true,
    }),
  },
  { ...UNGATED, gguf: "phi2", config: ["phi"], skeleton: () => ({ norms: ONE_NORM, parallel: true }) },
  {
    ...UNGATED,
    gguf: "stablelm",
    config: ["stablelm"],
    activation: "silu",
    gated: true,
    parallelFlag: true,
    skeleton: stableSkeleton,
    qkNorm: "layer",
    qkNormIsOptional: true,
  },
];

/** StableLM 2 12B has one norm and is parallel, whatever its files say of that. */
function stableSkeleton(_: number, __: Hyperparameters, layer: LayerTensors) {
  const isSequential = layer.has("ffn_norm");
  return { norms: isSequential ? PRE_NORMS : ONE_NORM, parallel: !isSequential };
}
