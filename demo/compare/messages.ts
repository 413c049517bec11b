/** Every message between the comparison and its workers, one union per direction, and nothing else. */
import type { PolicyName, ReplayRow, ReplaySeries, Timing, Workload } from "../../src/sim/index.ts";

export type TraceSource =
  { kind: "generated"; workload: Workload } | { kind: "recorded" } | { kind: "file"; files: readonly File[] };

/** One replay: a policy at a capacity. */
export interface Job {
  id: number;
  policy: PolicyName;
  capacityBytes: number;
}

export type ToWorker =
  | { kind: "load"; source: TraceSource; model: string; rate: number | undefined }
  | { kind: "run"; job: Job }
  | { kind: "cancel" };

export interface TraceFacts {
  name: string;
  requests: number;
  inputTokens: number;
  outputTokens: number;
  durationMs: number;
  /** Of one server, as imagined for the times to first token. */
  timing: Timing;
  /** Whether times come from the engine's scheduler, which takes overlapping requests; else from one queue of prompts. */
  isServed: boolean;
}

export interface Result {
  job: Job;
  row: ReplayRow;
  /** Without times where the policy cannot be served. */
  series: Omit<ReplaySeries, "ttftMs"> & { ttftMs: Float64Array | undefined };
}

export type FromWorker =
  | { kind: "loaded"; facts: TraceFacts }
  | { kind: "progress"; id: number; share: number }
  | { kind: "done"; result: Result }
  | { kind: "cancelled" }
  | { kind: "failed"; message: string };
