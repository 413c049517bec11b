/**
 * Records what an engine serves as a trace: times, lengths and salted hashes of blocks, no text and no token ids. The
 * result is Mooncake's format with a first line of its own; trace.ts reads it. It writes no file: the caller takes
 * lines.
 */
import { blake2b } from "@noble/hashes/blake2.js";
import { recorderOptions } from "./arguments.ts";
import type { RecorderOptions } from "./settings.ts";
export type { RecorderOptions } from "./settings.ts";

/** 48 bits of a hash: exact as a JSON number, and enough to tell the blocks of one trace apart. */
const hashBytes = 6;

/**
 * Turns requests into a trace that can be stored: hashed blocks, lengths and times, but no tokens.
 *
 * @example
 * ```ts
 * const recorder = new Recorder({ blockTokens: 32, salt: crypto.getRandomValues(new Uint8Array(16)) });
 * const lines = [recorder.header()];
 * const sequence = Int32Array.from({ length: 100 }, (_, i) => i); // a request's tokens: 80 of input, 20 of output
 * lines.push(recorder.line(0, sequence, 80));
 * console.log(parseTrace("recorded", lines.join("\n")).requests.length); // 1
 * ```
 */
export class Recorder {
  private readonly options: RecorderOptions;

  /** @throws TidepoolError `invalid_argument` */
  constructor(options: RecorderOptions) {
    this.options = recorderOptions.read(options, "");
  }

  /**
   * The first line of the trace.
   *
   * @example
   * ```ts
   * const recorder = new Recorder({ blockTokens: 32, salt: new Uint8Array(16) });
   * console.log(recorder.header()); // {"tidepool_trace":1,"block_tokens":32}
   * ```
   */
  header(): string {
    return JSON.stringify({ tidepool_trace: 1, block_tokens: this.options.blockTokens });
  }

  /**
   * The line of one finished request. `sequence` is its input followed by its output; the first `inputTokens` tokens are input.
   * `output_ids` holds the blocks that became full during generation.
   *
   * @example
   * ```ts
   * const recorder = new Recorder({ blockTokens: 2, salt: new Uint8Array(16) });
   * const { hash_ids, output_ids } = JSON.parse(recorder.line(0, Int32Array.of(1, 2, 3, 4, 5), 3));
   * console.log(hash_ids.length, output_ids.length); // 1 1
   * ```
   */
  line(timestampMs: number, sequence: Int32Array, inputTokens: number): string {
    const blocks = this.chain(sequence);
    const inputBlocks = Math.floor(inputTokens / this.options.blockTokens);
    return JSON.stringify({
      timestamp: Math.round(timestampMs),
      input_length: inputTokens,
      output_length: sequence.length - inputTokens,
      hash_ids: blocks.slice(0, inputBlocks),
      output_ids: blocks.slice(inputBlocks),
    });
  }

  /** Chained hashes of the full blocks: those that an engine can share. */
  private chain(tokens: Int32Array): number[] {
    const { blockTokens, salt } = this.options;
    const hashes: number[] = [];
    let before = salt;
    for (let at = 0; at + blockTokens <= tokens.length; at += blockTokens) {
      const block = tokens.slice(at, at + blockTokens);
      const hash = blake2b.create({ dkLen: 32, key: salt.subarray(0, 64) });
      before = hash.update(before).update(new Uint8Array(block.buffer)).digest();
      hashes.push(before.subarray(0, hashBytes).reduce((value, byte) => value * 256 + byte, 0));
    }
    return hashes;
  }
}
