/**
 * A disk that fails, in the Medium's place.
 *
 * The fault model. A world holds files; one or two processes use it, each through a medium of its own.
 * - Bytes appended are in the page cache until their file is synced. They survive the death of a process (kill) but not
 *   a loss of power: then each unsynced append is kept, lost, or torn (a prefix, then zeros or noise), independently of
 *   the others, so later ones may survive earlier ones (reordering) and leave holes of zeros. A file that was never
 *   synced may vanish. Making and removing names is durable when the call returns.
 * - A process may die at any step, in the middle of it: an append then leaves any prefix. Its locks are given back.
 * - A call may throw (io), find the disk full (after writing a part), never answer (hang), or read fewer bytes than there
 *   are (short).
 * - Every step may take its time.
 * - Bits rot: at any time a bit of a file may flip, for good.
 * - The user may clear everything.
 * What it does not do: lie about sync, and give a file's bytes to another file.
 * Synced bytes are kept apart from unsynced ones, so a test can know the truth at any time.
 */
import type { Random, Timer } from "../../src/base.ts";
import {
  MediumError,
  type Appender,
  type FileSize,
  type Medium,
  type Lock,
} from "../../src/tier/disk/backend.ts";

export type FaultKind = "io" | "full" | "hang" | "short";
export const FAULT_KINDS: readonly FaultKind[] = ["io", "full", "hang", "short"];

/** What a medium is asked to do; faults are counted by it. */
export type Step = "list" | "create" | "append" | "sync" | "read" | "remove" | "lock" | "close";

interface FakeFile {
  synced: Uint8Array;
  unsynced: Uint8Array[];
  everSynced: boolean;
}

const never = <T>(): Promise<T> => new Promise<T>(() => undefined);

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** A file's bytes as readers see them; not to be written to. */
const contentOf = (file: FakeFile): Uint8Array =>
  file.unsynced.length === 0 ? file.synced : concat([file.synced, ...file.unsynced]);

const lengthOf = (file: FakeFile): number =>
  file.unsynced.reduce((sum, { length }) => sum + length, file.synced.length);

export class World {
  readonly files = new Map<string, FakeFile>();
  readonly locks = new Map<string, number>();
  /** Faults injected, as "kind at step". */
  readonly injected = new Map<string, number>();
  readonly random: Random;
  /** How long each step takes, and by which timer. */
  slow: { timer: Timer; ms: number } | undefined;
  /** Chance of each fault at each step. */
  rates: Partial<Record<FaultKind, number>> = {};
  readonly dead = new Set<number>();
  /** Steps until the process that makes one dies; undefined: it lives. */
  deathIn: number | undefined;

  constructor(random: Random) {
    this.random = random;
  }

  count(kind: string, step: string): void {
    const name = `${kind} at ${step}`;
    this.injected.set(name, (this.injected.get(name) ?? 0) + 1);
  }

  kill(process: number): void {
    this.dead.add(process);
    for (const [writer, holder] of [...this.locks]) if (holder === process) this.locks.delete(writer);
  }

  /** All processes die, and the page cache is lost. */
  losePower(processes: readonly number[]): void {
    for (const process of processes) this.kill(process);
    for (const [name, file] of [...this.files]) {
      if (!file.everSynced && this.random.below(3) === 0) {
        this.files.delete(name);
        continue;
      }
      file.synced = this.afterPowerLoss(file);
      file.unsynced = [];
      file.everSynced = true; // what is there after a loss of power is on the medium
    }
  }

  private afterPowerLoss(file: FakeFile): Uint8Array {
    const whole = contentOf(file).slice();
    let start = file.synced.length;
    let end = start;
    for (const write of file.unsynced) {
      const fate = this.random.below(3);
      const kept = fate === 0 ? 0 : fate === 1 ? write.length : this.random.below(write.length + 1);
      const noise = this.random.below(2) === 0 ? 0 : 0xff;
      for (let i = kept; i < write.length; i++) whole[start + i] = noise & this.random.uint32();
      if (kept > 0) end = start + (fate === 2 ? write.length : kept);
      if (kept < write.length) this.count(kept === 0 ? "lost" : "torn", "power loss");
      start += write.length;
    }
    return whole.slice(0, end);
  }

  /** Flips one bit of one file. */
  rot(): void {
    const names = [...this.files.keys()].filter((name) => lengthOf(this.files.get(name)!) > 0);
    if (names.length === 0) return;
    const file = this.files.get(this.random.pick(names)) as FakeFile;
    const content = contentOf(file).slice();
    const at = this.random.below(content.length);
    content[at] = (content[at] as number) ^ (1 << this.random.below(8));
    file.synced = content.slice(0, file.synced.length);
    file.unsynced = content.length > file.synced.length ? [content.slice(file.synced.length)] : [];
    this.count("flip", "rest");
  }

  clearByUser(): void {
    this.files.clear();
    this.count("cleared", "rest");
  }

  get bytes(): number {
    let sum = 0;
    for (const file of this.files.values()) sum += lengthOf(file);
    return sum;
  }

  /** Puts a file there as if somebody else had written it. */
  plant(name: string, bytes: Uint8Array): void {
    this.files.set(name, { synced: bytes, unsynced: [], everSynced: true });
  }

  content(name: string): Uint8Array | undefined {
    const file = this.files.get(name);
    return file === undefined ? undefined : contentOf(file).slice();
  }
}

export class FakeMedium implements Medium {
  readonly name = "fake";
  private readonly world: World;
  private readonly process: number;

  constructor(world: World, process: number) {
    this.world = world;
    this.process = process;
  }

  /** Passes one step, or fails it. `partly` is the step's effect when it breaks off. */
  private async step(step: Step, partly: () => void = () => undefined): Promise<void> {
    const { world } = this;
    if (world.dead.has(this.process)) return never();
    if (world.deathIn !== undefined && world.deathIn-- <= 0) {
      world.deathIn = undefined;
      world.count("death", step);
      partly();
      world.kill(this.process);
      return never();
    }
    const { slow } = world;
    await (slow ? new Promise<void>((go) => slow.timer.after(slow.ms, go)) : Promise.resolve()); // lets other calls in between
    if (world.dead.has(this.process)) return never();
    const writes = step === "append" || step === "create";
    if (this.strikes("io", step)) {
      partly();
      throw new MediumError("io", `injected at ${step}`);
    }
    if (writes && this.strikes("full", step)) {
      partly();
      throw new MediumError("full", `injected at ${step}`);
    }
    if (this.strikes("hang", step)) return never();
  }

  private strikes(kind: FaultKind, step: Step): boolean {
    const rate = this.world.rates[kind] ?? 0;
    if (rate === 0 || this.world.random.next() >= rate) return false;
    this.world.count(kind, step);
    return true;
  }

  async list(): Promise<FileSize[]> {
    await this.step("list");
    return [...this.world.files].map(([name, file]) => ({ name, bytes: lengthOf(file) }));
  }

  async create(name: string): Promise<Appender> {
    const make = (): void => {
      if (this.world.files.has(name)) throw new MediumError("io", `${name} exists`);
      this.world.files.set(name, { synced: new Uint8Array(), unsynced: [], everSynced: false });
    };
    await this.step("create");
    make();
    return this.appender(name);
  }

  private appender(name: string): Appender {
    const fileNow = (): FakeFile => {
      const file = this.world.files.get(name);
      if (file === undefined) throw new MediumError("gone", `${name} was cleared`);
      return file;
    };
    return {
      append: async (parts) => {
        const bytes = concat(parts);
        const prefix = (): void => {
          const part = bytes.slice(0, this.world.random.below(bytes.length + 1));
          if (part.length > 0) this.world.files.get(name)?.unsynced.push(part);
        };
        await this.step("append", prefix);
        fileNow().unsynced.push(bytes);
      },
      sync: async () => {
        const written = this.world.files.get(name);
        const covered = written?.unsynced.length ?? 0;
        await this.step("sync");
        const file = fileNow();
        file.synced = concat([file.synced, ...file.unsynced.slice(0, covered)]);
        file.unsynced = file.unsynced.slice(covered);
        file.everSynced = true;
      },
      close: () => this.step("close"),
    };
  }

  async read(name: string, offset: number, length: number): Promise<Uint8Array> {
    await this.step("read");
    const file = this.world.files.get(name);
    if (file === undefined) throw new MediumError("gone", `${name} is not there`);
    const bytes = contentOf(file).slice(offset, offset + length);
    if (bytes.length > 0 && this.strikes("short", "read")) {
      return bytes.slice(0, this.world.random.below(bytes.length));
    }
    return bytes;
  }

  async remove(name: string): Promise<void> {
    await this.step("remove", () => {
      if (this.world.random.below(2) === 0) this.world.files.delete(name);
    });
    this.world.files.delete(name);
  }

  async lock(writer: string): Promise<Lock | undefined> {
    await this.step("lock");
    if (this.world.locks.has(writer)) return undefined;
    this.world.locks.set(writer, this.process);
    const isHeld = (): boolean => this.world.locks.get(writer) === this.process;
    return {
      release: () => {
        if (isHeld()) this.world.locks.delete(writer);
        return Promise.resolve();
      },
      isHeld: () => Promise.resolve(isHeld()),
    };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
