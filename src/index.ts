/** What the world may import. */
export { Engine, Generation, inspect, tokenize } from "./engine.ts";
export type { ChatOptions, GenerateOptions, GenerationChunk, LoadOptions, Model } from "./engine.ts";
export { TidepoolError } from "./errors.ts";
export type { ErrorCode } from "./errors.ts";
export type {
  ChatMessage,
  EngineInfo,
  EngineOptions,
  GenerateParams,
  GenerationResult,
  LoadProgress,
  ModelReport,
  Overflow,
  ScoreResult,
  Timing,
  TokenLogprob,
  Usage,
} from "./worker/protocol.ts";
