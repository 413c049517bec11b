/**
 * Which disk this runtime has: a folder in Node and Deno, OPFS in a browser, IndexedDB where OPFS is missing or refuses
 * (private mode). And how much of it to use. It opens nothing that the store does not ask for.
 */
import type { Backend } from "./backend.ts";
import { IdbBackend } from "./idb.ts";
import { spawnOpfsBackend } from "./opfs-spawn.ts";

export type DiskKind = "files" | "opfs" | "idb" | "none";

/** The share of what the browser grants that the store takes by default. */
export const DEFAULT_QUOTA_SHARE = 0.5;
/** The default budget where nobody tells how much there is. */
export const DEFAULT_DISK_BYTES = 4 * 2 ** 30;

/** Finds out which disk there is, by trying. */
export async function detectDisk(): Promise<DiskKind> {
  if (typeof process !== "undefined" && process.versions?.node !== undefined) return "files";
  if (await opfsWorks()) return "opfs";
  return typeof indexedDB === "undefined" ? "none" : "idb";
}

async function opfsWorks(): Promise<boolean> {
  if (typeof Worker === "undefined" || navigator.locks === undefined) return false;
  try {
    await navigator.storage.getDirectory();
    return true;
  } catch {
    return false; // private mode, or a site that may not store
  }
}

/**
 * Makes a backend, not open yet, for the store's `disk` option.
 * @param place a folder's path ("files"), or the name of a folder or database of this origin
 */
export async function makeDisk(
  kind: Exclude<DiskKind, "none">,
  place: string,
  segmentBytes?: number,
): Promise<Backend> {
  const options = segmentBytes === undefined ? {} : { segmentBytes };
  if (kind === "opfs") return spawnOpfsBackend({ folder: place, ...options });
  if (kind === "idb") return new IdbBackend(place);
  const { openFilesBackend } = await import("./files.ts");
  return openFilesBackend(place, options);
}

/** A budget for the disk tier from what the browser grants; DEFAULT_DISK_BYTES where it does not say. */
export async function suggestDiskBytes(): Promise<number> {
  if (typeof navigator === "undefined" || navigator.storage?.estimate === undefined)
    return DEFAULT_DISK_BYTES;
  const { quota } = await navigator.storage.estimate();
  return quota === undefined ? DEFAULT_DISK_BYTES : Math.floor(quota * DEFAULT_QUOTA_SHARE);
}
