/** How long a busy disk is waited for: as long as its work goes on, within a cap, and the limit once it stands still. */
import { describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import type { Backend } from "../../src/tier/disk/backend.ts";
import { Progress } from "../../src/tier/disk/progress.ts";
import { encodeRecord } from "../../src/tier/record/record.ts";
import { RemoteBackend, serveBackend, type Port } from "../../src/tier/disk/remote.ts";
import { SegmentBackend } from "../../src/tier/disk/segments.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import { MAX_LIMITS_WITH_PROGRESS, within } from "../../src/tier/disk/timer.ts";
import { FakeMedium, World } from "../fault/fake-disk.ts";
import { FakeTimer, settle as settleAfter } from "../fault/fake-timer.ts";
import { chain, keyOf, keysOf } from "./make.ts";

const LIMIT_MS = 200;
const STEP_MS = 20;
const KEPT = chain(1, 30);
const FORGOTTEN = chain(2, 60, { namespace: "forgotten" });

interface Notice {
  code: string;
  atMs: number;
}

interface Setting {
  world: World;
  timer: FakeTimer;
  notices: Notice[];
  store: TierStore;
}

/** Turns of the event loop in which a message goes through a port and is answered. */
const TURNS_A_MESSAGE = 10;
async function pause(): Promise<void> {
  for (let i = 0; i < TURNS_A_MESSAGE; i++) await new Promise((resolve) => setImmediate(resolve));
}
const settle = <T>(timer: FakeTimer, promise: Promise<T>) => settleAfter(timer, promise, pause);

/** A store with one segment, of which two thirds die with FORGOTTEN: clear() then copies the rest of it. */
async function openStore(disk: (backend: SegmentBackend) => Backend): Promise<Setting> {
  const world = new World(new Random(1));
  const timer = new FakeTimer();
  const notices: Notice[] = [];
  const store = await TierStore.open({
    ramBytes: 1e6,
    diskBytes: 1e6,
    disk: () => disk(new SegmentBackend(new FakeMedium(world, 0))),
    ioTimeoutMs: LIMIT_MS,
    timer,
    clock: timer,
    nowEpochMs: () => timer.nowMs() + 1,
    onNotice: (code) => notices.push({ code, atMs: timer.nowMs() }),
  });
  for (const draft of [...KEPT, ...FORGOTTEN]) store.put(draft);
  await store.drain(1000);
  return { world, timer, notices, store };
}

/** The backend as if it lay in a worker. */
function throughPort(backend: SegmentBackend): Backend {
  const { port1, port2 } = new MessageChannel();
  serveBackend(port1 as unknown as Port, () => Promise.resolve(backend), 0);
  port1.start();
  port2.start();
  return new RemoteBackend("fake", port2 as unknown as Port, () => port1.close());
}

const PLACES = { "in this thread": (backend: SegmentBackend) => backend, "in a worker": throughPort };

describe.each(Object.entries(PLACES))("a disk %s", (_, place) => {
  test("that is busy for longer than the limit is not hung, nor are those who wait for it", async () => {
    const { world, timer, notices, store } = await openStore(place);
    const startMs = timer.nowMs();
    world.slow = { timer, ms: STEP_MS };
    const cleared = store.clear({ namespace: "forgotten" });
    const refreshed = store.refresh();
    await settle(timer, cleared);
    expect(timer.nowMs() - startMs).toBeGreaterThan(2 * LIMIT_MS);
    expect(await settle(timer, refreshed)).toBe(true);
    expect([notices, store.stateOf("disk")]).toEqual([[], "open"]);
    expect(store.has(keysOf(KEPT))).toHaveLength(KEPT.length);
    world.slow = undefined;
    await settle(timer, store.close());
  });

  test("that stands still in the middle of its work is hung after the limit", async () => {
    const { world, timer, notices, store } = await openStore(place);
    const stoppedMs = timer.nowMs() + 1.5 * LIMIT_MS;
    world.slow = { timer, ms: STEP_MS };
    timer.after(1.5 * LIMIT_MS, () => (world.rates = { hang: 1 }));
    await settle(timer, store.clear({ namespace: "forgotten" }));
    const [notice] = notices;
    expect(notice?.code).toBe("disk_hung");
    expect(notice?.atMs).toBeGreaterThan(stoppedMs);
    expect(notice?.atMs).toBeLessThanOrEqual(stoppedMs + LIMIT_MS + 2 * STEP_MS);
    await settle(timer, store.close());
  });
});

describe("the time limit", () => {
  test("has a cap for work without an end", async () => {
    const timer = new FakeTimer();
    const progress = new Progress();
    const tick = (): void => {
      progress.tell();
      timer.after(50, tick);
    };
    tick();
    const call = within(timer, 100, "maintain", new Promise(() => undefined), progress);
    await expect(settle(timer, call)).rejects.toMatchObject({
      fault: "hung",
      message: "maintain: at work, but not done in 3000 ms",
    });
    expect(timer.nowMs()).toBe(MAX_LIMITS_WITH_PROGRESS * 100);
    progress.tell();
    expect(timer.size).toBe(1); // the tick's own: nothing is armed again for a call that has ended
  });

  test("is not put off by reads, which wait for nobody", async () => {
    const backend = new SegmentBackend(new FakeMedium(new World(new Random(1)), 0));
    await backend.open();
    const [draft] = KEPT;
    await backend.append([encodeRecord(draft!)]);
    let steps = 0;
    backend.progress.on(() => steps++);
    expect(await backend.read(keyOf(draft!))).toBeDefined();
    expect(steps).toBe(0);
    await backend.refresh();
    expect(steps).toBeGreaterThan(0);
  });
});
