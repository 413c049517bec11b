/**
 * Where Node and Deno keep models: a folder of the file system, by default in the user's cache. Import it there only.
 * Locks between processes are src/platform/file-lock.ts, looked at again every LOCK_POLL_MS by those who wait.
 */
import { lstat, readdir, rename, statfs, unlink } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { TidepoolError } from "../../../errors.ts";
import { takeFileLock } from "../../../platform/file-lock.ts";
import {
  codeOf,
  makePrivateFolder,
  openPrivateFile,
  readPrivateFile,
  writePrivateFile,
} from "../../../platform/private-files.ts";
import { storageError, type ModelFolder, type Part, type Release } from "./model-folder.ts";
import { openPath, type Source } from "../../source.ts";

/** How often a process that waits for another's download looks whether it is done. */
const LOCK_POLL_MS = 200;

const LOCK_DIGITS = 16;

/** The environment's TIDEPOOL_MODELS, else a folder in the place that the platform has for caches. */
export function defaultModelsFolder(): string {
  const { env, platform } = process;
  if (env["TIDEPOOL_MODELS"]) return env["TIDEPOOL_MODELS"];
  const below = ["tidepool", "models"];
  if (platform === "win32") return join(env["LOCALAPPDATA"] ?? join(homedir(), "AppData", "Local"), ...below);
  if (platform === "darwin") return join(homedir(), "Library", "Caches", ...below);
  return join(env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), ...below);
}

/**
 * The folder is made if it is missing, for its owner alone. An existing one keeps its modes: models are no prompts, and a
 * machine's owner may have made it for several users. What is kept in it is its owner's alone in any case.
 */
export async function openFilesFolder(directory: string): Promise<ModelFolder> {
  await told(directory, "making the folder", () => makePrivateFolder(directory));
  return new FilesFolder(directory);
}

class FilesFolder implements ModelFolder {
  readonly place: string;

  constructor(directory: string) {
    this.place = directory;
  }

  list(): Promise<string[]> {
    return told(this.place, "listing", () => readdir(this.place));
  }

  readSmall(name: string): Promise<Uint8Array | undefined> {
    return told(this.place, `reading ${name}`, () => unlessAbsent(readWhole(join(this.place, name))));
  }

  async writeSmall(name: string, bytes: Uint8Array): Promise<void> {
    const path = join(this.place, name);
    await told(this.place, `writing ${name}`, async () => {
      await writePrivateFile(`${path}.new`, bytes, true);
      await rename(`${path}.new`, path);
    });
  }

  openPart(name: string): Promise<Part> {
    const path = join(this.place, name);
    return told(
      this.place,
      `opening ${name}`,
      async () => new FilePart(this.place, await openPrivateFile(path)),
    );
  }

  async openKept(name: string, sizeBytes: number, title: string): Promise<Source | undefined> {
    try {
      const path = join(this.place, name);
      if ((await unlessAbsent(lstat(path)))?.isFile() !== true) return undefined;
      const source = await openPath(path);
      if (source.sizeBytes === sizeBytes) return { ...source, name: title };
      await source.close();
      return undefined;
    } catch (error) {
      if (error instanceof TidepoolError && error.code === "not_found") return undefined;
      throw error;
    }
  }

  async remove(name: string): Promise<void> {
    await told(this.place, `removing ${name}`, () => unlessAbsent(unlink(join(this.place, name))));
  }

  async lock(key: string, signal?: AbortSignal): Promise<Release> {
    for (;;) {
      if (signal?.aborted)
        throw new TidepoolError("aborted", "waiting for another process's download was aborted");
      const lock = await told(this.place, "locking", () =>
        takeFileLock(this.place, key.slice(0, LOCK_DIGITS)),
      );
      if (lock !== undefined) return () => lock.release();
      await new Promise((resolve) => setTimeout(resolve, LOCK_POLL_MS));
    }
  }

  async freeBytes(): Promise<number | undefined> {
    const { bavail, bsize } = await told(this.place, "asking for free space", () => statfs(this.place));
    return bavail * bsize;
  }
}

class FilePart implements Part {
  private readonly place: string;
  private readonly handle: FileHandle;

  constructor(place: string, handle: FileHandle) {
    this.place = place;
    this.handle = handle;
  }

  async sizeBytes(): Promise<number> {
    return (await told(this.place, "asking for a length", () => this.handle.stat())).size;
  }

  read(offset: number, bytes: Uint8Array): Promise<void> {
    return told(this.place, "reading", async () => {
      for (let filled = 0; filled < bytes.length;) {
        const { bytesRead } = await this.handle.read(bytes, filled, bytes.length - filled, offset + filled);
        if (bytesRead === 0) throw new Error(`the file ends before byte ${offset + bytes.length}`);
        filled += bytesRead;
      }
    });
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    return told(this.place, "writing", async () => {
      for (let done = 0; done < bytes.length;) {
        const { bytesWritten } = await this.handle.write(bytes, done, bytes.length - done, offset + done);
        done += bytesWritten;
      }
    });
  }

  flush(): Promise<void> {
    return told(this.place, "flushing", () => this.handle.datasync());
  }

  close(): Promise<void> {
    return told(this.place, "closing", () => this.handle.close());
  }
}

async function told<T>(place: string, doing: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw storageError(place, doing, error);
  }
}

async function readWhole(path: string): Promise<Uint8Array> {
  const file = await readPrivateFile(path);
  return file.readFile().finally(() => file.close());
}

async function unlessAbsent<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw error;
  }
}
