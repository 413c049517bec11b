/** Whether a folder can be written to and how much room it has. It makes no folder and writes nothing. */
import { constants } from "node:fs";
import { access, statfs } from "node:fs/promises";
import { dirname, resolve } from "node:path";

export interface FolderReport {
  directory: string;
  exists: boolean;
  isWritable: boolean;
  freeBytes: number;
}

/** A folder that is not there yet is judged by the nearest one above it. */
export async function lookAtFolder(directory: string): Promise<FolderReport> {
  const path = resolve(directory);
  let there = path;
  while (!(await can(there, constants.F_OK)) && dirname(there) !== there) there = dirname(there);
  const { bavail, bsize } = await statfs(there);
  return {
    directory: path,
    exists: there === path,
    isWritable: await can(there, constants.W_OK | constants.X_OK),
    freeBytes: bavail * bsize,
  };
}

async function can(path: string, mode: number): Promise<boolean> {
  try {
    await access(path, mode);
    return true;
  } catch {
    return false;
  }
}
