/**
 * What is computed and stored, for the caller: the cache of a running engine, and stores that no engine has open.
 */
import { signArchive, type SigningKey } from "../archive-signing.ts";
import { exportOptions } from "./arguments.ts";
import { background } from "../base.ts";
import { bytes, callback } from "../check.ts";
import { TidepoolError } from "../errors.ts";
import type {
  ArchiveImport,
  CacheEntry,
  CacheEvent,
  CacheOptions,
  CacheStats,
  CacheTree,
  Call,
  ChatMessage,
  PrefillCall,
  RequestInput,
  StoreCall,
} from "../wire/protocol.ts";
import {
  budgets as budgetsRule,
  cacheOptions,
  clearOptions,
  drainTimeout,
  importOptions,
  MAX_TREE_BLOCKS,
  templateVariables,
  textOrChat,
  treeLimit,
} from "../wire/arguments.ts";
import { askWorker } from "../wire/port.ts";
import type { PrefillAsk, PrefillFacts, PrefillRecord } from "../wire/prefill.ts";

export { TIER_DISK, TIER_GPU, TIER_RAM } from "../wire/protocol.ts";

/**
 * Receives the cache's decisions. `dropped` counts the events that were lost before these because too many came at once.
 *
 * @example
 * ```ts
 * const listener: CacheEventListener = (events, dropped) => console.log(`${events.length} events, ${dropped} lost`);
 * const stop = engine.cache.onEvent(listener);
 * stop();
 * ```
 */
export type CacheEventListener = (events: readonly CacheEvent[], dropped: number) => void;

/** A prompt's blocks as one file. */
export interface ArchiveExport {
  archive: Uint8Array;
  /** Blocks in the file. */
  blocks: number;
  /** Full blocks of the prompt that are not in the file. */
  missing: number;
}

/** @internal A prompt's records, for the prefill service. */
export interface RecordFeed {
  next(): Promise<PrefillRecord | undefined>;
  close(): void;
}

/** A text or conversation as the worker takes it. @throws TidepoolError `invalid_argument` */
export function promptInput(
  prompt: string | readonly ChatMessage[],
  template?: Record<string, unknown>,
): RequestInput {
  const given = textOrChat.read(prompt, "prompt");
  const variables = template && templateVariables.read(template, "template");
  if (typeof given === "string") return { kind: "text", text: given };
  return { kind: "chat", messages: given, ...(variables && { template: variables }) };
}

/**
 * The KV cache of a running engine: what it has computed and stored, by tier.
 *
 * @example
 * ```ts
 * await engine.generate("The tide was low and ".repeat(16), { maxTokens: 1 }).result();
 * await engine.cache.drain(); // until it is on disk
 * const { disk } = await engine.cache.stats();
 * console.log(disk.records > 0); // true
 * ```
 */
export class EngineCache {
  private readonly call: (call: Call) => Promise<unknown>;
  private readonly listeners = new Set<CacheEventListener>();

  /** @internal For the engine only. */
  constructor(call: (call: Call) => Promise<unknown>) {
    this.call = call;
  }

  /**
   * Sizes and counts by tier.
   *
   * @example
   * ```ts
   * const { gpu, ram, disk } = await engine.cache.stats();
   * console.log(`${gpu.blocks.cached} blocks cached on the GPU, ${ram.bytes} bytes in RAM, ${disk.bytes} on disk`);
   * ```
   */
  async stats(): Promise<CacheStats> {
    return (await this.call({ method: "cacheStats" })) as CacheStats;
  }

  /**
   * Lists all records in RAM and on disk.
   *
   * @example
   * ```ts
   * for (const { key, kind, bytes, tiers } of await engine.cache.list()) console.log(key, kind, bytes, tiers);
   * ```
   */
  async list(): Promise<CacheEntry[]> {
    return (await this.call({ method: "cacheList" })) as CacheEntry[];
  }

  /**
   * Reads and checks every record. Bad records are dropped and counted by reason.
   *
   * @example
   * ```ts
   * const { bad } = await engine.cache.verify();
   * console.log(bad); // {}
   * ```
   */
  async verify(): Promise<{ checked: number; bad: Record<string, number> }> {
    return (await this.call({ method: "cacheVerify" })) as { checked: number; bad: Record<string, number> };
  }

  /**
   * Removes all records, or those of one namespace. What running requests use stays until they end.
   *
   * @example
   * ```ts
   * await engine.cache.clear({ namespace: "guest" });
   * ```
   */
  async clear(options: { namespace?: string | undefined } = {}): Promise<void> {
    await this.call({ method: "cacheClear", ...clearOptions.read(options, "") });
  }

  /**
   * Changes the budgets of the tiers at once; what no longer fits is evicted.
   *
   * @example
   * ```ts
   * await engine.cache.setBudgets({ ramBytes: 512 * 2 ** 20, diskBytes: 8 * 2 ** 30 });
   * console.log((await engine.cache.stats()).ram.budgetBytes === 512 * 2 ** 20); // true
   * ```
   */
  async setBudgets(budgets: {
    ramBytes?: number | undefined;
    diskBytes?: number | undefined;
  }): Promise<void> {
    await this.call({ method: "cacheBudgets", ...budgetsRule.read(budgets, "budgets") });
  }

  /**
   * Writes a prompt's stored blocks into one file, for `import` here or elsewhere. The file ends before the first block that is
   * not stored; `missing` counts that block and those after it.
   * @param options.sign signs the file. The key does not leave this thread.
   * @throws TidepoolError `unsupported` if this runtime cannot sign, `invalid_argument` if the key is not a signing key
   *
   * @example
   * ```ts
   * const prompt = "The tide was low and ".repeat(16);
   * await engine.warm(prompt);
   * await engine.cache.drain();
   * const { archive, blocks, missing } = await engine.cache.export(prompt);
   * console.log(blocks > 0, missing); // true 0
   * ```
   */
  async export(
    prompt: string | readonly ChatMessage[],
    options: { sign?: SigningKey } = {},
  ): Promise<ArchiveExport> {
    const { sign } = exportOptions.read(options, "");
    const answer = (await this.call({ method: "cacheExport", input: promptInput(prompt) })) as ArchiveExport;
    return sign === undefined ? answer : { ...answer, archive: await signArchive(answer.archive, sign) };
  }

  /**
   * Imports an exported file into this engine's namespace, entirely or not at all. The records' keys are recomputed from the
   * prompt that the file declares, but keys and values cannot be checked without computing them: **trust the maker of a file as
   * you trust the maker of code that you run**, list the public keys that you trust in `cache.trust`, or let the engine verify
   * part of the file.
   * @param options.verify how many blocks, chosen at random, the engine computes again and compares, with every recurrent state.
   * This takes as long as computing the prompt. Default 0: none. The number of blocks in the file: all.
   * @throws TidepoolError `invalid_file` if the file is damaged or holds anything but one prompt's records, `untrusted` if it is
   * not signed by a key of `cache.trust` or differs from what the model computes
   *
   * @example
   * ```ts
   * const prompt = "The tide was low and ".repeat(16);
   * await engine.warm(prompt);
   * const { archive } = await engine.cache.export(prompt);
   * const { keys, rejected } = await engine.cache.import(archive, { verify: 1 });
   * console.log(keys.length > 0, rejected); // true {}
   * ```
   */
  async import(archive: Uint8Array, options: { verify?: number } = {}): Promise<ArchiveImport> {
    const call = { archive: bytes.read(archive, "archive"), ...importOptions.read(options, "") };
    return (await this.call({ method: "cacheImport", ...call })) as ArchiveImport;
  }

  /**
   * A copy of the prefix tree as plain data: what the GPU holds, with the tiers that have copies, then what only RAM and disk
   * hold. The tree is read in slices, so that decoding continues.
   * @param limit the most blocks to include, 1 to 10,000 (default); those used last come first.
   * @throws TidepoolError `invalid_argument`.
   *
   * @example
   * ```ts
   * await engine.warm("The tide was low and ".repeat(16));
   * const { nodes } = await engine.cache.tree(100);
   * console.log(nodes.some(({ tiers }) => tiers.some((bits) => bits & TIER_GPU))); // true
   * ```
   */
  async tree(limit = MAX_TREE_BLOCKS): Promise<CacheTree> {
    return (await this.call({ method: "cacheTree", limit: treeLimit.read(limit, "limit") })) as CacheTree;
  }

  /**
   * Calls the listener with the cache's decisions from now on, in batches and at most 100 ms late: lookups; blocks and snapshots
   * kept, evicted, copied to a lower tier and restored; changes of the policy's weight. Without listeners events cost nothing.
   * Returns a function that removes the listener.
   * @throws TidepoolError `invalid_argument` if the listener is not a function.
   *
   * @example
   * ```ts
   * const stop = engine.cache.onEvent((events) => {
   *   for (const { kind } of events) console.log(kind);
   * });
   * await engine.warm("The tide was low and ".repeat(16));
   * stop();
   * ```
   */
  onEvent(listener: CacheEventListener): () => void {
    this.listeners.add(callback<CacheEventListener>().read(listener, "listener"));
    if (this.listeners.size === 1) this.watch(true);
    return () => {
      if (this.listeners.delete(listener) && this.listeners.size === 0) this.watch(false);
    };
  }

  /** @internal For the engine only. */
  hear(events: readonly CacheEvent[], dropped: number): void {
    for (const listener of this.listeners) listener(events, dropped);
  }

  /**
   * @internal For the prefill service: by what its records are told apart from those of other models and settings.
   */
  async prefillFacts(): Promise<PrefillFacts> {
    return (await this.call({ method: "prefillFacts" })) as PrefillFacts;
  }

  /**
   * @internal For the prefill service: computes a prompt as far as it is not cached. `next` resolves to its records from block `from`
   * on, each as soon as it is computed; in models with recurrent layers the state behind the last token comes last. `close` ends the
   * computing at once, and `next` then resolves to undefined.
   */
  async records({ tokens, from, cache }: Omit<PrefillAsk, "fingerprint">): Promise<RecordFeed> {
    const job = (await this.call({ method: "prefillOpen", tokens, from, cache })) as number;
    return {
      next: async () => (await this.call({ method: "prefillNext", job })) as PrefillRecord | undefined,
      close: () => background(this.call({ method: "prefillClose", job }).catch(ifClosed), "end of a prefill"),
    };
  }

  /** @internal For the engine whose prompts this one computes. */
  ask(call: PrefillCall): Promise<unknown> {
    return this.call(call);
  }

  private watch(on: boolean): void {
    background(this.call({ method: "cacheWatch", on }).catch(ifClosed), "watching the cache");
  }

  /**
   * Waits until everything computed so far is on disk, for at most `timeoutMs` (default 5,000). `left` counts the records that
   * still wait then.
   *
   * @example
   * ```ts
   * await engine.warm("The tide was low and ".repeat(16));
   * console.log(await engine.cache.drain()); // { left: 0 }
   * ```
   */
  async drain(timeoutMs = 5000): Promise<{ left: number }> {
    const given = drainTimeout.read(timeoutMs, "timeoutMs");
    return (await this.call({ method: "cacheDrain", timeoutMs: given })) as { left: number };
  }
}

/** An engine that has ended has nothing to tell or to end. */
function ifClosed(error: unknown): void {
  if (!(error instanceof TidepoolError)) throw error;
}

/**
 * A store that no engine has open, such as a folder that another process wrote. Each call opens and closes it.
 *
 * @example
 * ```ts
 * const stored = new StoredCache({ directory: "stored-kv" });
 * const { disk } = await stored.stats();
 * console.log(`${disk.records} records, ${disk.bytes} of ${disk.budgetBytes} bytes`);
 * ```
 */
export class StoredCache {
  private readonly options: CacheOptions;

  /**
   * @param options where the store is, as in the `cache` option of `Engine.load`
   * @throws TidepoolError `invalid_argument`
   */
  constructor(options: CacheOptions) {
    this.options = cacheOptions.read(options, "");
  }

  /**
   * Sizes and counts of the lower tiers.
   *
   * @example
   * ```ts
   * const { disk } = await new StoredCache({ directory: "stored-kv" }).stats();
   * console.log(disk.state); // e.g. open
   * ```
   */
  async stats(): Promise<Pick<CacheStats, "tiers" | "ram" | "disk">> {
    return (await this.ask({ method: "cacheStats" })) as Pick<CacheStats, "tiers" | "ram" | "disk">;
  }

  /**
   * Lists all records.
   *
   * @example
   * ```ts
   * const entries = await new StoredCache({ directory: "stored-kv" }).list();
   * const bytes = entries.reduce((sum, entry) => sum + entry.bytes, 0);
   * ```
   */
  async list(): Promise<CacheEntry[]> {
    return (await this.ask({ method: "cacheList" })) as CacheEntry[];
  }

  /**
   * Reads and checks every record. Bad records are dropped and counted by reason.
   *
   * @example
   * ```ts
   * const { bad } = await new StoredCache({ directory: "stored-kv" }).verify();
   * console.log(bad); // {}
   * ```
   */
  async verify(): Promise<{ checked: number; bad: Record<string, number> }> {
    return (await this.ask({ method: "cacheVerify" })) as { checked: number; bad: Record<string, number> };
  }

  /**
   * Removes all records, or those of one namespace.
   *
   * @example
   * ```ts
   * await new StoredCache({ directory: "stored-kv" }).clear({ namespace: "guest" });
   * ```
   */
  async clear(options: { namespace?: string | undefined } = {}): Promise<void> {
    await this.ask({ method: "cacheClear", ...clearOptions.read(options, "") });
  }

  /**
   * Imports an exported file into the namespace of the options, entirely or not at all. Without a model nothing can be verified:
   * trust the maker of the file, or list the public keys that you trust in `trust`.
   * @throws TidepoolError `invalid_file`, `untrusted` as `EngineCache.import`.
   *
   * @example
   * ```ts
   * const prompt = "The tide was low and ".repeat(16);
   * await engine.warm(prompt);
   * const { archive } = await engine.cache.export(prompt);
   * const { keys } = await new StoredCache({ directory: "stored-kv" }).import(archive);
   * console.log(keys.length > 0); // true
   * ```
   */
  async import(archive: Uint8Array): Promise<ArchiveImport> {
    const call = { method: "cacheImport", archive: bytes.read(archive, "archive") } as const;
    return (await this.ask(call)) as ArchiveImport;
  }

  private ask(call: StoreCall): Promise<unknown> {
    return askWorker({ type: "store", options: this.options, call });
  }
}
