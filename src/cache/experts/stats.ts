/**
 * What the expert cache counts. Plain numbers, only ever added to, except `bytesWaiting`.
 *
 * Accuracy is `used / guessed`, the fetch rate `ready / guessed`; their product is ProMoE's GoodPred, for which
 * `good / guessed`, that of guesses which were right and in time at once, is the honest form.
 */

/** Guesses that a layer has answered. */
export interface GuessCounts {
  guessed: number;
  /** The router chose it. */
  used: number;
  /** It was whole in its slot when the router chose. */
  ready: number;
  /** Both. */
  good: number;
}

/** Experts that a layer's router chose. */
export interface LayerUses {
  uses: number;
  hits: number;
  /** Its fetch was under way, or some of its matrices were there. */
  late: number;
  missing: number;
}

export interface ExpertStats {
  steps: { prefill: number; decode: number };
  layers: LayerUses[];
  guessesByLayer: GuessCounts[];
  /** By the distance in layers between the point of the prediction and the layer; to the next step's layers it counts on
   * behind the last layer. */
  guessesByDistance: GuessCounts[];
  /** Matrices that have arrived. */
  fetches: { demand: number; predicted: number; warm: number };
  /** Fetched because a layer waited; fetched before that and used; fetched, and evicted without use. */
  bytesDemand: number;
  bytesUsed: number;
  bytesWasted: number;
  /** Fetched by predictions or a warm start, in a slot, not used yet. */
  bytesWaiting: number;
  failures: number;
  evictions: number;
}

/** Shares, from 0 to 1. */
export interface ExpertRates {
  /** Of the experts that routers chose, those that were there; absent before the first. */
  hits?: number;
  /** Of predictions, those that the router chose, those that were there by then, and those that were both; absent before the first. */
  accuracy?: number;
  fetchRate?: number;
  goodPred?: number;
}

export function ratesOf({ layers, guessesByLayer }: ExpertStats): ExpertRates {
  const [uses, hits] = [sumOf(layers, "uses"), sumOf(layers, "hits")];
  const guessed = sumOf(guessesByLayer, "guessed");
  const share = (key: keyof GuessCounts): number => sumOf(guessesByLayer, key) / guessed;
  return {
    ...(uses > 0 && { hits: hits / uses }),
    ...(guessed > 0 && { accuracy: share("used"), fetchRate: share("ready"), goodPred: share("good") }),
  };
}

function sumOf<K extends string>(counts: readonly Record<K, number>[], key: K): number {
  return counts.reduce((sum, each) => sum + each[key], 0);
}

export function newExpertStats(layers: number): ExpertStats {
  return {
    steps: { prefill: 0, decode: 0 },
    layers: Array.from({ length: layers }, () => ({ uses: 0, hits: 0, late: 0, missing: 0 })),
    guessesByLayer: Array.from({ length: layers }, newCounts),
    // Index 0 is empty: nothing is predicted where it is known.
    guessesByDistance: Array.from({ length: layers + 1 }, newCounts),
    fetches: { demand: 0, predicted: 0, warm: 0 },
    ...{ bytesDemand: 0, bytesUsed: 0, bytesWasted: 0, bytesWaiting: 0, failures: 0, evictions: 0 },
  };
}

function newCounts(): GuessCounts {
  return { guessed: 0, used: 0, ready: 0, good: 0 };
}

export function countGuess(counts: GuessCounts, isUsed: boolean, isReady: boolean): void {
  counts.guessed++;
  if (isUsed) counts.used++;
  if (isReady) counts.ready++;
  if (isUsed && isReady) counts.good++;
}
