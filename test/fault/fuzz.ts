/**
 * Random work on the store over a failing disk, with crashes, checked against what can be known:
 * - wrong: a hit's bytes are not those that belong to its key;
 * - half-committed: after a crash (and no rotten bits) the list names a record whose bytes are not whole;
 * - lost: a record that was on the disk with its whole chain, by a drained store's own word, is not there after a restart;
 * - undead: a record that was forgotten for good is back after a restart;
 * - stalled: with the faults off, what is put does not reach the disk;
 * - stuck: a call that is bounded never returned; closed: the store did not open after the faults stopped;
 * - leak: after everything is cleared and closed, files or locks are left; sums: the books do not balance.
 * Each run has a random configuration and a random set of faults. It judges; it does not print.
 */
import { Random } from "../../src/base.ts";
import type { Key } from "../../src/tier/record/keys.ts";
import type { RecordDraft } from "../../src/tier/record/record.ts";
import { SegmentBackend } from "../../src/tier/disk/segments.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import { chain, keyOf, payloadOf } from "../tier/make.ts";
import { FakeMedium, FAULT_KINDS, World } from "./fake-disk.ts";
import { FakeTimer, settle } from "./fake-timer.ts";

export interface FuzzHooks {
  /** Believe what is read from the disk. */
  trustRecords?: boolean;
  /** Write the commit marks before the data. */
  logFirst?: boolean;
}

export interface FuzzReport {
  runs: number;
  restarts: number;
  hits: number;
  misses: number;
  /** By "kind at step". */
  injected: Map<string, number>;
  /** At most MAX_VIOLATIONS. */
  violations: string[];
}

export const MAX_VIOLATIONS = 20;

interface Item {
  key: Key;
  draft: RecordDraft;
  namespace: string;
  /** Its chain up to itself, and from itself on. */
  before: Item[];
  behind: Item[];
}

const NAMESPACES = ["", "alice"];
const PAYLOAD_BYTES = 96;

const universe: Item[] = NAMESPACES.flatMap((namespace) =>
  [1, 2, 3, 4].flatMap((seed) => {
    const drafts = chain(seed, 6, { namespace, payloadBytes: PAYLOAD_BYTES });
    const items = drafts.map((draft): Item => {
      return { key: keyOf(draft), draft, namespace, before: [], behind: [] };
    });
    items.forEach((item, i) =>
      Object.assign(item, { before: items.slice(0, i + 1), behind: items.slice(i) }),
    );
    return items;
  }),
);
const payloads = new Map(universe.map(({ key }) => [key, payloadOf(key, PAYLOAD_BYTES)]));

/** One configuration: what can happen in a run, and so what can be demanded of it. */
interface Config {
  processes: number;
  segmentBytes: number;
  ramBytes: number;
  diskBytes: number;
  queueBytes: number;
  flips: boolean;
  clears: boolean;
  powerLoss: boolean;
  rates: World["rates"];
}

function randomConfig(random: Random): Config {
  const roomy = random.below(2) === 0;
  const rates: World["rates"] = {};
  for (const kind of FAULT_KINDS) {
    if (random.below(3) === 0) rates[kind] = random.pick([0.002, 0.01, 0.05]);
  }
  return {
    processes: 1 + random.below(2),
    segmentBytes: random.pick([600, 2000, 8000]),
    ramBytes: random.pick([0, 1000, 4000, 1e6]),
    diskBytes: roomy ? 1e9 : random.pick([1500, 4000]),
    queueBytes: random.pick([500, 2000, 1e6]),
    flips: random.below(4) === 0,
    clears: random.below(6) === 0,
    powerLoss: random.below(2) === 0,
    rates,
  };
}

class Run {
  readonly violations: string[] = [];
  restarts = 0;
  hits = 0;
  misses = 0;
  private readonly random: Random;
  private readonly config: Config;
  private readonly hooks: FuzzHooks;
  private readonly world: World;
  private timer = new FakeTimer();
  private stores: TierStore[] = [];
  private nextProcess = 0;
  private nextWriter = 0;
  private living: number[] = [];
  /** Whether a store has lost its disk and opened another backend since the last restart. */
  private reopened = false;
  private durable = new Set<Key>();
  private readonly forgotten = new Set<Key>();
  private rotten = false;

  constructor(random: Random, world: World, hooks: FuzzHooks) {
    this.random = random;
    this.world = world;
    this.hooks = hooks;
    this.config = randomConfig(random);
  }

  async play(): Promise<void> {
    await this.start();
    for (let life = 0; life < 3; life++) {
      this.world.rates = this.config.rates;
      this.world.deathIn = this.random.below(4) === 0 ? undefined : this.random.below(150);
      for (let i = 0; i < 25 && !this.someoneDied(); i++) await this.act();
      this.crash();
      await this.start();
      await this.judge();
    }
    await this.finish();
  }

  get summary(): string {
    return JSON.stringify(this.config);
  }

  private violate(kind: string, detail: string): void {
    this.violations.push(`${kind}: ${detail}`);
  }

  private someoneDied(): boolean {
    return this.living.some((process) => this.world.dead.has(process));
  }

  private crash(): void {
    this.world.deathIn = undefined;
    this.world.rates = {};
    if (this.config.powerLoss) {
      this.world.count("power loss", "any");
      this.world.losePower(this.living);
      return;
    }
    for (const process of this.living) this.world.kill(process);
  }

  /** Starts all processes afresh. Faults are off, so every store must open. */
  private async start(): Promise<void> {
    this.restarts++;
    this.timer = new FakeTimer();
    this.stores = [];
    this.living = [];
    for (let i = 0; i < this.config.processes; i++) {
      const process = this.nextProcess++;
      this.living.push(process);
      const store = await this.must("open", this.openStore(process));
      if (store !== undefined) this.stores.push(store);
    }
  }

  private openStore(process: number): Promise<TierStore> {
    const { segmentBytes, ramBytes, diskBytes, queueBytes } = this.config;
    let opened = 0;
    const disk = (): SegmentBackend => {
      if (opened++ > 0) this.reopened = true;
      const writer = (this.nextWriter++).toString(16).padStart(16, "0");
      const hooks = { logFirst: this.hooks.logFirst ?? false };
      return new SegmentBackend(new FakeMedium(this.world, process), { segmentBytes, writer, hooks });
    };
    return TierStore.open({
      ramBytes,
      diskBytes,
      queueBytes,
      disk,
      timer: this.timer,
      clock: this.timer,
      nowEpochMs: () => 1,
      refreshAfterMs: this.config.processes > 1 ? 0 : 1e9,
      hooks: { trustRecords: this.hooks.trustRecords ?? false },
    });
  }

  /** Waits for a call of a living process, which must return. */
  private async must<T>(label: string, promise: Promise<T>): Promise<T | undefined> {
    const result = await settle(this.timer, promise);
    if (result !== "stuck") return result;
    if (!this.someoneDied()) this.violate("stuck", label);
    return undefined;
  }

  private async act(): Promise<void> {
    const store = this.random.pick(this.stores);
    const choice = this.random.below(100);
    if (choice < 45) this.put(store);
    else if (choice < 65) await this.check(store, this.random.pick(universe));
    else if (choice < 75) await this.drain(store);
    else if (choice < 80) await this.drop(store);
    else if (choice < 83) await this.clear(store);
    else if (choice < 90) await this.must("maintain", store.maintain());
    else if (choice < 93) await this.must("refresh", store.refresh());
    else if (choice < 95) store.demote(this.random.pick(universe).key);
    else await this.rest();
  }

  private put(store: TierStore): void {
    for (const { key, draft } of this.random.pick(universe).before) {
      store.put(draft);
      this.forgotten.delete(key);
    }
  }

  private async drain(store: TierStore): Promise<void> {
    const drained = await this.must("drain", store.drain(1000));
    if (drained?.left !== 0) return;
    if ((await this.must("refresh", store.refresh())) !== true) return; // another process may have dropped some
    const onDisk = store.list().filter(({ tiers }) => tiers.includes("disk"));
    const keys = new Set(onDisk.map(({ key }) => key));
    for (const { key, before } of universe)
      if (before.every((link) => keys.has(link.key))) this.durable.add(key);
  }

  private async drop(store: TierStore): Promise<void> {
    const { key, behind } = this.random.pick(universe);
    for (const unreachable of behind) this.durable.delete(unreachable.key);
    await this.must("drain", store.drain(1000));
    if ((await this.must("drop", store.drop([key]))) === true && this.isOpen(store)) this.forgotten.add(key);
  }

  private async clear(store: TierStore): Promise<void> {
    const namespace = this.random.pick(NAMESPACES);
    const cleared = universe.filter((item) => item.namespace === namespace);
    for (const { key } of cleared) this.durable.delete(key);
    const result = await this.must("clear", store.clear({ namespace }));
    if (result?.complete !== true) return;
    for (const { key } of cleared) this.forgotten.add(key);
  }

  private isOpen(store: TierStore): boolean {
    return store.stateOf("disk") === "open";
  }

  /** What befalls a disk at rest. */
  private rest(): Promise<void> {
    if (this.config.flips) {
      this.rotten = true;
      this.world.rot();
    }
    if (this.config.clears && this.random.below(4) === 0) {
      this.world.clearByUser();
      this.durable.clear();
    }
    return Promise.resolve();
  }

  /** Gets one record; if it is there, it must be right. */
  private async check(store: TierStore, { key, draft }: Item): Promise<boolean> {
    const found = await this.must("get", store.get(key));
    if (found?.hit !== true) {
      this.misses++;
      return false;
    }
    this.hits++;
    const expected = payloads.get(key) as Uint8Array;
    const { payload, tokens } = found.record;
    const right = payload.length === expected.length && payload.every((byte, i) => byte === expected[i]);
    if (!right) this.violate("wrong", `payload of ${key} from ${found.tier}`);
    if (tokens.some((token, i) => token !== draft.tokens[i])) this.violate("wrong", `tokens of ${key}`);
    return true;
  }

  /** After a restart, with the faults off. */
  private async judge(): Promise<void> {
    const [store] = this.stores;
    if (store === undefined || !this.isOpen(store)) return this.violate("closed", "after a restart");
    if (!this.rotten) {
      const verified = await this.must("verify", store.verify());
      const bad = JSON.stringify(verified?.bad ?? {});
      if (bad !== "{}") this.violate("half-committed", bad);
    }
    const present = new Set<Key>();
    for (const item of universe) if (await this.check(store, item)) present.add(item.key);
    this.judgeDurable(present);
    this.judgeForgotten(present);
    this.durable = new Set();
    this.reopened = false;
    await this.judgeProgress(store);
  }

  /**
   * Only where nothing but the store decides what is kept. A backend may have seen, in the page cache, what another one
   * (of another process, of this one before its disk was lost, or one that hung) had not synced: that is no promise.
   */
  private judgeDurable(present: ReadonlySet<Key>): void {
    const { diskBytes, clears, processes, powerLoss, rates } = this.config;
    if (diskBytes < 1e9 || this.rotten || clears) return;
    if (rates.full !== undefined || rates.short !== undefined) return;
    if (powerLoss && (processes > 1 || this.reopened || rates.hang !== undefined)) return;
    if (processes > 1 && Object.keys(rates).length > 0) return;
    for (const key of this.durable) if (!present.has(key)) this.violate("lost", key);
  }

  /** With two processes the other one may rightly bring a record back. */
  private judgeForgotten(present: ReadonlySet<Key>): void {
    if (this.config.processes > 1 || this.rotten) return;
    for (const key of this.forgotten) if (present.has(key)) this.violate("undead", key);
  }

  /** With the faults off and room on the disk, what is put gets there. */
  private async judgeProgress(store: TierStore): Promise<void> {
    if (this.config.diskBytes < 1e9) return;
    const { key, before } = this.random.pick(universe);
    for (const link of before) {
      store.put(link.draft);
      this.forgotten.delete(link.key);
      await this.must("drain", store.drain(1000));
    }
    const listed = store.list().find((info) => info.key === key);
    if (listed?.tiers.includes("disk") !== true) this.violate("stalled", key);
  }

  private async finish(): Promise<void> {
    for (const store of this.stores.slice(1)) await this.must("close", store.close());
    const [store] = this.stores;
    if (store === undefined) return;
    await this.must("drain", store.drain(1000));
    await this.judgeSums(store);
    const cleared = await this.must("clear", store.clear());
    if (cleared?.complete !== true) this.violate("leak", "clear was not complete");
    await this.must("close", store.close());
    if (this.world.files.size > 0) this.violate("leak", [...this.world.files.keys()].join(" "));
    if (this.world.locks.size > 0) this.violate("leak", `locks ${[...this.world.locks.keys()].join(" ")}`);
    if (this.timer.size > 0) this.violate("leak", `${this.timer.size} timers`);
  }

  private async judgeSums(store: TierStore): Promise<void> {
    const stats = await this.must("stats", store.stats());
    if (stats === undefined) return;
    const list = store.list();
    const sum = (tier: "ram" | "disk"): number =>
      list.filter(({ tiers }) => tiers.includes(tier)).reduce((total, { bytes }) => total + bytes, 0);
    if (stats.queue.bytes !== 0 || stats.queue.records !== 0) this.violate("sums", "queue not empty");
    for (const tier of ["ram", "disk"] as const) {
      const { bytes, budgetBytes } = stats[tier];
      if (bytes !== sum(tier)) this.violate("sums", `${tier} ${bytes}, listed ${sum(tier)}`);
      if (tier === "ram" && bytes > budgetBytes) this.violate("sums", `${tier} over its budget`);
    }
  }
}

/** Plays `runs` runs. The same seed gives the same runs. */
export async function fuzz(seed: number, runs: number, hooks: FuzzHooks = {}): Promise<FuzzReport> {
  const report: FuzzReport = { runs, restarts: 0, hits: 0, misses: 0, injected: new Map(), violations: [] };
  const seeds = new Random(seed);
  for (let i = 0; i < runs && report.violations.length < MAX_VIOLATIONS; i++) {
    const runSeed = seeds.uint32();
    const random = new Random(runSeed);
    const world = new World(random);
    const run = new Run(random, world, hooks);
    await run.play();
    report.restarts += run.restarts;
    report.hits += run.hits;
    report.misses += run.misses;
    for (const [name, count] of world.injected) {
      report.injected.set(name, (report.injected.get(name) ?? 0) + count);
    }
    for (const violation of run.violations) report.violations.push(`run ${i} (${run.summary}): ${violation}`);
  }
  return report;
}
