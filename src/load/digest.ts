/**
 * The SHA-256 of a file whose bytes arrive in any order: takes them as they come where they are next, and reads those
 * that came early back from where they are kept. It compares nothing.
 */
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { RUNTIME } from "../base.ts";
import { TidepoolError } from "../errors.ts";
import type { ByteRanges } from "./byte-ranges.ts";
import type { Part } from "./model-folder.ts";
import type { Source } from "./source.ts";

/** Hashed in one go; other work has its turn in between. */
const PIECE_BYTES = 1024 * 1024;

interface Sha256 {
  update(bytes: Uint8Array): void;
  hex(): string;
}

/** Browsers have no SHA-256 that takes a file piece by piece; Node's and Deno's own is several times as fast as ours. */
function startSha256(): Sha256 {
  if (RUNTIME === "browser") {
    const hash = sha256.create();
    return { update: (bytes) => void hash.update(bytes), hex: () => bytesToHex(hash.digest()) };
  }
  const hash = process.getBuiltinModule("node:crypto").createHash("sha256");
  return { update: (bytes) => void hash.update(bytes), hex: () => hash.digest("hex") };
}

export class RunningDigest {
  private readonly hash = startSha256();
  /** For bytes that are read back. */
  private readonly piece = new Uint8Array(PIECE_BYTES);
  private readonly part: Part;
  private readonly have: ByteRanges;
  private readonly sizeBytes: number;
  /** Hashed so far. */
  private at = 0;
  private catching: Promise<void> | undefined;
  private isStopped = false;

  constructor(part: Part, have: ByteRanges, sizeBytes: number) {
    this.part = part;
    this.have = have;
    this.sizeBytes = sizeBytes;
  }

  /** Bytes that were just written. */
  feed(offset: number, bytes: Uint8Array): void {
    if (this.catching || offset !== this.at) return;
    this.hash.update(bytes);
    this.at += bytes.length;
  }

  /** Works off what was written out of order; one such walk at a time. */
  catchUp(): Promise<void> {
    this.catching ??= this.walk().finally(() => (this.catching = undefined));
    return this.catching;
  }

  /** The digest of the whole file, all of which must be there. */
  async hex(): Promise<string> {
    while (this.at < this.sizeBytes && !this.isStopped) await this.catchUp();
    if (this.at < this.sizeBytes) throw new TidepoolError("aborted", "the download was aborted");
    return this.hash.hex();
  }

  /** Ends a walk under way. */
  async stop(): Promise<void> {
    this.isStopped = true;
    await this.catching?.catch(() => undefined);
  }

  private async walk(): Promise<void> {
    while (!this.isStopped && this.at < this.sizeBytes) {
      const wanted = Math.min(this.sizeBytes, this.at + PIECE_BYTES);
      const gap = this.have.firstGap(this.at, wanted);
      const end = gap?.start ?? wanted;
      if (end === this.at) return;
      const piece = this.piece.subarray(0, end - this.at);
      await this.part.read(this.at, piece);
      this.hash.update(piece);
      this.at = end;
      await new Promise((resolve) => setTimeout(resolve));
    }
  }
}

/** The SHA-256 of a whole source, in hexadecimal. */
export async function sourceDigest(source: Source, onBytes: (bytes: number) => void): Promise<string> {
  const hash = startSha256();
  for (let at = 0; at < source.sizeBytes; at += PIECE_BYTES) {
    const piece = await source.read(at, Math.min(PIECE_BYTES, source.sizeBytes - at));
    hash.update(piece);
    onBytes(piece.length);
  }
  return hash.hex();
}
