/** What an engine has to do, as plain data: prompts that are not done and requests that decode. No logic. */
import type { Rank } from "../queue/order.ts";
import type { Objectives } from "./objectives.ts";

/** A prompt that is not done. */
export interface PromptLoad extends Rank {
  id: number;
  /** Tokens before those that are left. */
  from: number;
  /** Tokens by which it may still be overtaken until it is due. */
  patience: number;
  /** Tokens that its answer may still get. */
  leftTokens: number;
  objectives: Objectives;
  /** As it was told by whoever submitted it. */
  arrivedMs: number;
}

/** A request that decodes. */
export interface RunningLoad {
  id: number;
  contextTokens: number;
  /** Tokens that its answer has, and may still get. */
  generatedTokens: number;
  leftTokens: number;
  objectives: Objectives;
  /** When its first token came. */
  startedMs: number;
}

/** What an engine has to do. */
export interface SchedulerLoad {
  /** Waiting, in the order in which they would be computed. */
  waiting: readonly PromptLoad[];
  /** Begun and not done. */
  prefilling: readonly PromptLoad[];
  running: readonly RunningLoad[];
  /** Requests that may run at once, and prompts that may have begun. */
  seats: number;
  promptsUnderWay: number;
  /** The step before was a chunk: a decode step takes its turn. */
  decodesNext: boolean;
}
