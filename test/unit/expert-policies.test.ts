/** What each policy of the expert cache keeps and gives up, on a few short sequences. */
import { describe, expect, test } from "vitest";
import type { ExpertCacheShape } from "../../src/cache/experts/entry.ts";
import { ExpertCache } from "../../src/cache/experts/expert-cache.ts";
import type { ExpertPolicyName } from "../../src/cache/experts/policy.ts";

const shapeOf = (layers: number, slots: number): ExpertCacheShape => ({
  ...{ layers, experts: 16, chosen: 2, matrices: 1 },
  classes: [{ layers: Array.from({ length: layers }, (_, i) => i), slots, matrixBytes: [1] }],
});

/** A step of one layer after another, whose experts are fetched as they are chosen. Returns what was fetched. */
function step(
  cache: ExpertCache,
  choices: readonly (readonly number[])[],
  phase: "prefill" | "decode" = "decode",
) {
  const fetched: string[] = [];
  const fetch = (): void => {
    for (let next = cache.nextFetch(); next; next = cache.nextFetch()) {
      fetched.push(`${next.cause === "demand" ? "" : "guess "}${next.layer}.${next.expert}`);
      cache.arrived(next);
    }
  };
  cache.beginStep(phase);
  choices.forEach((experts, layer) => {
    const uses = experts.map((expert, i) => ({ expert, tokens: 1, weight: 1 - i / 10 }));
    const { resident, missing } = cache.choose(layer, uses, phase);
    cache.ran(layer, resident);
    for (const left = new Set(missing); left.size > 0;) {
      fetch();
      for (const expert of left)
        if (cache.slotOf(layer, expert) !== undefined) {
          cache.ran(layer, [expert]);
          left.delete(expert);
        }
    }
    fetch();
    cache.release(layer);
  });
  cache.endStep();
  cache.check();
  return fetched;
}

const held = (cache: ExpertCache, layer: number): number[] =>
  Array.from({ length: 16 }, (_, expert) => expert).filter(
    (expert) => cache.slotOf(layer, expert) !== undefined,
  );

const made = (policy: ExpertPolicyName, layers: number, slots: number): ExpertCache =>
  new ExpertCache(shapeOf(layers, slots), { policy });

test("lru gives up what was used longest ago, lfu what was used least", () => {
  const life = [[1, 2], [1, 2], [3, 4], [5]];
  const [lru, lfu] = [made("lru", 1, 4), made("lfu", 1, 4)];
  for (const experts of life) for (const cache of [lru, lfu]) step(cache, [experts]);
  expect(held(lru, 0)).toEqual([2, 3, 4, 5]);
  expect(held(lfu, 0)).toEqual([1, 2, 4, 5]);
});

test("static keeps the experts that came first, and lets the others pass through the slots of one token", () => {
  const cache = made("static", 2, 6);
  step(cache, [
    [1, 2],
    [3, 4],
  ]);
  for (const experts of [
    [5, 6],
    [7, 8],
    [9, 10],
  ])
    step(cache, [experts, experts]);
  expect([held(cache, 0), held(cache, 1)]).toEqual([
    [1, 2],
    [3, 4, 9, 10],
  ]);
  expect(made("static", 2, 2)).toBeDefined();
});

describe("moe-infinity", () => {
  const songs = [
    [1, 2],
    [1, 2],
    [1, 2],
  ];
  const sums = [
    [8, 9],
    [8, 9],
    [8, 9],
  ];
  const taught = (slots: number): ExpertCache => {
    const cache = made("moe-infinity", 3, slots);
    for (const request of [songs, sums]) {
      step(cache, request, "prefill");
      for (let token = 0; token < 3; token++) step(cache, request);
    }
    return cache;
  };

  test("fetches for a request what the most similar former one needed, nearer layers first", () => {
    const cache = taught(6);
    step(cache, [[1, 2], [1], [1]], "prefill"); // a song begins
    const fetched = step(cache, [
      [1, 3],
      [1, 2],
      [1, 2],
    ]);
    expect(fetched).toEqual(["0.3", "guess 1.2", "guess 2.2"].filter((name) => fetched.includes(name)));
    expect(fetched).toContain("guess 1.2");
    expect(cache.stats.guessesByDistance[1]!.used).toBeGreaterThan(0);
  });

  test("gives up later layers and experts without part in the request first", () => {
    const cache = taught(8);
    step(
      cache,
      [
        [8, 9],
        [8, 9],
        [8, 9],
      ],
      "prefill",
    );
    step(cache, [
      [8, 9],
      [8, 9],
      [8, 9],
    ]);
    step(cache, [
      [12, 13],
      [8, 9],
      [8, 9],
    ]);
    expect([held(cache, 0), held(cache, 1), held(cache, 2)].map((list) => list.includes(8))).toEqual([
      ...[true, true, true],
    ]);
  });
});

describe("promoe", () => {
  test("the first layer has more slots than the last", () => {
    const cache = made("promoe", 4, 20);
    for (let token = 0; token < 40; token++) {
      const experts = [(2 * token) % 16, (2 * token + 1) % 16];
      step(cache, [experts, experts, experts, experts]);
    }
    const counts = [0, 1, 2, 3].map((layer) => held(cache, layer).length);
    expect(counts.reduce((sum, each) => sum + each, 0)).toBe(20);
    expect(counts[0]).toBeGreaterThan(counts[3]!);
  });

  test("a prefetch that was not used goes before everything that was", () => {
    const cache = made("promoe", 1, 4);
    step(cache, [[1, 2]]);
    step(cache, [[3]]);
    cache.beginStep("decode");
    cache.predict(0, [{ expert: 9, score: 1 }], -1);
    cache.arrived(cache.nextFetch()!);
    cache.choose(0, [{ expert: 1, tokens: 1, weight: 1 }], "decode");
    cache.release(0);
    cache.endStep();
    step(cache, [[5]]);
    expect(held(cache, 0)).toEqual([1, 2, 3, 5]);
    const lru = made("lru", 1, 4);
    step(lru, [[1, 2]]);
    step(lru, [[3]]);
    lru.beginStep("decode");
    lru.predict(0, [{ expert: 9, score: 1 }], -1);
    lru.arrived(lru.nextFetch()!);
    lru.endStep();
    step(lru, [[5]]);
    expect(held(lru, 0)).toEqual([2, 3, 5, 9]);
  });

  test("a prefill that streams through a full cache leaves what the next chunk needs", () => {
    const all = Array.from({ length: 16 }, (_, expert) => expert);
    const fetches = (policy: ExpertPolicyName): number => {
      const cache = made(policy, 2, 16);
      for (let chunk = 0; chunk < 3; chunk++) step(cache, [all, all], "prefill");
      return step(cache, [all, all], "prefill").length;
    };
    expect(fetches("lru")).toBe(32);
    expect(fetches("promoe")).toBeLessThan(20);
  });
});
