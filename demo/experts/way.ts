/** The ways of keeping experts that a lane of the lab may have, and what the engine is told for each. */
import type { EngineOptions, Model } from "../../src/index.ts";

type WayOptions = Pick<EngineOptions, "expertPolicy" | "expertPrediction" | "experts">;

export const WAYS = {
  promoe: { label: "ProMoE, predicted", options: { expertPolicy: "promoe" } },
  "moe-infinity": { label: "MoE-Infinity, predicted", options: { expertPolicy: "moe-infinity" } },
  lfu: { label: "Least frequently used, predicted", options: { expertPolicy: "lfu" } },
  lru: { label: "Least recently used, predicted", options: { expertPolicy: "lru" } },
  "on-demand": {
    label: "Least recently used, on demand",
    options: { expertPolicy: "lru", expertPrediction: false },
  },
  bounded: {
    label: "ProMoE, with low-bit copies",
    options: { expertPolicy: "promoe", experts: "bounded" },
  },
} as const satisfies Record<string, { label: string; options: WayOptions }>;

export type Way = keyof typeof WAYS;

/** Whether the text is that of a model with all experts on the GPU. */
export function isExact(way: Way): boolean {
  return way !== "bounded";
}

/** What a run is about: the same for both lanes. */
export interface Run {
  model: Model;
  /** Bytes of experts on the GPU, beside which there may be low-bit copies. */
  expertMemory: number;
  copyBytes: number;
  prompt: string;
}
