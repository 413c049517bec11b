/**
 * The two seams of this room. A Backend keeps records and says what it has; a Medium is a flat folder of files that only
 * grow, on which segments.ts builds a Backend. The fault tests put their fake disk in the Medium's place.
 *
 * What is not promised: that an entry in a Backend's list can still be read (the caller checks each record), that another
 * writer's change is known before refresh(), or any order between two calls that were not awaited one after the other.
 */
import type { Key } from "../record/keys.ts";
import type { RecordInfo } from "../record/record.ts";

/** What changed in a backend's list since it was last told. A key is in one of the two at most. */
export interface Delta {
  added: RecordInfo[];
  removed: Key[];
}

export interface MaintainResult extends Delta {
  /** Bytes of records rewritten by compaction in this step. */
  bytesCopied: number;
  /** Whether another step would find work. */
  more: boolean;
}

export interface BackendUsage {
  /** Bytes on the medium, dead ones included. */
  bytesOnMedium: number;
  segments: number;
  /** Segment log entries that failed their checks, since open. */
  badEntries: number;
}

/** Tells of each finished step of work (progress.ts). */
export interface StepSource {
  /** Calls `listener` after each step until the returned function is called. */
  on(listener: () => void): () => void;
}

/** A place for encoded records. Every method may be called at any time between open() and close(). */
export interface Backend {
  readonly name: string;
  /** Tells of each finished step of work that changes files, where calls may wait for one another or take long. */
  readonly progress?: StepSource;
  /** Opens and lists what is there. */
  open(): Promise<Delta>;
  /** Stores encoded records; on return they survive a loss of power, as far as the platform can promise that. */
  append(records: readonly Uint8Array[]): Promise<Delta>;
  /** The record's bytes, unchecked and perhaps too short; undefined when they are nowhere to be found. */
  read(key: Key): Promise<Uint8Array | undefined>;
  /** Forgets records, by whomever they were written; absent keys are fine. */
  remove(keys: readonly Key[]): Promise<Delta>;
  /** Looks for what other writers did. */
  refresh(): Promise<Delta>;
  /**
   * One bounded step of idle work: takes over what dead writers left, drops dead segments, compacts one segment of which
   * more than `wasteShare` (default one half) is dead.
   */
  maintain(wasteShare?: number): Promise<MaintainResult>;
  /** Frees at least `bytes` on a full medium without writing, by dropping live records if it must. */
  reclaim(bytes: number): Promise<Delta>;
  usage(): Promise<BackendUsage>;
  close(): Promise<void>;
  /** Lets go of everything at once, when close() gave no answer; where there is something that can be let go of. */
  abandon?(): void;
}

/**
 * `full`: no room or quota. `gone`: the file or the whole folder is not there. `closed`: this handle is done for.
 * `hung`: no answer in time (the store's finding, never a medium's).
 */
export type MediumFault = "full" | "gone" | "closed" | "unsupported" | "hung" | "io";

/** A medium's failure. It stays inside this room: the store turns it into a miss or a notice. */
export class MediumError extends Error {
  readonly fault: MediumFault;

  constructor(fault: MediumFault, message: string) {
    super(message);
    this.name = "MediumError";
    this.fault = fault;
  }
}

export interface FileSize {
  name: string;
  bytes: number;
}

/** A file that its one writer appends to. */
export interface Appender {
  /** Writes at the end. After a failure an unknown part of `bytes` is there. */
  append(parts: readonly Uint8Array[]): Promise<void>;
  /** On return all that was appended survives a loss of power. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

/** A writer's lock. */
export interface Lock {
  release(): Promise<void>;
  /** Whether it is still held: it may be taken over from a holder that slept for long, and looked dead. */
  isHeld(): Promise<boolean>;
}

/** A flat folder of append-only files, shared with other tabs or processes. */
export interface Medium {
  readonly name: string;
  list(): Promise<FileSize[]>;
  /** Makes a new file; fails if it exists. */
  create(name: string): Promise<Appender>;
  /** Bytes from `offset`; fewer at the end of the file. Throws MediumError "gone" where there is no such file. */
  read(name: string, offset: number, length: number): Promise<Uint8Array>;
  /** Removes a file for good; an absent one is fine. */
  remove(name: string): Promise<void>;
  /** Takes a writer's lock if its holder is dead or there is none; undefined if it is held. Never waits. */
  lock(writer: string): Promise<Lock | undefined>;
  /** Gives up file handles (not locks). */
  close(): Promise<void>;
}

export const noDelta = (): Delta => ({ added: [], removed: [] });
