/** The ways of keeping experts that a lane of the lab may have, and what the engine is told for each. */
import type { EngineOptions, Model } from "../../src/index.ts";

type WayOptions = Pick<EngineOptions, "expertPolicy" | "expertPrediction">;

export const WAYS = {
  promoe: { label: "ProMoE, predicted", options: { expertPolicy: "promoe" } },
  "moe-infinity": { label: "MoE-Infinity, predicted", options: { expertPolicy: "moe-infinity" } },
  lfu: { label: "Least frequently used, predicted", options: { expertPolicy: "lfu" } },
  lru: { label: "Least recently used, predicted", options: { expertPolicy: "lru" } },
  "on-demand": {
    label: "Least recently used, on demand",
    options: { expertPolicy: "lru", expertPrediction: false },
  },
} as const satisfies Record<string, { label: string; options: WayOptions }>;

export type Way = keyof typeof WAYS;

/** What a run is about: the same for both lanes. */
export interface Run {
  model: Model;
  /** Bytes of experts on the GPU. */
  expertMemory: number;
  prompt: string;
}
