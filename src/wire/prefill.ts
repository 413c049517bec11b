/**
 * What an engine and its prefill service say to each other over HTTP: the facts by which they agree, what is asked, and how
 * records travel. The records are those that tiers store, whole blocks with all their layers; they go out chunk by chunk, as the
 * prompt is computed. Layer by layer would save at most the transfer of the last chunk, and would need records of parts of a block,
 * which no tier has.
 *
 *     frame: length u32 (0: the end)  flags u32 (1: the service waited for it)  zeros [8] | record [length]
 */
import { assert } from "../base.ts";

/** The address below the service's own. GET: the facts. POST: the records of a prompt. */
export const PREFILL_PATH = "/v1/prefill";

/** To be raised when an older engine could not read the answer. */
export const PREFILL_VERSION = 1;

/** Tokens of one prompt at most. */
export const MAX_PREFILL_TOKENS = 2 ** 20;

const FRAME_BYTES = 16;
const WAITED = 1;

/** By what two engines know that their records are alike. */
export interface PrefillFacts {
  version: number;
  model: string;
  /** Of weights, shape, and all settings that decide a record's bytes. */
  fingerprint: string;
  dtype: string;
  kvDtype: string;
  blockTokens: number;
  /** Tokens of a prompt at most. */
  maxTokens: number;
}

/** A prompt whose records are wanted. */
export interface PrefillAsk {
  fingerprint: string;
  tokens: readonly number[];
  /** The first block that is wanted. */
  from: number;
  /** How far down the service may store what it computes. */
  cache: "memory" | "disk";
}

/** A record on its way, and whether the service had to wait until it was computed. */
export interface PrefillRecord {
  bytes: Uint8Array<ArrayBuffer>;
  waited: boolean;
}

/** A record's frame. The record itself follows. */
export function frameHead({ bytes, waited }: PrefillRecord): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Uint32Array.of(bytes.length, waited ? WAITED : 0, 0, 0).buffer);
}

/** The frame that ends an answer: one without it was cut short. */
export function frameEnd(): Uint8Array<ArrayBuffer> {
  return new Uint8Array(FRAME_BYTES);
}

/** An answer that is none. */
export class FrameFault extends Error {}

/**
 * The records of an answer as they arrive. Holds one record at a time, of `maxBytes` at most.
 * @throws FrameFault if a length is larger, or the answer ends before its end
 */
export async function* readFrames(
  body: ReadableStream<Uint8Array>,
  maxBytes: number,
): AsyncGenerator<PrefillRecord, void, void> {
  const source = new ByteReader(body);
  try {
    for (let count = 0; ; count++) {
      const head = await source.take(FRAME_BYTES);
      if (!head) throw new FrameFault(`the answer was cut short behind record ${count}`);
      const [length = 0, flags = 0] = new Uint32Array(head.buffer);
      if (length === 0) return;
      if (length > maxBytes)
        throw new FrameFault(`record ${count} has ${length} bytes, expected at most ${maxBytes}`);
      const bytes = await source.take(length);
      if (!bytes) throw new FrameFault(`the answer was cut short in record ${count}`);
      yield { bytes, waited: (flags & WAITED) !== 0 };
    }
  } finally {
    await source.cancel();
  }
}

/** Takes so many bytes from a stream, however they are cut. */
class ByteReader {
  private readonly reader: ReadableStreamDefaultReader<Uint8Array>;
  private rest = new Uint8Array(0);

  constructor(body: ReadableStream<Uint8Array>) {
    this.reader = body.getReader();
  }

  /** The next bytes, in a buffer of their own; undefined if the stream ends before. */
  async take(length: number): Promise<Uint8Array<ArrayBuffer> | undefined> {
    assert(length > 0, "nothing is taken of a stream");
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length;) {
      if (this.rest.length === 0) {
        const { done, value } = await this.reader.read();
        if (done) return undefined;
        this.rest = value as Uint8Array<ArrayBuffer>;
      }
      const part = this.rest.subarray(0, length - at);
      bytes.set(part, at);
      at += part.length;
      this.rest = this.rest.subarray(part.length);
    }
    return bytes;
  }

  /** Lets go of the stream, and so of the connection. */
  async cancel(): Promise<void> {
    await this.reader.cancel().catch(() => undefined); // an answer that has failed already
  }
}
