/**
 * Multi-head latent attention as plain data, and what it costs. Its tensors and ops are in model/mixer/latent.ts.
 */
import { stateless, type Cost, type CostUnits } from "../cost.ts";

/**
 * Attention of many heads over one latent vector a token (DeepSeek-V2): keys and values of a head are products of the latent
 * vector, and only that is kept, with one rotated part of the keys for all heads.
 */
export interface LatentMixer {
  kind: "latent";
  heads: number;
  /** Entries of the vector between the two query matrices; undefined: there is one matrix. */
  queryRank: number | undefined;
  /** Entries of the latent vector, a multiple of 4 up to 512. */
  rank: number;
  /** Entries of a head that are not rotated, and of a query and of the shared key that are. */
  plainDim: number;
  ropeDim: number;
  /** Entries of a head's value. */
  valueDim: number;
  /** Multiplies q.k before the softmax. */
  scale: number;
}

/** Entries of what is kept of a token: the latent vector, then the rotated part of the keys. */
export function keptDim({ rank, ropeDim }: Pick<LatentMixer, "rank" | "ropeDim">): number {
  return rank + ropeDim;
}

/** In the absorbed form: queries are taken into the space of the latent vectors, and values out of it. */
export function latentCost({ hiddenSize: d, kvElementBytes }: CostUnits, mixer: LatentMixer): Cost {
  const { heads, queryRank, rank, plainDim, ropeDim, valueDim } = mixer;
  const queries = heads * (plainDim + ropeDim);
  const query = queryRank === undefined ? d * queries : queryRank * (d + queries);
  const absorbed = heads * rank * (plainDim + valueDim);
  const projections = 2 * (query + d * keptDim(mixer) + absorbed + heads * valueDim * d);
  return stateless(projections, 2 * heads * (keptDim(mixer) + rank), keptDim(mixer) * kvElementBytes);
}
