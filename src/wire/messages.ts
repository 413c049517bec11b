/**
 * Every message between the caller's side and the worker, one union for each direction, and nothing else. All members
 * survive structured cloning; errors travel as `WireError`.
 */
import type { WireError } from "../errors.ts";
import type { ModelSpec, SourceOptions, EngineOptions, CacheOptions, PrefillOptions } from "./options.ts";
import type {
  RequestInput,
  CacheScope,
  EmbedInput,
  EmbedParams,
  GenerateParams,
  GenerationResult,
  Resume,
  StepOutput,
} from "./request.ts";
import type { CacheEvent } from "./cache.ts";
import type { Notice, LoadProgress, EngineInfo, StatsOptions } from "./report.ts";

/** Questions with one answer. */
export type Call =
  | { method: "tokenize"; text: string }
  | { method: "detokenize"; tokens: readonly number[] }
  | { method: "tokenBytes"; tokens: readonly number[] }
  | { method: "render"; input: Extract<RequestInput, { kind: "chat" }> }
  | { method: "countTokens"; input: RequestInput }
  | { method: "predict"; input: RequestInput; params: GenerateParams }
  | ({ method: "stats" } & StatsOptions)
  | { method: "loseDevice" }
  | { method: "check" }
  | { method: "warm"; input: RequestInput; cache?: CacheScope }
  | { method: "cacheStats" }
  | { method: "cacheList" }
  | { method: "cacheVerify" }
  | { method: "cacheClear"; namespace?: string }
  | { method: "cacheBudgets"; ramBytes?: number; diskBytes?: number }
  | { method: "cacheExport"; input: RequestInput }
  | { method: "cacheImport"; archive: Uint8Array; verify?: number }
  | { method: "cacheDrain"; timeoutMs: number }
  | { method: "cacheTree"; limit: number }
  | { method: "cacheWatch"; on: boolean }
  | { method: "prefillFacts" }
  | { method: "prefillOpen"; tokens: readonly number[]; from: number; cache: "memory" | "disk" }
  | { method: "prefillNext"; job: number }
  | { method: "prefillClose"; job: number }
  | { method: "embed"; inputs: readonly EmbedInput[]; params: EmbedParams }
  | { method: "score"; tokens: readonly number[]; from: number; logits: boolean; cache?: CacheScope };

/** Questions of an engine to another one that computes prompts for it. */
export type PrefillCall = Extract<Call, { method: `prefill${string}` }>;

/** Questions about a store that need no model. */
export type StoreCall = Extract<
  Call,
  { method: "cacheStats" | "cacheList" | "cacheVerify" | "cacheClear" | "cacheImport" }
>;

/** Questions about the models that are kept. */
export type ModelsCall =
  | { method: "list" }
  | { method: "pull"; model: string }
  | { method: "remove"; model: string }
  | { method: "verify"; model?: string };

/** Questions about a model that its header answers. */
export type HeaderQuestion =
  | { ask: "inspect" }
  | { ask: "tokenize"; text: string }
  | { ask: "render"; input: Extract<RequestInput, { kind: "chat" }> };

export type ToWorker =
  | { type: "header"; model: ModelSpec; options: EngineOptions; question: HeaderQuestion }
  | { type: "store"; options: CacheOptions; call: StoreCall }
  | { type: "models"; options: SourceOptions; call: ModelsCall }
  | { type: "load"; model: ModelSpec; options: EngineOptions; share?: string; prefillBy?: PrefillBy }
  | { type: "submit"; id: number; input: RequestInput; params: GenerateParams; resume?: Resume }
  /** Ends a request, or an `embed` call. */
  | { type: "abort"; id: number }
  | { type: "call"; id: number; call: Call }
  /** What another engine answered to a `prefillAsk`. */
  | { type: "prefillAnswer"; id: number; value?: unknown; error?: WireError }
  | { type: "close" };

/** That the page has another engine that computes prompts for this one. */
export interface PrefillBy {
  when: PrefillOptions["when"];
}

export type FromWorker =
  | { type: "progress"; progress: LoadProgress }
  | { type: "loaded"; info: EngineInfo }
  | { type: "recovering" }
  | { type: "info"; info: EngineInfo }
  | { type: "header"; value: unknown }
  | { type: "failed"; error: WireError }
  | { type: "step"; outputs: StepOutput[] }
  | { type: "finished"; id: number; result: GenerationResult }
  | { type: "refused"; id: number; error: WireError }
  | { type: "answer"; id: number; value: unknown }
  | { type: "notice"; notice: Notice }
  /** Asks another engine that the page has. */
  | { type: "prefillAsk"; id: number; call: PrefillCall }
  | { type: "cacheEvents"; events: CacheEvent[]; dropped: number }
  | { type: "closed" };

/** What a loaded model is asked. */
export type Ask = Extract<ToWorker, { type: "submit" | "abort" | "call" }>;
