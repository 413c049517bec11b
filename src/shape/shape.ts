/**
 * What a model is made of, as plain data: mixers, feed-forwards, layers, and what of them must be kept for each token
 * (keys and values) or each sequence (recurrent state). It reads no file; arch/rows.ts makes shapes, weights.ts and program.ts
 * use them.
 */

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

/** Softmax attention with grouped-query heads. */
export interface AttentionMixer {
  kind: "attention";
  heads: number;
  kvHeads: number;
  headDim: number;
  /** Multiplies q.k before the softmax. */
  scale: number;
  /** A key is visible if it is fewer than `window` tokens back; 0: no limit. */
  window: number;
  /** Scores s become cap * tanh(s / cap); 0: no cap. */
  softCap: number;
  /** Index into the model's `ropeTables`; undefined: no rotation (NoPE). */
  ropeTable: number | undefined;
  /** RMS norm over each head of q and k, before rotation. */
  qkNorm: boolean;
  /** W_q gives each head a gate beside its query: the head's output is multiplied by sigmoid(gate) (Qwen3.5). */
  gated: boolean;
}

/** Gated short convolution (LFM2): W_out(C * conv(B * X)), over hiddenSize channels. */
export interface ShortConvMixer {
  kind: "short-conv";
  /** Tokens that the convolution sees, the current one included. */
  kernel: number;
}

/** Mamba-2. inner = heads * headDim channels, stateSize numbers of state for each. */
export interface MambaMixer {
  kind: "mamba2";
  heads: number;
  headDim: number;
  groups: number;
  stateSize: number;
  kernel: number;
}

/** Gated delta rule: a keyDim x valueDim state for each value head. */
export interface DeltaMixer {
  kind: "gated-delta";
  keyHeads: number;
  valueHeads: number;
  keyDim: number;
  valueDim: number;
  kernel: number;
  /** Key head of value head h: floor(h / (valueHeads / keyHeads)), or h mod keyHeads. */
  keyHeadOrder: "blocked" | "interleaved";
  /** b and a come from one matrix, key head by key head: [b of its value heads; a of them] (Qwen3-Next). */
  baGrouped: boolean;
}

export type RecurrentMixer = ShortConvMixer | MambaMixer | DeltaMixer;
export type Mixer = AttentionMixer | RecurrentMixer;

export type Activation = "silu" | "gelu_tanh";

export interface MlpFeedForward {
  kind: "mlp";
  width: number;
  activation: Activation;
}

/** What a layer does: mixers over positions, then a feed-forward. New kinds are new members of these unions. */
export interface LayerShape {
  /** One, or several in parallel that read the same input and whose outputs are added (Falcon-H1). */
  mixers: readonly Mixer[];
  /** Absent in pure Mamba-2. */
  ffn: MlpFeedForward | undefined;
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

/** What the KV pool must hold of each attention mixer, in order. */
export function kvLayers(shape: ModelShape): KvLayer[] {
  return mixersOf(shape).flatMap((mixer) =>
    mixer.kind === "attention" ? [{ kvHeads: mixer.kvHeads, headDim: mixer.headDim }] : [],
  );
}

/** Numbers that one recurrent layer keeps of a sequence. */
export interface StateLayer {
  floats: number;
}

/** What the state pool must hold of each recurrent mixer, in order. */
export function stateLayers(shape: ModelShape): StateLayer[] {
  return mixersOf(shape).flatMap((mixer) =>
    mixer.kind === "attention" ? [] : [{ floats: stateFloats(mixer, shape.hiddenSize) }],
  );
}

/** All mixers, layer by layer. */
export function mixersOf(shape: ModelShape): Mixer[] {
  return shape.layers.flatMap(({ mixers }) => mixers);
}

/** Channels of the causal convolution in front of a recurrence. */
export function convChannels(mixer: RecurrentMixer, hiddenSize: number): number {
  switch (mixer.kind) {
    case "short-conv":
      return hiddenSize;
    case "mamba2":
      return mixer.heads * mixer.headDim + 2 * mixer.groups * mixer.stateSize;
    case "gated-delta":
      return 2 * mixer.keyHeads * mixer.keyDim + mixer.valueHeads * mixer.valueDim;
  }
}

/** Numbers of the convolution's state: its last kernel - 1 inputs. They come first in a layer's state. */
export function convStateFloats(mixer: RecurrentMixer, hiddenSize: number): number {
  return (mixer.kernel - 1) * convChannels(mixer, hiddenSize);
}

function stateFloats(mixer: RecurrentMixer, hiddenSize: number): number {
  return convStateFloats(mixer, hiddenSize) + matrixFloats(mixer);
}

function matrixFloats(mixer: RecurrentMixer): number {
  switch (mixer.kind) {
    case "short-conv":
      return 0;
    case "mamba2":
      return mixer.heads * mixer.headDim * mixer.stateSize;
    case "gated-delta":
      return mixer.valueHeads * mixer.keyDim * mixer.valueDim;
  }
}
