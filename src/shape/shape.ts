/**
 * What a model is made of, as plain data: layers of mixers and a feed-forward, and what of them must be kept for each token
 * (keys and values) or each sequence (recurrent state). It reads no file; model/arch/rows.ts makes shapes. What a kind of
 * mixer or feed-forward is stands in mixer/ and ffn/.
 */
import type { ExpertsFeedForward } from "./ffn/experts.ts";
import type { MlpFeedForward } from "./ffn/mlp.ts";
import type { AttentionMixer } from "./mixer/attention.ts";
import type { LatentMixer } from "./mixer/latent.ts";
import type { DeltaMixer } from "./mixer/gated-delta.ts";
import type { MambaMixer } from "./mixer/mamba2.ts";
import type { ShortConvMixer } from "./mixer/short-conv.ts";

export type { ExpertRouting, ExpertsFeedForward } from "./ffn/experts.ts";
export type { Activation, MlpFeedForward, Xielu } from "./ffn/mlp.ts";
export type { AttentionMixer, QkNorm, QueryTemperature } from "./mixer/attention.ts";

/** How a model stretches its positions. */
export type RopeScaling =
  | { type: "none" }
  | { type: "linear"; factor: number }
  /** The base is multiplied by alpha^(rot / (rot - 2)). */
  | { type: "ntk"; alpha: number }
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
    }
  | {
      type: "longrope";
      /** Context of the original training, in tokens. */
      originalContext: number;
      /** Divisors of each pair's frequency in that context, and in a longer one. Absent: tensors of the file hold them. */
      factors?: { short: readonly number[]; long: readonly number[] };
      /** Factor of cos and sin, with both. Default: 1. */
      attentionFactor?: number;
      /** Which of them an engine uses, for all positions, because keys are kept rotated. Absent until its context is known. */
      chosen?: LongRopeFactors;
    };

export type LongRopeFactors = "short" | "long";

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
  latent: LatentMixer;
  "short-conv": ShortConvMixer;
  mamba2: MambaMixer;
  "gated-delta": DeltaMixer;
}

/** Every kind of feed-forward by its name, likewise. */
export interface FeedForwards {
  mlp: MlpFeedForward;
  experts: ExpertsFeedForward;
}

export type Mixer = Mixers[keyof Mixers];
export type FeedForward = FeedForwards[keyof FeedForwards];

/** How the residual stream is normed: RMS norm, or LayerNorm, whose tensors may have a bias beside them. */
export type NormKind = "rms" | "layer";

/** The norms of a layer: of the input of its mixers and of its feed-forward, and of what each of them and the gate give. */
export type NormPlace = "mixer" | "mixerPost" | "ffn" | "ffnPost" | "gatePost";

/** The GGUF names of their tensors, without "blk.N." and ".weight". A norm without a name is left out. */
export interface LayerNorms extends Readonly<Partial<Record<NormPlace, string>>> {
  /** What the post-norms norm: an output before it is added (the default), or the residual stream after that (BERT). */
  postOf?: PostNormOf;
}

export type PostNormOf = "output" | "sum";

/** What a layer does: mixers over positions, then a feed-forward. */
export interface LayerShape {
  /**
   * One, several in parallel that read the same input and whose outputs are added (Falcon-H1), or none if the layer is a
   * feed-forward alone (Nemotron-H).
   */
  mixers: readonly Mixer[];
  /** Absent in pure Mamba-2. */
  ffn: FeedForward | undefined;
  norms: LayerNorms;
  /**
   * true: the feed-forward reads the residual stream before the mixers add to it, through its own norm (GPT-NeoX) or, if it has
   * none, as the mixers do (Phi-2).
   */
  parallel: boolean;
  /** Behind the feed-forward, the layer's own embedding of the token goes through a gate (`perLayerWidth`; Gemma 4). */
  perLayerGate?: boolean;
  /** The residual stream is multiplied by a number of the layer's behind all that. */
  outputScale?: boolean;
}

/** Which vector stands for a text: the mean of its tokens' vectors, the first one's, or the last one's. */
export type Pooling = "mean" | "cls" | "last";

/** How a model makes one vector of a text. */
export interface EmbeddingShape {
  pooling: Pooling;
  /** Every token sees the whole text, which is computed at once: the model keeps nothing and generates nothing. */
  isEncoder: boolean;
  /** Rows of the matrices that the pooled vector passes through, in order. */
  dense: readonly number[];
  /** What is put before a text, by the name of the task that its vector is for. */
  tasks: Readonly<Record<string, string>>;
}
export type RowsFactor = readonly [factor: number, rows?: number];

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
  norm: NormKind;
  normEps: number;
  /** Multiplies the embedding. */
  embeddingScale: number;
  /** Positions have an embedding of their own, a row for each of `contextTokens` (GPT-2). */
  learnedPositions: boolean;
  /** Rows of their table before that of the first position (RoBERTa). Default: none. */
  positionOffset?: number;
  /** A norm between the embedding and the first layer (BERT). */
  embeddingNorm: boolean;
  /** false: no norm stands behind the last layer, because layers end with one (BERT). */
  outputNorm?: false;
  /** Numbers that each token has for every layer, beside its embedding (Gemma 3n, Gemma 4); undefined: none. */
  perLayerWidth: number | undefined;
  /** The residual is four streams, and a product of rank `laurelRank` goes past attention (Gemma 3n); undefined: one stream. */
  altUp: { laurelRank: number } | undefined;
  /** Multiplies each mixer's and feed-forward's output before it is added. */
  residualScale: number;
  /** Multiplies the logits. */
  logitScale: number;
  /** Logits x become cap * tanh(x / cap); 0: no cap. */
  logitSoftCap: number;
  ropeTables: RopeParams[];
  ropeLayout: RopeLayout;
  /** GGUF name of a layer's tensor -> its name in safetensors, where it is not that of most architectures. */
  safetensorsNames: Readonly<Record<string, string>>;
  /** Absent: the model makes no vectors of texts. */
  embedding?: EmbeddingShape;
  /**
   * GGUF names of matrices whose products are multiplied by a factor: all of them, or runs of so many rows each (Falcon-H1 in
   * safetensors; its GGUF files hold the weights multiplied).
   */
  factors?: Readonly<Record<string, readonly RowsFactor[]>>;
  /** The file's matrices stand column by column (GPT-2 in safetensors), but for those of tokens and positions. */
  transposed?: boolean;
  /** Added to every norm weight of the file (1 for zero-centred norms in safetensors, else 0). */
  normOffset: number;
}

/** Keys and values of one layer: `kvHeads` heads of `headDim` entries a token. */
export interface KvLayer {
  kvHeads: number;
  headDim: number;
  /** Values are the first entries of keys (latent attention): there are no others. */
  keysOnly?: boolean;
}

/** What all layers keep, if they are alike and have keys and values: only then can blocks be quantised at rest. */
export function commonKvLayer(layers: readonly KvLayer[]): KvLayer | undefined {
  const [first] = layers;
  const isAlike = layers.every(
    (layer) => layer.kvHeads === first?.kvHeads && layer.headDim === first.headDim,
  );
  return isAlike && !first?.keysOnly ? first : undefined;
}

/** Numbers that one recurrent layer keeps of a sequence. */
export interface StateLayer {
  floats: number;
}

/** The norms that a layer computes, with the names of their tensors. */
export function normsOf({
  mixers,
  ffn,
  norms,
  perLayerGate,
}: LayerShape): [place: NormPlace, name: string][] {
  const places: NormPlace[] = [];
  if (mixers.length > 0) places.push("mixer", "mixerPost");
  if (ffn) places.push("ffn", "ffnPost");
  if (perLayerGate) places.push("gatePost");
  return places.flatMap((place) => {
    const name = norms[place];
    return name === undefined ? [] : [[place, name]];
  });
}

/** All mixers, layer by layer. */
export function mixersOf(shape: ModelShape): Mixer[] {
  return shape.layers.flatMap(({ mixers }) => mixers);
}
