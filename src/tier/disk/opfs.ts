/**
 * The Medium of browsers: a folder of the origin private file system, through synchronous access handles, which exist in
 * dedicated workers only and block them: so it runs in a worker of its own (opfs-worker.ts), or in any dedicated worker
 * that may block.
 *
 * What the platform does, tried: while a handle is open nobody else can open or remove the file, not even to read; getFile()
 * works, but an older snapshot throws NotReadableError after an append. So each writer has files of its own (segments.ts),
 * is read by others through a fresh getFile(), and such a read is tried again. Web Locks are given back by the browser when
 * a tab dies, whatever it was doing.
 */
import {
  MediumError,
  type Appender,
  type FileSize,
  type Medium,
  type MediumFault,
  type Lock,
} from "./backend.ts";
import { SegmentBackend, type SegmentOptions } from "./segments.ts";

/** How often a read that an append has disturbed is tried. */
const READ_ATTEMPTS = 5;

/** The part of FileSystemSyncAccessHandle that is used; the DOM library leaves it out. */
interface SyncHandle {
  read(buffer: Uint8Array, options: { at: number }): number;
  write(buffer: Uint8Array, options: { at: number }): number;
  flush(): void;
  getSize(): number;
  close(): void;
}

type WorkerFileHandle = FileSystemFileHandle & { createSyncAccessHandle(): Promise<SyncHandle> };

/** A Backend on an OPFS folder of this name, which is made if it is missing. Throws "unsupported" where OPFS is. */
export async function openOpfsBackend(folder: string, options: SegmentOptions = {}): Promise<SegmentBackend> {
  return tell(folder, async () => {
    if (typeof navigator.storage?.getDirectory !== "function" || navigator.locks === undefined) {
      throw new MediumError("unsupported", "no OPFS or no Web Locks here");
    }
    const root = await navigator.storage.getDirectory();
    const directory = await root.getDirectoryHandle(folder, { create: true });
    return new SegmentBackend(new OpfsMedium(directory), options);
  });
}

class OpfsMedium implements Medium {
  readonly name = "opfs";
  private readonly directory: FileSystemDirectoryHandle;
  private readonly writing = new Map<string, SyncHandle>();
  private isCleared = false;

  constructor(directory: FileSystemDirectoryHandle) {
    this.directory = directory;
  }

  list(): Promise<FileSize[]> {
    return tell(this.directory.name, async () => {
      const names: string[] = [];
      for await (const name of this.directory.keys()) names.push(name);
      const files = await Promise.all(names.map((name) => this.sizeOf(name)));
      return files.filter((file) => file !== undefined);
    });
  }

  private async sizeOf(name: string): Promise<FileSize | undefined> {
    const handle = this.writing.get(name);
    if (handle !== undefined) return { name, bytes: handle.getSize() };
    try {
      const file = await this.directory.getFileHandle(name);
      return { name, bytes: (await file.getFile()).size };
    } catch (error) {
      if (nameOf(error) === "NotFoundError" || nameOf(error) === "TypeMismatchError") return undefined;
      throw error;
    }
  }

  create(name: string): Promise<Appender> {
    return tell(name, async () => {
      const file = (await this.directory.getFileHandle(name, { create: true })) as WorkerFileHandle;
      const handle = await file.createSyncAccessHandle();
      this.writing.set(name, handle);
      return new OpfsAppender(name, handle, {
        assertThere: () => this.assertThere(name),
        close: () => this.closeHandle(name, handle),
      });
    });
  }

  /** Nobody can remove a file while its handle is open, except the user who clears the site's data. */
  private async assertThere(name: string): Promise<void> {
    try {
      await this.directory.getFileHandle(name);
    } catch (error) {
      this.isCleared = true;
      throw error;
    }
  }

  /** Seen in Chromium: closing a handle after its file was cleared blocks for ever; it goes with the worker. */
  private closeHandle(name: string, handle: SyncHandle): void {
    this.writing.delete(name);
    if (!this.isCleared) handle.close();
  }

  read(name: string, offset: number, length: number): Promise<Uint8Array> {
    return tell(name, async () => {
      const handle = this.writing.get(name);
      if (handle !== undefined) return readThrough(handle, offset, length);
      const file = await this.directory.getFileHandle(name);
      return readSnapshot(file, offset, length);
    });
  }

  remove(name: string): Promise<void> {
    return tell(name, async () => {
      try {
        await this.directory.removeEntry(name);
      } catch (error) {
        if (nameOf(error) !== "NotFoundError") throw error;
      }
    });
  }

  lock(writer: string): Promise<Lock | undefined> {
    return tell(writer, () => takeWebLock(`${this.directory.name}/${writer}`));
  }

  close(): Promise<void> {
    for (const [name, handle] of [...this.writing]) this.closeHandle(name, handle);
    return Promise.resolve();
  }
}

function readThrough(handle: SyncHandle, offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(Math.max(0, Math.min(length, handle.getSize() - offset)));
  const filled = bytes.length === 0 ? 0 : handle.read(bytes, { at: offset });
  return filled === bytes.length ? bytes : bytes.slice(0, filled);
}

/** Reads from a fresh snapshot of the file, again if its writer appended meanwhile. */
async function readSnapshot(file: FileSystemFileHandle, offset: number, length: number): Promise<Uint8Array> {
  for (let attempt = 1; ; attempt++) {
    try {
      const snapshot = await file.getFile();
      return new Uint8Array(await snapshot.slice(offset, offset + length).arrayBuffer());
    } catch (error) {
      if (nameOf(error) !== "NotReadableError" || attempt === READ_ATTEMPTS) throw error;
    }
  }
}

/**
 * Takes a Web Lock if it is free, and keeps it until it is given back. A frozen page keeps its locks; only a holder with
 * `steal` could take one from it, and the request then ends.
 */
function takeWebLock(name: string): Promise<Lock | undefined> {
  return new Promise((resolve, reject) => {
    let isHeld = true;
    const held = navigator.locks.request(name, { ifAvailable: true }, (lock) => {
      if (lock === null) {
        resolve(undefined);
        return undefined;
      }
      return new Promise<void>((giveBack) => {
        const release = async (): Promise<void> => {
          giveBack();
          await held.catch(() => undefined); // a lock that was stolen is given back too
        };
        resolve({ release, isHeld: () => Promise.resolve(isHeld) });
      });
    });
    held.finally(() => (isHeld = false)).catch(reject);
  });
}

interface AppenderHooks {
  /** Fails if the file is no longer in its folder. */
  assertThere(): Promise<void>;
  close(): void;
}

class OpfsAppender implements Appender {
  private readonly name: string;
  private readonly handle: SyncHandle;
  private readonly hooks: AppenderHooks;
  private end: number;

  constructor(name: string, handle: SyncHandle, hooks: AppenderHooks) {
    this.name = name;
    this.handle = handle;
    this.hooks = hooks;
    this.end = handle.getSize();
  }

  append(parts: readonly Uint8Array[]): Promise<void> {
    return tell(this.name, async () => {
      for (const part of parts) {
        const written = this.handle.write(part, { at: this.end });
        if (written !== part.length) {
          await this.hooks.assertThere(); // what Chromium gives for a cleared file is no count at all
          throw new MediumError("full", `${this.name}: wrote ${written} of ${part.length} bytes`);
        }
        this.end += written;
      }
    });
  }

  /** A handle outlives the removal of its file (the user clears the site's data): what it wrote would be lost in silence. */
  sync(): Promise<void> {
    return tell(this.name, async () => {
      this.handle.flush();
      await this.hooks.assertThere();
    });
  }

  close(): Promise<void> {
    return tell(this.name, () => this.hooks.close());
  }
}

const FAULTS: Readonly<Record<string, MediumFault>> = {
  QuotaExceededError: "full",
  NotFoundError: "gone",
  InvalidStateError: "closed",
  SecurityError: "unsupported",
  NotAllowedError: "unsupported",
};

function nameOf(error: unknown): string {
  return error instanceof Error || error instanceof DOMException ? error.name : "";
}

/** Runs a file operation and says of its failure which file and which of our faults it is. */
async function tell<T>(name: string, work: () => T | Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof MediumError) throw error;
    const text = error instanceof Error ? error.message : String(error);
    throw new MediumError(FAULTS[nameOf(error)] ?? "io", `${name}: ${text}`);
  }
}
