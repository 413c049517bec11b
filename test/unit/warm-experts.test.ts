/** Which experts were needed, kept in the store between two runs of a model. */
import { expect, test } from "vitest";
import type { ExpertId } from "../../src/cache/experts/entry.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import { WarmExperts, type WarmTarget } from "../../src/worker/cache/warm-experts.ts";

const [OURS, OTHER] = ["0a".repeat(16), "0b".repeat(16)];

class Target implements WarmTarget {
  readonly shape: { layers: number; experts: number };
  list: ExpertId[] = [];
  warmed: readonly ExpertId[] | undefined;

  constructor(layers = 4) {
    this.shape = { layers, experts: 8 };
  }

  needed(): ExpertId[] {
    return this.list;
  }

  warm(experts: readonly ExpertId[]): void {
    this.warmed = experts;
  }
}

const first = [
  { layer: 2, expert: 7 },
  { layer: 0, expert: 1 },
];
const later = [{ layer: 3, expert: 3 }];

test("what was needed is fetched first the next time, and replaced when something else was needed", async () => {
  const store = await TierStore.open({ ramBytes: 1e6 });
  const target = new Target();
  const keeper = (weights = OURS, to = target) => new WarmExperts(store, weights, "", () => to, 0);
  expect(await keeper().start()).toBe(0);
  await keeper().write(); // nothing was needed: nothing is written
  expect(store.list()).toHaveLength(0);

  target.list = first;
  await keeper().write();
  const next = new Target();
  expect(await keeper(OURS, next).start()).toBe(2);
  expect(next.warmed).toEqual(first);

  target.list = later;
  await keeper().write();
  expect(await keeper(OURS, next).start()).toBe(1);
  expect(next.warmed).toEqual(later);
  expect(store.list()).toHaveLength(1);
  expect(store.list()[0]!.bytes).toBeLessThan(1000);

  const strange = new Target();
  expect(await keeper(OTHER, strange).start()).toBe(0); // another model's
  expect(await keeper(OURS, new Target(5)).start()).toBe(0); // the same weights in another shape
  expect(strange.warmed).toBeUndefined();
  await store.close();
});

test("the list is written at most once a minute, and a closed store takes none", async () => {
  const store = await TierStore.open({ ramBytes: 1e6 });
  const target = new Target();
  const keeper = new WarmExperts(store, OURS, "", () => target, 0);
  target.list = first;
  keeper.ended(59_999);
  keeper.ended(60_000);
  await expect.poll(() => store.list().length).toBe(1);
  target.list = later;
  keeper.ended(60_001);
  const next = new Target();
  await new WarmExperts(store, OURS, "", () => next, 0).start();
  expect(next.warmed).toEqual(first);
  await store.close();
  await keeper.write();
  expect(await new WarmExperts(store, OURS, "", () => next, 0).start()).toBe(0);
});

test("without experts off the GPU nothing is read or written", async () => {
  const store = await TierStore.open({ ramBytes: 1e6 });
  const keeper = new WarmExperts(store, OURS, "", () => undefined, 0);
  expect(await keeper.start()).toBe(0);
  await keeper.write();
  expect(store.list()).toHaveLength(0);
  await store.close();
});
