/** Replays of mixtures of experts, for the command. Re-exports only. */
export { readActivations } from "../../cache/experts/activations.ts";
export type { ActivationTrace } from "../../cache/experts/activations.ts";
export { generateActivity, qwenActivity } from "./generate.ts";
export { withPredictor } from "./learned-guesses.ts";
export type { ExpertMachine } from "./machine.ts";
export { laptop } from "./machine.ts";
export type { ExpertReplayRow } from "./replay.ts";
export { replayExperts } from "./replay.ts";
export { expertStrategyNames, parseExpertStrategies } from "./strategies.ts";
