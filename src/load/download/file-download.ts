/**
 * One file on its way: which bytes are there, who waits for which, what is noted of them, and whether the whole is what
 * the server said it would be. It asks nobody for bytes: transfer.ts brings them.
 *
 * Payload first, note after: a note names only bytes that were flushed before it was written, so that a crash at any
 * moment loses what came since the last note and nothing else.
 */
import { unlessAborted } from "../../base.ts";
import { TidepoolError } from "../../errors.ts";
import { ByteRanges, type ByteRange } from "./byte-ranges.ts";
import { RunningDigest } from "./digest.ts";
import type { DownloadWorld } from "./limits.ts";
import { asSourceError, RequestProblem, type RangeAnswer, type Remote } from "./http.ts";
import { keptValue, type KeptFile } from "./kept/kept-file.ts";
import type { Part, RecordFile } from "./kept/model-folder.ts";
import type { Source } from "../source.ts";

interface Reader extends ByteRange {
  resolve(): void;
  reject(error: Error): void;
}

/** Details of an error after which starting again from nothing may help: what was there is not of one file. */
const RESTART = { restart: true };

export function mayRestart(error: unknown): boolean {
  return error instanceof TidepoolError && error.details["restart"] === true;
}

export class FileDownload {
  readonly remote: Remote;
  readonly have = new ByteRanges();
  /** What has been promised to a connection: a stretch each. */
  readonly claims = new Set<ByteRange>();
  /** Bytes that came over the network, those that were there already included. */
  receivedBytes = 0;
  isComplete = false;
  private readonly about: KeptFile;
  private readonly part: Part;
  private readonly record: RecordFile;
  private readonly world: DownloadWorld;
  private readonly digest: RunningDigest;
  private readonly readers = new Set<Reader>();
  private readonly journalBytes: number;
  private unnotedBytes = 0;
  private notedAtMs = -Infinity;
  private noting: Promise<void> | undefined;
  private finishing: Promise<void> | undefined;
  private failure: Error | undefined;

  constructor(remote: Remote, about: KeptFile, part: Part, record: RecordFile, world: DownloadWorld) {
    this.remote = remote;
    this.about = { ...about };
    this.part = part;
    this.record = record;
    this.world = world;
    for (const { start, end } of about.have) this.have.add(start, end);
    this.digest = new RunningDigest(part, this.have, about.sizeBytes);
    const { journalShare, minJournalBytes, maxJournalBytes } = world.limits;
    const share = Math.ceil(about.sizeBytes * journalShare);
    this.journalBytes = Math.min(maxJournalBytes, Math.max(minJournalBytes, share));
  }

  get sizeBytes(): number {
    return this.about.sizeBytes;
  }

  /** A source whose reads wait for their bytes, which come before others. Closing it stops nothing. */
  source(name: string): Source {
    return {
      name,
      sizeBytes: this.sizeBytes,
      read: async (offset, length, signal) => {
        await this.awaitBytes(name, offset, length, signal);
        const bytes = new Uint8Array(length);
        await this.part.read(offset, bytes);
        return bytes;
      },
      readInto: async (offset, bytes, signal) => {
        await this.awaitBytes(name, offset, bytes.length, signal);
        await this.part.read(offset, bytes);
      },
      close: () => Promise.resolve(),
    };
  }

  private async awaitBytes(
    name: string,
    offset: number,
    length: number,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const end = offset + length;
    if (!(offset >= 0 && length >= 0 && end <= this.sizeBytes)) {
      const text = `${name} has ${this.sizeBytes} bytes, cannot read ${length} at ${offset}`;
      throw new TidepoolError("source", text, { name });
    }
    while (!this.have.covers(offset, end)) await this.arrived({ start: offset, end }, signal);
    if (signal?.aborted) throw abortedReading(name);
  }

  private arrived(range: ByteRange, signal: AbortSignal | undefined): Promise<void> {
    if (this.failure) return Promise.reject(this.failure);
    const arrival = new Promise<void>((resolve, reject) => {
      this.readers.add({ ...range, resolve, reject });
      this.onDemand();
    });
    return unlessAborted(arrival, signal, () => abortedReading(this.remote.url));
  }

  /** Told when somebody waits for bytes; transfer.ts listens. */
  onDemand: () => void = () => {};

  /** A stretch that nobody brings yet, at most `segmentBytes`: first where a reader waits, then (if `all`) the first gap. */
  nextGap(all: boolean): ByteRange | undefined {
    const taken = new ByteRanges();
    for (const { start, end } of [...this.have.list(), ...this.claims]) taken.add(start, end);
    for (const { start, end } of this.readers) {
      const gap = taken.firstGap(start, end);
      if (gap) return this.segment(taken, gap.start);
    }
    const gap = all ? taken.firstGap(0, this.sizeBytes) : undefined;
    return gap && this.segment(taken, gap.start);
  }

  private segment(taken: ByteRanges, start: number): ByteRange | undefined {
    return taken.firstGap(start, Math.min(this.sizeBytes, start + this.world.limits.segmentBytes));
  }

  /** @throws as checkSame */
  check(answer: RangeAnswer, start: number): void {
    checkSame(this.remote, this.about, answer, start);
    if (this.about.validator === undefined && answer.validator !== undefined)
      this.about.validator = answer.validator;
  }

  /** Takes in bytes; wakes who waits for them. */
  async write(offset: number, bytes: Uint8Array): Promise<void> {
    await this.part.write(offset, bytes);
    this.have.add(offset, offset + bytes.length);
    this.digest.feed(offset, bytes);
    this.unnotedBytes += bytes.length;
    for (const reader of this.readers) {
      if (!this.have.covers(reader.start, reader.end)) continue;
      this.readers.delete(reader);
      reader.resolve();
    }
    if (this.unnotedBytes >= this.journalBytes) await this.noteInTurn();
  }

  /** One note at a time; who comes meanwhile goes on, so that the disk is busy and not the network idle. */
  private async noteInTurn(): Promise<void> {
    const { limits, clock } = this.world;
    if (this.noting || clock.nowMs() - this.notedAtMs < limits.journalEveryMs) return;
    this.noting = this.note().finally(() => (this.noting = undefined));
    await this.noting;
    this.digest.catchUp().catch(() => undefined); // whoever asks for the digest meets the same error
  }

  private async note(): Promise<void> {
    this.notedAtMs = this.world.clock.nowMs();
    this.unnotedBytes = 0;
    const have = this.have.list();
    await this.part.flush();
    await this.record.save(keptValue({ ...this.about, have, atMs: Date.now() }));
  }

  /** When all bytes are there: checks them, and notes that the file is complete. */
  finish(): Promise<void> {
    this.finishing ??= this.complete();
    return this.finishing;
  }

  private async complete(): Promise<void> {
    await this.noting;
    const digest = await this.digest.hex();
    const { sha256 } = this.about;
    if (differ(sha256, digest)) {
      const text = `${this.remote.url} is damaged: its SHA-256 is ${digest}, expected ${sha256}`;
      throw new TidepoolError("source", text, { url: this.remote.url, ...RESTART });
    }
    await this.part.flush();
    await this.record.save(
      keptValue({ ...this.about, digest, have: [], isComplete: true, atMs: Date.now() }),
    );
    this.isComplete = true;
  }

  fail(error: Error): void {
    this.failure ??= error;
    for (const reader of this.readers) reader.reject(asSourceError(this.remote.url, error));
    this.readers.clear();
  }

  /** Notes what is there, or forgets it all if it is not of one file. Nobody brings bytes any more. */
  async close(): Promise<void> {
    await this.digest.stop();
    await this.noting;
    const isWrong = mayRestart(this.failure);
    if (!isWrong && !this.isComplete && this.unnotedBytes > 0) await this.note();
    await this.part.close();
    if (isWrong) await this.record.remove();
  }
}

/** What is known of a file, by which another one is told from it. */
export type FileFacts = Pick<KeptFile, "sizeBytes" | "validator" | "sha256">;

/** @throws TidepoolError with `restart` if the answer is of another file than is known, RequestProblem for nonsense. */
export function checkSame(
  { url }: Remote,
  { sizeBytes, validator, sha256 }: FileFacts,
  answer: RangeAnswer,
  start: number,
): void {
  const changed = (what: string, was: unknown, is: unknown): never => {
    const text = `${url} changed while it was read (${what} ${String(was)}, now ${String(is)})`;
    throw new TidepoolError("source", text, { url, ...RESTART });
  };
  if (answer.totalBytes !== undefined && answer.totalBytes !== sizeBytes)
    changed("length", sizeBytes, answer.totalBytes);
  if (differ(validator, answer.validator)) changed("ETag", validator, answer.validator);
  if (differ(sha256, answer.sha256)) changed("SHA-256", sha256, answer.sha256);
  if (!answer.isWhole && answer.start !== start)
    throw new RequestProblem(`answered with bytes from ${answer.start}, asked for those from ${start}`, true);
}

function differ(a: string | undefined, b: string | undefined): boolean {
  return a !== undefined && b !== undefined && a !== b;
}

function abortedReading(name: string): TidepoolError {
  return new TidepoolError("aborted", `reading ${name} was aborted`);
}
