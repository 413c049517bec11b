/**
 * Architectures from before Llama, and those that kept their ways: LayerNorm with a bias, biases on matrices, and often mixer and
 * feed-forward in parallel. What a row does not say is as in PLAIN (architecture.ts).
 */
import { PLAIN, PRE_NORMS, type Architecture } from "../architecture.ts";
import type { Hyperparameters } from "../hyperparameters.ts";
import type { LayerTensors } from "../tensor-lookup.ts";
import type { LayerNorms } from "../../../shape/shape.ts";

const ONE_NORM: LayerNorms = { mixer: "attn_norm" };

const UNGATED = {
  ...PLAIN,
  norm: "layer",
  ropeLayout: "half",
  activation: "gelu_tanh",
  gated: false,
} as const;

export const LAYER_NORM: readonly Architecture[] = [
  {
    ...UNGATED,
    gguf: "starcoder2",
    config: ["starcoder2"],
    window: "all",
    safetensorsNames: { ffn_up: "mlp.c_fc", ffn_down: "mlp.c_proj" },
  },
  {
    ...UNGATED,
    gguf: "gpt2",
    config: ["gpt2"],
    learnedPositions: true,
    transposed: true,
    safetensorsNames: {
      ...{ token_embd: "wte", position_embd: "wpe", output_norm: "ln_f", layers: "h" },
      ...{ attn_norm: "ln_1", attn_qkv: "attn.c_attn", attn_output: "attn.c_proj" },
      ...{ ffn_norm: "ln_2", ffn_up: "mlp.c_fc", ffn_down: "mlp.c_proj" },
    },
    ropeTable: () => undefined,
  },
  {
    ...UNGATED,
    gguf: "gptneox",
    config: ["gpt_neox"],
    parallelFlag: true,
    groupedQkv: true,
    safetensorsNames: {
      ...{ token_embd: "embed_in", output_norm: "final_layer_norm", attn_qkv: "attention.query_key_value" },
      ...{ attn_output: "attention.dense", ffn_up: "mlp.dense_h_to_4h", ffn_down: "mlp.dense_4h_to_h" },
    },
    skeleton: (_, { parallelResidual = true }) => ({ norms: PRE_NORMS, parallel: parallelResidual }),
  },
  {
    ...UNGATED,
    gguf: "falcon",
    config: ["falcon"],
    groupedQkv: true,
    safetensorsNames: {
      ...{ token_embd: "word_embeddings", output_norm: "ln_f", layers: "h" },
      ...{ attn_norm_2: "ln_attn", ffn_norm: "ln_mlp", attn_qkv: "self_attention.query_key_value" },
      ...{ attn_output: "self_attention.dense", ffn_up: "mlp.dense_h_to_4h", ffn_down: "mlp.dense_4h_to_h" },
    },
    skeleton: (_, { isConfig }, layer) => ({ norms: falconNorms(layer, isConfig), parallel: true }),
  },
  {
    ...UNGATED,
    gguf: "phi2",
    config: ["phi"],
    safetensorsNames: {
      ...{ output_norm: "final_layernorm", attn_output: "self_attn.dense" },
      ...{ ffn_up: "mlp.fc1", ffn_down: "mlp.fc2" },
    },
    skeleton: () => ({ norms: ONE_NORM, parallel: true }),
  },
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
    safetensorsNames: {
      "attn_q_norm.N": "self_attn.q_layernorm.norms.{}",
      "attn_k_norm.N": "self_attn.k_layernorm.norms.{}",
    },
  },
];

/** Falcon 40B has two; in GGUF, that of the feed-forward has the name that the one norm of 7B has. */
function falconNorms(layer: LayerTensors, isConfig: boolean): LayerNorms {
  if (!layer.has("attn_norm_2")) return ONE_NORM;
  return { mixer: "attn_norm_2", ffn: isConfig ? "ffn_norm" : "attn_norm" };
}

/** StableLM 2 12B has one norm and is parallel, whatever its files say of that. */
function stableSkeleton(_: number, __: Hyperparameters, layer: LayerTensors) {
  const isSequential = layer.has("ffn_norm");
  return { norms: isSequential ? PRE_NORMS : ONE_NORM, parallel: !isSequential };
}
