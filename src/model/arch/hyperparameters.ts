/**
 * The hyperparameters of a model, brought to one form from GGUF metadata (hyperparameters-gguf.ts) or a Hugging Face config.json
 * (hyperparameters-config.ts), with the bounds that both hold them to. It decides nothing about architectures: that is rows.ts.
 */
import type { LatentMixer } from "../../shape/mixer/latent.ts";
import type {
  Activation,
  ExpertRouting,
  ModelShape,
  Pooling,
  QueryTemperature,
  RopeScaling,
  Xielu,
} from "../../shape/shape.ts";

/** A base of the rotation and how its positions are stretched. */
export interface RopeBase {
  theta: number;
  scaling: RopeScaling;
  /** Multiplies cos and sin, beside what the scaling does. Default: 1. */
  magnitude?: number;
  /** One a pair: divide its frequency. */
  divisors?: readonly number[] | undefined;
}

export interface Hyperparameters {
  name: string;
  layers: number;
  /** Layers of the file behind these, which only predict further tokens. */
  unusedLayers: number;
  hiddenSize: number;
  /** As the settings say; the embedding's rows decide (rows.ts). */
  vocabSize: number | undefined;
  contextTokens: number;
  /** One entry a layer. */
  heads: number[];
  /** One entry a layer. */
  kvHeads: number[];
  headDim: number;
  /** Of local layers. */
  localHeadDim: number;
  /** So many layers at the end read the keys and values of layers before them. */
  sharedKvLayers: number;
  /** Numbers that each token has for every layer, beside its embedding; 0: none. */
  perLayerWidth: number;
  /** Sizes of latent attention, and what its scale is multiplied by; undefined: there is none. */
  latent: (Omit<LatentMixer, "kind" | "heads" | "scale"> & { stretch: number }) | undefined;
  /** Of the product that goes past attention (Gemma 3n). */
  laurelRank: number;
  /** How much each layer's feed-forward spares of its gates (`sparsity`), if any does. */
  sparsity: (number | undefined)[] | undefined;
  /** One entry a layer. */
  ffnWidth: number[];
  /** undefined: the architecture's own. */
  activation: Activation | undefined;
  /** One entry a layer, where the activation is xIELU. */
  xielu: Xielu[] | undefined;
  /** Whether mixer and feed-forward read the same residual stream, if the settings say so. */
  parallelResidual: boolean | undefined;
  normEps: number;
  ropeDims: number;
  /** Of local layers, if they have a base of their own. */
  localRopeDims: number;
  /** Of all layers, or of those that see everything. */
  rope: RopeBase;
  /** Of layers with a sliding window, if they have their own. */
  localRope: RopeBase | undefined;
  /** Which layers rotate, if the settings say so. */
  ropeLayers: boolean[] | undefined;
  /** Whether attention rotates at all, where an architecture leaves it open (Granite hybrids). */
  ropeFinetuned: boolean;
  /** GGUF: positions have sections (pictures), as the other rotation layout does (GLM-4V). */
  ropeSections: boolean;
  attentionScale: number | undefined;
  /** Queries grow with their position. */
  temperature: QueryTemperature | undefined;
  /** Caps of the scores before the softmax and of the logits; 0 for none. */
  softCap: number;
  finalSoftCap: number;
  /** Sliding window in tokens, 0 for none. */
  window: number;
  /** Which layers are local: they see the window and rotate by `localRope`. */
  localLayers: boolean[];
  /** Which layers are recurrent, if the settings list them. */
  recurrentLayers: boolean[] | undefined;
  /** Granite's multipliers; 1 elsewhere. */
  embeddingScale: number;
  residualScale: number;
  /** Logits are divided by it. */
  logitDivisor: number;
  /** Experts a layer; 0 for none. */
  experts: number;
  /** How they are chosen and how large they are, if the architecture has any. */
  routing: ExpertSettings | undefined;
  /** Tokens that the convolutions of recurrent layers see; 0 where there are none. */
  convKernel: number;
  /** Sizes of Mamba-2 and gated-delta layers; zeros where there are none. */
  ssm: { innerSize: number; stateSize: number; heads: number; groups: number };
  /** One attention layer in so many. */
  attentionInterval: number;
  /** How one vector is made of a text's; undefined if the settings do not say. */
  pooling: Pooling | undefined;
  /** Rows of the table of positions before that of the first one. Default: none. */
  positionOffset?: number;
  /** Rows of the matrices that a pooled vector passes through. */
  dense: number[];
  /** Read from a config.json: tensors are laid out as transformers has them, not as GGUF's converters do. */
  isConfig: boolean;
  /** See ModelShape. */
  factors: ModelShape["factors"] | undefined;
}

/** What the settings say of experts. */
export interface ExpertSettings {
  /** Experts of a token. */
  chosen: number;
  /** Widths of one expert, and of the one that every token has; 0: not said. */
  width: number;
  sharedWidth: number;
  /** undefined: the architecture's own. */
  gate: ExpertRouting["gate"] | undefined;
  renormalise: boolean | undefined;
  scale: number;
  groups: ExpertRouting["groups"];
}

/** How much YaRN lengthens queries and keys when positions are stretched by `factor`. */
export function yarnMagnitude(factor: number, multiplier: number): number {
  return factor > 1 ? 0.1 * multiplier * Math.log(factor) + 1 : 1;
}

/** Bounds on what a file may claim, far above real models and far below what would hurt. */
export const MAX_LAYERS = 1024;
export const MAX_WIDTH = 1 << 20;
export const MAX_VOCAB = 1 << 22;
export const MAX_CONTEXT = 1 << 27;
export const MAX_HEAD_DIM = 512;
export const MAX_CONV_KERNEL = 16;
export const MAX_EXPERTS = 4096;

/** Qwen3.5 and Qwen3-Next, where the file does not say. */
export const ATTENTION_INTERVAL = 4;

/** Where layers with a window alternate with layers without: the last of every so many layers has none, or the first. */
export function localByPeriod(layers: number, period: number, isFirstGlobal = false): boolean[] {
  const isGlobal = (index: number) => index % period === (isFirstGlobal ? 0 : period - 1);
  return Array.from({ length: layers }, (_, index) => period === 0 || !isGlobal(index));
}
