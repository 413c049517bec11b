/** What the world may import. */
export { Engine, Generation, inspect, render, tokenize } from "./engine/engine.ts";
export { models } from "./engine/kept-models.ts";
export type {
  ModelsCallOptions,
  PullResult,
  StoredModel,
  StoredModelFile,
  VerifyResult,
} from "./engine/kept-models.ts";
export { EngineCache, StoredCache, TIER_DISK, TIER_GPU, TIER_RAM } from "./engine/engine-cache.ts";
export type { ArchiveExport, CacheEventListener } from "./engine/engine-cache.ts";
export { newSigningKey } from "./archive-signing.ts";
export type { SigningKey, SigningKeyText } from "./archive-signing.ts";
export { TidepoolError } from "./errors.ts";
export type { ErrorCode } from "./errors.ts";
export type {
  ArchiveImport,
  CacheEntry,
  CacheEvent,
  CacheOptions,
  CachePlace,
  CacheScope,
  CacheStats,
  CacheTierStats,
  CacheTree,
  CacheTreeNode,
  ChatMessage,
  ChatRole,
  ChatOptions,
  Capability,
  CountsByPlace,
  Dtype,
  EngineDebug,
  EngineInfo,
  EngineOptions,
  EngineState,
  GenerateOptions,
  GenerateParams,
  GenerationChunk,
  GenerationResult,
  HeaderOptions,
  HubOptions,
  LoadOptions,
  LoadProgress,
  Model,
  ModelReport,
  ModelsOptions,
  NamedTierStats,
  Notice,
  Overflow,
  PromptUsage,
  RenderedChat,
  RenderOptions,
  ScoreOptions,
  ScoreResult,
  SourceOptions,
  TextPart,
  Timing,
  TokenLogprob,
  Tool,
  ToolCall,
  Usage,
  WarmOptions,
} from "./engine/engine.ts";
