/** What replays of experts compare: policies, and ProMoE's with parts taken away. Data alone. */
import { TidepoolError } from "../../errors.ts";
import type { ExpertCacheOptions } from "../../cache/experts/expert-cache.ts";

export interface ExpertStrategy {
  name: string;
  cache: ExpertCacheOptions;
  /** Guesses for a layer, for each expert that it chooses; 0: nothing is guessed. */
  guesses: number;
  /** Whether all experts are on the GPU. */
  isResident: boolean;
}

const GUESSES = 1.5;

const promoe = { policy: "promoe" } as const;

const list: readonly ExpertStrategy[] = [
  // The baseline: fetches whole experts when a layer has chosen them, and runs them by number.
  strategy("on-demand", { policy: "lru", chunked: false, preempts: false, reorders: false }),
  strategy("lru", { policy: "lru" }),
  strategy("lfu", { policy: "lfu" }),
  strategy("static", { policy: "static" }),
  strategy("moe-infinity", { policy: "moe-infinity" }),
  strategy("lru-guess", { policy: "lru" }, GUESSES),
  strategy("promoe", promoe, GUESSES),
  strategy("promoe-blind", promoe),
  strategy("promoe-whole", { ...promoe, chunked: false }, GUESSES),
  strategy("promoe-fifo", { ...promoe, preempts: false }, GUESSES),
  strategy("promoe-by-number", { ...promoe, reorders: false }, GUESSES),
  { ...strategy("resident", { policy: "lru" }), isResident: true },
];

function strategy(name: string, cache: ExpertCacheOptions, guesses = 0): ExpertStrategy {
  return { name, cache, guesses, isResident: false };
}

export const expertStrategyNames: readonly string[] = list.map(({ name }) => name);

/** Reads a list of names, such as "lru,promoe". Throws `invalid_argument` with the known names. */
export function parseExpertStrategies(names: string): ExpertStrategy[] {
  return names.split(",").map((word) => {
    const found = list.find(({ name }) => name === word.trim());
    if (found) return found;
    throw new TidepoolError(
      "invalid_argument",
      `policy "${word}" is not one of ${expertStrategyNames.join(", ")}`,
    );
  });
}
