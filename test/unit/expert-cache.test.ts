/** The expert cache against a naive model: which matrix is fetched next, who loses its slot, what is counted. */
import { describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import type { ExpertCacheShape, ExpertUse, Fetch } from "../../src/cache/experts/entry.ts";
import { ExpertCache, type ExpertCacheOptions } from "../../src/cache/experts/expert-cache.ts";
import { expertPolicyNames } from "../../src/cache/experts/policy.ts";
import { ratesOf } from "../../src/cache/experts/stats.ts";
import { testSeed } from "../support/seed.ts";

const MATRIX_BYTES = [10, 20, 30];

function shapeOf(layers: number, experts: number, chosen: number, slots: number): ExpertCacheShape {
  const all = Array.from({ length: layers }, (_, layer) => layer);
  return {
    ...{ layers, experts, chosen, matrices: MATRIX_BYTES.length },
    classes: [{ layers: all, slots, matrixBytes: MATRIX_BYTES }],
  };
}

const usesOf = (...experts: number[]): ExpertUse[] =>
  experts.map((expert, i) => ({ expert, tokens: 1, weight: 1 - i / 100 }));

const nameOf = ({ layer, expert }: { layer: number; expert: number }): string => `${layer}.${expert}`;

/** Fetches all that can be fetched, each matrix at once; the experts in the order of their first matrix. */
function fetchAll(cache: ExpertCache): string[] {
  const names: string[] = [];
  for (let fetch = cache.nextFetch(); fetch; fetch = cache.nextFetch()) {
    if (fetch.matrix === 0) names.push(nameOf(fetch));
    cache.arrived(fetch);
    cache.check();
  }
  return names;
}

/** The cache with LRU as plainly as it can be written: all is found anew each time. */
class NaiveCache {
  readonly held = new Map<
    string,
    { slot: number; arrived: Set<number>; moving: Set<number>; lost: boolean }
  >();
  wanted: { name: string; layer: number }[] = [];
  guessed: { name: string; layer: number; score: number }[] = [];
  readonly pinned = new Set<string>();
  private readonly used: string[] = [];
  private readonly slots: number;

  constructor(slots: number) {
    this.slots = slots;
  }

  isWhole(name: string): boolean {
    const held = this.held.get(name);
    return held !== undefined && !held.lost && held.arrived.size === MATRIX_BYTES.length;
  }

  touch(name: string): void {
    const at = this.used.indexOf(name);
    if (at >= 0) this.used.splice(at, 1);
    this.used.push(name);
  }

  choose(layer: number, experts: readonly number[]): { resident: number[]; missing: number[] } {
    const progress = (expert: number): number => {
      const held = this.held.get(`${layer}.${expert}`);
      if (this.isWhole(`${layer}.${expert}`)) return 1000;
      return held ? 64 * held.arrived.size + held.moving.size : 0;
    };
    const order = experts
      .map((expert, i) => ({ expert, i }))
      .sort((a, b) => progress(b.expert) - progress(a.expert) || a.i - b.i)
      .map(({ expert }) => expert);
    for (const expert of experts) this.touch(`${layer}.${expert}`);
    this.guessed = this.guessed.filter((guess) => guess.layer !== layer);
    const resident = order.filter((expert) => this.isWhole(`${layer}.${expert}`));
    const missing = order.filter((expert) => !resident.includes(expert));
    for (const expert of order)
      if (this.held.has(`${layer}.${expert}`)) this.pinned.add(`${layer}.${expert}`);
    for (const expert of missing)
      if (!this.wanted.some(({ name }) => name === `${layer}.${expert}`))
        this.wanted.push({ name: `${layer}.${expert}`, layer });
    return { resident, missing };
  }

  /** The next fetch as "name matrix evicted". */
  next(): string | undefined {
    const guessed = [...this.guessed].sort((a, b) => a.layer - b.layer || b.score - a.score);
    for (const { name } of [...this.wanted, ...guessed]) {
      const isDemand = this.wanted.some((want) => want.name === name);
      let held = this.held.get(name);
      const matrix = [0, 1, 2].find((each) => !held?.arrived.has(each) && !held?.moving.has(each));
      if (matrix === undefined || held?.lost) continue;
      let evicted = "";
      if (!held) {
        const taken = new Set([...this.held.values()].map(({ slot }) => slot));
        let slot = Array.from({ length: this.slots }, (_, i) => i).find((each) => !taken.has(each));
        if (slot === undefined) {
          const victim = this.victim(isDemand);
          if (victim === undefined) continue;
          evicted = victim;
          slot = this.held.get(victim)!.slot;
          this.held.delete(victim);
        }
        held = { slot, arrived: new Set(), moving: new Set(), lost: false };
        this.held.set(name, held);
        this.touch(name);
      }
      if (isDemand) this.pinned.add(name);
      held.moving.add(matrix);
      return `${name} ${matrix} ${evicted}`;
    }
    return undefined;
  }

  private victim(isDemand: boolean): string | undefined {
    const free = this.used.filter(
      (name) => this.held.has(name) && this.held.get(name)!.moving.size === 0 && !this.pinned.has(name),
    );
    const unguessed = free.filter((name) => !this.guessed.some((guess) => guess.name === name));
    return unguessed[0] ?? (isDemand ? free[0] : undefined);
  }

  failed(name: string, matrix: number): void {
    this.ended(name, matrix);
    this.held.get(name)!.lost = true;
    this.wanted = this.wanted.filter((want) => want.name !== name);
    this.guessed = this.guessed.filter((guess) => guess.name !== name);
    this.settle(name);
  }

  arrived(name: string, matrix: number): boolean {
    this.ended(name, matrix);
    this.held.get(name)!.arrived.add(matrix);
    this.settle(name);
    return this.isWhole(name);
  }

  private ended(name: string, matrix: number): void {
    expect(this.held.get(name)?.moving.delete(matrix)).toBe(true);
  }

  private settle(name: string): void {
    const held = this.held.get(name)!;
    if (!held.lost || held.moving.size > 0) return;
    this.held.delete(name);
    this.pinned.delete(name);
  }
}

test("random life agrees with a naive model: the fetches, the victims, the order to run in", () => {
  const random = new Random(testSeed("expert-cache"));
  for (let round = 0; round < 60; round++) {
    const [layers, experts] = [1 + random.below(4), 3 + random.below(8)];
    const chosen = 1 + random.below(Math.min(3, experts));
    const slots = chosen + random.below(layers * experts);
    const cache = new ExpertCache(shapeOf(layers, experts, chosen, slots), { policy: "lru" });
    const naive = new NaiveCache(slots);
    const moving: Fetch[] = [];
    let layer = layers - 1;
    const fetch = (): boolean => {
      const got = cache.nextFetch();
      const evicted = got?.evicted ? nameOf(got.evicted) : "";
      expect(got && `${nameOf(got)} ${got.matrix} ${evicted}`).toBe(naive.next());
      if (!got) return false;
      expect(naive.held.get(nameOf(got))!.slot >= 0).toBe(true);
      expect(got.cause).toBe(naive.wanted.some(({ name }) => name === nameOf(got)) ? "demand" : "predicted");
      moving.push(got);
      return true;
    };
    const end = (canFail: boolean): void => {
      const [ended] = moving.splice(random.below(moving.length), 1) as [Fetch];
      if (canFail && random.below(12) === 0) {
        cache.failed(ended);
        naive.failed(nameOf(ended), ended.matrix);
      } else expect(cache.arrived(ended)).toBe(naive.arrived(nameOf(ended), ended.matrix));
    };
    for (let turn = 0; turn < 150; turn++) {
      if (layer === layers - 1) {
        cache.endStep();
        naive.guessed = [];
        cache.beginStep("decode");
        layer = -1;
      }
      const action = random.below(6);
      if (action <= 1) fetch();
      else if (action <= 3 && moving.length > 0) end(true);
      else if (action === 4 && layer + 1 < layers) {
        const target = layer + 1 + random.below(layers - layer - 1);
        const guesses = shuffled(random, experts)
          .slice(0, 1 + random.below(4 * chosen))
          .map((expert, i) => ({ expert, score: 100 - i }));
        cache.predict(target, guesses, Math.min(layer, target - 1));
        naive.guessed = naive.guessed.filter((guess) => guess.layer !== target);
        for (const { expert, score } of guesses)
          naive.guessed.push({ name: `${target}.${expert}`, layer: target, score });
      } else if (action === 5) {
        layer++;
        const order = shuffled(random, experts).slice(0, 1 + random.below(Math.min(experts, 2 * chosen)));
        const got = cache.choose(layer, usesOf(...order), "decode");
        expect(got).toEqual(naive.choose(layer, order));
        const done = (expert: number): void => {
          cache.ran(layer, [expert]);
          naive.pinned.delete(`${layer}.${expert}`);
          naive.wanted = naive.wanted.filter(({ name }) => name !== `${layer}.${expert}`);
        };
        got.resident.forEach(done);
        const left = new Set(got.missing);
        for (let guard = 0; left.size > 0; guard++) {
          expect(guard, "the layer gets its experts in the end").toBeLessThan(1000);
          if (!fetch() && moving.length > 0) end(false);
          for (const expert of left)
            if (naive.isWhole(`${layer}.${expert}`)) {
              expect(cache.slotOf(layer, expert)).toBeDefined();
              left.delete(expert);
              done(expert);
            }
        }
        cache.release(layer);
        naive.pinned.clear();
      }
      cache.check();
      for (let each = 0; each < layers * experts; each++) {
        const [l, e] = [Math.floor(each / experts), each % experts];
        expect(cache.slotOf(l, e) !== undefined).toBe(naive.isWhole(`${l}.${e}`));
      }
    }
    const { bytesDemand, bytesUsed, bytesWasted, bytesWaiting } = cache.stats;
    expect(bytesDemand + bytesUsed + bytesWasted + bytesWaiting).toBeGreaterThan(0);
  }
});

test.each(expertPolicyNames)("under %s, every layer gets what it chose, and no slot is lost", (policy) => {
  const random = new Random(testSeed(`expert-cache ${policy}`));
  for (let round = 0; round < 20; round++) {
    const [layers, experts, chosen] = [1 + random.below(5), 4 + random.below(6), 1 + random.below(3)];
    const slots = chosen + random.below(layers * experts);
    const cache = new ExpertCache(shapeOf(layers, experts, chosen, slots), { policy });
    for (let step = 0; step < 30; step++) {
      const phase = random.below(5) === 0 ? "prefill" : "decode";
      cache.beginStep(phase);
      for (let layer = 0; layer < layers; layer++) {
        const count = phase === "decode" ? chosen : 1 + random.below(experts);
        const order = shuffled(random, experts).slice(0, count);
        const { resident, missing } = cache.choose(layer, usesOf(...order), phase);
        expect([...resident, ...missing].sort()).toEqual([...order].sort());
        cache.ran(layer, resident);
        if (layer + 1 < layers)
          cache.predict(layer + 1, [{ expert: random.below(experts), score: 1 }], layer);
        for (const left = new Set(missing); left.size > 0;) {
          fetchAll(cache);
          const ready = [...left].filter((expert) => cache.slotOf(layer, expert) !== undefined);
          expect(ready.length, "a wave is not empty").toBeGreaterThan(0);
          cache.ran(layer, ready);
          for (const expert of ready) left.delete(expert);
        }
        cache.release(layer);
        cache.check();
      }
      cache.endStep();
    }
    const uses = cache.stats.layers.reduce((sum, each) => sum + each.uses, 0);
    const sorted = cache.stats.layers.reduce((sum, each) => sum + each.hits + each.late + each.missing, 0);
    expect(sorted).toBe(uses);
  }
});

function shuffled(random: Random, count: number): number[] {
  const list = Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [list[i], list[j]] = [list[j]!, list[i]!];
  }
  return list;
}

function started(options: Partial<ExpertCacheOptions> = {}, slots = 4): ExpertCache {
  const cache = new ExpertCache(shapeOf(3, 8, 2, slots), { policy: "lru", ...options });
  cache.beginStep("decode");
  return cache;
}

describe("the queue", () => {
  test("without prediction nothing is fetched but what a layer waits for; rates are shares of what was asked", () => {
    const guess = [{ expert: 1, score: 1 }];
    const [onDemand, predicting] = [started({ predicts: false }), started()];
    for (const cache of [onDemand, predicting]) {
      expect(ratesOf(cache.stats)).toEqual({});
      cache.predict(0, guess, -1);
      cache.predict(1, guess, 0);
      expect(fetchAll(cache)).toEqual(cache === predicting ? ["0.1", "1.1"] : []);
      cache.choose(0, usesOf(1, 5), "decode");
      expect(fetchAll(cache)).toEqual(cache === predicting ? ["0.5"] : ["0.1", "0.5"]);
      cache.release(0);
      cache.choose(1, usesOf(2, 3), "decode");
    }
    expect(ratesOf(onDemand.stats)).toEqual({ hits: 0 });
    expect(ratesOf(predicting.stats)).toEqual({ hits: 0.25, accuracy: 0.5, fetchRate: 1, goodPred: 0.5 });
  });

  test("a layer's demand overtakes speculation between two matrices, and drops what was guessed for the layer", () => {
    const cache = started();
    cache.predict(
      0,
      [
        { expert: 1, score: 2 },
        { expert: 2, score: 1 },
      ],
      -1,
    );
    const first = cache.nextFetch()!;
    expect(first).toMatchObject({ expert: 1, matrix: 0, cause: "predicted" });
    expect(cache.choose(0, usesOf(5, 1), "decode")).toEqual({ resident: [], missing: [1, 5] });
    cache.arrived(first);
    expect(cache.nextFetch()).toMatchObject({ expert: 1, matrix: 1, cause: "demand" });
    cache.check();
    expect(cache.stats.layers[0]).toEqual({ uses: 2, hits: 0, late: 1, missing: 1 });
    const rest = Array.from({ length: 5 }, () => cache.nextFetch());
    expect(rest.map((fetch) => fetch && `${fetch.expert} ${fetch.matrix}`)).toEqual([
      ...["1 2", "5 0", "5 1", "5 2"],
      undefined, // the guess of 2 is gone
    ]);
  });

  test("without prediction a guess fetches nothing and is not counted", () => {
    const cache = started({ predicts: false });
    cache.predict(1, [{ expert: 0, score: 1 }], 0);
    expect(fetchAll(cache)).toEqual([]);
    expect(cache.stats.guessesByDistance.every(({ guessed }) => guessed === 0)).toBe(true);
  });

  test("without chunks, an expert that was begun is fetched whole before what a layer waits for", () => {
    const cache = started({ chunked: false });
    cache.predict(1, [{ expert: 1, score: 1 }], -1);
    cache.nextFetch();
    cache.choose(0, usesOf(5), "decode");
    const next = Array.from({ length: 3 }, () => cache.nextFetch()!);
    expect(next.map((fetch) => `${nameOf(fetch)} ${fetch.matrix}`)).toEqual(["1.1 1", "1.1 2", "0.5 0"]);
  });

  test("without pre-emption, what was queued first is fetched first", () => {
    const cache = started({ preempts: false });
    cache.predict(1, [{ expert: 1, score: 1 }], -1);
    cache.choose(0, usesOf(5), "decode");
    expect(fetchAll(cache)).toEqual(["1.1", "0.5"]);
  });

  test("guesses go in the order of need, whenever they were made, and a layer's later ones replace its earlier", () => {
    const cache = started();
    cache.predict(2, [{ expert: 7, score: 9 }], 0);
    cache.predict(
      1,
      [
        { expert: 3, score: 1 },
        { expert: 4, score: 2 },
      ],
      0,
    );
    cache.predict(2, [{ expert: 6, score: 1 }], 1);
    expect(fetchAll(cache)).toEqual(["1.4", "1.3", "2.6"]);
  });

  test("guesses beyond the bound are cut, and those of a step end with it", () => {
    const cache = started({}, 24);
    cache.predict(
      2,
      Array.from({ length: 8 }, (_, expert) => ({ expert, score: -expert })),
      1,
    );
    cache.predict(0, [{ expert: 0, score: 1 }], 1); // of the next step
    cache.endStep();
    cache.check();
    cache.beginStep("decode");
    expect(fetchAll(cache)).toEqual(["0.0"]);
    const small = new ExpertCache(shapeOf(3, 8, 1, 24), { policy: "lru" });
    small.beginStep("decode");
    small.predict(
      2,
      Array.from({ length: 8 }, (_, expert) => ({ expert, score: -expert })),
      1,
    );
    expect(fetchAll(small)).toEqual(["2.0", "2.1", "2.2", "2.3"]);
  });

  test("a prefill predicts nothing for its own step", () => {
    const cache = started();
    cache.beginStep("prefill");
    cache.predict(1, [{ expert: 1, score: 1 }], 0);
    expect(cache.nextFetch()).toBeUndefined();
  });
});

describe("slots", () => {
  test("a prefill of more experts than slots runs in waves, each expert fetched once, residents first", () => {
    const cache = started({}, 3);
    cache.choose(0, usesOf(6, 7), "decode");
    fetchAll(cache);
    cache.ran(0, [6, 7]);
    cache.beginStep("prefill");
    const all = usesOf(0, 1, 2, 3, 4, 5, 6, 7).map((use) => ({ ...use, tokens: 1 + use.expert }));
    const { resident, missing } = cache.choose(0, all, "prefill");
    expect([resident, missing]).toEqual([
      [7, 6],
      [5, 4, 3, 2, 1, 0],
    ]);
    const fetched: string[] = [];
    cache.ran(0, resident);
    for (const left = new Set(missing); left.size > 0;) {
      fetched.push(...fetchAll(cache));
      const ready = [...left].filter((expert) => cache.slotOf(0, expert) !== undefined);
      expect(ready.length).toBeGreaterThan(0);
      cache.ran(0, ready);
      for (const expert of ready) left.delete(expert);
    }
    expect(fetched).toEqual(missing.map((expert) => `0.${expert}`));
    cache.release(0);
    cache.check();
  });

  test("without reordering, a resident expert may be evicted before its turn", () => {
    const cache = started({ reorders: false }, 2);
    cache.choose(0, usesOf(6, 7), "decode");
    fetchAll(cache);
    cache.ran(0, [6, 7]);
    expect(cache.choose(0, usesOf(6, 1, 7), "decode")).toEqual({ resident: [], missing: [1, 6, 7] });
    const fetched: string[] = [];
    for (const expert of [1, 6, 7]) {
      if (cache.slotOf(0, expert) === undefined) fetched.push(...fetchAll(cache));
      cache.ran(0, [expert]);
    }
    expect(fetched).toEqual(["0.1", "0.6", "0.7"]);
  });

  test("a fetch that fails gives its slot back when the others of its expert have ended, and is not repeated", () => {
    const cache = started();
    cache.choose(0, usesOf(5), "decode");
    const [one, two] = [cache.nextFetch()!, cache.nextFetch()!];
    cache.failed(one);
    cache.check();
    expect(cache.counts()).toEqual({ whole: 0, partial: 1, free: 3 });
    expect(cache.nextFetch()).toBeUndefined();
    expect(cache.arrived(two)).toBe(false);
    expect(cache.counts()).toEqual({ whole: 0, partial: 0, free: 4 });
    cache.check();
    cache.choose(0, usesOf(5), "decode");
    expect(fetchAll(cache)).toEqual(["0.5"]);
    expect(cache.stats.failures).toBe(1);
  });

  test("an arena that holds fewer experts than a token needs is refused; so are layers in two classes or in none", () => {
    const made = (classes: ExpertCacheShape["classes"]) => () =>
      new ExpertCache({ ...shapeOf(2, 8, 2, 4), classes }, { policy: "lru" });
    const matrixBytes = MATRIX_BYTES;
    expect(made([{ layers: [0, 1], slots: 1, matrixBytes }])).toThrow(/1 slots: a token needs 2/);
    expect(made([{ layers: [0], slots: 2, matrixBytes }])).toThrow(/layer 1 is in no class/);
    const both = { layers: [0, 1], slots: 2, matrixBytes };
    expect(made([both, both])).toThrow(/layer 0 is in two classes/);
    expect(made([{ ...both, matrixBytes: [1] }])).toThrow(/sizes of 1 of 3/);
  });

  test("layers of one class never take the slots of another", () => {
    const classes = [
      { layers: [0, 2], slots: 3, matrixBytes: MATRIX_BYTES },
      { layers: [1], slots: 2, matrixBytes: [1, 2, 3] },
    ];
    const cache = new ExpertCache({ ...shapeOf(3, 8, 2, 1), classes }, { policy: "lru" });
    for (const layer of [0, 1, 2, 0, 1]) {
      cache.beginStep("decode");
      const { missing } = cache.choose(layer, usesOf(layer, 5), "decode");
      fetchAll(cache);
      cache.ran(layer, missing);
      cache.release(layer);
      cache.endStep();
    }
    expect(cache.counts()).toEqual({ whole: 5, partial: 0, free: 0 });
    expect([0, 5].map((expert) => cache.slotOf(0, expert) !== undefined)).toEqual([true, true]);
    expect(cache.hasAll(1)).toBe(false);
  });
});

describe("statistics", () => {
  test("accuracy and fetch rate by layer and distance; bytes that were used, wasted, waiting", () => {
    const cache = started();
    cache.predict(
      1,
      [1, 2, 3].map((expert) => ({ expert, score: -expert })),
      0,
    );
    for (let matrix = 0; matrix < 6; matrix++) cache.arrived(cache.nextFetch()!);
    expect(cache.stats.bytesWaiting).toBe(120);
    cache.choose(1, usesOf(1, 3), "decode");
    expect(cache.stats.guessesByLayer[1]).toEqual({ guessed: 3, used: 2, ready: 2, good: 1 });
    expect(cache.stats.guessesByDistance[1]).toEqual({ guessed: 3, used: 2, ready: 2, good: 1 });
    expect(cache.stats).toMatchObject({ bytesUsed: 60, bytesWaiting: 60, bytesDemand: 0 });
    fetchAll(cache);
    cache.ran(1, [1, 3]);
    cache.release(1);
    cache.choose(2, usesOf(1, 2, 3), "decode");
    fetchAll(cache); // 1.2, guessed and never used, loses its slot
    expect(cache.stats).toMatchObject({ bytesUsed: 60, bytesWaiting: 0, bytesWasted: 60, bytesDemand: 240 });
    expect(cache.stats.fetches).toEqual({ demand: 12, predicted: 6, warm: 0 });
  });

  test("what was used most is needed first, and a warm start fetches it into free slots alone", () => {
    const cache = started();
    for (const experts of [
      [1, 2],
      [1, 3],
      [1, 2],
    ]) {
      cache.choose(0, usesOf(...experts), "decode");
      fetchAll(cache);
      cache.release(0);
    }
    const needed = cache.needed();
    expect(needed.map(nameOf)).toEqual(["0.1", "0.2", "0.3"]);
    const next = started({}, 2);
    next.warm(needed);
    next.choose(2, usesOf(7), "decode");
    expect(fetchAll(next)).toEqual(["2.7", "0.1"]);
    expect(next.nextFetch()).toBeUndefined();
    next.check();
  });
});
