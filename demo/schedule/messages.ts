/** Every message between the scheduler lab and its worker, one union per direction, and nothing else. */
import type { ClusterRow } from "../../src/sim/cluster/index.ts";
import type { Tally } from "./tally.ts";

/** What is simulated. */
export interface LabSettings {
  /** A trace; default: generated. */
  file?: File | undefined;
  instances: { prefill: number; decode: number };
  speed: number;
  ttftMs: number;
  tbtMs: number;
}

export interface ForCluster {
  kind: "cluster";
  settings: LabSettings;
}

export type FromWorker =
  | { kind: "trace"; name: string; requests: number; perSecond: number; inputTokens: number }
  | { kind: "progress"; words: string; share: number }
  | { kind: "mode"; row: ClusterRow; tally: Tally }
  | { kind: "selection"; row: ClusterRow }
  | { kind: "done" }
  | { kind: "failed"; message: string };
