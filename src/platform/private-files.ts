/**
 * Files that hold prompts, for Node and Deno: readable by their owner alone, whatever the umask, and never reached through
 * a symbolic link, which another user of the machine may have planted. A folder of ours with looser modes is tightened;
 * one that cannot be (it belongs to another user, or the file system keeps no modes) is reported to the caller.
 * Windows has neither: there the modes do nothing, and its access lists apply. It does not encrypt.
 */
import { constants } from "node:fs";
import { chmod, lstat, mkdir, open, type FileHandle } from "node:fs/promises";

/** Modes of folders and of files. */
const FOLDER_MODE = 0o700;
const FILE_MODE = 0o600;
const MODE_BITS = 0o777;
/** What group and others may do. */
const LOOSE_BITS = 0o077;

/** 0 on Windows, which has no such flag. */
const NO_FOLLOW = (constants.O_NOFOLLOW as number | undefined) ?? 0;

const { O_APPEND, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_WRONLY } = constants;

/** Makes a folder, and those above it that are missing, for its owner alone. An existing one keeps its modes. */
export async function makePrivateFolder(folder: string): Promise<void> {
  const made = await mkdir(folder, { recursive: true, mode: FOLDER_MODE });
  const found = await lstat(folder);
  if (found.isSymbolicLink())
    throw new Error(`${folder} is a symbolic link: expected a folder; name the folder that it points to`);
  if (made !== undefined) await chmod(folder, FOLDER_MODE); // a umask may have taken more away than it should
}

/** Whether group or others may do anything with a file or folder. */
export async function isLoose(path: string): Promise<boolean> {
  return NO_FOLLOW !== 0 && ((await lstat(path)).mode & LOOSE_BITS) !== 0;
}

/** Takes what group and others may do off an existing folder. Returns why that is not possible, if so. */
export async function tightenFolder(folder: string): Promise<string | undefined> {
  if (!(await isLoose(folder))) return undefined;
  const shown = ((await lstat(folder)).mode & MODE_BITS).toString(8);
  try {
    await chmod(folder, FOLDER_MODE);
  } catch (error) {
    return `${folder} has mode ${shown}, expected 700, and cannot be changed (${codeOf(error)}): other users see its list`;
  }
  if (!(await isLoose(folder))) return undefined;
  return `${folder} keeps mode ${shown}, expected 700: its file system has no modes, and other users may read it`;
}

/** Makes a file and opens it for appending; fails if there is one, or a link. */
export function createPrivateFile(path: string): Promise<FileHandle> {
  return opened(path, O_WRONLY | O_APPEND | O_CREAT | O_EXCL);
}

/** Opens a file for reading and writing; it is made if it is missing. */
export function openPrivateFile(path: string): Promise<FileHandle> {
  return opened(path, O_RDWR | O_CREAT);
}

/** Opens a file for reading; a symbolic link is not followed. */
export function readPrivateFile(path: string): Promise<FileHandle> {
  return open(path, O_RDONLY | NO_FOLLOW);
}

/** Takes what group and others may do off a file that an earlier version, or another program, has left. */
export async function tightenFile(path: string): Promise<void> {
  if (!(await lstat(path)).isFile() || !(await isLoose(path))) return;
  const file = await readPrivateFile(path);
  await file.chmod(FILE_MODE).finally(() => file.close());
}

/** Writes a whole file, in place of what it held. */
export async function writePrivateFile(path: string, bytes: Uint8Array, flush = false): Promise<void> {
  const file = await opened(path, O_WRONLY | O_CREAT);
  try {
    if ((await file.stat()).isFile()) await file.truncate(0);
    await file.writeFile(bytes);
    if (flush) await file.sync();
  } finally {
    await file.close();
  }
}

async function opened(path: string, flags: number): Promise<FileHandle> {
  const file = await open(path, flags | NO_FOLLOW, FILE_MODE);
  try {
    const found = await file.stat();
    if (found.isFile() && (found.mode & MODE_BITS) !== FILE_MODE && NO_FOLLOW !== 0)
      await file.chmod(FILE_MODE);
    return file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** The system's code of an error, such as ENOENT; "" if it has none. */
export function codeOf(error: unknown): string {
  return String((error as { code?: unknown } | null)?.code ?? "");
}
