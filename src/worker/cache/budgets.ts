/**
 * Budgets of the lower tiers where the caller names none: from what the device has, and from what a token of the model
 * takes. It opens no store.
 */
import { RUNTIME } from "../../base.ts";
import type { CacheOptions } from "../../wire/protocol.ts";

/** The RAM tier holds this many tokens of the model, within the bounds below. */
const RAM_TOKENS = 32_768;
const MIN_RAM_BYTES = 256 * 2 ** 20;

/** The RAM tier takes at most this share of the machine's memory. */
const RAM_SHARE = 1 / 8;

/** Taken for the machine's memory where the platform does not tell it, as Firefox and Safari do not. */
const UNKNOWN_MEMORY_BYTES = 4 * 2 ** 30;

/**
 * The disk tier holds this much at most. It does not depend on the model, because models share one store: an engine with a
 * smaller budget would evict what another one has kept.
 */
const MAX_DISK_BYTES = 4 * 2 ** 30;

/** Taken where neither quota nor disk size can be found out. */
const UNKNOWN_DISK_BYTES = 2 ** 30;

/** The disk tier takes at most these shares: of what a browser lets the origin store, of the file system elsewhere. */
const QUOTA_SHARE = 1 / 2;
const FILE_SYSTEM_SHARE = 1 / 10;

/** @param kvBytesPerToken of the model; 0 if none is loaded, or if it keeps no keys and values */
export function ramBudget({ ramBytes }: CacheOptions, kvBytesPerToken: number): number {
  if (ramBytes !== undefined) return ramBytes;
  const most = Math.max(MIN_RAM_BYTES, RAM_SHARE * memoryBytes());
  return Math.floor(Math.min(most, Math.max(MIN_RAM_BYTES, RAM_TOKENS * kvBytesPerToken)));
}

export async function diskBudget({ diskBytes, directory }: CacheOptions): Promise<number> {
  if (diskBytes !== undefined) return diskBytes;
  const room = RUNTIME === "browser" ? await quotaRoom() : fileSystemRoom(directory);
  return Math.floor(Math.min(MAX_DISK_BYTES, room ?? UNKNOWN_DISK_BYTES));
}

function memoryBytes(): number {
  if (RUNTIME !== "browser") return process.getBuiltinModule("node:os").totalmem();
  // In GiB, rounded, at most 8 in today's browsers: https://developer.mozilla.org/docs/Web/API/Navigator/deviceMemory
  const { deviceMemory } = navigator as { deviceMemory?: number };
  return deviceMemory === undefined ? UNKNOWN_MEMORY_BYTES : deviceMemory * 2 ** 30;
}

/** A browser that does not tell its quota reports it when it is full. */
async function quotaRoom(): Promise<number | undefined> {
  try {
    const { quota } = await navigator.storage.estimate();
    return quota === undefined ? undefined : QUOTA_SHARE * quota;
  } catch {
    return undefined;
  }
}

function fileSystemRoom(directory: string | undefined): number | undefined {
  if (directory === undefined) return undefined;
  try {
    const { blocks, bsize } = process.getBuiltinModule("node:fs").statfsSync(existingFolder(directory));
    return FILE_SYSTEM_SHARE * blocks * bsize;
  } catch {
    return undefined; // the store says what is wrong with a folder that cannot be used
  }
}

/** The folder, or the nearest one above it that exists already. */
function existingFolder(directory: string): string {
  const { existsSync } = process.getBuiltinModule("node:fs");
  const { dirname, resolve } = process.getBuiltinModule("node:path");
  let folder = resolve(directory);
  while (!existsSync(folder) && dirname(folder) !== folder) folder = dirname(folder);
  return folder;
}
