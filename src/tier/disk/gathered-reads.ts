/**
 * Reads of one file, gathered: what is asked for at the same time and lies end to end is read in one call, because a call
 * costs as much as reading a small block. Each part has a buffer of its own, so that one can be kept without the others.
 * Deno reads one by one: its `readv` was seen never to answer.
 */
import { Buffer } from "node:buffer";
import type { FileHandle } from "node:fs/promises";
import { background } from "../../base.ts";

/** Parts of one call at most: others are read at the same time, and the first are checked while the next are read. */
const MAX_PARTS_A_READ = 4;

interface Wanted {
  offset: number;
  length: number;
  resolve(bytes: Uint8Array): void;
  reject(error: unknown): void;
}

export class GatheredReads {
  private readonly file: FileHandle;
  private wanted: Wanted[] = [];

  constructor(file: FileHandle) {
    this.file = file;
  }

  /** The bytes from `offset`; fewer at the end of the file. */
  read(offset: number, length: number): Promise<Uint8Array> {
    if ("Deno" in globalThis) return readFully(this.file, offset, length);
    return new Promise((resolve, reject) => {
      if (this.wanted.length === 0) setImmediate(() => this.start());
      this.wanted.push({ offset, length, resolve, reject });
    });
  }

  private start(): void {
    const wanted = this.wanted.sort((a, b) => a.offset - b.offset);
    this.wanted = [];
    for (const run of runsOf(wanted)) background(readRun(this.file, run), "gathered reads");
  }
}

/** Cuts reads in order of their offsets into runs that lie end to end. */
function runsOf(wanted: readonly Wanted[]): Wanted[][] {
  const runs: Wanted[][] = [];
  for (const each of wanted) {
    const run = runs.at(-1);
    const last = run?.at(-1);
    const follows = last !== undefined && last.offset + last.length === each.offset;
    if (run && follows && run.length < MAX_PARTS_A_READ) run.push(each);
    else runs.push([each]);
  }
  return runs;
}

/** One call for all; where it brings less, or fails, each is read by itself and has its own outcome. */
async function readRun(file: FileHandle, run: readonly Wanted[]): Promise<void> {
  const parts = run.map(({ length }) => unzeroed(length));
  const total = run.reduce((sum, { length }) => sum + length, 0);
  try {
    const { bytesRead } = await file.readv(parts, (run[0] as Wanted).offset);
    if (bytesRead === total) {
      run.forEach(({ resolve }, index) => resolve(parts[index] as Uint8Array));
      return;
    }
  } catch {
    // the failure is met again below, by the read that it belongs to
  }
  for (const { offset, length, resolve, reject } of run) {
    await readFully(file, offset, length).then(resolve, reject);
  }
}

/** A short read is cut to what was filled. */
function unzeroed(length: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Buffer.allocUnsafeSlow(length).buffer);
}

async function readFully(file: FileHandle, offset: number, length: number): Promise<Uint8Array> {
  const bytes = unzeroed(length);
  let filled = 0;
  while (filled < length) {
    const { bytesRead } = await file.read(bytes, filled, length - filled, offset + filled);
    if (bytesRead === 0) return bytes.slice(0, filled); // the end of the file
    filled += bytesRead;
  }
  return bytes;
}
