/**
 * What a prefix costs: FLOPs to compute it and bytes to keep it. The formulas of each mixer and feed-forward stand beside
 * its data (mixer/, ffn/): those of Marconi, section 2 of its camera-ready, written for general head counts and widths. It
 * measures nothing.
 */

/**
 * What a token costs to compute and to keep.
 *
 * @example
 * ```ts
 * const cost: Cost = { flopsLinear: 14e9, flopsQuadratic: 2e5, bytesPerToken: 65_536, bytesPerSnapshot: 0 };
 * console.log(replay(trace, { policy: "lru", capacity: { bytes: 65_536 * 10_000 }, cost }).requests > 0); // true
 * ```
 */
export interface Cost {
  /** Forward FLOPs of n tokens: flopsLinear * n + flopsQuadratic * n^2. */
  flopsLinear: number;
  flopsQuadratic: number;
  /** KV of all attention layers for one token. */
  bytesPerToken: number;
  /** State of all recurrent layers at one position; 0 for a model without recurrent layers. */
  bytesPerSnapshot: number;
}

/** What the cost of a layer depends on beside its own sizes. */
export interface CostUnits {
  hiddenSize: number;
  /** Bytes of one KV element and of one element of recurrent state. */
  kvElementBytes: number;
  stateElementBytes: number;
}

/** What costs nothing. */
export const NO_COST: Readonly<Cost> = {
  flopsLinear: 0,
  flopsQuadratic: 0,
  bytesPerToken: 0,
  bytesPerSnapshot: 0,
};

/** The cost of a layer that keeps no state. */
export function stateless(flopsLinear: number, flopsQuadratic: number, bytesPerToken: number): Cost {
  return { flopsLinear, flopsQuadratic, bytesPerToken, bytesPerSnapshot: 0 };
}

/** The cost of a layer that keeps a state and no keys and values. */
export function recurrent(flopsLinear: number, bytesPerSnapshot: number): Cost {
  return { flopsLinear, flopsQuadratic: 0, bytesPerToken: 0, bytesPerSnapshot };
}

/** One cost and `count` times another. */
export function addCost(sum: Cost, one: Cost, count = 1): Cost {
  return {
    flopsLinear: sum.flopsLinear + count * one.flopsLinear,
    flopsQuadratic: sum.flopsQuadratic + count * one.flopsQuadratic,
    bytesPerToken: sum.bytesPerToken + count * one.bytesPerToken,
    bytesPerSnapshot: sum.bytesPerSnapshot + count * one.bytesPerSnapshot,
  };
}

/** FLOPs that a prefix of `to` tokens saves beyond one of `from` tokens. */
export function flopsBetween(cost: Cost, from: number, to: number): number {
  return cost.flopsLinear * (to - from) + cost.flopsQuadratic * (to * to - from * from);
}

/** The same cost for a tree whose symbols are runs of `tokens` tokens. */
export function scaleCost(cost: Cost, tokens: number): Cost {
  return {
    flopsLinear: cost.flopsLinear * tokens,
    flopsQuadratic: cost.flopsQuadratic * tokens * tokens,
    bytesPerToken: cost.bytesPerToken * tokens,
    bytesPerSnapshot: cost.bytesPerSnapshot,
  };
}
