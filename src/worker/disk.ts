/**
 * Opens the lower tiers for this platform: RAM, and a disk that is OPFS or IndexedDB in browsers and a folder in Node and
 * Deno. What the platform lacks is told as a notice, never hidden.
 */
import { RUNTIME } from "../base.ts";
import type { Backend } from "../tier/backend.ts";
import { IdbBackend } from "../tier/idb.ts";
import { spawnOpfsBackend } from "../tier/opfs-spawn.ts";
import { TierStore } from "../tier/store.ts";
import type { CacheOptions, Notice } from "./protocol.ts";

/** Budgets where the caller names none. */
const DEFAULT_RAM_BYTES = 256 * 2 ** 20;
const DEFAULT_DISK_BYTES = 2 ** 30;

/** The disk's budget is at most this share of what the origin may store. */
const QUOTA_SHARE = 0.5;

const FOLDER = "tidepool-kv";

const NO_OPFS: Notice = {
  code: "opfs_unavailable",
  message: "no OPFS here, as in some private windows: the disk tier is IndexedDB",
};

/** How often idle work (compaction, expiry) is done. */
const MAINTAIN_EVERY_MS = 60_000;

export async function openStore(
  options: CacheOptions,
  onNotice: (notice: Notice) => void,
): Promise<TierStore> {
  const disk = diskMaker(options, onNotice);
  return TierStore.open({
    ramBytes: options.ramBytes ?? DEFAULT_RAM_BYTES,
    diskBytes: await diskBudget(options),
    maintainEveryMs: MAINTAIN_EVERY_MS,
    ...(disk && { disk }),
    ...(disk && RUNTIME === "browser" && { newsChannel: options.directory ?? FOLDER }),
    ...(options.atRestBits && { atRestBits: options.atRestBits }),
    onNotice: (code, message) => onNotice({ code, message }),
  });
}

function diskMaker(
  options: CacheOptions,
  onNotice: (notice: Notice) => void,
): (() => Backend | Promise<Backend>) | undefined {
  if (options.disk === false) return undefined;
  const { directory } = options;
  if (RUNTIME !== "browser") return directory === undefined ? undefined : folderMaker(directory, onNotice);
  const folder = directory ?? FOLDER;
  let isTold = false;
  return async () => {
    if (await hasOpfs()) return spawnOpfsBackend({ folder });
    if (!isTold) onNotice(NO_OPFS);
    isTold = true;
    return new IdbBackend(folder);
  };
}

/** The module is imported when needed: browsers have no `node:fs`. */
function folderMaker(directory: string, onNotice: (notice: Notice) => void): () => Promise<Backend> {
  let isTold = false;
  const onExposed = (message: string): void => {
    if (!isTold) onNotice({ code: "cache_exposed", message });
    isTold = true;
  };
  return async () => (await import("../tier/files.ts")).openFilesBackend(directory, { onExposed });
}

async function diskBudget({ diskBytes }: CacheOptions): Promise<number> {
  if (diskBytes !== undefined || RUNTIME !== "browser") return diskBytes ?? DEFAULT_DISK_BYTES;
  try {
    const { quota } = await navigator.storage.estimate();
    return quota === undefined
      ? DEFAULT_DISK_BYTES
      : Math.min(DEFAULT_DISK_BYTES, Math.floor(quota * QUOTA_SHARE));
  } catch {
    return DEFAULT_DISK_BYTES; // a browser that keeps its quota to itself says so when it is full
  }
}

/** Private windows may have the method and refuse. */
export async function hasOpfs(): Promise<boolean> {
  try {
    await navigator.storage.getDirectory();
    return true;
  } catch {
    return false;
  }
}
