/**
 * The SHA-256 of a file whose bytes arrive in any order: takes them as they come where they are next, and reads those
 * that came early back from where they are kept. It compares nothing.
 */
import { TidepoolError } from "../../errors.ts";
import type { ByteRanges } from "./byte-ranges.ts";
import { startHash, type Hash } from "./hash-start.ts";
import type { Part } from "./kept/model-folder.ts";
import type { Source } from "../source.ts";

/** Hashed in one go. */
const PIECE_BYTES = 1024 * 1024;

/** Pieces that were handed to the hash and are not taken in yet, at most; what comes then is read back later. */
export const MAX_FED = 8;

export class RunningDigest {
  private readonly hash: Hash = startHash();
  /** For bytes that are read back. */
  private readonly piece = new Uint8Array(PIECE_BYTES);
  private readonly part: Part;
  private readonly have: ByteRanges;
  private readonly sizeBytes: number;
  /** Handed to the hash so far. */
  private at = 0;
  private fed = 0;
  private catching: Promise<void> | undefined;
  private isStopped = false;
  /** Why nothing can be hashed any more. */
  private failure: Error | undefined;

  constructor(part: Part, have: ByteRanges, sizeBytes: number) {
    this.part = part;
    this.have = have;
    this.sizeBytes = sizeBytes;
  }

  /** Bytes that were just written. */
  feed(offset: number, bytes: Uint8Array): void {
    if (this.catching || offset !== this.at || this.fed === MAX_FED) return;
    this.fed++;
    this.at += bytes.length;
    this.hash
      .update(bytes as Uint8Array<ArrayBuffer>)
      .catch((error: unknown) => (this.failure ??= error as Error))
      .finally(() => this.fed--);
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
    if (this.failure) throw this.failure;
    return this.hash.hex();
  }

  /** Ends a walk under way, and the hash. */
  async stop(): Promise<void> {
    this.isStopped = true;
    await this.catching?.catch(() => undefined);
    this.hash.end();
  }

  private async walk(): Promise<void> {
    while (!this.isStopped && this.at < this.sizeBytes) {
      const wanted = Math.min(this.sizeBytes, this.at + PIECE_BYTES);
      const gap = this.have.firstGap(this.at, wanted);
      const end = gap?.start ?? wanted;
      if (end === this.at) return;
      const piece = this.piece.subarray(0, end - this.at);
      await this.part.read(this.at, piece);
      await this.hash.update(piece);
      this.at = end;
      await new Promise((resolve) => setTimeout(resolve));
    }
  }
}

/** The SHA-256 of a whole source, in hexadecimal. */
export async function sourceDigest(source: Source, onBytes: (bytes: number) => void): Promise<string> {
  const hash = startHash();
  try {
    for (let at = 0; at < source.sizeBytes; at += PIECE_BYTES) {
      const piece = await source.read(at, Math.min(PIECE_BYTES, source.sizeBytes - at));
      await hash.update(piece as Uint8Array<ArrayBuffer>);
      onBytes(piece.length);
    }
    return await hash.hex();
  } finally {
    hash.end();
  }
}
