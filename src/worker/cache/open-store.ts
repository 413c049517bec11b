/**
 * Opens the lower tiers for this platform: RAM, and a disk that is OPFS or IndexedDB in browsers and a folder in Node and
 * Deno. What the platform lacks is told as a notice, never hidden.
 */
import { RUNTIME } from "../../base.ts";
import type { Backend } from "../../tier/disk/backend.ts";
import { IdbBackend } from "../../tier/disk/idb.ts";
import { spawnOpfsBackend } from "../../tier/disk/opfs-start.ts";
import { TierStore } from "../../tier/store/store.ts";
import { diskBudget, ramBudget } from "./budgets.ts";
import type { CacheOptions, Notice } from "../../wire/protocol.ts";

const FOLDER = "tidepool-kv";

/** What is lost without OPFS, as a notice when the store is opened and among the capabilities. */
export const NO_OPFS: Notice = {
  code: "no_opfs",
  message:
    "the browser offers no OPFS here, as in some private windows: stored prompts go to IndexedDB, which is slower and may be cleared sooner; an ordinary window of a current browser has it",
};

/** How often idle work (compaction, expiry) is done. */
const MAINTAIN_EVERY_MS = 60_000;

/** @param kvBytesPerToken of the model whose blocks are stored; 0: no model is loaded */
export async function openStore(
  options: CacheOptions,
  onNotice: (notice: Notice) => void,
  kvBytesPerToken = 0,
): Promise<TierStore> {
  const disk = diskMaker(options, onNotice);
  return TierStore.open({
    ramBytes: ramBudget(options, kvBytesPerToken),
    diskBytes: await diskBudget(options),
    maintainEveryMs: MAINTAIN_EVERY_MS,
    ...(disk && { disk }),
    ...(disk && RUNTIME === "browser" && { hintsChannel: options.directory ?? FOLDER }),
    ...(options.atRestBits && { atRestBits: options.atRestBits }),
    ...(options.atRestStateBits && { atRestStateBits: options.atRestStateBits }),
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
  return async () => (await import("../../tier/disk/files.ts")).openFilesBackend(directory, { onExposed });
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
