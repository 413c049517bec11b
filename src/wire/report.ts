/**
 * What is told of a model, of loading and of the platform: progress, notices, what was chosen, what would fit.
 */
import type { ExpertEvents, ExpertFigures } from "../model/experts/figures.ts";
import type { ErrorFigures, PredictedKind } from "../schedule/cost/errors.ts";
import type { GoodputFigures } from "../schedule/slo/goodput.ts";
import type { RejectionMode, RejectionReason } from "../schedule/slo/objectives.ts";
import type { Prediction } from "../schedule/slo/prediction.ts";
import type { Dtype, KvDtype } from "./options.ts";

export type { ErrorFigures, GoodputFigures, Prediction };

export type { CopyFigures, ExpertEvent, ExpertEvents, ExpertFigures } from "../model/experts/figures.ts";

/** A problem with the storage that the user should know of, reported once. */
export interface Notice {
  code: string;
  message: string;
}

/** A feature that this platform lacks, what is lost without it, and what can be done about it. */
export type Capability = Notice;

/** Progress of a load. */
export interface LoadProgress {
  /**
   * Downloading and uploading overlap. "waiting": another tab or process is downloading the same model; reported once, without
   * amounts. "retrying": a request failed for the `done`th time in a row and is repeated, at most `total` times. "weights": the
   * upload to the GPU. "finishing": all pipelines are ready, while the tokenizer and the GPU may still be working; reported once,
   * without amounts.
   */
  phase: "header" | "waiting" | "retrying" | "download" | "weights" | "pipelines" | "finishing";
  /** "retrying": the server, and what is wrong. */
  reason?: string | undefined;
  /** Bytes kept or uploaded, pipelines ready, or failures. */
  done: number;
  total: number;
  /** An estimate from the recent rate; absent while it is unknown. */
  secondsLeft?: number;
}

/** The vectors that a model makes of texts. */
export interface EmbeddingInfo {
  /** Numbers of a vector. */
  dimensions: number;
  /** Whose vector stands for a text: the mean of its tokens', the first token's, or the last one's. */
  pooling: "mean" | "cls" | "last";
  /** Tokens of a text at most, those included that the tokenizer puts around it. */
  maxTokens: number;
  /** Names that `task` takes. */
  tasks: string[];
}

/** The loaded model, and what the engine chose for it. */
export interface EngineInfo {
  /**
   * "alone": not shared with other tabs. "owner": this tab's worker runs the engine for all tabs that share it. "guest": another
   * tab's worker does.
   */
  role: "alone" | "owner" | "guest";
  model: {
    name: string;
    architecture: string;
    parameters: number;
    contextTokens: number;
    vocabSize: number;
    layers: number;
    /** false: an encoder, which makes vectors of texts and generates none. */
    generates: boolean;
    /** Absent if the model makes no vectors of texts. */
    embedding?: EmbeddingInfo;
  };
  adapter: { name: string; software: boolean };
  /** The kernel variants that the engine chose for this adapter. */
  kernels: { dtype: Dtype; kvDtype: KvDtype; subgroups: boolean };
  /** Bytes on the GPU, with both pools at their present size. `stateMaxBytes`: what the pool of recurrent states may grow to. */
  memory: {
    weightBytes: number;
    kvPoolBytes: number;
    kvPoolTokens: number;
    /** Exact keys and values of blocks that are not full, beside a packed KV pool; absent if all are exact. */
    kvTailBytes?: number;
    statePoolBytes: number;
    stateMaxBytes: number;
    workspaceBytes: number;
    /** Slots for experts and low-bit copies, part of `weightBytes`; absent if all experts are on the GPU, or the model has none. */
    expertBytes?: number;
  };
  /** `poolTokens`: what the KV pool may grow to. */
  limits: { blockTokens: number; chunkTokens: number; maxRequests: number; poolTokens: number };
  /** "ready", or why text cannot be encoded. */
  tokenizer: string;
  /** "ready", or why chats cannot be rendered. */
  chatTemplate: string;
  /** Whether the chat template has a place for reasoning, between `<think>` and `</think>`. */
  reasons: boolean;
  /** Where the file's template and tokenizer run: "own worker", "not needed", or why they run in the engine's thread. */
  textWorker: string;
  /** Features that this platform lacks; empty if nothing is missing. */
  capabilities: Capability[];
}

/** What `engine.stats` is asked for. */
export interface StatsOptions {
  /**
   * Also events of the experts, from this number on (0, then `next` of the answer before). They are noted from the first such call
   * on, until 10 seconds after the last; the last 4,096 at most are kept.
   */
  eventsAfter?: number | undefined;
}

/**
 * How long a request would take, with the parts of its time to first token; and, if it would be rejected, why.
 *
 * @example
 * ```ts
 * const { rejection }: PredictedRequest = await engine.predict("The tide was low and", { ttftMs: 0.001 });
 * console.log(rejection?.reason, rejection!.retryAfterMs > 0); // ttft true
 * ```
 */
export interface PredictedRequest extends Prediction {
  rejection?: { reason: RejectionReason; predictedMs: number; limitMs: number; retryAfterMs: number };
}

/** Who waits and who runs, and what became of requests and predictions since the engine was loaded. */
export interface ScheduleFigures {
  /** When requests are rejected. */
  rejection: RejectionMode;
  /** Requests that wait, whose prompts are being computed, and that decode. */
  waiting: number;
  prefilling: number;
  decoding: number;
  accepted: number;
  /** Of requests that ended: how many kept their objectives, and the percentiles of their times. */
  goodput: GoodputFigures;
  /** The median relative errors of the last predictions, as shares, and the number of all. */
  errors: Record<PredictedKind, ErrorFigures>;
}

/** What is counted while the engine runs. `engine.cache.stats()` has the numbers of the KV cache. */
export interface EngineStats {
  schedule: ScheduleFigures;
  /** Present if not all experts of the model are on the GPU. */
  experts?: ExpertFigures;
  /** Present with `experts` if it was asked for. */
  expertEvents?: ExpertEvents;
}

/** What a model is, what it needs, and whether it would run here. */
export interface ModelReport {
  name: string;
  format: "gguf" | "safetensors";
  architecture: string;
  fileBytes: number;
  /** Tensors by type. */
  tensors: Record<string, number>;
  parameters: number;
  /** "ready", or why text cannot be encoded. */
  tokenizer: string;
  /** "ready", or why chats cannot be rendered. */
  chatTemplate: string;
  shape?: {
    name: string;
    layers: number;
    /** Layers by kind of mixer. */
    mixers: Record<string, number>;
    hiddenSize: number;
    vocabSize: number;
    contextTokens: number;
    /** Absent if the model has none. */
    experts?: {
      /** Layers that have some. */
      layers: number;
      /** Of each such layer, and those of them that a token uses. */
      count: number;
      chosen: number;
      /** Bytes of all of them on the GPU, and the least `expertMemory` that the model runs with. */
      bytes: number;
      leastBytes: number;
      /** Bytes of low-bit copies of all of them: with experts "bounded", `expertMemory` must hold these too. */
      copyBytes: number;
    };
  };
  adapter?: string;
  /** What the model would take on the GPU. */
  memory?: {
    weightBytes: number;
    /** Of tables that stay off the GPU; not part of the sums. */
    offGpuBytes: number;
    /** Slots for experts and low-bit copies, part of `weightBytes`; absent if all experts would be on the GPU, or the model has none. */
    expertBytes?: number;
    kvBytesPerToken: number;
    /** Tokens that the KV pool starts with, and what it may grow to. */
    kvStartTokens: number;
    kvPoolTokens: number;
    kvPoolBytes: number;
    /** Exact keys and values of blocks that are not full, beside a packed KV pool; absent if all are exact. */
    kvTailBytes?: number;
    /** What the pool of recurrent states starts with, and what it may grow to. */
    stateStartBytes: number;
    statePoolBytes: number;
    workspaceBytes: number;
    /** Everything together, with the pools at their first and at their largest size. */
    startBytes: number;
    maxBytes: number;
    dtype: Dtype;
    kvDtype: KvDtype;
  };
  runs: boolean;
  /** The reasons why the model would not run. */
  problems: string[];
  /** Of an unknown architecture: the known one that is most like it, and in what the model differs from that. */
  nearest?: { architecture: string; differences: string[] };
  /** Features that this platform lacks. */
  capabilities: Capability[];
}
