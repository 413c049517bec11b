/** Stored blocks of requests that wait, read into RAM before their turn: in order, within bounds, and no longer than they wait. */
import { expect, test } from "vitest";
import type { RequestStatus } from "../../src/schedule/request.ts";
import { MAX_READS_AHEAD, ReadAhead } from "../../src/worker/cache/read-ahead.ts";

/** Two tiers whose reads end when the test says so. */
class Store {
  readonly near = new Set<string>();
  readonly far = new Set<string>();
  readonly asked: string[] = [];
  private readonly ends: (() => void)[] = [];

  tiersOf(key: string): string[] {
    return [...(this.near.has(key) ? ["ram"] : []), ...(this.far.has(key) ? ["disk"] : [])];
  }

  isInMemory(tier: string): boolean {
    return tier === "ram";
  }

  promote(key: string): Promise<boolean> {
    this.asked.push(key);
    return new Promise((resolve) =>
      this.ends.push(() => {
        this.near.add(key);
        resolve(true);
      }),
    );
  }

  async endAll(): Promise<void> {
    while (this.ends.length > 0) {
      for (const end of this.ends.splice(0)) end();
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
}

const keysOf = (name: string, count: number) => Array.from({ length: count }, (_, at) => `${name}${at}`);

function waiting(): { status: RequestStatus } {
  return { status: "waiting" };
}

test("what only slow tiers have is read in order, a few at a time", async () => {
  const store = new Store();
  const keys = keysOf("a", 20);
  for (const key of keys) store.far.add(key);
  store.near.add("a1");
  store.far.delete("a19"); // nowhere any more
  const ahead = new ReadAhead(store, () => 1000);
  ahead.want(waiting(), keys);
  expect(store.asked).toEqual(keys.filter((key) => key !== "a1").slice(0, MAX_READS_AHEAD));
  await store.endAll();
  expect(store.asked).toEqual(keys.filter((key) => key !== "a1" && key !== "a19"));
  expect(ahead.brought).toBe(18);
});

test("a request that no longer waits is read for no more, and its room is another's", async () => {
  const store = new Store();
  for (const key of [...keysOf("a", 20), ...keysOf("b", 4)]) store.far.add(key);
  const ahead = new ReadAhead(store, () => 40); // a quarter of these
  const first: { status: RequestStatus } = waiting();
  ahead.want(first, keysOf("a", 20));
  ahead.want(waiting(), keysOf("b", 4));
  await store.endAll();
  expect(store.asked).toEqual(keysOf("a", 10));
  first.status = "prefilling";
  ahead.readOn();
  await store.endAll();
  expect(store.asked.slice(10)).toEqual(keysOf("b", 4));
});

test("a request that ends while its blocks are read is read for no more", async () => {
  const store = new Store();
  for (const key of keysOf("a", 100)) store.far.add(key);
  const ahead = new ReadAhead(store, () => 1000);
  const request: { status: RequestStatus } = waiting();
  ahead.want(request, keysOf("a", 100));
  request.status = "done";
  await store.endAll();
  expect(store.asked.length).toBe(MAX_READS_AHEAD);
});
