/**
 * What an architecture says beside a file's hyperparameters, and what many of them have in common. The rows themselves are in
 * the folder rows.
 */
import type {
  Activation,
  AttentionMixer,
  FeedForward,
  LayerNorms,
  LayerShape,
  Mixer,
  QkNorm,
  RopeLayout,
} from "../../shape/shape.ts";
import type { GgufTraits } from "./hyperparameters-gguf.ts";
import type { Hyperparameters } from "./hyperparameters.ts";
import type { LayerTensors } from "./tensor-lookup.ts";

/** A row: what the hyperparameters alone do not say. */
export interface Architecture extends GgufTraits {
  /** `model_type` values of config.json, which config/dialects.ts knows how to read. */
  config: readonly string[];
  /** Of several rows with one model type, this is that of files whose config.json has this switched on. */
  configFlag?: string;
  /** GGUF files hold q and k rows for this layout. */
  ropeLayout: RopeLayout;
  /** Safetensors do for this one. Default: "half". */
  configRopeLayout?: RopeLayout;
  qkNorm: QkNorm;
  /** The files of some models have no norms of q and k. */
  qkNormIsOptional?: boolean;
  norms: LayerNorms;
  /** What of a layer's norms and residual adds is up to the file. Default: `norms`, and one add after the other. */
  skeleton?(
    index: number,
    params: Hyperparameters,
    layer: LayerTensors,
  ): Pick<LayerShape, "norms" | "parallel">;
  embeddingNorm?: boolean;
  learnedPositions?: boolean;
  /** Default: a norm stands behind the last layer. */
  outputNorm?: false;
  /** What is put before a text, by the task that its vector is for. */
  tasks?: Readonly<Record<string, string>>;
  /** In safetensors, the rows of W_qkv stand KV head by KV head. */
  groupedQkv?: boolean;
  /** In safetensors, the matrices of layers stand column by column. */
  transposed?: boolean;
  /** Names of tensors in safetensors, where they are not those of most architectures. */
  safetensorsNames?: Readonly<Record<string, string>>;
  activation: Activation;
  /** false: the feed-forward is W_down(activation(W_up x)). Default true. */
  gated?: boolean;
  zeroCentredNorms: boolean;
  scaleEmbedding: boolean;
  /** The rope table of layer `index`. Default: that of all layers, or of local ones if they have their own. */
  ropeTable?(index: number, params: Hyperparameters): number | undefined;
  /** Multiplies q.k where the file does not say. Default: 1 / sqrt(headDim). */
  attentionScale?(params: Hyperparameters): number;
  /** The mixers of layer `index`. Default: attention alone. */
  mixers?(index: number, params: Hyperparameters, attention: () => AttentionMixer): Mixer[];
  /** The feed-forward of layer `index`. Default: `mlp`. */
  ffn?(index: number, params: Hyperparameters, mlp: () => FeedForward): FeedForward | undefined;
  /** Each layer multiplies the residual stream by a number of its own. */
  outputScale?: boolean;
  /** RMS norm over each head of v, without a weight. */
  vNorm?: boolean;
  /** Layers without W_v have keys for values. */
  valuesMayBeKeys?: boolean;
  /** A layer with experts has a feed-forward beside them, with norms of its own. */
  besideExperts?: boolean;
  /** In safetensors, rows of an expert's gate and up alternate. */
  alternatingExperts?: boolean;
  /** W_q carries a gate for each head. */
  gatedAttention?: boolean;
  /** The feed-forward's gate and up are one tensor. */
  fusedGateUp?: boolean;
  /** They are in safetensors alone. */
  fusedInConfig?: boolean;
}

export const PRE_NORMS: LayerNorms = { mixer: "attn_norm", ffn: "ffn_norm" };
export const POST_NORMS: LayerNorms = { mixerPost: "post_attention_norm", ffnPost: "post_ffw_norm" };
export const SANDWICH_NORMS: LayerNorms = { ...PRE_NORMS, ...POST_NORMS };
/** In the files of some architectures, the norm before the feed-forward has the name of a post-norm. */
export const PRE_NORMS_RENAMED: LayerNorms = { mixer: "attn_norm", ffn: "post_attention_norm" };

/** What most architectures have in common. */
export const PLAIN = {
  qkNorm: false,
  norms: PRE_NORMS,
  activation: "silu",
  zeroCentredNorms: false,
  scaleEmbedding: false,
} as const;
