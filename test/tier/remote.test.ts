/** A backend on the other side of a port against the conformance suite, and what happens when that side dies. */
import { describe, expect, test, vi } from "vitest";
import { Random } from "../../src/base.ts";
import { MediumError } from "../../src/tier/disk/backend.ts";
import { RemoteBackend, serveBackend, type Port } from "../../src/tier/disk/remote.ts";
import { SegmentBackend } from "../../src/tier/disk/segments.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import { FakeMedium, World } from "../fault/fake-disk.ts";
import { FakeTimer } from "../fault/fake-timer.ts";
import type { Key } from "../../src/tier/record/keys.ts";
import type { RecordDraft } from "../../src/tier/record/record.ts";
import { casesFor, TEST_SEGMENT_BYTES, type Fixture } from "./conformance.ts";
import { chain, keysOf } from "./make.ts";

function remoteFixture(): Fixture {
  const world = new World(new Random(1));
  const channels: MessageChannel[] = [];
  let process = 0;
  return {
    make: () => {
      const channel = new MessageChannel();
      channels.push(channel);
      const medium = new FakeMedium(world, process++);
      const backend = new SegmentBackend(medium, { segmentBytes: TEST_SEGMENT_BYTES });
      serveBackend(channel.port1 as unknown as Port, () => Promise.resolve(backend));
      channel.port1.start();
      channel.port2.start();
      return Promise.resolve(new RemoteBackend("fake", channel.port2 as unknown as Port));
    },
    cleanUp: () => {
      for (const { port1 } of channels) port1.close();
      return Promise.resolve();
    },
  };
}

describe("remote", () => {
  for (const { name, run } of casesFor({ persistent: true })) {
    test(name, async () => {
      const fixture = remoteFixture();
      await run(fixture);
      await fixture.cleanUp();
    });
  }

  test("a fault keeps its kind on the way, and a dead worker fails every call under way", async () => {
    const world = new World(new Random(1));
    const channel = new MessageChannel();
    const served = new SegmentBackend(new FakeMedium(world, 0));
    serveBackend(channel.port1 as unknown as Port, () => Promise.resolve(served));
    channel.port1.start();
    channel.port2.start();
    const backend = new RemoteBackend("fake", channel.port2 as unknown as Port);
    await backend.open();
    world.rates = { io: 1 };
    await expect(backend.refresh()).rejects.toMatchObject({ name: "MediumError", fault: "io" });
    world.rates = { hang: 1 };
    const waiting = backend.refresh();
    backend.fail("the worker died");
    await expect(waiting).rejects.toBeInstanceOf(MediumError);
    await expect(backend.refresh()).rejects.toThrow("the worker died");
    await expect(backend.close()).rejects.toThrow("the worker died");
    channel.port1.close();
  });

  test("a store whose worker dies tells it, drops what waits, answers misses, and goes on with a new worker", async () => {
    const world = new World(new Random(1));
    const timer = new FakeTimer();
    const backends: RemoteBackend[] = [];
    const channels: MessageChannel[] = [];
    let ended = 0;
    const disk = (): RemoteBackend => {
      const channel = new MessageChannel();
      channels.push(channel);
      const served = new SegmentBackend(new FakeMedium(world, channels.length));
      serveBackend(channel.port1 as unknown as Port, () => Promise.resolve(served));
      channel.port1.start();
      channel.port2.start();
      const backend = new RemoteBackend("fake", channel.port2 as unknown as Port, () => void ended++);
      backends.push(backend);
      return backend;
    };
    const notices: string[] = [];
    const store = await TierStore.open({
      ...{ ramBytes: 1e6, diskBytes: 1e6, disk, timer, clock: timer, reopenDelayMs: 1000 },
      onNotice: (code, message) => void notices.push(`${code}: ${message}`),
    });
    const drafts = chain(1, 3);
    const keys = keysOf(drafts);
    store.put(drafts[0] as RecordDraft);
    await store.drain(1000);
    expect(store.tiersOf(keys[0] as Key)).toEqual(["ram", "disk"]);
    channels[0]?.port1.close();
    store.put(drafts[1] as RecordDraft);
    backends[0]?.fail("storage worker: killed");
    await store.drain(1000);
    expect(notices).toEqual(["disk_lost: append: storage worker: killed"]);
    expect(store.tiersOf(keys[1] as Key)).toEqual(["ram"]);
    await vi.waitFor(() => expect(ended).toBeGreaterThan(0));
    timer.advance(1001);
    await store.maintain();
    expect(notices[1]).toMatch(/^disk_back/);
    store.put(drafts[2] as RecordDraft);
    await store.drain(1000);
    expect(store.tiersOf(keys[2] as Key)).toEqual(["ram", "disk"]);
    expect(store.tiersOf(keys[0] as Key)).toEqual(["ram", "disk"]);
    await store.close();
    for (const { port1 } of channels) port1.close();
  });

  test("a worker that hangs is ended when its store lets it go", async () => {
    const world = new World(new Random(1));
    const timer = new FakeTimer();
    const channel = new MessageChannel();
    const served = new SegmentBackend(new FakeMedium(world, 0));
    serveBackend(channel.port1 as unknown as Port, () => Promise.resolve(served));
    channel.port1.start();
    channel.port2.start();
    let ended = 0;
    const end = (): void => void ended++;
    const disk = (): RemoteBackend => new RemoteBackend("fake", channel.port2 as unknown as Port, end);
    const notices: string[] = [];
    const onNotice = (code: string): void => void notices.push(code);
    const store = await TierStore.open({
      ramBytes: 1e6,
      diskBytes: 1e6,
      disk,
      timer,
      clock: timer,
      onNotice,
    });
    world.rates = { hang: 1 };
    const refreshed = store.refresh();
    timer.fireNext();
    expect(await refreshed).toBe(false);
    await vi.waitFor(() => expect(timer.fireNext()).toBe(true)); // the time limit of close()
    await vi.waitFor(() => expect(ended).toBeGreaterThan(0));
    expect(notices).toEqual(["disk_hung"]);
    channel.port1.close();
  });
});
