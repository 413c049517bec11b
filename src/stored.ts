/**
 * What is computed and stored, for the caller: the cache of a running engine, and stores that no engine has open.
 */
import type {
  CacheEntry,
  CacheOptions,
  CacheStats,
  Call,
  ChatMessage,
  RequestInput,
  StoreCall,
} from "./worker/protocol.ts";
import { askWorker } from "./worker/port.ts";

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
