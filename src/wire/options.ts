/**
 * What can be set when an engine, a store or a model's header is opened, and how a model is named on the wire. Plain data that
 * survives structured cloning; which values are allowed is in arguments.ts.
 */
import type { ExpertPolicyName } from "../cache/experts/policy.ts";
import type { PolicyName } from "../cache/policy/policy.ts";
import type { HubOptions } from "../load/download/hub.ts";
import type { ModelsOptions } from "../load/download/kept/model-store.ts";
import type { Objectives, RejectionMode } from "../schedule/slo/objectives.ts";

export type { HubOptions, ModelsOptions };

/** A file under its name: Node's worker threads clone a `File` to a nameless `Blob`. */
export interface NamedBlob {
  name: string;
  blob: Blob;
}

/** What to load: a path, a URL, or files. */
export type ModelSpec = string | readonly NamedBlob[];

/** The number types of the kernels. */
export type Dtype = "f32" | "f16";

/** The type of stored keys and values: that of numbers, or as many bits of a code each. */
export type KvDtype = Dtype | "q8" | "q4" | "q2";

/**
 * Where models named by a Hub id or a URL come from, and where downloads are kept.
 *
 * @example
 * ```ts
 * const source: SourceOptions = { models: { directory: "models" } };
 * const report = await inspect("https://models.example/tide-dense.gguf", source);
 * console.log(report.runs); // true
 * ```
 */
export interface SourceOptions {
  hub?: HubOptions | undefined;
  models?: ModelsOptions | undefined;
}

/**
 * The settings of an engine.
 *
 * @example
 * ```ts
 * const options: EngineOptions = { dtype: "f32", kvDtype: "q8", maxRequests: 4, poolTokens: 8192 };
 * const report = await inspect("tide-dense.gguf", options);
 * console.log(report.memory?.dtype); // f32
 * ```
 */
export interface EngineOptions extends SourceOptions {
  /** The type of arithmetic and activations. Default "auto": f16 on a hardware adapter that has it, otherwise f32. */
  dtype?: Dtype | "auto" | undefined;
  /**
   * The type of stored keys and values. "q8", "q4" and "q2" keep 9, 5 and 3 bits a number in place of 16 or 32 (KIVI, 2402.02750):
   * keys per channel and values per token in groups, but the newest tokens exact until their block is full. Default: `dtype`; with dtype
   * "auto", f16 on every adapter that has it.
   */
  kvDtype?: KvDtype | undefined;
  /** Tokens per KV block: 16, 32 or 64. Default 32. */
  blockTokens?: number | undefined;
  /**
   * The most prompt tokens in a prefill step, 1 to 512. Default 256. Encoders take a text at once, so that this is the length of
   * their longest text too: 1 to 8,192, default 2,048.
   */
  chunkTokens?: number | undefined;
  /** The most requests that decode at once, 1 to 16. Default 8. */
  maxRequests?: number | undefined;
  /**
   * How many tokens of KV the GPU pool may grow to, for all requests together. Default: as many as fit 1 GiB, at least 8,192,
   * and at most `maxRequests` contexts.
   */
  poolTokens?: number | undefined;
  /** The same in bytes; overrides `poolTokens`. */
  poolBytes?: number | undefined;
  /** How many tokens of KV the GPU pool starts with; it doubles when requests need more. Default 2,048. */
  poolStartTokens?: number | undefined;
  /**
   * The most GPU memory that the model may take, in bytes: weights, KV pool, recurrent states and workspace. Loading fails if
   * the model needs more, and the pool does not grow beyond it. Default: the device's limit.
   */
  memoryBytes?: number | undefined;
  /**
   * Where the table of per-layer embeddings is (Gemma 3n, Gemma 4), which may be half of the model: on the GPU, or in the model's
   * file (in RAM while that is downloaded), from which each step reads the rows of its tokens. Default: in the file if the table
   * has more than 512 MiB, or if `memoryBytes` is too little for it.
   */
  tables?: "gpu" | "file" | undefined;
  /**
   * The most GPU memory that the experts of a mixture of experts may take, in bytes. If they are larger, those that a token needs are
   * brought from RAM or from the model's file. Default: all of them are on the GPU, or if `memoryBytes` is too little for
   * that, as many as it leaves room for.
   */
  expertMemory?: number | undefined;
  /** The most RAM that experts off the GPU may take, in bytes, beside the file they are read from. Default: 1 GiB. */
  expertRamBytes?: number | undefined;
  /**
   * What happens when a token needs an expert that is not on the GPU: it waits ("exact"), or, if the expert matters little, it is
   * computed with a low-bit copy ("bounded"). Copies of all experts then stay on the GPU as part of `expertMemory`, at 2.6 bits a
   * weight; prompts are computed exactly. `engine.stats()` tells how much was computed with copies. Default "exact".
   */
  experts?: "exact" | "bounded" | undefined;
  /** The policy that decides which experts leave the GPU first. Default "promoe". */
  expertPolicy?: ExpertPolicyName | undefined;
  /** false: experts off the GPU are fetched only when a layer waits for them. Default: those that it will probably need, before. */
  expertPrediction?: boolean | undefined;
  /**
   * The file of a learned predictor of experts, as `npm run experts -- train` writes it for one model; its guesses take the place
   * of those that the next layers' routers make. Loading fails if it was trained for another model; it is not read if all experts
   * are on the GPU. Default: the routers' guesses.
   */
  expertPredictor?: Uint8Array | undefined;
  /** Part of the adapter's name; loading fails if the name does not contain it. */
  adapter?: string | undefined;
  /** Which adapter is asked for if there are several; the platform decides which is which. Default "high-performance". */
  powerPreference?: "high-performance" | "low-power" | undefined;
  /** false: do not use subgroup operations. Default: use them if the adapter has them. */
  subgroups?: boolean | undefined;
  /**
   * The longest that chat template and tokenizer may take for a prompt, in ms, 10 to 3,600,000; a request that takes longer ends
   * with `timed_out`. Default 10,000.
   */
  textTimeoutMs?: number | undefined;
  /** What requests are promised, unless they say otherwise. Default: nothing, and none is rejected. */
  objectives?: EngineObjectives | undefined;
  /** Lower tiers of the KV cache. */
  cache?: CacheOptions | undefined;
  /** Another Tidepool that computes long prompts for this one. **Their tokens leave this machine.** Default: none. */
  prefill?: PrefillOptions | undefined;
}

/**
 * Another Tidepool (`tidepool serve --prefill-service`) that computes long prompts. It must run the same model with the same `dtype`,
 * `kvDtype` and `blockTokens`; otherwise, or if it is slow, silent or sends anything but sound records of the prompt, the prompt is
 * computed here, and a notice reports why. Loading an engine with a prefill service computes 256 random tokens, here and there, to
 * compare their speed.
 *
 * **The tokens of such a prompt leave this machine, and the service keeps what it computes in its cache. Keys and values that come back
 * cannot be verified without computing them: trust whoever runs the service as you trust code.** Over `http:` tokens and key can be
 * read on the way; use `https:` or a tunnel beyond this machine. Of a request with `cache: "memory"` nothing is sent unless it has
 * `prefill: true`; of one with `cache: "off"` never anything, because what came back could be kept nowhere.
 *
 * @example
 * ```ts
 * const prefill: PrefillOptions = { url: "http://127.0.0.1:8033", key: "a-long-random-key", when: "faster" };
 * await using engine = await Engine.load("tide-dense.gguf", { prefill });
 * await engine.generate("The tide was low and", { maxTokens: 4 }).result(); // short: computed here
 * ```
 */
export interface PrefillOptions {
  /** The service's address, http: or https:. */
  url: string;
  /** The key that the service was started with. */
  key: string;
  /**
   * "faster" (default): prompts go out only if that is expected to be faster than computing them here, by the measured rates of link,
   * service and this adapter. "always": every prompt that is long enough goes out.
   */
  when?: "faster" | "always" | undefined;
}

/**
 * How long requests may take that name no objectives of their own, and when an engine rejects them.
 *
 * @example
 * ```ts
 * const objectives: EngineObjectives = { ttftMs: 30_000, tbtMs: 5000 };
 * await using engine = await Engine.load("tide-dense.gguf", { objectives });
 * const { usage } = await engine.generate("The tide was low and", { maxTokens: 4 }).result();
 * console.log(usage.pace?.kept); // true
 * ```
 */
export interface EngineObjectives extends Objectives {
  /**
   * "predicted": on arrival, by the load that is expected when the request's prompt will have been computed. "early": on arrival, by
   * the load at that moment. "none": not before it is too late, so that work may have been wasted. Default "predicted".
   */
  rejection?: RejectionMode | undefined;
}

/**
 * Where and how computed keys and values are stored below the GPU.
 *
 * @example
 * ```ts
 * const cache: CacheOptions = { directory: "kv", diskBytes: 8 * 2 ** 30, policy: "lru", namespace: "alice" };
 * await using engine = await Engine.load("tide-dense.gguf", { cache });
 * console.log((await engine.cache.stats()).gpu.policy); // lru
 * ```
 */
export interface CacheOptions {
  /**
   * Node and Deno: a folder for the disk tier; without a folder there is no disk tier. Browsers: the name of the store,
   * default "tidepool-kv".
   */
  directory?: string | undefined;
  /** false: no disk tier. */
  disk?: boolean | undefined;
  /** Budget of the RAM tier. Default: 32,768 tokens of the model, at least 256 MiB and at most an eighth of the machine's memory. */
  ramBytes?: number | undefined;
  /** Budget of the disk tier. Default: 4 GiB, at most half of the origin's quota in browsers and a tenth of the file system elsewhere. */
  diskBytes?: number | undefined;
  /**
   * How stored blocks are restored: "auto" (default) loads them, computes them, or does both, depending on measured rates. That is decided
   * when a request starts, also for one that gave way to others: its blocks always go down, and at its next turn they are loaded or
   * computed again, whichever is faster by then.
   */
  restore?: "auto" | "load" | "compute" | "both" | undefined;
  /** The policy that decides which snapshots are taken and what is evicted first. Default "marconi". */
  policy?: Exclude<PolicyName, "offline"> | undefined;
  /** Salts the keys, so that users of one app cannot find each other's prefixes. */
  namespace?: string | undefined;
  /** Stored blocks expire this many milliseconds after they were computed. Default: never. */
  maxAgeMs?: number | undefined;
  /**
   * Quantises stored blocks to this many bits. Off by default, because it changes what is computed from them. Such blocks are
   * marked and never served to an engine that stores exactly or in more bits.
   */
  atRestBits?: 8 | 4 | undefined;
  /** Stores recurrent states in 16 bits, which halves their bytes in RAM and on disk. Off by default, and marked, for the same reason. */
  atRestStateBits?: 16 | undefined;
  /**
   * Trusted public keys, as `newSigningKey` returns them; archives that none of them signed are refused. Default: any archive is
   * imported, so its maker must be trusted like the maker of code.
   */
  trust?: readonly string[] | undefined;
}
