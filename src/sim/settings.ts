/**
 * What the calls of `tidepool/sim` take: options and parameters. Types alone; the rules that check them are in arguments.ts.
 */
import type { Clock } from "../base.ts";
import type { PolicyName } from "../cache/policy/policy.ts";
import type { Cost } from "../shape/cost.ts";

/**
 * How a recorder hides the content of requests.
 *
 * @example
 * ```ts
 * const options: RecorderOptions = { blockTokens: 32, salt: crypto.getRandomValues(new Uint8Array(16)) };
 * ```
 */
export interface RecorderOptions {
  /** Tokens in a hashed block. */
  blockTokens: number;
  /** At least 16 random bytes. Discard them afterwards: without them the hashes reveal only which prefixes are equal. */
  salt: Uint8Array;
}

/**
 * The options of a replay: a policy, a capacity, and what the model's tokens cost.
 *
 * @example
 * ```ts
 * const options: ReplayOptions = { policy: "marconi", capacity: { bytes: 40e9 }, cost, alpha: 1 };
 * console.log(replay(trace, options).alpha); // 1
 * ```
 */
export interface ReplayOptions {
  policy: PolicyName;
  /** In bytes, in blocks of the model's KV, or without limit. */
  capacity: { bytes: number } | { blocks: number } | "inf";
  /** What a token costs to compute and to keep. */
  cost: Cost;
  /**
   * Tokens in a block, for `vllm`'s snapshots and for the block hit rate of token traces. Unused in a block trace, where one
   * symbol of the tree is one block of the trace. Default 32.
   */
  blockTokens?: number;
  /** A fixed weight for `marconi` instead of the tuned one. */
  alpha?: number;
  /** The clock that measures `seconds`. */
  clock?: Clock;
  /** Called after each request of the trace. */
  observe?: (request: Replayed) => void;
}

/** The outcome of one request of the trace. */
export interface Replayed {
  /** The request's index in the trace. */
  index: number;
  /** Input tokens that skipped prefill. */
  hitTokens: number;
  /** Evictions since the replay began. */
  evictions: number;
}

/**
 * How fast a server is that runs one step at a time.
 *
 * @example
 * ```ts
 * const timing: Timing = { prefillTokensPerSecond: 20_000, decodeStepMs: 20, decodeRowMs: 0.05 };
 * console.log(prefillMs(timing, { ...cost, flopsQuadratic: 0 }, 0, 2000)); // 100
 * ```
 */
export interface Timing {
  /** Prompt tokens per second at the beginning of a prompt; later tokens cost more, in proportion to their FLOPs. */
  prefillTokensPerSecond: number;
  /** The duration of a decode step without its requests. */
  decodeStepMs: number;
  /** What each request in a decode step adds to its duration. */
  decodeRowMs: number;
}

/**
 * The options of `serve`: those of a replay, and the simulated server.
 *
 * @example
 * ```ts
 * const options: ServeOptions = { policy: "lru", capacity: { blocks: 1000 }, cost, seats: 16, chunkTokens: 512 };
 * console.log(serve(trace, options).rejected); // 0
 * ```
 */
export interface ServeOptions extends ReplayOptions {
  /** How long the server's steps take. Default: `timingFor` the trace. */
  timing?: Timing;
  /** Prompt tokens per step. Default 2048. */
  chunkTokens?: number;
  /** Requests that run at once. Default 256. */
  seats?: number;
  /** The share of the capacity that holds snapshots, in models with recurrent layers. Default 0.5. */
  snapshotShare?: number;
}

/** A random length in tokens: log-normal with this median and this standard deviation of the logarithm. */
export interface LengthOf {
  median: number;
  sigma: number;
}

export interface Common {
  seed: number;
  /** How many sessions start per second, at equal distances. */
  sessionsPerSecond: number;
  /** Mean pause between two turns of a session, in seconds (exponential). */
  pauseSeconds: number;
}

/**
 * Chats with system prompts: each session has one of `systemPrompts` (Zipf-distributed), then turns of user text and answer.
 *
 * @example
 * ```ts
 * const workload: ChatWorkload = { ...defaultWorkloads.chat, sessions: 10, systemPrompts: 2 };
 * ```
 */
export interface ChatWorkload extends Common {
  kind: "chat";
  sessions: number;
  systemPrompts: number;
  systemTokens: LengthOf;
  turns: LengthOf;
  userTokens: LengthOf;
  outputTokens: LengthOf;
}

/**
 * Agents: one shared instruction, then steps of observation and action. Observations older than `observationsKept` are dropped,
 * so that prompts diverge in the middle.
 *
 * @example
 * ```ts
 * const workload: AgentWorkload = { ...defaultWorkloads.agents, sessions: 4, observationsKept: 2 };
 * ```
 */
export interface AgentWorkload extends Common {
  kind: "agents";
  sessions: number;
  instructionTokens: LengthOf;
  taskTokens: LengthOf;
  turns: LengthOf;
  observationTokens: LengthOf;
  outputTokens: LengthOf;
  observationsKept: number;
}

/**
 * Questions about documents: each session asks several questions, each in a separate prompt, about one of `documents`
 * (Zipf-distributed).
 *
 * @example
 * ```ts
 * const workload: DocumentWorkload = { ...defaultWorkloads.documents, sessions: 10, documents: 3 };
 * ```
 */
export interface DocumentWorkload extends Common {
  kind: "documents";
  sessions: number;
  documents: number;
  documentTokens: LengthOf;
  turns: LengthOf;
  questionTokens: LengthOf;
  outputTokens: LengthOf;
}

/**
 * Few-shot prompts: one of `templates` (Zipf-distributed), each an instruction with `shots` examples, then a short query.
 *
 * @example
 * ```ts
 * const workload: FewShotWorkload = { ...defaultWorkloads["few-shot"], sessions: 10, shots: 4 };
 * ```
 */
export interface FewShotWorkload extends Common {
  kind: "few-shot";
  sessions: number;
  templates: number;
  instructionTokens: LengthOf;
  shots: number;
  shotTokens: LengthOf;
  queryTokens: LengthOf;
  outputTokens: LengthOf;
}

/**
 * The parameters of a generated trace; see `defaultWorkloads`.
 *
 * @example
 * ```ts
 * const workloads: Workload[] = Object.values(defaultWorkloads);
 * console.log(workloads.map(({ kind }) => kind)); // [ 'chat', 'agents', 'documents', 'few-shot' ]
 * ```
 */
export type Workload = ChatWorkload | AgentWorkload | DocumentWorkload | FewShotWorkload;
