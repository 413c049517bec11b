/**
 * The wall's language, from one door: options, requests, the cache, reports and messages each have a room beside this file.
 */
export type {
  NamedBlob,
  ModelSpec,
  Dtype,
  SourceOptions,
  EngineOptions,
  CacheOptions,
  HubOptions,
  ModelsOptions,
} from "./options.ts";
export type {
  TextPart,
  ToolCall,
  Tool,
  ChatRole,
  ChatMessage,
  RequestInput,
  Overflow,
  CacheScope,
  EmbedInput,
  EmbedParams,
  GenerateParams,
  ScoreOptions,
  WarmOptions,
  TokenLogprob,
  CountsByPlace,
  PromptUsage,
  Usage,
  Timing,
  GenerationResult,
  Resume,
  StepOutput,
  ScoreResult,
  RenderedChat,
} from "./request.ts";
export { TIER_RAM, TIER_DISK, TIER_GPU } from "./cache.ts";
export type {
  ArchiveImport,
  CacheTierStats,
  NamedTierStats,
  CacheStats,
  CacheEntry,
  CachePlace,
  CacheTree,
  CacheTreeNode,
  CacheEvent,
} from "./cache.ts";
export type {
  Notice,
  Capability,
  LoadProgress,
  EmbeddingInfo,
  EngineInfo,
  EngineStats,
  ExpertEvent,
  ExpertEvents,
  CopyFigures,
  ExpertFigures,
  ModelReport,
  StatsOptions,
} from "./report.ts";
export type { Call, StoreCall, ModelsCall, HeaderQuestion, ToWorker, FromWorker, Ask } from "./messages.ts";
