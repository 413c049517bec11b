/**
 * Architectures whose feed-forward is a mixture of experts in files of their own name: most are a dense one with experts. Those that
 * have experts under the dense one's name stand with it.
 */
import { assert } from "../../../base.ts";
import type { LatentMixer } from "../../../shape/mixer/latent.ts";
import { PLAIN, PRE_NORMS_RENAMED, type Architecture } from "../architecture.ts";
import type { Hyperparameters } from "../hyperparameters.ts";

/** @param rows those that these are made from */
export function expertRows(rows: readonly Architecture[]): Architecture[] {
  const of = (gguf: string) => rows.find((row) => row.gguf === gguf) as Architecture;
  const renormalised = { experts: { renormalise: true } };
  return [
    { ...of("qwen3"), gguf: "qwen3moe", config: [], tasks: {}, ...renormalised },
    { ...of("qwen3"), gguf: "olmoe", config: [], tasks: {}, qkNorm: "vector", experts: {} },
    { ...of("qwen2"), gguf: "qwen2moe", config: [], experts: {} },
    { ...of("lfm2"), gguf: "lfm2moe", config: [], experts: { gate: "sigmoid", renormalise: true } },
    { ...of("granite"), gguf: "granitemoe", config: [], ...renormalised },
    { ...of("qwen35"), gguf: "qwen35moe", config: [], ...renormalised },
    { ...of("ernie4_5"), gguf: "ernie4_5-moe", config: [], ...renormalised },
    {
      ...{ ...of("qwen3"), gguf: "glm4moe", config: [], tasks: {}, qkNormIsOptional: true },
      norms: PRE_NORMS_RENAMED,
      experts: { gate: "sigmoid" },
    },
    {
      ...{ ...PLAIN, gguf: "gpt-oss", config: [], ropeLayout: "half", norms: PRE_NORMS_RENAMED },
      ...{ window: { period: 2 }, activation: "clamped_swiglu", ...renormalised },
    },
    {
      ...PLAIN,
      gguf: "deepseek2",
      config: ["deepseek_v2", "deepseek_v3"],
      ropeLayout: "interleaved",
      latent: true,
      experts: {},
      mixers: (index, params) => [latentAttention(index, params)],
    },
    {
      ...of("nomic-bert"),
      gguf: "nomic-bert-moe",
      config: [],
      activation: "gelu_tanh",
      gated: false,
      experts: {},
    },
    { ...of("nemotron_h"), gguf: "nemotron_h_moe", config: [], experts: { gate: "sigmoid" } },
  ];
}

function latentAttention(index: number, { heads, latent }: Hyperparameters): LatentMixer {
  assert(latent, "latent attention without its sizes");
  const { stretch, ...sizes } = latent;
  const scale = stretch ** 2 / Math.sqrt(sizes.plainDim + sizes.ropeDim);
  return { kind: "latent", heads: heads[index] ?? 0, ...sizes, scale };
}
