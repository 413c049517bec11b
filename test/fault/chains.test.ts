/**
 * Chains on the disk, against a naive model: whatever is asked for, evicted, dropped, expired or crashed, every record on the
 * disk is reached from its chain's root over records on the disk; and what was only ever asked for with "memory" is not
 * there, unless a request for the disk shares it.
 */
import { describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { bytesToHex, type Key } from "../../src/tier/record/keys.ts";
import { encodeRecord, type RecordInfo } from "../../src/tier/record/record.ts";
import { SegmentBackend } from "../../src/tier/disk/segments.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import { tries } from "../support/full.ts";
import { testSeed } from "../support/seed.ts";
import { chain, keyOf, payloadOf } from "../tier/make.ts";
import type { PutDraft } from "../../src/tier/store/store-options.ts";
import { FakeMedium, World } from "./fake-disk.ts";
import { FakeTimer, settle } from "./fake-timer.ts";

const RUNS = tries(400);
const REQUESTS = 30;
const BLOCKS = 8;
const PAYLOAD_BYTES = 64;
const RECORD_BYTES = encodeRecord(chain(1, 1, { payloadBytes: PAYLOAD_BYTES })[0]!).length;
const LONG_AGO = 1;

/** Prompts that share beginnings: each takes another's first blocks, then goes on alone. */
function randomPrompts(random: Random): PutDraft[][] {
  const prompts: PutDraft[][] = [];
  for (let i = 0; i < 6; i++) {
    const shared = i === 0 ? [] : random.pick(prompts).slice(0, random.below(BLOCKS));
    const own = chain(100 + i, BLOCKS, { payloadBytes: PAYLOAD_BYTES }).slice(shared.length);
    prompts.push(behind(shared, own));
  }
  return prompts;
}

function behind(shared: readonly PutDraft[], own: readonly PutDraft[]): PutDraft[] {
  const prompt = [...shared];
  for (const draft of own) {
    const last = prompt.at(-1);
    const parentKey = last === undefined ? draft.parentKey : keyOf(last);
    const rekeyed = { ...draft, parentKey };
    prompt.push({ ...rekeyed, payload: payloadOf(keyOf(rekeyed), PAYLOAD_BYTES) });
  }
  return prompt;
}

class Run {
  private readonly random: Random;
  private readonly world: World;
  private readonly prompts: PutDraft[][];
  private readonly timer = new FakeTimer();
  /** The model: keys that a request for the disk has named. */
  private readonly allowed = new Set<Key>();
  private readonly losesPower: boolean;
  private readonly tears: boolean;
  private readonly ramBytes: number;
  private nowMs = LONG_AGO;
  private process = 0;

  constructor(random: Random) {
    this.random = random;
    this.world = new World(random);
    this.prompts = randomPrompts(random);
    this.losesPower = random.below(2) === 0;
    this.tears = random.below(2) === 0;
    this.ramBytes = random.pick([0, 3, 12, 1000]) * RECORD_BYTES;
  }

  async play(): Promise<void> {
    for (let life = 0; life < 3; life++) {
      const store = await this.open();
      if (store === undefined) throw new Error("the store does not open");
      this.judge(store, "after opening");
      this.world.deathIn = this.random.below(3) === 0 ? undefined : this.random.below(200);
      for (let i = 0; i < REQUESTS && !this.world.dead.has(this.process); i++) await this.act(store);
      await this.rest(store);
      this.crash();
      await this.judgeMedium();
    }
  }

  private open(): Promise<TierStore | undefined> {
    const process = ++this.process;
    const writer = process.toString(16).padStart(16, "0");
    const disk = (): SegmentBackend =>
      new SegmentBackend(new FakeMedium(this.world, process), { segmentBytes: 6 * RECORD_BYTES, writer });
    return this.within(
      TierStore.open({
        ...{ ramBytes: this.ramBytes, diskBytes: this.random.pick([5, 12, 1000]) * RECORD_BYTES, disk },
        ...{ queueBytes: this.random.pick([4, 1000]) * RECORD_BYTES, timer: this.timer, clock: this.timer },
        nowEpochMs: () => this.nowMs,
      }),
    );
  }

  /** The result of a call; undefined if the process died in it. */
  private async within<T>(promise: Promise<T>): Promise<T | undefined> {
    const result = await settle(this.timer, promise);
    return result === "stuck" ? undefined : result;
  }

  private async act(store: TierStore): Promise<void> {
    const choice = this.random.below(20);
    const draft = this.random.pick(this.random.pick(this.prompts));
    if (choice < 10) this.ask(store);
    else if (choice < 13) await this.within(store.drain(1000));
    else if (choice === 13) await this.within(store.maintain());
    else if (choice === 14) store.demote(keyOf(draft));
    else if (choice === 15 && this.tears) await this.within(store.drop([keyOf(draft)]));
    else if (choice === 16 && this.tears) this.nowMs += 1;
    else if (choice === 17) await this.within(store.get(keyOf(draft)));
    else if (choice === 18) {
      const diskBytes = this.random.pick([3, 7, 1000]) * RECORD_BYTES;
      await this.within(store.setBudgets({ diskBytes }));
    }
  }

  /** A request as the tier mover stores it. What the GPU no longer has cannot be put again. */
  private ask(store: TierStore): void {
    const prompt = this.random.pick(this.prompts).slice(0, 1 + this.random.below(BLOCKS));
    const forDisk = this.random.below(2) === 0;
    const expiresAtMs = this.tears && this.random.below(4) === 0 ? this.nowMs + 2 : 0;
    for (const draft of prompt) {
      const isOnGpu = this.random.below(8) > 0;
      if (forDisk) this.allowed.add(keyOf(draft));
      if (forDisk && store.persist(keyOf(draft))) continue;
      if (isOnGpu) store.put({ ...draft, expiresAtMs }, forDisk ? "disk" : "ram");
    }
  }

  /** Lets idle work come to its end. */
  private async rest(store: TierStore): Promise<void> {
    await this.within(store.drain(1000));
    for (let step = 0; step < 100 && (await this.within(store.maintain())) === true; step++);
    if (!this.world.dead.has(this.process)) this.judge(store, "at rest");
  }

  private crash(): void {
    this.world.deathIn = undefined;
    if (this.losesPower) this.world.losePower([this.process]);
    else this.world.kill(this.process);
  }

  private judge(store: TierStore, when: string): void {
    this.judgeList(
      store.list().filter(({ tiers }) => tiers.includes("disk")),
      when,
    );
  }

  private judgeList(infos: readonly RecordInfo[], when: string): void {
    const keys = new Set(infos.map(({ key }) => key));
    const cut = infos.filter(({ blockIndex, parentKey }) => blockIndex > 0 && !keys.has(parentKey));
    if (cut.length > 0)
      throw new Error(`${when}: ${cut.length} of ${infos.length} records stand behind a hole`);
    const shown = infos.filter(({ key }) => !this.allowed.has(key));
    if (shown.length > 0)
      throw new Error(`${when}: ${shown.length} records were never asked for with "disk"`);
  }

  /** What lies there before anybody sweeps: a shorter chain, unless records were dropped; and nothing private, in no byte. */
  private async judgeMedium(): Promise<void> {
    const backend = new SegmentBackend(new FakeMedium(this.world, ++this.process), {
      writer: "f".repeat(16),
    });
    const { added } = await backend.open();
    await backend.close();
    this.world.kill(this.process);
    const isWhole = !this.tears && !this.losesPower;
    if (isWhole) this.judgeList(added, "after a crash");
    const bytes = [...this.world.files.keys()].map((name) => bytesToHex(this.world.content(name)!)).join("|");
    for (const draft of this.prompts.flat()) {
      const found = !this.allowed.has(keyOf(draft)) && bytes.includes(bytesToHex(draft.payload));
      if (found)
        throw new Error(`the bytes of ${keyOf(draft)} are on the disk, and "disk" was never asked for`);
    }
  }
}

describe("chains on the disk", () => {
  test(`have no holes and no secrets in ${RUNS} runs`, { timeout: 240_000 }, async () => {
    const seeds = new Random(testSeed("chains"));
    for (let run = 0; run < RUNS; run++) {
      const seed = seeds.uint32();
      await new Run(new Random(seed)).play().catch((error: unknown) => {
        throw new Error(`run ${run}, seed ${seed}: ${String(error)}`);
      });
    }
    expect.assertions(0);
  });
});
