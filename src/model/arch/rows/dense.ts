/**
 * Architectures whose layers are attention and a feed-forward, and that differ in norms, rotation, windows, factors and names.
 * What a row does not say is as in PLAIN (architecture.ts).
 */
import { expertNames } from "../../ffn/experts.ts";
import type { Hyperparameters } from "../hyperparameters.ts";
import { PLAIN, POST_NORMS, PRE_NORMS_RENAMED, SANDWICH_NORMS, type Architecture } from "../architecture.ts";

/** Gemma 3: one global layer after five local ones, unless the file says otherwise. */
const GEMMA3_WINDOW = { period: 6, localTheta: 10_000 };
/** Gemma 2: every other layer is global. */
const GEMMA2_WINDOW = { period: 2, tokens: () => 4096 };
/** How the models of 27B are told from their siblings: they alone scale queries by another size (as in llama.cpp). */
const GEMMA2_27B_LAYERS = 46;
const GEMMA3_27B_LAYERS = 62;

/** OLMo 3: three local layers, which are never stretched, to a global one. OLMo 2 has no window. */
const OLMO3_WINDOW = { period: 4, localTheta: "global" } as const;

/** EXAONE 4: of its sizes the 32B alone has windows. As in llama.cpp, it is told by its layers where the file does not say. */
const EXAONE4_WINDOW = { period: 4, tokens: (layers: number) => (layers === 64 ? 4096 : 0) };

/** SmolLM3: every fourth layer has no rotation, unless config.json lists the layers. */
const SMOLLM3_NOPE_PERIOD = 4;

/** What Qwen3 Embedding was trained to read before a question; documents stand alone. */
const QWEN3_TASKS = {
  query: "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
};

const GEMMA_NORM_NAMES = { ffn_norm: "pre_feedforward_layernorm" };
/** Gemma 3n and Gemma 4: what a token has for each layer. */
const PER_LAYER_NAMES = {
  per_layer_token_embd: "embed_tokens_per_layer",
  per_layer_model_proj: "per_layer_model_projection",
  per_layer_proj_norm: "per_layer_projection_norm",
  inp_gate: "per_layer_input_gate",
  proj: "per_layer_projection",
  post_norm: "post_per_layer_input_norm",
};
const ALTUP_NAMES = {
  "altup_proj.N": "altup_projections.{}",
  "altup_unembd_proj.N": "altup_unembed_projections.{}",
  altup_router_norm: "altup.router_norm",
  altup_router: "altup.modality_router",
  altup_predict_coef: "altup.prediction_coefs",
  altup_correct_coef: "altup.correction_coefs",
  "altup_correct_scale.weight": "altup.correct_output_scale",
  laurel_l: "laurel.linear_left",
  laurel_r: "laurel.linear_right",
  laurel_post_norm: "laurel.post_laurel_norm",
};
const GEMMA4_NAMES = {
  "layer_output_scale.weight": "layer_scalar",
  ffn_gate_inp: "router.proj",
  "ffn_gate_inp.scale": "router.scale",
  "ffn_gate_up_exps.weight": "experts.gate_up_proj",
  "ffn_down_exps.weight": "experts.down_proj",
  "ffn_down_exps.scale": "router.per_expert_scale",
  pre_ffw_norm_2: "pre_feedforward_layernorm_2",
  post_ffw_norm_1: "post_feedforward_layernorm_1",
  post_ffw_norm_2: "post_feedforward_layernorm_2",
};
const APERTUS_NAMES = {
  attn_norm: "attention_layernorm",
  ffn_norm: "feedforward_layernorm",
  "xielu_alpha_p.weight": "mlp.act_fn.alpha_p",
  "xielu_alpha_n.weight": "mlp.act_fn.alpha_n",
  "xielu_beta.weight": "mlp.act_fn.beta",
  "xielu_eps.weight": "mlp.act_fn.eps",
};
const FUSED_GATE_UP = { ffn_up: "mlp.gate_up_proj" };

const GEMMA = {
  ...PLAIN,
  ropeLayout: "half",
  activation: "gelu_tanh",
  zeroCentredNorms: true,
  scaleEmbedding: true,
} as const;

export const DENSE: readonly Architecture[] = [
  {
    ...{ ...PLAIN, gguf: "llama", config: ["llama", "mistral", "mixtral"], ropeLayout: "interleaved" },
    ...{ window: "all", experts: { renormalise: true } },
    safetensorsNames: expertNames("block_sparse_moe", ["w1", "w3", "w2"]),
  },
  { ...PLAIN, gguf: "qwen2", config: ["qwen2"], ropeLayout: "half" },
  { ...PLAIN, gguf: "qwen3", config: ["qwen3"], ropeLayout: "half", qkNorm: true, tasks: QWEN3_TASKS },
  {
    ...PLAIN,
    gguf: "mistral3",
    config: ["ministral3"],
    ropeLayout: "interleaved",
    temperature: true,
    window: "all",
  },
  {
    ...PLAIN,
    gguf: "phi3",
    config: ["phi3"],
    ropeLayout: "half",
    fusedGateUp: true,
    safetensorsNames: { ...FUSED_GATE_UP, attn_qkv: "self_attn.qkv_proj" },
    longRope: true,
    window: "all",
  },
  {
    ...PLAIN,
    gguf: "granite",
    config: ["granite"],
    ropeLayout: "interleaved",
    multipliers: true,
    ropeIsOptional: true,
    ropeTable: (_, params) => (params.ropeFinetuned ? 0 : undefined),
  },
  {
    ...PLAIN,
    gguf: "ernie4_5",
    config: ["ernie4_5"],
    ropeLayout: "interleaved",
    configRopeLayout: "interleaved",
  },
  {
    ...PLAIN,
    gguf: "hunyuan-dense",
    config: ["hunyuan_v1_dense"],
    ropeLayout: "half",
    qkNorm: "rotated",
    safetensorsNames: { attn_q_norm: "self_attn.query_layernorm", attn_k_norm: "self_attn.key_layernorm" },
  },
  {
    ...PLAIN,
    gguf: "olmo2",
    config: ["olmo2", "olmo3"],
    ropeLayout: "half",
    qkNorm: "vector",
    norms: POST_NORMS,
    window: OLMO3_WINDOW,
  },
  {
    ...PLAIN,
    gguf: "exaone4",
    config: ["exaone4"],
    ropeLayout: "half",
    qkNorm: true,
    norms: POST_NORMS,
    window: EXAONE4_WINDOW,
    ropeTable: (index, { window, localLayers }) => (window > 0 && !localLayers[index] ? undefined : 0),
  },
  { ...PLAIN, gguf: "seed_oss", config: ["seed_oss"], ropeLayout: "half", norms: PRE_NORMS_RENAMED },
  {
    ...PLAIN,
    gguf: "internlm2",
    config: ["internlm2"],
    ropeLayout: "interleaved",
    groupedQkv: true,
    safetensorsNames: {
      token_embd: "tok_embeddings",
      output: "output",
      attn_norm: "attention_norm",
      attn_qkv: "attention.wqkv",
      attn_output: "attention.wo",
      ffn_norm: "ffn_norm",
      ffn_gate: "feed_forward.w1",
      ffn_up: "feed_forward.w3",
      ffn_down: "feed_forward.w2",
    },
  },
  {
    ...PLAIN,
    gguf: "minicpm",
    config: ["minicpm"],
    ropeLayout: "interleaved",
    longRope: true,
    // Files from before the keys are of the first models.
    multipliers: (layers, hiddenSize) => ({
      embeddingScale: 12,
      residualScale: 1.4 / Math.sqrt(layers),
      logitDivisor: hiddenSize / 256,
    }),
  },
  {
    ...PLAIN,
    gguf: "glm4",
    config: ["glm4"],
    ropeLayout: "interleaved",
    configRopeLayout: "interleaved",
    ropeSections: true,
    norms: SANDWICH_NORMS,
    fusedGateUp: true,
    safetensorsNames: {
      ...FUSED_GATE_UP,
      post_attention_norm: "post_self_attn_layernorm",
      ffn_norm: "post_attention_layernorm",
      post_ffw_norm: "post_mlp_layernorm",
    },
  },
  {
    ...PLAIN,
    gguf: "smollm3",
    config: ["smollm3"],
    ropeLayout: "interleaved",
    ropeTable: (index, params) => (smollm3Rotates(index, params) ? 0 : undefined),
  },
  { ...GEMMA, gguf: "gemma", config: ["gemma"] },
  {
    ...GEMMA,
    gguf: "gemma2",
    config: ["gemma2"],
    norms: SANDWICH_NORMS,
    safetensorsNames: GEMMA_NORM_NAMES,
    window: GEMMA2_WINDOW,
    softCaps: { attention: 50, final: 30 },
    attentionScale: (params) => gemmaScale(params, GEMMA2_27B_LAYERS),
  },
  {
    ...GEMMA,
    gguf: "gemma3",
    config: ["gemma3_text", "gemma3"],
    qkNorm: true,
    norms: SANDWICH_NORMS,
    safetensorsNames: GEMMA_NORM_NAMES,
    window: GEMMA3_WINDOW,
    attentionScale: (params) => gemmaScale(params, GEMMA3_27B_LAYERS),
  },
  {
    ...{ ...PLAIN, gguf: "apertus", config: ["apertus"], ropeLayout: "half", qkNorm: true },
    ...{ activation: "xielu", gated: false, xielu: true },
    safetensorsNames: APERTUS_NAMES,
  },
  {
    ...{ ...PLAIN, gguf: "arcee", config: ["arcee"], ropeLayout: "interleaved" },
    ...{ activation: "relu2", gated: false },
  },
  {
    gguf: "gemma3n",
    config: ["gemma3n_text", "gemma3n"],
    ropeLayout: "half",
    qkNorm: true,
    vNorm: true,
    norms: { mixer: "attn_norm", gatePost: "post_norm" }, // the others are AltUp's
    activation: "gelu_tanh",
    zeroCentredNorms: false,
    scaleEmbedding: true,
    safetensorsNames: { ...GEMMA_NORM_NAMES, ...PER_LAYER_NAMES, ...ALTUP_NAMES },
    perLayer: true,
    altUp: true,
    softCaps: { attention: 0, final: 30 },
    window: { period: 5, localTheta: 10_000 },
    attentionScale: () => 1,
  },
  {
    gguf: "gemma4",
    config: ["gemma4_text", "gemma4"],
    ropeLayout: "half",
    qkNorm: true,
    vNorm: true,
    norms: { ...SANDWICH_NORMS, gatePost: "post_norm" },
    safetensorsNames: { ...GEMMA_NORM_NAMES, ...PER_LAYER_NAMES, ...GEMMA4_NAMES },
    activation: "gelu_tanh",
    zeroCentredNorms: false,
    scaleEmbedding: true,
    valuesMayBeKeys: true,
    perLayer: true,
    experts: { renormalise: true },
    besideExperts: true,
    outputScale: true,
    window: { localTheta: 10_000 },
    attentionScale: () => 1,
  },
];

function smollm3Rotates(index: number, params: Hyperparameters): boolean {
  const listed = params.ropeLayers?.[index];
  return listed ?? (index + 1) % SMOLLM3_NOPE_PERIOD !== 0;
}

function gemmaScale({ layers, hiddenSize, heads, headDim }: Hyperparameters, layersOf27B: number): number {
  const size = layers === layersOf27B ? Math.floor(hiddenSize / (heads[0] || 1)) : headDim;
  return 1 / Math.sqrt(size);
}
