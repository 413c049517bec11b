/** What a simulated cluster is told: plain data. No logic. */
import type { PolicyName } from "../../cache/policy/policy.ts";
import type { RejectionMode } from "../../schedule/slo/objectives.ts";
import type { Cost } from "../../shape/cost.ts";
import type { Selection } from "./conductor.ts";
import type { Machine } from "./hardware.ts";
import type { ClusterEvent } from "./report.ts";

/** How many instances there are of each kind. */
export interface Instances {
  prefill: number;
  decode: number;
}

export interface ClusterOptions {
  scheduler: RejectionMode;
  selection: Selection;
  instances: Instances;
  /** How many times as fast as in the trace requests arrive. */
  speed: number;
  /** Infinity: not asked for. */
  ttftMs: number;
  tbtMs: number;
  /** What a token costs to compute and to keep. */
  model: Cost;
  /** Default: Mooncake's node. */
  machine?: Machine;
  /** Of the prefix cache of each prefill instance. Default: lru. */
  policy?: PolicyName;
  /** Of what is chosen at random. Default: 1. */
  seed?: number;
  /** Called for all that happens, in its order. */
  observe?: (event: ClusterEvent) => void;
}
