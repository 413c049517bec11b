/**
 * What a model is made of, as plain data: layers of mixers and a feed-forward, and what of them must be kept for each token
 * (keys and values) or each sequence (recurrent state). It reads no file; model/arch/rows.ts makes shapes. What a kind of
 * mixer or feed-forward is stands in mixer/ and ffn/.
 */
import type { MlpFeedForward } from "./ffn/mlp.ts";
import type { AttentionMixer } from "./mixer/attention.ts";
import type { DeltaMixer } from "./mixer/gated-delta.ts";
import type { MambaMixer } from "./mixer/mamba2.ts";
import type { ShortConvMixer } from "./mixer/short-conv.ts";

export type { Activation, MlpFeedForward } from "./ffn/mlp.ts";
export type { AttentionMixer } from "./mixer/attention.ts";

/** How a model stretches its positions. */
export type RopeScaling =
  | { type: "none" }
  | { type: "linear"; factor: number }
  | {
      type: "llama3";
      factor: number;
      lowFreqFactor: number;
      highFreqFactor: number;
      /** Context of the original training, in tokens. */
      originalContext: number;
    }
  | {
      type: "yarn";
      factor: number;
      /** Context of the original training, in tokens. */
      originalContext: number;
      /** 32 by default. */
      betaFast?: number;
      /** 1 by default. */
      betaSlow?: number;
      /** Overrides 0.1 ln(factor) + 1 as the factor of cos and sin. */
      attentionFactor?: number;
      /** false: the ramp's ends are not rounded to whole pairs. Default true. */
      truncate?: boolean;
    };

export interface RopeParams {
  theta: number;
  /** Entries of a head that are rotated, even. */
  rot: number;
  scaling: RopeScaling;
  /** Multiplies cos and sin, beside YaRN's own factor. Default: 1. */
  magnitude?: number;
  /** [rot/2]: divides the frequency of each pair (GGUF's rope_freqs.weight, which holds llama3's scaling). */
  divisors?: ArrayLike<number>;
}

/** Which pairs of a head's entries RoPE rotates: (i, i + rot/2) or (2i, 2i + 1). */
export type RopeLayout = "half" | "interleaved";

/** Every kind of mixer by its name. A kind outside this folder adds itself by declaration merging. */
export interface Mixers {
  attention: AttentionMixer;
  "short-conv": ShortConvMixer;
  mamba2: MambaMixer;
  "gated-delta": DeltaMixer;
}

/** Every kind of feed-forward by its name, likewise. */
export interface FeedForwards {
  mlp: MlpFeedForward;
}

export type Mixer = Mixers[keyof Mixers];
export type FeedForward = FeedForwards[keyof FeedForwards];

/** What a layer does: mixers over positions, then a feed-forward. */
export interface LayerShape {
  /** One, or several in parallel that read the same input and whose outputs are added (Falcon-H1). */
  mixers: readonly Mixer[];
  /** Absent in pure Mamba-2. */
  ffn: FeedForward | undefined;
}

/** Everything about a model but its weights. Sizes are element counts. */
export interface ModelShape {
  architecture: string;
  name: string;
  hiddenSize: number;
  vocabSize: number;
  /** Tokens of context that the model was made for. */
  contextTokens: number;
  layers: LayerShape[];
  /** Layers of the file behind these: they only predict further tokens, and nothing here reads them. */
  unusedLayers: number;
  normEps: number;
  /** Multiplies the embedding. */
  embeddingScale: number;
  /** Multiplies each mixer's and feed-forward's output before it is added. */
  residualScale: number;
  /** Multiplies the logits. */
  logitScale: number;
  /** Logits x become cap * tanh(x / cap); 0: no cap. */
  logitSoftCap: number;
  ropeTables: RopeParams[];
  ropeLayout: RopeLayout;
  /** Norms after the mixer and the feed-forward too (Gemma). */
  postNorms: boolean;
  /** Added to every norm weight of the file (1 for zero-centred norms in safetensors, else 0). */
  normOffset: number;
}

/** Keys and values of one layer: `kvHeads` heads of `headDim` entries a token. */
export interface KvLayer {
  kvHeads: number;
  headDim: number;
}

/** Numbers that one recurrent layer keeps of a sequence. */
export interface StateLayer {
  floats: number;
}

/** All mixers, layer by layer. */
export function mixersOf(shape: ModelShape): Mixer[] {
  return shape.layers.flatMap(({ mixers }) => mixers);
}
