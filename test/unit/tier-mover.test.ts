/**
 * What requests of different scopes leave below the GPU: the true scheduler, mover and store, on a pool whose bytes are
 * plain memory and a disk that is one too.
 */
import { describe, expect, it } from "vitest";
import { Random } from "../../src/base.ts";
import { BlockPool } from "../../src/cache/blocks.ts";
import { createPrefixCache } from "../../src/cache/policy/create.ts";
import type { KvPool } from "../../src/gpu/pool.ts";
import type { StorageScope, Request } from "../../src/schedule/request.ts";
import { CostModel } from "../../src/schedule/cost/model.ts";
import { Scheduler, type Plan } from "../../src/schedule/scheduler.ts";
import { fingerprintOf, type Key } from "../../src/tier/record/keys.ts";
import { encodeRecord } from "../../src/tier/record/record.ts";
import { SegmentBackend } from "../../src/tier/disk/segments.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import { answerCacheCall, type CacheRooms } from "../../src/worker/cache/calls.ts";
import { TierMover } from "../../src/worker/cache/tier-mover.ts";
import { FakeMedium, World } from "../fault/fake-disk.ts";
import { testSeed } from "../support/seed.ts";

const BLOCK_TOKENS = 4;
const SLOT_BYTES = 32;

interface MachineOptions {
  slots: number;
  ramBytes: number;
  diskBytes: number;
  world: World;
}

/** An engine without arithmetic. */
class Machine {
  readonly scheduler: Scheduler;
  readonly mover: TierMover;
  readonly store: TierStore;
  /** Copies from the GPU wait for this. */
  reading: Promise<void> = Promise.resolve();
  private readonly cache: CacheRooms["cache"];
  private nextId = 1;

  static async open({ slots, ramBytes, diskBytes, world }: MachineOptions): Promise<Machine> {
    const disk = (): SegmentBackend => new SegmentBackend(new FakeMedium(world, 1));
    return new Machine(slots, await TierStore.open({ ramBytes, diskBytes, disk }));
  }

  private constructor(slots: number, store: TierStore) {
    this.store = store;
    const bytes = Array.from({ length: slots }, () => new Uint8Array(SLOT_BYTES));
    const readSlots = async (wanted: readonly number[], headerBytes = 0): Promise<Uint8Array[]> => {
      const copies = wanted.map((slot) => new Uint8Array([...new Uint8Array(headerBytes), ...bytes[slot]!]));
      await this.reading;
      return copies.map((copy) => copy.subarray(headerBytes));
    };
    const writeSlot = (slot: number, payload: Uint8Array): void => bytes[slot]!.set(payload);
    const pool = {
      options: { blockTokens: BLOCK_TOKENS, layers: [] },
      slotBytes: SLOT_BYTES,
      readSlots,
      writeSlot,
    };
    const tiers = store.tierNames.map((name) => ({ name, isInMemory: store.isInMemory(name) }));
    const facts = { bytesPerBlock: SLOT_BYTES, flopsPerToken: 1, isSoftware: false, tiers };
    const costs = new CostModel({ blockTokens: BLOCK_TOKENS, ...facts });
    this.mover = new TierMover({
      ...{ store, pool: pool as unknown as KvPool, fingerprint: fingerprintOf({ weights: "w" }) },
      ...{ namespace: "", restore: "load", flopsPerToken: 1, nowMs: () => 0, costs },
    });
    const blocks = new BlockPool(slots);
    const cost = { flopsLinear: 1000, flopsQuadratic: 1, bytesPerToken: 8, bytesPerSnapshot: 0 };
    const options = { policy: "lru", blockTokens: BLOCK_TOKENS, cost, pool: blocks } as const;
    this.cache = createPrefixCache(options).cache;
    const sizes = { blockTokens: BLOCK_TOKENS, chunkTokens: 2 * BLOCK_TOKENS, seats: 4 };
    this.scheduler = new Scheduler(this.cache, blocks, { ...sizes, lower: this.mover });
  }

  submit(prompt: readonly number[], storage: StorageScope): Request {
    return this.scheduler.submit({ id: this.nextId++, prompt, maxNewTokens: 2, stopIds: new Set(), storage });
  }

  /** Runs all requests to their ends. */
  async run(): Promise<void> {
    for (let turn = 0; turn < 10_000 && this.scheduler.activeCount > 0; turn++) {
      const plan = this.scheduler.next();
      for (const move of this.scheduler.takeMoves()) {
        const tier = await this.mover.load(move, () => this.scheduler.isWanted(move));
        this.scheduler.moved(move, tier);
      }
      if (plan) this.commit(plan);
    }
    this.scheduler.check();
  }

  private commit(plan: Plan): void {
    this.mover.spill(plan.completes);
    this.scheduler.commit(
      plan,
      plan.spans.map(({ samples }) => (samples > 0 ? [7] : [])),
    );
  }

  async ask(prompt: readonly number[], storage: StorageScope): Promise<void> {
    this.submit(prompt, storage);
    await this.run();
  }

  /** What is on the disk, by the positions of blocks of this sequence. */
  async stored(tokens: readonly number[]): Promise<number[]> {
    await this.mover.drain(1000);
    const keys = this.mover.keysOf({ tokens, storage: "disk" });
    return keys.flatMap((key, block) => (this.store.tiersOf(key).includes("disk") ? [block] : []));
  }

  clear(): Promise<unknown> {
    const { cache, scheduler, mover } = this;
    return answerCacheCall({ cache, scheduler, mover } as unknown as CacheRooms, { method: "cacheClear" });
  }
}

const tokens = (first: number, blocks: number): number[] =>
  Array.from({ length: blocks * BLOCK_TOKENS }, (_, index) => first + index);

const plenty = () => ({ slots: 64, ramBytes: 1e6, diskBytes: 1e6, world: new World(new Random(1)) });

describe("a prefix that was first computed for memory alone", () => {
  const shared = tokens(100, 4);
  const longer = [...shared, ...tokens(200, 3), 1];

  it("is stored from the root on when a request for the disk goes on behind it, and serves the next process", async () => {
    const options = plenty();
    const machine = await Machine.open(options);
    await machine.ask([...shared, 1], "memory");
    expect(await machine.stored(shared)).toEqual([]);
    await machine.ask(longer, "disk");
    expect(await machine.stored(longer)).toEqual([0, 1, 2, 3, 4, 5, 6]);
    await machine.store.close();
    const next = await Machine.open(options);
    const request = next.submit(longer, "disk");
    await next.run();
    expect(request.loadedTokens["disk"]).toBe(7 * BLOCK_TOKENS);
    await next.store.close();
  });

  it("is stored too if only the GPU still has it, and if only RAM has", async () => {
    for (const ramBytes of [0, 1e6]) {
      const machine = await Machine.open({ ...plenty(), ramBytes });
      await machine.ask([...shared, 1], "memory");
      await machine.stored(shared);
      if (ramBytes > 0) machine.scheduler.forget();
      await machine.ask(longer, "disk");
      expect(await machine.stored(longer)).toEqual([0, 1, 2, 3, 4, 5, 6]);
      await machine.store.close();
    }
  });

  it("leaves what only the request for memory asked for off the disk", async () => {
    const machine = await Machine.open({ ...plenty(), ramBytes: 600 });
    const secret = [...shared, ...tokens(300, 3), 1];
    await machine.ask(secret, "memory");
    await machine.ask(longer, "disk");
    await machine.ask(tokens(400, 6), "memory"); // drives the rest out of RAM
    expect(await machine.stored(secret)).toEqual([0, 1, 2, 3]);
    await machine.store.close();
  });

  it("is not stored by an end of the request for memory that comes later", async () => {
    const machine = await Machine.open(plenty());
    await machine.ask([...shared, 1], "disk");
    await machine.ask(longer, "memory");
    expect(await machine.stored(longer)).toEqual([0, 1, 2, 3]);
    await machine.store.close();
  });
});

describe("what is scored", () => {
  const scored = tokens(100, 4);
  const tiers = (records: ReturnType<TierStore["list"]>): string[] =>
    records.map((each) => each.tiers.join("+"));

  for (const [storage, where, cached] of [
    ["off", [], 0],
    ["memory", ["ram", "ram", "ram", "ram"], 12],
    ["disk", ["ram+disk", "ram+disk", "ram+disk", "ram+disk"], 12],
  ] as const) {
    it(`with cache "${storage}" is kept that far`, async () => {
      const machine = await Machine.open(plenty());
      const lease = machine.scheduler.borrow(scored, 0, storage);
      machine.scheduler.giveBack(lease, scored.length);
      await machine.mover.drain(1000);
      expect(tiers(machine.store.list())).toEqual(where);
      const again = machine.scheduler.borrow(scored, 12, "disk");
      expect(again.tokens).toBe(cached);
      machine.scheduler.giveBack(again, 0);
      await machine.store.close();
    });
  }

  it('with cache "off" uses nothing that is stored', async () => {
    const machine = await Machine.open(plenty());
    await machine.ask([...scored, 1], "disk");
    expect(machine.scheduler.borrow(scored, 12, "off").tokens).toBe(0);
    await machine.store.close();
  });
});

describe("clear()", () => {
  const prompt = [...tokens(100, 4), 1];

  it("waits for copies under way, of which nothing is stored afterwards", async () => {
    const machine = await Machine.open(plenty());
    let read = (): void => {};
    machine.reading = new Promise((resolve) => (read = resolve));
    await machine.ask(prompt, "disk");
    let isCleared = false;
    const cleared = machine.clear().then(() => (isCleared = true));
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(isCleared).toBe(false);
    read();
    await cleared;
    expect(await machine.stored(prompt)).toEqual([]);
    expect((await machine.store.stats()).ram.records).toBe(0);
    await machine.ask(prompt, "disk");
    expect(await machine.stored(prompt)).toEqual([0, 1, 2, 3]);
    await machine.store.close();
  });

  it("keeps a request that is under way from storing more", async () => {
    const machine = await Machine.open(plenty());
    machine.submit(prompt, "disk");
    const plan = machine.scheduler.next() as Plan;
    await machine.clear();
    machine.mover.spill(plan.completes);
    machine.scheduler.commit(plan, [[]]);
    await machine.run();
    expect(await machine.stored(prompt)).toEqual([]);
    expect(machine.store.list()).toEqual([]);
    await machine.store.close();
  });
});

describe("any sequence of requests", () => {
  it("leaves whole chains on the disk, and nothing there that was never asked for with it", async () => {
    const seeds = new Random(testSeed("scopes"));
    const recordBytes = encodeRecord({
      ...{ kind: "block", parentKey: "0".repeat(32), fingerprint: "0".repeat(32), namespace: "" },
      ...{ blockIndex: 0, tokens: tokens(1, 1), payload: new Uint8Array(SLOT_BYTES) },
    }).length;
    for (let run = 0; run < 25; run++) {
      const seed = seeds.uint32();
      const random = new Random(seed);
      const sized = (choices: readonly number[]): number => random.pick(choices) * recordBytes;
      const sizes = { ramBytes: sized([0, 3, 10, 1000]), diskBytes: sized([4, 12, 1000]) };
      const world = new World(random);
      const machine = await Machine.open({ slots: 16 + random.below(20), ...sizes, world });
      const allowed = new Set<Key>();
      for (let i = 0; i < 30; i++) await step(machine, random, allowed);
      await machine.mover.drain(1000);
      const onDisk = machine.store.list().filter(({ tiers }) => tiers.includes("disk"));
      const keys = new Set(onDisk.map(({ key }) => key));
      const cut = onDisk.filter(({ blockIndex, parentKey }) => blockIndex > 0 && !keys.has(parentKey));
      expect(cut, `seed ${seed}`).toEqual([]);
      expect(
        onDisk.filter(({ key }) => !allowed.has(key)),
        `seed ${seed}`,
      ).toEqual([]);
      await machine.store.close();
    }
  });
});

/** A few prompts of a tree, at once; now and then everything is cleared. */
async function step(machine: Machine, random: Random, allowed: Set<Key>): Promise<void> {
  if (random.below(12) === 0) await machine.clear();
  for (let count = 1 + random.below(3); count > 0; count--) {
    const branch = [100, 200].flatMap((first) => tokens(first + 1000 * random.below(2), 1 + random.below(3)));
    const prompt = [...branch, 1];
    const storage = random.pick<StorageScope>(["off", "memory", "disk"]);
    machine.submit(prompt, storage);
    if (storage !== "disk") continue;
    for (const key of machine.mover.keysOf({ tokens: [...prompt, 7, 7], storage })) allowed.add(key);
  }
  await machine.run();
  if (random.below(2) === 0) await machine.mover.drain(1000);
}
