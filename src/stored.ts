/**
 * What is computed and stored, for the caller: the cache of a running engine, and stores that no engine has open.
 */
import { background } from "./base.ts";
import { TidepoolError } from "./errors.ts";
import type {
  CacheEntry,
  CacheEvent,
  CacheOptions,
  CacheStats,
  CacheTree,
  Call,
  ChatMessage,
  RequestInput,
  StoreCall,
} from "./worker/protocol.ts";
import { askWorker } from "./worker/port.ts";

export { TIER_DISK, TIER_GPU, TIER_RAM } from "./worker/protocol.ts";

/** Blocks of a tree's snapshot at most. */
const MAX_TREE_BLOCKS = 10_000;

/** Hears of decisions; `dropped`: how many got lost before these because too many came at once. */
export type CacheEventListener = (events: readonly CacheEvent[], dropped: number) => void;

/** A text or conversation as the worker takes it. */
export function promptInput(
  prompt: string | readonly ChatMessage[],
  template?: Record<string, unknown>,
): RequestInput {
  if (typeof prompt === "string") return { kind: "text", text: prompt };
  return { kind: "chat", messages: prompt, ...(template && { template }) };
}

/** What a running engine has computed and stored, by tier. */
export class EngineCache {
  private readonly call: (call: Call) => Promise<unknown>;
  private readonly listeners = new Set<CacheEventListener>();

  /** @internal For the engine only. */
  constructor(call: (call: Call) => Promise<unknown>) {
    this.call = call;
  }

  /** Numbers by tier. */
  async stats(): Promise<CacheStats> {
    return (await this.call({ method: "cacheStats" })) as CacheStats;
  }

  /** All records in RAM and on the disk. */
  async list(): Promise<CacheEntry[]> {
    return (await this.call({ method: "cacheList" })) as CacheEntry[];
  }

  /** Reads and checks every record; bad ones are dropped and counted by reason. */
  async verify(): Promise<{ checked: number; bad: Record<string, number> }> {
    return (await this.call({ method: "cacheVerify" })) as { checked: number; bad: Record<string, number> };
  }

  /** Forgets everything, or one namespace's records; what running requests use stays until they end. */
  async clear(options: { namespace?: string } = {}): Promise<void> {
    await this.call({ method: "cacheClear", ...options });
  }

  /** Changes budgets while running; what no longer fits is evicted. */
  async setBudgets(budgets: { ramBytes?: number; diskBytes?: number }): Promise<void> {
    await this.call({ method: "cacheBudgets", ...budgets });
  }

  /** A prompt's stored blocks as one file, for `import` here or elsewhere. `missing`: blocks that are not stored. */
  async export(
    prompt: string | readonly ChatMessage[],
  ): Promise<{ archive: Uint8Array; blocks: number; missing: number }> {
    const answer = await this.call({ method: "cacheExport", input: promptInput(prompt) });
    return answer as { archive: Uint8Array; blocks: number; missing: number };
  }

  /** Takes in an exported file; every record is checked, and those that fail are counted by reason. */
  async import(archive: Uint8Array): Promise<{ keys: string[]; rejected: Record<string, number> }> {
    return (await this.call({ method: "cacheImport", archive })) as {
      keys: string[];
      rejected: Record<string, number>;
    };
  }

  /**
   * The prefix tree as it is now, as plain data: what the GPU holds with the tiers that have copies, and behind it what only
   * RAM and disk hold. Read in slices, so that decoding goes on.
   * @param limit blocks at most, 1 to 10,000 (default); what was used last goes first.
   * @throws TidepoolError `invalid_argument`.
   */
  async tree(limit = MAX_TREE_BLOCKS): Promise<CacheTree> {
    if (!Number.isInteger(limit) || limit < 1 || limit > MAX_TREE_BLOCKS) {
      throw new TidepoolError("invalid_argument", `limit is ${limit}, expected 1 to ${MAX_TREE_BLOCKS}`);
    }
    return (await this.call({ method: "cacheTree", limit })) as CacheTree;
  }

  /**
   * Tells of the cache's decisions from now on, in batches, a tenth of a second late at most: lookups, blocks and snapshots
   * kept, evicted, copied down and brought back, changes of the policy's weight. Nothing is told, and nothing spent, while
   * nobody listens. Returns a function that ends it.
   */
  onEvent(listener: CacheEventListener): () => void {
    this.listeners.add(listener);
    if (this.listeners.size === 1) this.watch(true);
    return () => {
      if (this.listeners.delete(listener) && this.listeners.size === 0) this.watch(false);
    };
  }

  /** @internal For the engine only. */
  hear(events: readonly CacheEvent[], dropped: number): void {
    for (const listener of this.listeners) listener(events, dropped);
  }

  private watch(on: boolean): void {
    const asked = this.call({ method: "cacheWatch", on }).catch((error: unknown) => {
      if (!(error instanceof TidepoolError)) throw error; // an engine that has ended tells nothing
    });
    background(asked, "watching the cache");
  }

  /** Waits until what was computed so far is on the disk, at most `timeoutMs` (default 5,000). */
  async drain(timeoutMs = 5000): Promise<{ left: number }> {
    return (await this.call({ method: "cacheDrain", timeoutMs })) as { left: number };
  }
}

/** A store that no engine has open, such as a folder that another process left. Each call opens and closes it. */
export class StoredCache {
  private readonly options: CacheOptions;

  /** `options` says where the store lies, as when a model is loaded. */
  constructor(options: CacheOptions) {
    this.options = options;
  }

  /** Numbers of the lower tiers. */
  async stats(): Promise<Pick<CacheStats, "ram" | "disk">> {
    return (await this.ask({ method: "cacheStats" })) as Pick<CacheStats, "ram" | "disk">;
  }

  /** All records in RAM and on the disk. */
  async list(): Promise<CacheEntry[]> {
    return (await this.ask({ method: "cacheList" })) as CacheEntry[];
  }

  /** Reads and checks every record. */
  async verify(): Promise<{ checked: number; bad: Record<string, number> }> {
    return (await this.ask({ method: "cacheVerify" })) as { checked: number; bad: Record<string, number> };
  }

  /** Forgets everything, or one namespace's records. */
  async clear(options: { namespace?: string } = {}): Promise<void> {
    await this.ask({ method: "cacheClear", ...options });
  }

  /** Takes in an exported file. */
  async import(archive: Uint8Array): Promise<{ keys: string[]; rejected: Record<string, number> }> {
    const answer = await this.ask({ method: "cacheImport", archive });
    return answer as { keys: string[]; rejected: Record<string, number> };
  }

  private ask(call: StoreCall): Promise<unknown> {
    return askWorker({ type: "store", options: this.options, call });
  }
}
