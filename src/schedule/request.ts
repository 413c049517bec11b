/**
 * One request's life in tokens: what it was given, what it has produced, which blocks it holds. Text, sampling settings
 * and timing are other rooms' business.
 *
 *     waiting --> prefilling --> decoding --> done
 *        ^------- pre-empted ------'
 *
 * The ruler of a request's positions:
 *
 *     0 ........ prompt.length ........ tokens.length ........ tokens.length + pending
 *     |  prompt   |  generated, accepted |  sampled, not read back yet |
 *     |  computed: keys and values of [0, computed) are in the pool once the submitted steps have run  |
 */

import type { Lease } from "../cache/prefix.ts";
import type { LowerTier, Restore, RestoreMode } from "./restore/restore.ts";
import type { SeatState } from "./seat-state.ts";
import type { Objectives, Priority } from "./slo/objectives.ts";
import type { Ticket } from "./tickets.ts";

export type { LowerTier } from "./restore/restore.ts";

/** How far a request's blocks may go: nowhere (nor are they looked for), GPU and RAM, or down to the disk. */
export type StorageScope = "off" | "memory" | "disk";

export type RequestStatus = "waiting" | "prefilling" | "decoding" | "done";

/** Why a request ended: a stop token, the token limit, the caller's abort, or an error. */
export type FinishReason = "stop" | "length" | "aborted" | "error";

export interface RequestSpec {
  id: number;
  /** At least one token. */
  prompt: readonly number[];
  /** What was generated for it before, by a scheduler that is gone; it goes on behind. Default: nothing. */
  generated?: readonly number[];
  /** At most this many new tokens; at least 1. */
  maxNewTokens: number;
  /** Tokens that end the request; the one met is not part of what was generated. */
  stopIds: ReadonlySet<number>;
  /** Default "disk". */
  storage?: StorageScope;
  /** What is stored of it in lower tiers expires so long after it was computed. Default: the engine's setting. */
  maxAgeMs?: number | undefined;
  /** Default "interactive". */
  priority?: Priority | undefined;
  /** What it asks of time: chunks of others are as short as its time between tokens needs. Default: nothing. */
  objectives?: Objectives | undefined;
  /** When it arrived, by the clock of whoever asks for the load. Default: 0. */
  arrivedMs?: number | undefined;
}

export class Request {
  readonly id: number;
  readonly promptLength: number;
  /** Becomes less where the pool cannot grow to hold as many. */
  maxNewTokens: number;
  readonly stopIds: ReadonlySet<number>;
  /** Prompt, then accepted tokens. */
  readonly tokens: number[];
  status: RequestStatus = "waiting";
  finishReason: FinishReason | undefined;
  /** Index of its persistent sampler state on the GPU, while it has one. */
  seat: number | undefined;
  readonly storage: StorageScope;
  readonly maxAgeMs: number | undefined;
  readonly priority: Priority;
  readonly objectives: Objectives;
  readonly arrivedMs: number;
  /** When its first token came, by the clock of whoever commits. */
  startedMs: number | undefined;
  /** Its hold on the prefix cache and its blocks, while it runs. */
  lease: Lease | undefined;
  /** Its stored blocks on their way back, while its prompt is prefilled. */
  restore: Restore | undefined;
  /** Where its recurrent state lies, while it runs in a model that has one. */
  seatState: SeatState | undefined;
  /** Positions of its prompt at which its state is saved, ascending. */
  snapshotsAt: readonly number[] = [];
  /** How its stored blocks came back when it first ran; undefined: there were none. */
  restoredBy: RestoreMode | undefined;
  /** Prompt tokens whose keys and values were found on the GPU when it first ran. */
  cachedTokens: number | undefined;
  /** Prompt tokens that were loaded from lower tiers, by tier, when it first ran. */
  loadedTokens: Readonly<Record<LowerTier, number>> = {};
  /** The queue that runs its steps, and the last step planned for it, while it runs. */
  queue = 0;
  ticket: Ticket | undefined;
  /** Positions whose keys and values have been submitted. */
  computed = 0;
  /** Samples submitted and not committed yet; where drafts are among them, the most that may come. */
  pending = 0;
  /** Rises when the steps under way for it become void. */
  epoch = 0;
  /** Steps of it that have failed. */
  failedSteps = 0;
  /** The first token that its own steps have computed, and what they have published: blocks by index, states by token. */
  ownFrom = Infinity;
  readonly ownBlocks = new Set<number>();
  readonly ownStates = new Set<number>();

  constructor(spec: RequestSpec) {
    this.id = spec.id;
    this.promptLength = spec.prompt.length;
    this.maxNewTokens = spec.maxNewTokens;
    this.stopIds = spec.stopIds;
    this.storage = spec.storage ?? "disk";
    this.maxAgeMs = spec.maxAgeMs;
    this.priority = spec.priority ?? "interactive";
    this.objectives = spec.objectives ?? {};
    this.arrivedMs = spec.arrivedMs ?? 0;
    this.tokens = [...spec.prompt, ...(spec.generated ?? [])];
  }

  /** All that steps have computed and sampled for it, and that is not among its tokens, is lost. */
  restarted(): void {
    this.pending = 0;
    this.epoch++;
    if (this.generatedCount > 0) return;
    this.cachedTokens = undefined;
    this.loadedTokens = {};
    this.restoredBy = undefined;
  }

  /** Its block table. */
  get slots(): readonly number[] {
    return this.lease?.table ?? [];
  }

  /** Counts tokens that a tier has brought back. */
  countLoaded(tier: LowerTier, tokens: number): void {
    this.loadedTokens = { ...this.loadedTokens, [tier]: (this.loadedTokens[tier] ?? 0) + tokens };
  }

  get generatedCount(): number {
    return this.tokens.length - this.promptLength;
  }

  /** Whether another sample may be submitted. */
  get wantsMore(): boolean {
    return this.status !== "done" && this.generatedCount + this.pending < this.maxNewTokens;
  }
}
