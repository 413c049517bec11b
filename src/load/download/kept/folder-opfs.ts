/**
 * Where browsers keep models: a folder of the origin private file system. Parts are written through synchronous handles,
 * which exist in dedicated workers only; a file that is complete is read as a Blob, by any number of tabs. Locks are Web
 * Locks, which the browser gives back when a tab dies.
 */
import { TidepoolError } from "../../../errors.ts";
import { storageError, type ModelFolder, type Part, type Release } from "./model-folder.ts";
import { openBlob, type Source } from "../../source.ts";

/** The part of FileSystemSyncAccessHandle that is used; the DOM library leaves it out. */
interface SyncHandle {
  read(buffer: Uint8Array, options: { at: number }): number;
  write(buffer: Uint8Array, options: { at: number }): number;
  truncate(bytes: number): void;
  flush(): void;
  getSize(): number;
  close(): void;
}

type WorkerFileHandle = FileSystemFileHandle & { createSyncAccessHandle(): Promise<SyncHandle> };

/** The folder of this name, created if it is missing; undefined if there is no OPFS, as in some private windows. */
export async function openOpfsFolder(name: string): Promise<ModelFolder | undefined> {
  try {
    const root = await navigator.storage.getDirectory();
    return new OpfsFolder(await root.getDirectoryHandle(name, { create: true }));
  } catch {
    return undefined;
  }
}

class OpfsFolder implements ModelFolder {
  readonly place: string;
  private readonly directory: FileSystemDirectoryHandle;

  constructor(directory: FileSystemDirectoryHandle) {
    this.directory = directory;
    this.place = `the browser's storage (${directory.name})`;
  }

  list(): Promise<string[]> {
    return this.told("listing", async () => {
      const names: string[] = [];
      for await (const name of this.directory.keys()) names.push(name);
      return names;
    });
  }

  readSmall(name: string): Promise<Uint8Array | undefined> {
    return this.told(`reading ${name}`, async () => {
      const file = await this.fileOf(name);
      return file && new Uint8Array(await file.arrayBuffer());
    });
  }

  writeSmall(name: string, bytes: Uint8Array): Promise<void> {
    return this.told(`writing ${name}`, async () => {
      const handle = await this.handleOf(name);
      try {
        handle.truncate(0);
        writeAll(handle, 0, bytes);
        handle.flush();
      } finally {
        handle.close();
      }
    });
  }

  openPart(name: string): Promise<Part> {
    return this.told(`opening ${name}`, async () => new OpfsPart(this.place, await this.handleOf(name)));
  }

  openKept(name: string, sizeBytes: number, title: string): Promise<Source | undefined> {
    return this.told(`opening ${name}`, async () => {
      const file = await this.fileOf(name);
      return file?.size === sizeBytes ? openBlob(file, title) : undefined;
    });
  }

  remove(name: string): Promise<void> {
    return this.told(`removing ${name}`, async () => {
      try {
        await this.directory.removeEntry(name);
      } catch (error) {
        if (nameOf(error) !== "NotFoundError") throw error;
      }
    });
  }

  lock(key: string, signal?: AbortSignal): Promise<Release> {
    return webLock(`tidepool model ${this.directory.name} ${key}`, signal);
  }

  freeBytes(): Promise<number | undefined> {
    return quotaLeft();
  }

  private async handleOf(name: string): Promise<SyncHandle> {
    const file = (await this.directory.getFileHandle(name, { create: true })) as WorkerFileHandle;
    return file.createSyncAccessHandle();
  }

  private async fileOf(name: string): Promise<File | undefined> {
    try {
      return await (await this.directory.getFileHandle(name)).getFile();
    } catch (error) {
      if (nameOf(error) === "NotFoundError") return undefined;
      throw error;
    }
  }

  private async told<T>(doing: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw storageError(this.place, doing, error);
    }
  }
}

class OpfsPart implements Part {
  private readonly place: string;
  private readonly handle: SyncHandle;

  constructor(place: string, handle: SyncHandle) {
    this.place = place;
    this.handle = handle;
  }

  sizeBytes(): Promise<number> {
    return this.told("asking for a length", () => this.handle.getSize());
  }

  read(offset: number, bytes: Uint8Array): Promise<void> {
    return this.told("reading", () => {
      const read = this.handle.read(bytes, { at: offset });
      if (read !== bytes.length)
        throw new Error(`the file gave ${read} of ${bytes.length} bytes at ${offset}`);
    });
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    return this.told("writing", () => writeAll(this.handle, offset, bytes));
  }

  flush(): Promise<void> {
    return this.told("flushing", () => this.handle.flush());
  }

  close(): Promise<void> {
    return this.told("closing", () => this.handle.close());
  }

  private told<T>(doing: string, work: () => T): Promise<T> {
    try {
      return Promise.resolve(work());
    } catch (error) {
      return Promise.reject(storageError(this.place, doing, error));
    }
  }
}

/** A full quota shows as an exception or as a short write. */
function writeAll(handle: SyncHandle, offset: number, bytes: Uint8Array): void {
  const written = handle.write(bytes, { at: offset });
  if (written === bytes.length) return;
  throw new DOMException(`${written} of ${bytes.length} bytes could be written`, "QuotaExceededError");
}

/** A Web Lock, held until it is released or the tab dies. */
export function webLock(name: string, signal?: AbortSignal): Promise<Release> {
  return new Promise((resolve, reject) => {
    const hold = (): Promise<void> =>
      new Promise((free) => {
        resolve(async () => {
          free();
          await held;
        });
      });
    const held = navigator.locks
      .request(name, signal ? { signal } : {}, hold)
      .catch((error: unknown) =>
        reject(
          signal?.aborted
            ? new TidepoolError("aborted", "waiting for another tab's download was aborted")
            : (error as Error),
        ),
      );
  });
}

/** How many bytes the origin may still write; undefined if the browser does not report it. */
export async function quotaLeft(): Promise<number | undefined> {
  try {
    const { quota, usage } = await navigator.storage.estimate();
    return quota === undefined ? undefined : Math.max(0, quota - (usage ?? 0));
  } catch {
    return undefined;
  }
}

function nameOf(error: unknown): string {
  return String((error as { name?: unknown } | null)?.name ?? "");
}
