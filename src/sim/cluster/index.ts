/** Replays of traces on a simulated cluster, for the command and the page. Re-exports only. */
export { clusterSteps, replayCluster } from "./cluster.ts";
export { conversationTrace } from "./conversation.ts";
export { selectionNames, type Selection } from "./conductor.ts";
export { a800Node, type Machine } from "./hardware.ts";
export type { ClusterEvent, ClusterRow, LoadSample, Prefilled, Spread } from "./report.ts";
export type { ClusterOptions, Instances } from "./settings.ts";
export {
  parseInstances,
  parseObjective,
  parseSchedulers,
  parseSelections,
  parseSpeeds,
  schedulerNames,
} from "./words.ts";
