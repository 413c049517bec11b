/**
 * Architectures with recurrent layers: short convolutions, Mamba-2, gated delta rules, alone or beside attention. What a row does not
 * say is as in PLAIN (architecture.ts).
 */
import { TidepoolError } from "../../../errors.ts";
import type { DeltaMixer } from "../../../shape/mixer/gated-delta.ts";
import type { MambaMixer } from "../../../shape/mixer/mamba2.ts";
import type { AttentionMixer, Mixer } from "../../../shape/shape.ts";
import { expertNames } from "../../ffn/experts.ts";
import { mambaNames } from "../../mixer/mamba2.ts";
import { GRANITE_EXPERTS, QWEN_EXPERTS } from "./expert-names.ts";
import { PLAIN, PRE_NORMS_RENAMED, type Architecture } from "../architecture.ts";
import type { Hyperparameters } from "../hyperparameters.ts";

/** Whatever a layer is, it is called a mixer. */
const NEMOTRON_NAMES = {
  ...mambaNames("mixer"),
  ...expertNames("mixer"),
  ...{ token_embd: "embeddings", output_norm: "norm_f", attn_norm: "norm" },
  ...{ attn_q: "mixer.q_proj", attn_k: "mixer.k_proj", attn_v: "mixer.v_proj", attn_output: "mixer.o_proj" },
  ...{ ffn_up: "mixer.up_proj", ffn_down: "mixer.down_proj" },
};

export const RECURRENT: readonly Architecture[] = [
  {
    ...PLAIN,
    gguf: "lfm2",
    config: ["lfm2"],
    window: "all",
    ropeLayout: "half",
    qkNorm: true,
    safetensorsNames: {
      output_norm: "embedding_norm",
      attn_norm: "operator_norm",
      attn_output: "self_attn.out_proj",
      attn_q_norm: "self_attn.q_layernorm",
      attn_k_norm: "self_attn.k_layernorm",
      ffn_norm: "ffn_norm",
      ffn_gate: "feed_forward.w1",
      ffn_up: "feed_forward.w3",
      ffn_down: "feed_forward.w2",
    },
    mixers: (index, params, attention) =>
      isRecurrent(index, params) ? [{ kind: "short-conv", kernel: params.convKernel }] : [attention()],
  },
  {
    ...PLAIN,
    gguf: "granitehybrid",
    config: ["granitemoehybrid"],
    experts: { renormalise: true },
    ropeLayout: "interleaved",
    multipliers: true,
    ropeIsOptional: true,
    ropeTable: (_, params) => (params.ropeFinetuned ? 0 : undefined),
    safetensorsNames: {
      ...{ ffn_up: "shared_mlp.input_linear", ffn_down: "shared_mlp.output_linear" },
      ...GRANITE_EXPERTS,
    },
    fusedInConfig: true,
    mixers: (index, params, attention) => (isRecurrent(index, params) ? [mamba(params)] : [attention()]),
  },
  {
    ...PLAIN,
    gguf: "mamba2",
    config: ["mamba2"],
    ropeLayout: "half",
    safetensorsNames: {
      ...mambaNames("mixer"),
      ...{ token_embd: "embeddings", output_norm: "norm_f", attn_norm: "norm" },
    },
    ffn: () => undefined,
    mixers: (_, params) => [mamba(params)],
  },
  {
    ...PLAIN,
    gguf: "falcon-h1",
    config: ["falcon_h1"],
    ropeLayout: "half",
    safetensorsNames: {
      output_norm: "final_layernorm",
      ffn_norm: "pre_ff_layernorm",
      ffn_gate: "feed_forward.gate_proj",
      ffn_up: "feed_forward.up_proj",
      ffn_down: "feed_forward.down_proj",
    },
    mixers: (_, params, attention) => [attention(), mamba(params)],
  },
  {
    ...PLAIN,
    gguf: "qwen35",
    config: ["qwen3_5", "qwen3_5_text"],
    ropeLayout: "half",
    qkNorm: true,
    zeroCentredNorms: true,
    norms: PRE_NORMS_RENAMED,
    gatedAttention: true,
    deltaLayers: true,
    mixers: (index, params, attention) =>
      isDelta(index, params)
        ? [delta(params, params.isConfig ? "blocked" : "interleaved", false)]
        : [attention()],
  },
  {
    ...PLAIN,
    gguf: "qwen3next",
    config: ["qwen3_next"],
    experts: { renormalise: true },
    safetensorsNames: QWEN_EXPERTS,
    zeroCentredNorms: true,
    ropeLayout: "half",
    qkNorm: true,
    norms: PRE_NORMS_RENAMED,
    gatedAttention: true,
    deltaLayers: true,
    mixers: (index, params, attention) =>
      isDelta(index, params) ? [delta(params, "blocked", true)] : [attention()],
  },
  {
    ...{ ...PLAIN, gguf: "nemotron_h", config: ["nemotron_h"], ropeLayout: "half" },
    norms: { mixer: "attn_norm", ffn: "attn_norm" },
    ...{ activation: "relu2", gated: false },
    ropeTable: () => undefined,
    experts: { gate: "sigmoid" },
    safetensorsNames: NEMOTRON_NAMES,
    mixers: nemotronMixers,
    ffn: (index, { ffnWidth }, mlp) => (ffnWidth[index] === 0 ? undefined : mlp()),
  },
];

/** Nemotron-H: a layer is one sub-layer, and those without attention and feed-forward are recurrent. */
function nemotronMixers(index: number, params: Hyperparameters, attention: () => AttentionMixer): Mixer[] {
  if (params.ffnWidth[index] !== 0) return [];
  return isRecurrent(index, params) ? [mamba(params)] : [attention()];
}

/** A layer without KV heads is recurrent. */
function isRecurrent(index: number, params: Hyperparameters): boolean {
  return params.kvHeads[index] === 0;
}

/** Qwen3.5 and Qwen3-Next: attention in every fourth layer, unless the file names another interval or lists the layers. */
function isDelta(index: number, params: Hyperparameters): boolean {
  return params.recurrentLayers?.[index] ?? (index + 1) % params.attentionInterval !== 0;
}

function mamba({ ssm, convKernel }: Hyperparameters): MambaMixer {
  const { innerSize, stateSize, heads, groups } = ssm;
  const shape = { kind: "mamba2", heads, headDim: innerSize / heads, groups, stateSize } as const;
  checkDivides("ssm.inner_size", innerSize, "ssm.time_step_rank", heads);
  checkDivides("ssm.time_step_rank", heads, "ssm.group_count", groups);
  return { ...shape, kernel: convKernel };
}

function delta(
  { ssm, convKernel }: Hyperparameters,
  keyHeadOrder: DeltaMixer["keyHeadOrder"],
  baGrouped: boolean,
): DeltaMixer {
  const { innerSize, stateSize: keyDim, heads: valueHeads, groups: keyHeads } = ssm;
  checkDivides("ssm.inner_size", innerSize, "ssm.time_step_rank", valueHeads);
  checkDivides("ssm.time_step_rank", valueHeads, "ssm.group_count", keyHeads);
  const sizes = { keyHeads, valueHeads, keyDim, valueDim: innerSize / valueHeads };
  return { kind: "gated-delta", ...sizes, kernel: convKernel, keyHeadOrder, baGrouped };
}

function checkDivides(whole: string, value: number, part: string, divisor: number): void {
  if (divisor > 0 && value > 0 && value % divisor === 0) return;
  throw new TidepoolError(
    "invalid_file",
    `${whole} is ${value} and ${part} is ${divisor}: it must divide it`,
  );
}
