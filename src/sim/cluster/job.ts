/** A request on its way through the cluster: what is known of it, as plain data. */
import type { Lease } from "../../cache/prefix.ts";

export interface Job {
  /** Its index in the trace. */
  id: number;
  arrivedMs: number;
  inputTokens: number;
  /** At least 1. The first comes with the end of the prefill. */
  outputTokens: number;
  /** Its prompt, as the prefix cache takes it. */
  symbols: Int32Array;
  /** What its prefill is expected to take, and when it should end. */
  estimateMs: number;
  /** From its arrival. */
  predictedTtftMs: number;
  expectedEndMs: number;
  /** Of the decode instances, which it goes to. */
  decode: number;
  /** Whether its copy of a prefix has come, if it has one. */
  isReady: boolean;
  /** Of its instance's cache, from the choice to the end of the prefill. */
  lease: Lease | undefined;
  firstTokenMs: number;
}

/** Of what comes to be known later. */
export const NEW_JOB = {
  ...{ estimateMs: 0, predictedTtftMs: NaN, expectedEndMs: NaN, decode: 0, isReady: false },
  ...{ lease: undefined, firstTokenMs: NaN },
};
