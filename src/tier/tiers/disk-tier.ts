/**
 * A tier on a disk, or on another place that has to be waited for: one Backend, its budget, and what to do when it fails. Every call is bounded in time. A
 * failure never leaves this file as an exception: a read becomes a miss, a write "not written", and a disk that is lost
 * (cleared by the user, hung, refusing) is let go with one notice; a new one may be opened later.
 * It does not know RAM, the queue, or what a record must match (store.ts).
 */
import { background, type Clock } from "../../base.ts";
import { MediumError, type Backend, type Delta, type MediumFault } from "../disk/backend.ts";
import type { Key } from "../record/keys.ts";
import { newCounts } from "./tier-counts.ts";
import { TierIndex, type ChooseVictim, type TierName } from "./tier-index.ts";
import { within, type Timer } from "../disk/timer.ts";
import type { Queued } from "../store/write-queue.ts";

/** What became of a tier; a notice's code has the tier's name before it, such as `disk_full`. */
type Fate =
  | "unavailable" // could not be opened at the start
  | "full" // no room, although the budget allows more
  | "lost" // cleared, closed or failing again and again
  | "hung" // gave no answer, and no sign of work, in time
  | "back"; // opened again

export type NoticeCode = `${TierName}_${Fate}`;

export interface DiskOptions {
  name: TierName;
  /** Makes a backend that is not open yet; called again for each attempt to reopen. */
  make: () => Backend | Promise<Backend>;
  maxBytes: number;
  ioTimeoutMs: number;
  reopenDelayMs: number;
  choose: ChooseVictim | undefined;
  timer: Timer;
  clock: Clock;
  onNotice: (code: NoticeCode, message: string) => void;
}

/** Input/output errors in a row after which a disk counts as lost. */
const MAX_ERRORS_IN_A_ROW = 8;
/** Dead bytes may make the disk exceed its budget by this share before it is compacted harder. */
const SLACK_SHARE = 0.1;
/** Compaction steps after one write, at most. */
const TIDY_STEPS = 4;
/** Unreachable records forgotten in one step. */
const MAX_SWEPT = 4096;
/** After "full" the disk is used up to this share of what it held. */
const FULL_SHARE = 0.9;

type WriteOutcome = "written" | "full" | "failed";

export class DiskTier {
  readonly kind = "async";
  readonly name: TierName;
  readonly counts = newCounts();
  readonly index = new TierIndex();
  state: "closed" | "open" | "lost" = "closed";
  /** Records evicted to make room. */
  evicted = 0;

  private readonly options: DiskOptions;
  private backend: Backend | undefined;
  private maxBytes: number;
  /** What the medium turned out to hold, once it was full before its budget was used. */
  private fullBytes = Infinity;
  private errorsInARow = 0;
  /** What is being written, and all before it: not evicted meanwhile. */
  private needed: ReadonlySet<Key> = new Set();
  private reopenAtMs = 0;
  private readonly told = new Set<Fate>();

  constructor(options: DiskOptions) {
    this.options = options;
    this.name = options.name;
    this.maxBytes = options.maxBytes;
  }

  get budgetBytes(): number {
    return this.maxBytes;
  }

  /** The first opening. */
  async open(): Promise<void> {
    if (await this.tryOpen("unavailable")) await this.sweep();
    else this.scheduleReopen();
  }

  /** Opens a lost disk again, if it is time. */
  async reopenIfDue(): Promise<void> {
    if (this.state !== "lost" || this.options.clock.nowMs() < this.reopenAtMs) return;
    if (!(await this.tryOpen(undefined))) {
      this.scheduleReopen();
      return;
    }
    this.told.clear();
    this.fullBytes = Infinity;
    await this.sweep();
    this.options.onNotice(`${this.name}_back`, `the ${this.name} store is open again`);
  }

  private async tryOpen(fate: Fate | undefined): Promise<boolean> {
    let backend: Backend | undefined;
    const making = async (): Promise<Backend> => this.options.make();
    try {
      backend = await this.bounded("open", making());
      const delta = await this.bounded("open", backend.open(), backend);
      this.backend = backend;
      this.state = "open";
      this.errorsInARow = 0;
      this.apply(delta);
      return true;
    } catch (error) {
      if (fate !== undefined) this.tellOnce(fate, messageOf(error));
      if (backend !== undefined) background(this.abandon(backend), "closing a disk store that did not open");
      return false;
    }
  }

  private scheduleReopen(): void {
    this.state = "lost";
    this.reopenAtMs = this.options.clock.nowMs() + this.options.reopenDelayMs;
  }

  /** The record's bytes, unchecked; a miss reason if there are none to be had. */
  async read(key: Key): Promise<Uint8Array | "gone" | "io"> {
    let answered = false;
    const bytes = await this.attempt("read", async (backend) => {
      const found = await backend.read(key);
      answered = true;
      return found;
    });
    if (bytes !== undefined) return bytes;
    if (answered) this.index.delete(key);
    return answered ? "gone" : "io";
  }

  /**
   * Makes room and stores records that are not there yet, each behind the one before it in its chain. Returns those that
   * are stored: not those whose chain has a hole, nor the last ones if there is no room for all.
   */
  async write(items: readonly Queued[]): Promise<readonly Queued[]> {
    const linked = this.linkedOf(items);
    this.needed = this.neededBy(linked);
    try {
      const evicting = await this.evictTo(this.limitBytes - bytesOf(linked));
      const written = await this.appendFitting(linked);
      if (evicting) await this.tidy();
      return written;
    } finally {
      this.needed = new Set();
    }
  }

  private async appendFitting(items: readonly Queued[]): Promise<readonly Queued[]> {
    let fitting = this.fittingOf(items);
    let outcome = await this.append(fitting);
    if (outcome === "full") {
      await this.afterFull(bytesOf(fitting));
      fitting = this.fittingOf(this.linkedOf(fitting));
      outcome = await this.append(fitting);
      await this.sweep();
    }
    return outcome === "written" ? fitting : [];
  }

  private linkedOf(items: readonly Queued[]): Queued[] {
    const before = new Set<Key>();
    return items.filter(({ info }) => {
      const isLinked = this.index.isLinked(info) || before.has(info.parentKey);
      if (isLinked) before.add(info.key);
      return isLinked;
    });
  }

  /** What must not be evicted for records that are about to be written: they themselves, and all before them. */
  private neededBy(items: readonly Queued[]): Set<Key> {
    const keys = new Set(items.map(({ info }) => info.key));
    for (const { info } of items) this.index.addAncestors(info, keys);
    return keys;
  }

  private fittingOf(items: readonly Queued[]): Queued[] {
    let room = this.limitBytes - this.index.bytes;
    const tooMuch = items.findIndex(({ record }) => (room -= record.length) < 0);
    return items.slice(0, tooMuch < 0 ? items.length : tooMuch);
  }

  private async append(items: readonly Queued[]): Promise<WriteOutcome> {
    if (items.length === 0) return "failed";
    const records = items.map(({ record }) => record);
    let full = false;
    const delta = await this.attempt("append", async (backend) => {
      try {
        return await backend.append(records);
      } catch (error) {
        full = error instanceof MediumError && error.fault === "full";
        throw error;
      }
    });
    if (delta === undefined) return full ? "full" : "failed";
    this.apply(delta);
    return "written";
  }

  /** The medium holds less than the budget says: use less of it, and free some without writing. */
  private async afterFull(bytes: number): Promise<void> {
    const delta = await this.attempt("reclaim", (backend) => backend.reclaim(bytes));
    if (delta === undefined) return;
    this.evicted += delta.removed.length;
    this.apply(delta);
    this.fullBytes = Math.max(bytes, FULL_SHARE * this.index.bytes);
  }

  /** The budget, or less on a medium that turned out to be smaller. */
  get limitBytes(): number {
    return Math.min(this.maxBytes, this.fullBytes);
  }

  /** Gives up records until at most `bytes` are used. Says whether any had to go. */
  private async evictTo(bytes: number): Promise<boolean> {
    const victims: Key[] = [];
    while (this.index.bytes > bytes) {
      const key = this.index.victim(this.name, this.options.choose, this.needed);
      if (key === undefined) break;
      victims.push(key);
      this.index.delete(key);
    }
    if (victims.length === 0) return false;
    this.evicted += victims.length;
    await this.remove(victims);
    return true;
  }

  /** Keeps dead bytes from outgrowing the budget. */
  private async tidy(): Promise<void> {
    for (let step = 0; step < TIDY_STEPS; step++) {
      const { bytesOnMedium } = await this.usage();
      if (bytesOnMedium <= this.limitBytes * (1 + SLACK_SHARE)) return;
      if ((await this.maintain(SLACK_SHARE)) !== "more") return;
    }
  }

  /**
   * Forgets records to which no chain leads any more, MAX_SWEPT at most. They are looked for twice, the second time after a
   * look at what others did: another process may be in the middle of writing a chain. Says whether there are more.
   */
  async sweep(): Promise<boolean> {
    const before = new Set(this.index.orphans());
    if (before.size === 0 || !(await this.refresh())) return false;
    const orphans = this.index.orphans().filter((key) => before.has(key));
    if (orphans.length > 0) await this.remove(orphans.slice(0, MAX_SWEPT));
    return orphans.length > MAX_SWEPT;
  }

  /** Forgets records; false if that could not be made to last. */
  async remove(keys: readonly Key[]): Promise<boolean> {
    for (const key of keys) this.index.delete(key);
    const delta = await this.attempt("remove", (backend) => backend.remove(keys));
    if (delta !== undefined) this.apply(delta);
    return delta !== undefined;
  }

  async refresh(): Promise<boolean> {
    const delta = await this.attempt("refresh", (backend) => backend.refresh());
    if (delta !== undefined) this.apply(delta);
    return delta !== undefined;
  }

  /** One step of idle work. */
  async maintain(wasteShare?: number): Promise<"more" | "done" | "failed"> {
    const result = await this.attempt("maintain", (backend) => backend.maintain(wasteShare));
    if (result === undefined) return "failed";
    this.apply(result);
    return result.more ? "more" : "done";
  }

  async usage(): Promise<{ bytesOnMedium: number; segments: number; badEntries: number }> {
    const usage = await this.attempt("usage", (backend) => backend.usage());
    return usage ?? { bytesOnMedium: 0, segments: 0, badEntries: 0 };
  }

  async setMaxBytes(maxBytes: number): Promise<void> {
    this.maxBytes = maxBytes;
    this.fullBytes = Infinity;
    if (await this.evictTo(this.limitBytes)) await this.tidy();
  }

  async close(): Promise<void> {
    await this.attempt("close", (backend) => backend.close());
    this.backend = undefined;
    this.state = "closed";
  }

  private apply(delta: Delta): void {
    for (const key of delta.removed) this.index.delete(key);
    const oldestFirst = [...delta.added].sort((a, b) => a.createdAtMs - b.createdAtMs);
    for (const info of oldestFirst) this.index.set(info);
  }

  /** Runs a call on the backend, bounded in time without progress; undefined if there is none or it failed. */
  private async attempt<T>(label: string, call: (backend: Backend) => Promise<T>): Promise<T | undefined> {
    const backend = this.backend;
    if (backend === undefined) return undefined;
    try {
      const result = await this.bounded(label, call(backend), backend);
      this.errorsInARow = 0;
      return backend === this.backend ? result : undefined; // lost meanwhile
    } catch (error) {
      if (backend === this.backend) this.onFault(label, error);
      return undefined;
    }
  }

  private bounded<T>(label: string, promise: Promise<T>, backend?: Backend): Promise<T> {
    return within(this.options.timer, this.options.ioTimeoutMs, label, promise, backend?.progress);
  }

  private onFault(label: string, error: unknown): void {
    const fault: MediumFault = error instanceof MediumError ? error.fault : "io";
    const message = `${label}: ${messageOf(error)}`;
    if (fault === "full") this.tellOnce("full", message);
    else if (fault === "hung") this.lose("hung", message);
    else if (fault !== "io" || ++this.errorsInARow >= MAX_ERRORS_IN_A_ROW) this.lose("lost", message);
  }

  private lose(fate: Fate, message: string): void {
    const { backend } = this;
    this.backend = undefined;
    this.index.clear();
    this.scheduleReopen();
    this.tellOnce(fate, message);
    if (backend !== undefined) background(this.abandon(backend), "closing a lost disk store");
  }

  /** Closes a backend from which nothing is expected any more; locks and handles go if it still answers. */
  private async abandon(backend: Backend): Promise<void> {
    try {
      await this.bounded("close", backend.close(), backend);
    } catch {
      backend.abandon?.(); // it is lost, which has been told already
    }
  }

  private tellOnce(fate: Fate, message: string): void {
    if (this.told.has(fate)) return;
    this.told.add(fate);
    this.options.onNotice(`${this.name}_${fate}`, message);
  }
}

function bytesOf(items: readonly Queued[]): number {
  return items.reduce((sum, { record }) => sum + record.length, 0);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
