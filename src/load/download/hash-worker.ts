/**
 * Entry of the hash worker of browsers: takes a file's bytes in order and gives their SHA-256 in the end, so that hashing
 * takes no time from the thread that loads and decodes. hash-start.ts starts it. It reads no files.
 */
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { release } from "../release.ts";

/** Bytes to take in, or null for the end. */
export type ToHashWorker = Uint8Array<ArrayBuffer> | null;

/** How many messages were taken in, or the digest. */
export type FromHashWorker = number | string;

const hash = sha256.create();
let taken = 0;

globalThis.addEventListener("message", ({ data }: MessageEvent<ToHashWorker>) => {
  if (data === null) return answer(bytesToHex(hash.digest()));
  hash.update(data);
  release(data);
  answer(++taken);
});

function answer(message: FromHashWorker): void {
  (globalThis as unknown as { postMessage(message: FromHashWorker): void }).postMessage(message);
}
