/**
 * Architectures whose feed-forward is a mixture of experts in files of their own name: most are a dense one with experts. Those that
 * have experts under the dense one's name stand with it.
 */
import { assert } from "../../../base.ts";
import type { LatentMixer } from "../../../shape/mixer/latent.ts";
import {
  ERNIE_EXPERTS,
  GPT_OSS_EXPERTS,
  GRANITE_EXPERTS,
  LFM2_EXPERTS,
  QWEN_EXPERTS,
} from "./expert-names.ts";
import { PLAIN, PRE_NORMS_RENAMED, type Architecture } from "../architecture.ts";
import type { Hyperparameters } from "../hyperparameters.ts";

/** @param rows those that these are made from */
export function expertRows(rows: readonly Architecture[]): Architecture[] {
  const of = (gguf: string) => rows.find((row) => row.gguf === gguf) as Architecture;
  const renormalised = { experts: { renormalise: true } };
  return [
    { ...of("qwen3"), gguf: "qwen3moe", config: ["qwen3_moe"], tasks: {}, ...renormalised },
    { ...of("qwen3"), gguf: "olmoe", config: ["olmoe"], tasks: {}, qkNorm: "vector", experts: {} },
    { ...of("qwen2"), gguf: "qwen2moe", config: ["qwen2_moe"], experts: {}, safetensorsNames: QWEN_EXPERTS },
    {
      ...of("lfm2"),
      gguf: "lfm2moe",
      config: ["lfm2_moe"],
      experts: { gate: "sigmoid", renormalise: true },
      safetensorsNames: { ...of("lfm2").safetensorsNames, ...LFM2_EXPERTS },
    },
    {
      ...of("granite"),
      gguf: "granitemoe",
      config: ["granitemoe", "granitemoeshared"],
      ...renormalised,
      safetensorsNames: GRANITE_EXPERTS,
      fusedInConfig: true,
    },
    {
      ...of("qwen35"),
      gguf: "qwen35moe",
      config: ["qwen3_5_moe", "qwen3_5_moe_text"],
      ...renormalised,
      safetensorsNames: QWEN_EXPERTS,
    },
    {
      ...of("ernie4_5"),
      gguf: "ernie4_5-moe",
      config: ["ernie4_5_moe"],
      ...renormalised,
      safetensorsNames: ERNIE_EXPERTS,
    },
    {
      ...{ ...of("qwen3"), gguf: "glm4moe", config: ["glm4_moe"], tasks: {}, qkNormIsOptional: true },
      norms: PRE_NORMS_RENAMED,
      experts: { gate: "sigmoid" },
      nextLayers: true,
    },
    {
      ...{ ...PLAIN, gguf: "gpt-oss", config: ["gpt_oss"], ropeLayout: "half", norms: PRE_NORMS_RENAMED },
      ...{ window: { period: 2 }, activation: "clamped_swiglu", ...renormalised },
      ...{ safetensorsNames: GPT_OSS_EXPERTS, alternatingExperts: true },
    },
    {
      ...PLAIN,
      gguf: "deepseek2",
      config: ["deepseek_v2", "deepseek_v3"],
      ropeLayout: "interleaved",
      configRopeLayout: "interleaved",
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
    { ...of("nemotron_h"), gguf: "nemotron_h_moe", config: [] },
  ];
}

function latentAttention(index: number, { heads, latent }: Hyperparameters): LatentMixer {
  assert(latent, "latent attention without its sizes");
  const { stretch, ...sizes } = latent;
  const scale = stretch ** 2 / Math.sqrt(sizes.plainDim + sizes.ropeDim);
  return { kind: "latent", heads: heads[index] ?? 0, ...sizes, scale };
}
