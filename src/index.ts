/** What the world may import. */
export { Engine, Generation, inspect, tokenize } from "./engine.ts";
export { TidepoolError } from "./errors.ts";
export type { ErrorCode } from "./errors.ts";
export type {
  ChatMessage,
  ChatOptions,
  EngineInfo,
  EngineOptions,
  GenerateOptions,
  GenerateParams,
  GenerationChunk,
  GenerationResult,
  LoadOptions,
  LoadProgress,
  Model,
  ModelReport,
  Overflow,
  ScoreResult,
  Timing,
  TokenLogprob,
  Usage,
} from "./engine.ts";
