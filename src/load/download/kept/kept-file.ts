/**
 * What is noted of a downloaded file, complete or not: where it came from, how to tell whether the server still has the
 * same one, and which of its bytes are there. Read back with suspicion: a note that is not of this form was never made.
 */
import type { ByteRange } from "../byte-ranges.ts";

const VERSION = 1;

export interface KeptFile {
  kind: "file";
  /** The model's name, by which it is listed and removed. */
  model: string;
  /** What its downloads are locked by. */
  lockName: string;
  /** Name or path of the file within the model. */
  file: string;
  url: string;
  /** Commit of a file of the Hub. */
  commit?: string;
  sizeBytes: number;
  /** ETag or date of the server's answer. */
  validator?: string;
  /** SHA-256 that the server gave, in hexadecimal. */
  sha256?: string;
  /** SHA-256 of what is kept, computed when it was complete. */
  digest?: string;
  /** Ranges that are there. */
  have: ByteRange[];
  isComplete: boolean;
  /** When this note was made. */
  atMs: number;
}

/** A file that a model could have had, and that its server does not have. */
export interface AbsentFile {
  kind: "absent";
  model: string;
  lockName: string;
  file: string;
}

/** A repository's files, as text. */
export interface KeptListing {
  kind: "listing";
  model: string;
  lockName: string;
  text: string;
}

export type Kept = KeptFile | AbsentFile | KeptListing;

/** A note as a plain value. */
export function keptValue(kept: Kept): unknown {
  return { version: VERSION, ...kept };
}

/** A note from a plain value; undefined if the value is not one. */
export function parseKept(value: unknown): Kept | undefined {
  const { version, kind, model, lockName, file, text } = (value ?? {}) as Record<string, unknown>;
  if (version !== VERSION || typeof model !== "string" || typeof lockName !== "string") return undefined;
  if (kind === "listing") return typeof text === "string" ? { kind, model, lockName, text } : undefined;
  if (typeof file !== "string") return undefined;
  return kind === "absent"
    ? { kind, model, lockName, file }
    : parseKeptFile(value as Record<string, unknown>);
}

function parseKeptFile(value: Record<string, unknown>): KeptFile | undefined {
  const { kind, url, sizeBytes, isComplete, have, atMs } = value;
  if (kind !== "file" || typeof url !== "string" || typeof isComplete !== "boolean") return undefined;
  if (!isCount(sizeBytes) || !isCount(atMs) || !Array.isArray(have)) return undefined;
  if (!have.every((range) => isRange(range, sizeBytes))) return undefined;
  if (isComplete && typeof value["digest"] !== "string") return undefined;
  return value as unknown as KeptFile;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isRange(value: unknown, sizeBytes: number): value is ByteRange {
  const { start, end } = (value ?? {}) as Partial<ByteRange>;
  return isCount(start) && isCount(end) && start <= end && end <= sizeBytes;
}
