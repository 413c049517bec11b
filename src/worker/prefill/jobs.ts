/**
 * The service's side of a prefill: prompts that other engines ask for are computed as requests like any other, and their records
 * are handed out one by one, as they are stored. The asker pulls, so that nothing piles up here: what it has not asked for yet is
 * in the tiers. It speaks no HTTP (src/serve does).
 */
import type { PrefixCache } from "../../cache/prefix.ts";
import { TidepoolError } from "../../errors.ts";
import type { Runner } from "../../model/runner.ts";
import type { Scheduler } from "../../schedule/scheduler.ts";
import { chainKeys, recordKey, rootKey, type Key } from "../../tier/record/keys.ts";
import { encodeRecord, type StoredRecord } from "../../tier/record/record.ts";
import { PREFILL_VERSION, type PrefillFacts, type PrefillRecord } from "../../wire/prefill.ts";
import type { CacheScope, EngineInfo, PrefillCall } from "../../wire/protocol.ts";
import type { TierMover } from "../cache/tier-mover.ts";

/** Prompts that are computed for others at once, at most. */
const MAX_JOBS = 16;

/** A job whose asker wants nothing for so long is ended. */
const JOB_IDLE_MS = 60_000;

/** A prompt being computed; `end` ends that. */
export interface Computing {
  done: Promise<unknown>;
  end(): void;
}

export interface JobRooms {
  readonly info: EngineInfo;
  readonly runner: Runner;
  readonly scheduler: Scheduler;
  readonly cache: PrefixCache;
  readonly mover: TierMover | undefined;
  /** Computes a prompt here, and stores it so far down. */
  computePrompt(tokens: readonly number[], cache: CacheScope): Computing;
}

export class PrefillJobs {
  private readonly rooms: JobRooms;
  private readonly jobs = new Map<number, PrefillJob>();
  private nextId = 1;

  constructor(rooms: JobRooms) {
    this.rooms = rooms;
  }

  get count(): number {
    return this.jobs.size;
  }

  /** @throws TidepoolError `unsupported`, `rejected`, `invalid_argument` */
  answer(call: PrefillCall): unknown {
    switch (call.method) {
      case "prefillFacts":
        return this.facts();
      case "prefillOpen":
        return this.open(call);
      case "prefillNext":
        return this.jobs.get(call.job)?.next();
      case "prefillClose":
        return this.close(call.job);
    }
  }

  /** Ends all jobs. */
  closeAll(): void {
    for (const id of [...this.jobs.keys()]) this.close(id);
  }

  private facts(): PrefillFacts {
    const { info, runner } = this.rooms;
    const { name, contextTokens } = info.model;
    const { dtype, kvDtype, blockTokens } = runner.options;
    const { fingerprint } = this.mover;
    const maxTokens = Math.min(contextTokens, this.rooms.scheduler.capacityTokens) - 1;
    return { version: PREFILL_VERSION, model: name, fingerprint, dtype, kvDtype, blockTokens, maxTokens };
  }

  private get mover(): TierMover {
    const { mover, runner } = this.rooms;
    const generates = runner.shape.embedding?.isEncoder !== true;
    if (mover && generates) return mover;
    throw new TidepoolError("unsupported", "records are made by models that generate, with a RAM tier");
  }

  private open({ tokens, from, cache }: Extract<PrefillCall, { method: "prefillOpen" }>): number {
    const { mover } = this;
    if (this.jobs.size >= MAX_JOBS)
      throw new TidepoolError("rejected", `${MAX_JOBS} prompts are computed for others already`);
    const id = this.nextId++;
    const job = new PrefillJob(this.rooms, mover, { tokens, from, cache }, () => this.close(id));
    this.jobs.set(id, job);
    return id;
  }

  private close(id: number): void {
    this.jobs.get(id)?.close();
    this.jobs.delete(id);
  }
}

/** What is asked of a job. */
interface Wanted {
  tokens: readonly number[];
  from: number;
  cache: Exclude<CacheScope, "off">;
}

class PrefillJob {
  private readonly rooms: JobRooms;
  private readonly mover: TierMover;
  private readonly sequence: { tokens: readonly number[]; storage: CacheScope };
  private readonly computing: Computing;
  /** Resolves when all that will be stored is, or when the job is closed. */
  private readonly settled: Promise<void>;
  private isSettled = false;
  private failure: unknown;
  /** Everything has been handed out, or nobody wants the rest. */
  private isEnded = false;
  private letGo: () => void = () => {};
  private idle: ReturnType<typeof setTimeout> | undefined;
  private readonly onIdle: () => void;
  /** The block that is handed out next, and its parent's key in the namespace ""; behind the last block comes the state. */
  private block: number;
  private parent: Key;

  constructor(rooms: JobRooms, mover: TierMover, { tokens, from, cache }: Wanted, onIdle: () => void) {
    this.rooms = rooms;
    this.mover = mover;
    this.onIdle = onIdle;
    this.sequence = { tokens, storage: cache };
    this.block = from;
    const { fingerprint } = mover;
    const chain = chainKeys(fingerprint, "", tokens.slice(0, from * this.blockTokens), this.blockTokens);
    this.parent = chain.at(-1) ?? rootKey(fingerprint, "");
    this.computing = rooms.computePrompt(tokens, cache);
    const closed = new Promise<void>((resolve) => (this.letGo = resolve));
    this.settled = Promise.race([this.settle(), closed]);
    this.restartIdle();
  }

  /** The next record; undefined if there is none any more. @throws what computing threw */
  async next(): Promise<PrefillRecord | undefined> {
    this.restartIdle();
    for (let waited = false; !this.isEnded; waited = true) {
      const { nextPut } = this.mover;
      const isLast = this.isSettled;
      const record = await this.read(isLast);
      if (record) return { bytes: this.handOut(record), waited };
      if (this.failure !== undefined) throw this.failure as Error;
      if (isLast) this.isEnded = true;
      else await Promise.race([nextPut, this.settled]);
    }
    return undefined;
  }

  close(): void {
    this.isEnded = true;
    clearTimeout(this.idle);
    this.computing.end();
    this.letGo();
  }

  private async settle(): Promise<void> {
    try {
      await this.computing.done;
      await this.mover.settled();
    } catch (error) {
      this.failure = error;
    }
    this.isSettled = true;
  }

  private restartIdle(): void {
    clearTimeout(this.idle);
    this.idle = setTimeout(this.onIdle, JOB_IDLE_MS);
  }

  private get blockTokens(): number {
    return this.rooms.runner.options.blockTokens;
  }

  /** @param isLast nothing more will be stored by itself */
  private async read(isLast: boolean): Promise<StoredRecord | undefined> {
    const { mover, sequence, block } = this;
    const key = mover.keysOf(sequence)[block];
    if (key === undefined) return this.readState();
    const found = await this.get(key);
    if (found || !isLast) return found;
    await this.storeFromGpu(block);
    return this.get(key);
  }

  /** The state behind the last token, in models that have one. */
  private async readState(): Promise<StoredRecord | undefined> {
    const { mover, sequence } = this;
    if (this.rooms.runner.states.slotBytes > 0)
      return this.get(mover.stateKey(sequence, sequence.tokens.length));
    this.isEnded = true;
    return undefined;
  }

  private async get(key: Key): Promise<StoredRecord | undefined> {
    const found = await this.mover.store.get(key, { fingerprint: this.mover.fingerprint });
    return found.hit ? found.record : undefined;
  }

  /** Copies a block down that the tiers have forgotten while the GPU has it. */
  private async storeFromGpu(block: number): Promise<void> {
    const { mover, sequence, rooms } = this;
    const tokens = sequence.tokens.slice(0, (block + 1) * this.blockTokens);
    const slot = rooms.cache.match(Int32Array.from(tokens)).blocks[block]?.slot;
    if (slot === undefined) return;
    mover.spill([{ sequence, block, slot }]);
    await mover.settled();
  }

  /** The record as it goes out, in the namespace "" whatever this engine's is. */
  private handOut(record: StoredRecord): Uint8Array<ArrayBuffer> {
    const { kind, blockIndex, tokens, payload, coarsest, createdAtMs, rebuildCost, fingerprint } = record;
    const { parent } = this;
    const key = recordKey(kind, parent, tokens);
    if (kind === "snapshot") this.isEnded = true;
    else [this.parent, this.block] = [key, this.block + 1];
    const about = { coarsest, createdAtMs, rebuildCost, fingerprint, namespace: "", parentKey: parent };
    const bytes = encodeRecord({ kind, blockIndex, tokens, payload, ...about }, key);
    return bytes as Uint8Array<ArrayBuffer>;
  }
}
