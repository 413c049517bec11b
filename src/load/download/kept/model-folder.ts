/**
 * The seam to the place where downloaded models are kept: a flat folder of files, and records in it that survive a crash
 * in the middle of being written. One implementation each for Node and Deno (folder-files.ts), OPFS (folder-opfs.ts) and
 * the Cache API (folder-cache.ts).
 *
 * What is not promised: that bytes written before the last flush() are there after a crash, or that `writeSmall` leaves
 * the old content when it is interrupted (hence two slots a record).
 */
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { TidepoolError } from "../../../errors.ts";
import type { Source } from "../../source.ts";

export type Release = () => Promise<void>;

/** A file that is being filled, in any order. One owner at a time, who holds the folder's lock. */
export interface Part {
  /** Bytes from the start that can be read; those never written are undefined. */
  sizeBytes(): Promise<number>;
  /** Fills `bytes` from `offset` on, exactly. */
  read(offset: number, bytes: Uint8Array): Promise<void>;
  write(offset: number, bytes: Uint8Array): Promise<void>;
  /** On return, what was written survives a loss of power, as far as the platform can promise that. */
  flush(): Promise<void>;
  close(): Promise<void>;
}

export interface ModelFolder {
  /** For messages. */
  readonly place: string;
  /** Names of all small files. */
  list(): Promise<string[]>;
  readSmall(name: string): Promise<Uint8Array | undefined>;
  writeSmall(name: string, bytes: Uint8Array): Promise<void>;
  /** Opens a payload for writing; it is made where there is none, and keeps its bytes where there is. */
  openPart(name: string): Promise<Part>;
  /** Opens a payload that is complete; undefined unless it has exactly this length. Any number at once. */
  openKept(name: string, sizeBytes: number, title: string): Promise<Source | undefined>;
  /** Removes a file; an absent one is fine. */
  remove(name: string): Promise<void>;
  /** Waits for a lock between all tabs or processes that use this folder. */
  lock(key: string, signal?: AbortSignal): Promise<Release>;
  /** How many bytes may still be written, if the platform reports it. */
  freeBytes(): Promise<number | undefined>;
}

/** The hexadecimal key of a text, 128 bits: file names and locks. */
export function keyOf(text: string): string {
  return bytesToHex(sha256(new TextEncoder().encode(text))).slice(0, 32);
}

/** What makes the storage's refusal a sentence with the numbers and the way on. */
export function storageError(place: string, doing: string, error: unknown): TidepoolError {
  if (error instanceof TidepoolError) return error;
  const { name, code, message } = (error ?? {}) as { name?: string; code?: string; message?: string };
  const isFull = name === "QuotaExceededError" || code === "ENOSPC" || code === "EDQUOT";
  const why = isFull
    ? "there is no room left; remove models that are no longer needed"
    : (message ?? String(error));
  return new TidepoolError("source", `${place}: ${doing} failed: ${why}`, { place, isFull });
}

const RECORD_FILE = /^([0-9a-f]{32})-[01]\.json$/;
const CHECK_DIGITS = 16;
/** A record's text is shorter than this, but for listings of very large repositories. */
const MAX_RECORD_BYTES = 40 * 1024 * 1024;

interface Slot {
  sequence: number;
  value: unknown;
}

/**
 * A small value that is replaced now and then, in two files that are written in turn, each with a checksum: whatever a
 * crash interrupts, the other one is whole. A value that fails its check was never there.
 */
export class RecordFile {
  readonly key: string;
  private readonly folder: ModelFolder;
  private sequence = 0;

  constructor(folder: ModelFolder, key: string) {
    this.folder = folder;
    this.key = key;
  }

  async load(): Promise<unknown> {
    const slots = await Promise.all([this.readSlot(0), this.readSlot(1)]);
    const found = slots.filter((slot) => slot !== undefined).sort((a, b) => b.sequence - a.sequence)[0];
    this.sequence = found?.sequence ?? this.sequence;
    return found?.value;
  }

  async save(value: unknown): Promise<void> {
    const sequence = ++this.sequence;
    const body = JSON.stringify({ sequence, value });
    const text = `${keyOf(body).slice(0, CHECK_DIGITS)}${body}`;
    await this.folder.writeSmall(this.nameOf(sequence % 2), new TextEncoder().encode(text));
  }

  async remove(): Promise<void> {
    await this.folder.remove(this.nameOf(0));
    await this.folder.remove(this.nameOf(1));
  }

  private nameOf(slot: number): string {
    return `${this.key}-${slot}.json`;
  }

  private async readSlot(slot: number): Promise<Slot | undefined> {
    const bytes = await this.folder.readSmall(this.nameOf(slot));
    if (bytes === undefined || bytes.length > MAX_RECORD_BYTES) return undefined;
    const text = new TextDecoder().decode(bytes);
    const body = text.slice(CHECK_DIGITS);
    if (keyOf(body).slice(0, CHECK_DIGITS) !== text.slice(0, CHECK_DIGITS)) return undefined;
    return JSON.parse(body) as Slot;
  }
}

/** The keys of all records in a folder, each once. */
export async function recordKeys(folder: ModelFolder): Promise<string[]> {
  const names = await folder.list();
  return [
    ...new Set(names.map((name) => RECORD_FILE.exec(name)?.[1]).filter((key) => key !== undefined)),
  ].sort();
}

/** The name of the payload that belongs to a record. */
export function payloadName(key: string): string {
  return `${key}.bin`;
}
