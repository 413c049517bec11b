/** What the world may import. */
export { Engine, Generation, inspect, tokenize } from "./engine.ts";
export { EngineCache, StoredCache } from "./stored.ts";
export { TidepoolError } from "./errors.ts";
export type { ErrorCode } from "./errors.ts";
export type {
  CacheEntry,
  CacheOptions,
  CacheStats,
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
  Notice,
  Overflow,
  PromptUsage,
  ScoreResult,
  Timing,
  TokenLogprob,
  Usage,
} from "./engine.ts";
