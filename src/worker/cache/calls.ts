/**
 * The calls behind `engine.cache`: numbers, list, check, clearing, budgets, export and import of prefixes.
 */
import type { PrefixCache } from "../../cache/prefix.ts";
import type { AlphaTuner } from "../../cache/policy/alpha-tuner.ts";
import { TidepoolError } from "../../errors.ts";
import type { CostModel } from "../../schedule/cost/model.ts";
import type { Scheduler } from "../../schedule/scheduler.ts";
import { noStats } from "../../tier/store/store-stats.ts";
import type { TierStore } from "../../tier/store/store.ts";
import type { Runner } from "../../model/runner.ts";
import { exportPrefix } from "../../tier/store/prefix-file.ts";
import { importIntoEngine, importIntoStore } from "./archives.ts";
import type { CheckRooms } from "./spot-check.ts";
import type { CacheWatch } from "./watch.ts";
import type { TierMover } from "./tier-mover.ts";
import type {
  ArchiveImport,
  CacheEntry,
  CacheOptions,
  CacheStats,
  Call,
  StoreCall,
} from "../../wire/protocol.ts";

/** What the calls look at. */
export interface CacheRooms {
  cache: PrefixCache;
  scheduler: Scheduler;
  runner: Runner;
  mover: TierMover | undefined;
  tuner: AlphaTuner | undefined;
  watch: CacheWatch;
  costs: CostModel;
}

type CacheCall = Extract<Call, { method: `cache${string}` }>;

/** Answers every cache call but export and import, which need the model. @throws TidepoolError `unsupported`. */
export async function answerCacheCall(
  rooms: CacheRooms,
  call: Exclude<CacheCall, { method: "cacheExport" | "cacheImport" }>,
): Promise<unknown> {
  switch (call.method) {
    case "cacheStats":
      return cacheStats(rooms);
    case "cacheList":
      return storeOf(rooms).list().map(entryOf);
    case "cacheVerify":
      return storeOf(rooms).verify();
    case "cacheClear":
      return clear(rooms, call.namespace);
    case "cacheBudgets": {
      const { method: _method, ...budgets } = call;
      return storeOf(rooms).setBudgets(budgets);
    }
    case "cacheTree":
      return rooms.watch.tree(call.limit);
    case "cacheWatch":
      return rooms.watch.turn(call.on);
    case "cacheDrain":
      return rooms.mover ? rooms.mover.drain(call.timeoutMs) : { left: 0 };
  }
}

/** Answers a call about a store that no session has open. */
export async function answerStoreCall(
  store: TierStore,
  call: StoreCall,
  options: CacheOptions,
): Promise<unknown> {
  switch (call.method) {
    case "cacheStats": {
      const { queue: _queue, ...stats } = await store.stats();
      return stats;
    }
    case "cacheList":
      return store.list().map(entryOf);
    case "cacheVerify":
      return store.verify();
    case "cacheClear":
      return store.clear(call.namespace === undefined ? {} : { namespace: call.namespace });
    case "cacheImport":
      return importIntoStore(store, call.archive, options);
  }
}

/** A prompt's stored blocks as one file, up to the first that is in no lower tier; `missing`: that one and those behind it. */
export async function exportTokens(
  rooms: CacheRooms,
  tokens: readonly number[],
): Promise<{ archive: Uint8Array; blocks: number; missing: number }> {
  const mover = moverOf(rooms);
  const sequence = { tokens, storage: "disk" } as const;
  const state = mover.lastState(sequence);
  return exportPrefix(mover.store, {
    fingerprint: mover.fingerprint,
    blockTokens: rooms.runner.options.blockTokens,
    ...{ tokens, keys: mover.keysOf(sequence) },
    ...(state && { state }),
  });
}

/** Takes an archive in. @throws TidepoolError as `importIntoEngine`. */
export function importArchive(
  rooms: CacheRooms & CheckRooms,
  { archive, verify }: Extract<Call, { method: "cacheImport" }>,
  { trust }: CacheOptions,
): Promise<ArchiveImport> {
  const options = { ...(verify !== undefined && { verify }), ...(trust && { trust }) };
  return importIntoEngine(rooms, moverOf(rooms), archive, options);
}

async function cacheStats({ cache, runner, mover, tuner, costs }: CacheRooms): Promise<CacheStats> {
  const { lookups, tokensAsked, tokensMatched, branchHits, endHits, flopsSaved, evictions } = cache.stats;
  const blocks = cache.poolCounts();
  const { slotBytes } = runner.states;
  const states = cache.snapshots?.snapshotCounts() ?? { total: 0, free: 0, cached: 0, inUse: 0 };
  const snapshots = {
    ...states,
    taken: cache.stats.snapshotsTaken,
    evicted: cache.stats.snapshotsEvicted,
    bytes: (states.cached + states.inUse) * slotBytes,
  };
  const gpu = {
    ...{ blocks, bytes: (blocks.cached + blocks.inUse) * runner.pool.slotBytes, snapshots },
    ...{ policy: cache.policy.name, alphaChanges: tuner?.changes ?? 0, branchHits, endHits },
    ...(cache.policy.alpha !== undefined && { alpha: cache.policy.alpha }),
  };
  const { tiers, ram, disk, queue } = (await mover?.store.stats()) ?? noStats();
  return {
    gpu: { ...gpu, lookups, tokensAsked, tokensMatched, flopsSaved, evictions },
    ...{ tiers, ram, disk },
    timeSavedMs: { gpu: 0, ram: 0, disk: 0, ...costs.timeSavedMs },
    spillsDropped: mover?.dropped ?? 0,
    waiting: queue.records,
  };
}

async function clear(rooms: CacheRooms, namespace: string | undefined): Promise<void> {
  if (namespace === undefined || namespace === rooms.mover?.namespace) {
    rooms.scheduler.forget();
    await rooms.mover?.forgetAll();
  }
  await rooms.mover?.store.clear(namespace === undefined ? {} : { namespace });
}

function storeOf(rooms: CacheRooms): TierStore {
  return moverOf(rooms).store;
}

function moverOf({ mover }: CacheRooms): TierMover {
  if (mover) return mover;
  throw new TidepoolError("unsupported", "the engine runs without lower cache tiers");
}

function entryOf(entry: ReturnType<TierStore["list"]>[number]): CacheEntry {
  const { key, kind, blockIndex, tokenCount, bytes, createdAtMs, tiers, coarsest } = entry;
  const exact = coarsest === "raw";
  return { key, kind, blockIndex, tokens: tokenCount, bytes, createdAtMs, tiers, exact };
}
