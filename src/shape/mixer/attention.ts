/**
 * Softmax attention as plain data, and what it costs. Its tensors and ops are in model/mixer/attention.ts: a mixer is one
 * pure file, which `sim` can import too, and one file for the GPU.
 */
import { stateless, type Cost, type CostUnits } from "../cost.ts";

/**
 * RMS norms of q and k: of each head before it is rotated (true), of each head after that (Hunyuan), or of all heads as one
 * vector before it (OLMo 2). "layer": a LayerNorm without bias of each head, with weights of its own (StableLM 2 12B).
 */
export type QkNorm = boolean | "rotated" | "vector" | "layer";

/** Queries far into the text are lengthened: at position p by 1 + scale * ln(1 + floor(p / tokens)). */
export interface QueryTemperature {
  scale: number;
  tokens: number;
}

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
  qkNorm: QkNorm;
  /** Absent: queries are as long everywhere (Ministral 3 has it). */
  temperature?: QueryTemperature;
  /** RMS norm over each head of v, without a weight; only beside "head" norms of q and k. */
  vNorm?: boolean;
  /** There is no W_v: values are W_k x, before it is normed or rotated (Gemma 4). */
  valuesAreKeys?: true;
  /** The layer whose keys and values it reads. It has none of its own then, and computes only queries (Gemma 3n, Gemma 4). */
  sharesKvOf: number | undefined;
  /** The rows of W_qkv stand KV head by KV head: its queries, its key, its value (GPT-NeoX and Falcon in safetensors). */
  groupedQkv?: boolean;
  /** W_q gives each head a gate beside its query: the head's output is multiplied by sigmoid(gate) (Qwen3.5). */
  gated: boolean;
  /**
   * Every token of a text sees those behind it too, so that nothing is kept of a text and all of its tokens are computed at once
   * (BERT). A window then reaches half of its size to either side.
   */
  bidirectional?: boolean;
}

/** What the cost depends on. `sharesKvOf` defaults to keys and values of its own. */
export type AttentionCostSizes = Pick<AttentionMixer, "heads" | "kvHeads" | "headDim"> &
  Partial<Pick<AttentionMixer, "sharesKvOf" | "bidirectional">>;

export function attentionCost(
  { hiddenSize, kvElementBytes }: CostUnits,
  { heads, kvHeads, headDim, sharesKvOf, bidirectional }: AttentionCostSizes,
): Cost {
  const queries = heads * headDim;
  const keysAndValues = sharesKvOf === undefined ? 2 * kvHeads * headDim : 0;
  const projections = 2 * hiddenSize * (2 * queries + keysAndValues);
  const kept = bidirectional ? 0 : keysAndValues;
  return stateless(projections, 4 * queries, kept * kvElementBytes);
}
