/** What a simulated cluster tells: what happens, and what came of it. Plain data. No logic. */
import type { RejectionMode, RejectionReason } from "../../schedule/slo/objectives.ts";
import type { Percentiles } from "../timing.ts";
import type { Selection } from "./conductor.ts";

export interface Spread extends Percentiles {
  mean: number;
}

/** One replay of a trace. */
export interface ClusterRow {
  scheduler: RejectionMode;
  selection: Selection;
  /** Such as "8p8d". */
  instances: string;
  speed: number;
  requests: number;
  rejected: number;
  /** Of those that were rejected: their prompts had been computed. */
  wasted: number;
  finished: number;
  /** Requests that finished within their objectives. */
  goodput: number;
  /** Of those, the tokens of prompts and answers. */
  goodputTokens: number;
  /** Of requests that finished. */
  ttftMs: Spread;
  /** Of a request: the mean of the longest tenth of the gaps between its tokens. */
  tbtMs: Spread;
  /** Prompt tokens that were not computed, of all prompts that were. */
  tokenHitRate: number;
  /** Of the prefill load over time: its standard deviation. */
  loadDeviation: number;
  /** The same of the decode load. */
  decodeLoadDeviation: number;
}

/** The state of the cluster at one time. */
export interface LoadSample {
  atMs: number;
  /** The mean over the instances of the longest expected time to first token, as a share of the objective. */
  prefillLoad: number;
  /** The mean over the instances of the time between tokens, as a share of the objective. */
  decodeLoad: number;
  /** Prompts that wait or run, by instance. */
  prompts: number[];
  /** Requests that decode, by instance. */
  batches: number[];
}

export interface Prefilled {
  id: number;
  instance: number;
  startMs: number;
  endMs: number;
  inputTokens: number;
  hitTokens: number;
  predictedTtftMs: number;
  ttftMs: number;
}

export type ClusterEvent =
  | { kind: "sample"; sample: LoadSample }
  | { kind: "accepted"; id: number; atMs: number }
  | { kind: "rejected"; id: number; atMs: number; reason: RejectionReason; isWasted: boolean }
  | { kind: "prefilled"; prefilled: Prefilled }
  | { kind: "finished"; id: number; atMs: number; isKept: boolean };
