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

export { TIER_DISK, TIER_GPU, TIER_RAM } from "../wire/protocol.ts";

/** Hears of decisions; `dropped`: how many got lost before these because too many came at once. */
export type CacheEventListener = (events: readonly CacheEvent[], dropped: number) => void;

/** A prompt's blocks as one file. */
export interface ArchiveExport {
  archive: Uint8Array;
  /** Blocks in it. */
  blocks: number;
  /** Full blocks of the prompt that are not. */
  missing: number;
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
  async clear(options: { namespace?: string | undefined } = {}): Promise<void> {
    await this.call({ method: "cacheClear", ...clearOptions.read(options, "") });
  }

  /** Changes budgets while running; what no longer fits is evicted. */
  async setBudgets(budgets: {
    ramBytes?: number | undefined;
    diskBytes?: number | undefined;
  }): Promise<void> {
    await this.call({ method: "cacheBudgets", ...budgetsRule.read(budgets, "budgets") });
  }

  /**
   * A prompt's stored blocks as one file, for `import` here or elsewhere, up to the first that is not stored. `missing`:
   * that one and those behind it.
   * @param options.sign signs the file. The key does not leave this thread.
   * @throws TidepoolError `unsupported` if this runtime cannot sign, `invalid_argument` if the key is none
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
   * Takes in an exported file, whole or not at all, into this engine's namespace. Its keys are recomputed from the prompt
   * that it declares, but keys and values cannot be checked without computing them: **trust its maker as you trust the
   * maker of code that you run**, name the keys that you trust in `cache.trust`, or let some of it be computed again.
   * @param options.verify so many blocks, chosen at random, and every recurrent state are compared with what the model
   * computes, which takes as long as computing the prompt does (default 0: none; as many as it has: all)
   * @throws TidepoolError `invalid_file` if it is damaged or holds anything but one prompt's records, `untrusted` if it is
   * not signed by a key of `cache.trust` or differs from what the model computes
   */
  async import(archive: Uint8Array, options: { verify?: number } = {}): Promise<ArchiveImport> {
    const call = { archive: bytes.read(archive, "archive"), ...importOptions.read(options, "") };
    return (await this.call({ method: "cacheImport", ...call })) as ArchiveImport;
  }

  /**
   * The prefix tree as it is now, as plain data: what the GPU holds with the tiers that have copies, and behind it what only
   * RAM and disk hold. Read in slices, so that decoding goes on.
   * @param limit blocks at most, 1 to 10,000 (default); what was used last goes first.
   * @throws TidepoolError `invalid_argument`.
   */
  async tree(limit = MAX_TREE_BLOCKS): Promise<CacheTree> {
    return (await this.call({ method: "cacheTree", limit: treeLimit.read(limit, "limit") })) as CacheTree;
  }

  /**
   * Tells of the cache's decisions from now on, in batches, a tenth of a second late at most: lookups, blocks and snapshots
   * kept, evicted, copied down and brought back, changes of the policy's weight. Nothing is told, and nothing spent, while
   * nobody listens. Returns a function that ends it.
   * @throws TidepoolError `invalid_argument` for what is no function.
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

  private watch(on: boolean): void {
    const asked = this.call({ method: "cacheWatch", on }).catch((error: unknown) => {
      if (!(error instanceof TidepoolError)) throw error; // an engine that has ended tells nothing
    });
    background(asked, "watching the cache");
  }

  /** Waits until what was computed so far is on the disk, at most `timeoutMs` (default 5,000). */
  async drain(timeoutMs = 5000): Promise<{ left: number }> {
    const given = drainTimeout.read(timeoutMs, "timeoutMs");
    return (await this.call({ method: "cacheDrain", timeoutMs: given })) as { left: number };
  }
}

/** A store that no engine has open, such as a folder that another process left. Each call opens and closes it. */
export class StoredCache {
  private readonly options: CacheOptions;

  /**
   * `options` says where the store lies, as when a model is loaded.
   * @throws TidepoolError `invalid_argument`.
   */
  constructor(options: CacheOptions) {
    this.options = cacheOptions.read(options, "");
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
  async clear(options: { namespace?: string | undefined } = {}): Promise<void> {
    await this.ask({ method: "cacheClear", ...clearOptions.read(options, "") });
  }

  /**
   * Takes in an exported file, whole or not at all, into the namespace of the options. Nothing of it is computed again,
   * as there is no model: trust its maker, or name the keys that you trust in `trust`.
   * @throws TidepoolError `invalid_file`, `untrusted` as `EngineCache.import`.
   */
  async import(archive: Uint8Array): Promise<ArchiveImport> {
    const call = { method: "cacheImport", archive: bytes.read(archive, "archive") } as const;
    return (await this.ask(call)) as ArchiveImport;
  }

  private ask(call: StoreCall): Promise<unknown> {
    return askWorker({ type: "store", options: this.options, call });
  }
}
