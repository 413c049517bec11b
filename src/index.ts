/** What the world may import. */
export { Engine } from "./engine/engine.ts";
export { Generation } from "./engine/generation.ts";
export { inspect, render, tokenize } from "./engine/headers.ts";
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
export { OpenAi } from "./openai/openai.ts";
export type { OpenAiCallOptions, OpenAiCreate } from "./openai/openai.ts";
export type {
  ChatBody,
  CompletionFields,
  EmbeddingsBody,
  TextBody,
  TidepoolFields,
} from "./openai/bodies.ts";
export type {
  AnswerMessage,
  ChatCompletion,
  ChatCompletionChunk,
  ChatLogprobs,
  ChosenToken,
  EmbeddingList,
  FinishReason,
  LikelyToken,
  ModelEntry,
  ModelList,
  OpenAiUsage,
  TextCompletion,
  TextCompletionChunk,
  TextLogprobs,
} from "./openai/objects.ts";
export { TidepoolError } from "./errors.ts";
export type { ErrorCode } from "./errors.ts";
export type { EngineDebug, EngineState, LoadOptions } from "./engine/engine.ts";
export type { GenerationChunk } from "./engine/generation.ts";
export type {
  ChatOptions,
  EmbedOptions,
  GenerateOptions,
  HeaderOptions,
  Model,
  PrefillEngine,
  RenderOptions,
} from "./engine/options.ts";
export type {
  ArchiveImport,
  CacheEntry,
  CacheEvent,
  CacheOptions,
  CachePlace,
  CacheScope,
  CacheStats,
  CacheTierStats,
  Capability,
  CacheTree,
  CacheTreeNode,
  ChatMessage,
  ChatRole,
  CountsByPlace,
  Dtype,
  KvDtype,
  EmbeddingInfo,
  EmbedInput,
  EmbedParams,
  EngineInfo,
  EngineObjectives,
  EngineOptions,
  EngineStats,
  ExpertEvent,
  ExpertEvents,
  CopyFigures,
  ExpertFigures,
  ErrorFigures,
  GenerateParams,
  GenerationResult,
  GoodputFigures,
  HubOptions,
  LoadProgress,
  ModelReport,
  ModelsOptions,
  NamedTierStats,
  Notice,
  Objectives,
  Overflow,
  Pace,
  PredictedRequest,
  Prediction,
  PrefillOptions,
  Priority,
  PromptUsage,
  RejectionMode,
  RejectionReason,
  RenderedChat,
  ScheduleFigures,
  ScoreOptions,
  ScoreResult,
  SourceOptions,
  StatsOptions,
  TextPart,
  Timing,
  TokenLogprob,
  Tool,
  ToolCall,
  Usage,
  WarmOptions,
} from "./wire/protocol.ts";
