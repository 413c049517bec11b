/**
 * The Medium of Node and Deno: a folder of the file system. Import it only there, and from a browser build only through a
 * dynamic import (`await import("./files.ts")`), because it needs `node:fs`.
 * Locks are src/platform/file-lock.ts. There is no cache here but open read handles, at most MAX_READ_HANDLES.
 */
import { lstat, open, readdir, unlink, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import {
  MediumError,
  type Appender,
  type FileSize,
  type Medium,
  type MediumFault,
  type Lock,
} from "./backend.ts";
import { systemClock, type Clock } from "../../base.ts";
import { takeFileLock } from "../../platform/file-lock.ts";
import {
  codeOf,
  createPrivateFile,
  isLoose,
  makePrivateFolder,
  readPrivateFile,
  tightenFile,
  tightenFolder,
} from "../../platform/private-files.ts";
import { GatheredReads } from "./gathered-reads.ts";
import { SegmentBackend, type SegmentOptions } from "./segments.ts";
import { writerOfFile } from "./segment-log.ts";

const MAX_READ_HANDLES = 16;
/** Buffers gathered in one write. Systems take 1,024 or more. */
const MAX_PARTS_A_WRITE = 256;

export interface FilesOptions extends SegmentOptions {
  /** Called with the reason if other users of this machine may look into the folder. */
  onExposed?: (message: string) => void;
  /** By which others' locks become stale. */
  clock?: Clock;
}

/**
 * A Backend on a folder, which is made if it is missing, for its owner alone. An existing folder with looser modes is
 * tightened if it holds nothing but a store's files; those are tightened in any case.
 */
export async function openFilesBackend(folder: string, options: FilesOptions = {}): Promise<SegmentBackend> {
  const { onExposed, clock, ...segmentOptions } = options;
  const exposed = await tell(folder, () => prepareFolder(folder));
  if (exposed !== undefined) onExposed?.(exposed);
  return new SegmentBackend(new FilesMedium(folder, clock), segmentOptions);
}

async function prepareFolder(folder: string): Promise<string | undefined> {
  await makePrivateFolder(folder);
  const names = await readdir(folder);
  const stored = names.filter((name) => writerOfFile(name) !== undefined);
  for (const name of stored) await unlessGone(tightenFile(join(folder, name)));
  const stranger = names.find((name) => writerOfFile(name) === undefined);
  return stranger === undefined ? tightenFolder(folder) : exposureOf(folder, stranger);
}

/** A folder that is used for something else too keeps its modes: tightening /tmp would break a machine. */
async function exposureOf(folder: string, stranger: string): Promise<string | undefined> {
  if (!(await isLoose(folder))) return undefined;
  return `${folder} can be listed by other users and keeps its mode, because it holds other files (${stranger}): name a folder for the cache alone`;
}

/** Another process may remove its files at any time. */
async function unlessGone(work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error;
  }
}

/** An open read handle and how many reads are using it. */
interface Reader {
  file: FileHandle;
  reads: GatheredReads;
  users: number;
  retired: boolean;
}

export class FilesMedium implements Medium {
  readonly name = "files";
  private readonly folder: string;
  private readonly clock: Clock;
  private readonly readers = new Map<string, Reader>();
  private closed = false;

  /** @param clock by which others' locks become stale */
  constructor(folder: string, clock: Clock = systemClock) {
    this.folder = folder;
    this.clock = clock;
  }

  async list(): Promise<FileSize[]> {
    const names = await tell(this.folder, () => readdir(this.folder));
    const files = await Promise.all(names.map((name) => this.sizeOf(name)));
    return files.filter((file) => file !== undefined);
  }

  private async sizeOf(name: string): Promise<FileSize | undefined> {
    try {
      const found = await lstat(join(this.folder, name));
      return found.isFile() ? { name, bytes: found.size } : undefined;
    } catch (error) {
      if (codeOf(error) === "ENOENT") return undefined; // removed since the listing
      throw toMediumError(error, name);
    }
  }

  async create(name: string): Promise<Appender> {
    const file = await tell(name, () => createPrivateFile(join(this.folder, name)));
    await this.syncFolder();
    return new FileAppender(name, file);
  }

  async read(name: string, offset: number, length: number): Promise<Uint8Array> {
    const reader = await tell(name, () => this.borrow(name));
    try {
      return await tell(name, () => reader.reads.read(offset, length));
    } finally {
      await this.giveBack(reader);
    }
  }

  private async borrow(name: string): Promise<Reader> {
    if (this.closed) throw new MediumError("closed", `${name}: the folder is closed`);
    const reader = this.readers.get(name) ?? (await this.openReader(name));
    reader.users++;
    const other = this.readers.get(name);
    if (other !== undefined && other !== reader)
      reader.retired = true; // two opened it at once; one is kept
    else this.keep(name, reader);
    if (this.readers.size > MAX_READ_HANDLES) await this.retire(this.readers.keys().next().value);
    return reader;
  }

  private async openReader(name: string): Promise<Reader> {
    const file = await readPrivateFile(join(this.folder, name));
    return { file, reads: new GatheredReads(file), users: 0, retired: false };
  }

  /** Puts a reader at the young end of the list. */
  private keep(name: string, reader: Reader): void {
    this.readers.delete(name);
    this.readers.set(name, reader);
  }

  private async giveBack(reader: Reader): Promise<void> {
    reader.users--;
    if (reader.retired && reader.users === 0) await reader.file.close();
  }

  /** Takes a handle off the list; it is closed when its last user has given it back. */
  private async retire(name: string | undefined): Promise<void> {
    const reader = name === undefined ? undefined : this.readers.get(name);
    if (name === undefined || reader === undefined) return;
    this.readers.delete(name);
    reader.retired = true;
    if (reader.users === 0) await reader.file.close();
  }

  async remove(name: string): Promise<void> {
    await this.retire(name);
    try {
      await unlink(join(this.folder, name));
    } catch (error) {
      if (codeOf(error) === "ENOENT") return;
      throw toMediumError(error, name);
    }
    await this.syncFolder();
  }

  lock(writer: string): Promise<Lock | undefined> {
    return tell(writer, () => takeFileLock(this.folder, writer, this.clock));
  }

  async close(): Promise<void> {
    this.closed = true;
    for (const name of [...this.readers.keys()]) await this.retire(name);
  }

  /** Makes new and removed names survive a loss of power, where folders can be synced (not on Windows). */
  private async syncFolder(): Promise<void> {
    let folder: FileHandle;
    try {
      folder = await open(this.folder, "r");
    } catch (error) {
      if (["EISDIR", "EPERM", "EACCES"].includes(codeOf(error))) return;
      throw toMediumError(error, this.folder);
    }
    try {
      await folder.sync();
    } catch (error) {
      if (!["EPERM", "EINVAL", "EBADF"].includes(codeOf(error))) throw toMediumError(error, this.folder);
    } finally {
      await folder.close();
    }
  }
}

/** What is left of `parts` after their first `count` bytes. */
function withoutFirst(parts: readonly Uint8Array[], count: number): Uint8Array[] {
  let left = count;
  const rest: Uint8Array[] = [];
  for (const part of parts) {
    const taken = Math.min(left, part.length);
    left -= taken;
    if (taken < part.length) rest.push(part.subarray(taken));
  }
  return rest;
}

class FileAppender implements Appender {
  private readonly name: string;
  private readonly file: FileHandle;

  constructor(name: string, file: FileHandle) {
    this.name = name;
    this.file = file;
  }

  async append(parts: readonly Uint8Array[]): Promise<void> {
    for (let at = 0; at < parts.length; at += MAX_PARTS_A_WRITE) {
      await this.appendAll(parts.slice(at, at + MAX_PARTS_A_WRITE));
    }
  }

  /** Gathered into one write; the system may take less of them. */
  private async appendAll(parts: Uint8Array[]): Promise<void> {
    let rest = parts.filter((part) => part.length > 0);
    while (rest.length > 0) {
      const { bytesWritten } = await tell(this.name, () => this.file.writev(rest));
      rest = withoutFirst(rest, bytesWritten);
    }
  }

  async sync(): Promise<void> {
    await tell(this.name, () => this.file.datasync());
  }

  async close(): Promise<void> {
    await tell(this.name, () => this.file.close());
  }
}

const FAULTS: Readonly<Record<string, MediumFault>> = {
  ENOSPC: "full",
  EDQUOT: "full",
  EFBIG: "full",
  ENOENT: "gone",
  EBADF: "closed",
  ENOTDIR: "unsupported",
  ELOOP: "unsupported",
  EACCES: "unsupported",
  EROFS: "unsupported",
};

function toMediumError(error: unknown, name: string): MediumError {
  if (error instanceof MediumError) return error;
  const text = error instanceof Error ? error.message : String(error);
  return new MediumError(FAULTS[codeOf(error)] ?? "io", `${name}: ${text}`);
}

/** Runs a file operation and says of its failure which file and which of our faults it is. */
async function tell<T>(name: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw toMediumError(error, name);
  }
}
