/**
 * A cursor over the front of a source, which reads ahead in growing windows and drops what has been read: headers are
 * a kilobyte or sixteen megabytes, and nobody knows which beforehand.
 * It decodes little-endian values and does not know what they mean. It never seeks back.
 */
import { TidepoolError } from "../errors.ts";
import type { Source } from "./source.ts";

const FIRST_WINDOW_BYTES = 64 * 1024;
const MAX_WINDOW_BYTES = 4 * 1024 * 1024;
/** The largest header in use is 16 MB; a header beyond this is refused. */
const MAX_HEADER_BYTES = 256 * 1024 * 1024;

const strictText = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const lenientText = new TextDecoder("utf-8", { ignoreBOM: true });

export class HeaderReader {
  readonly name: string;
  readonly sizeBytes: number;
  private readonly source: Source;
  private readonly signal: AbortSignal | undefined;
  private bytes = new Uint8Array(0);
  private view = new DataView(this.bytes.buffer);
  /** Cursor within `bytes`. */
  private at = 0;
  /** Where `bytes` begins in the file. */
  private windowStart = 0;
  private windowBytes = FIRST_WINDOW_BYTES;

  constructor(source: Source, signal?: AbortSignal) {
    this.source = source;
    this.signal = signal;
    this.name = source.name;
    this.sizeBytes = source.sizeBytes;
  }

  /** The cursor's place in the file, bytes. */
  get position(): number {
    return this.windowStart + this.at;
  }

  /** Bytes that can be taken without waiting. */
  get buffered(): number {
    return this.bytes.length - this.at;
  }

  fail(what: string): never {
    throw new TidepoolError("invalid_file", `${this.name}: ${what}`, {
      file: this.name,
      offset: this.position,
    });
  }

  /** Throws unless `length` more bytes exist in the file and in the header's limit. Reads and allocates nothing. */
  claim(length: number, field: string): void {
    const left = this.sizeBytes - this.position;
    if (length > left) this.fail(`${field} needs ${length} bytes, the file has ${left} left`);
    if (this.position + length > MAX_HEADER_BYTES) {
      this.fail(`${field} lies beyond the header limit of ${MAX_HEADER_BYTES} bytes`);
    }
  }

  /** Makes `length` bytes ready to be taken. */
  async need(length: number, field: string): Promise<void> {
    if (length <= this.buffered) return;
    this.claim(length, field);
    const start = this.position;
    const wanted = Math.min(Math.max(length, this.windowBytes), this.sizeBytes - start);
    const rest = this.bytes.subarray(this.at);
    const fresh = await this.source.read(start + rest.length, wanted - rest.length, this.signal);
    this.bytes = new Uint8Array(wanted);
    this.bytes.set(rest);
    this.bytes.set(fresh, rest.length);
    this.view = new DataView(this.bytes.buffer);
    this.windowStart = start;
    this.at = 0;
    this.windowBytes = Math.min(this.windowBytes * 2, MAX_WINDOW_BYTES);
  }

  u8(): number {
    return this.view.getUint8(this.advance(1));
  }

  u16(): number {
    return this.view.getUint16(this.advance(2), true);
  }

  u32(): number {
    return this.view.getUint32(this.advance(4), true);
  }

  u64(): bigint {
    return this.view.getBigUint64(this.advance(8), true);
  }

  f32(): number {
    return this.view.getFloat32(this.advance(4), true);
  }

  f64(): number {
    return this.view.getFloat64(this.advance(8), true);
  }

  /** Takes UTF-8 text. `strict`: anything else is an error; otherwise it becomes U+FFFD. */
  text(length: number, strict: boolean, field: string): string {
    const start = this.advance(length);
    const bytes = this.bytes.subarray(start, start + length);
    if (!strict) return lenientText.decode(bytes);
    try {
      return strictText.decode(bytes);
    } catch {
      return this.fail(`${field} is not UTF-8`);
    }
  }

  /** A length-prefixed string if all of it is buffered, else nothing, and the cursor stays. */
  stringIfBuffered(): string | undefined {
    if (this.buffered < 8) return undefined;
    const length = this.view.getBigUint64(this.at, true);
    if (length > BigInt(this.buffered - 8)) return undefined;
    this.at += 8;
    return this.text(Number(length), false, "");
  }

  /** Moves the cursor; the caller has asked for the bytes by `need`, so that a short window is DataView's RangeError. */
  private advance(length: number): number {
    const at = this.at;
    this.at += length;
    return at;
  }
}
