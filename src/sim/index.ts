/** The package's "./sim": cache policies on traces without a GPU. Re-exports only. */
export type { Cost } from "../shape/cost.ts";
export type { CostLayer, CostShape } from "./cost-shape.ts";
export { costOf, namedShapes } from "./cost-shape.ts";
export type { PolicyName } from "../cache/policy/policy.ts";
export { policyNames } from "../cache/policy/policy.ts";
export {
  defaultModel,
  modelFromJson,
  modelNames,
  namedModel,
  parseCapacities,
  parsePolicies,
} from "./options.ts";
export { capacityLabel, plotRows } from "./plot.ts";
export type { RecorderOptions } from "./recorder.ts";
export { Recorder } from "./recorder.ts";
export type { Replayed, ReplayOptions, ReplayProgress, ReplayRow } from "./replay.ts";
export { replay, replaySteps } from "./replay.ts";
export type { ReplaySeries } from "./series.ts";
export { quantileShares, SeriesCollector, servedQuantiles, timePoints } from "./series.ts";
export type { ServeOptions, Served, ServeRow } from "./serve.ts";
export { maxServedTokens, serve, serveSteps } from "./serve.ts";
export type { Percentiles, Timing } from "./timing.ts";
export { durationMs, percentilesOf, prefillMs, PromptQueue, quantile, timingFor } from "./timing.ts";
export { tokenCount, tokensOf } from "./tokens.ts";
export type { Trace, TraceRequest } from "./trace.ts";
export { decodeTraceBytes, parseTrace, sequenceOf } from "./trace.ts";
export type {
  AgentWorkload,
  ChatWorkload,
  DocumentWorkload,
  FewShotWorkload,
  LengthOf,
  Workload,
} from "./workload.ts";
export { defaultWorkloads, generate } from "./workload.ts";
