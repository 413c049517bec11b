/** How far a decode step goes by guess, by what read-backs and layers take and how probable it is that nothing lacks. */
import { expect, test } from "vitest";
import { ExpertCache } from "../../src/cache/experts/expert-cache.ts";
import { Chances } from "../../src/model/experts/chances.ts";
import { ReadPace } from "../../src/model/experts/read-pace.ts";

const LAYERS = 12;

function chancesAfter(outcomes: number, lackedNothing: (layer: number) => boolean): Chances {
  const chances = new Chances(LAYERS);
  for (let i = 0; i < outcomes; i++) {
    chances.lastOfGuess(
      0,
      () => "unknown",
      () => 1,
    );
    for (let layer = 0; layer < LAYERS; layer++) chances.note(layer, lackedNothing(layer));
  }
  return chances;
}

const msOf = (latencyMs: number, layerMs: number) => (layers: number) => latencyMs + layers * layerMs;

test("a slow read-back makes groups of layers long, a fast one short", () => {
  const sure = chancesAfter(50, () => true);
  expect(sure.lastOfGuess(0, () => "unknown", msOf(5, 0.3))).toBe(LAYERS - 1);
  const likely = chancesAfter(50, (layer) => layer !== 6);
  const last = likely.lastOfGuess(0, () => "unknown", msOf(5, 0.3));
  expect(last).toBe(6); // behind a layer that always lacks something nothing is gained
  const unlikely = chancesAfter(50, () => false);
  expect(unlikely.lastOfGuess(0, () => "unknown", msOf(5, 0.3))).toBe(0);
  const even = new Chances(LAYERS);
  expect(even.lastOfGuess(3, () => "unknown", msOf(0.1, 1))).toBe(3);
  expect(even.lastOfGuess(3, () => "unknown", msOf(5, 0.3))).toBeGreaterThan(4);
});

test("what was predicted and is there makes a guess bolder than what is not", () => {
  const chances = new Chances(LAYERS);
  for (let i = 0; i < 50; i++) {
    const outlook = i % 2 === 0 ? ("good" as const) : ("bad" as const);
    chances.lastOfGuess(
      0,
      () => outlook,
      () => 1,
    );
    for (let layer = 0; layer < LAYERS; layer++) chances.note(layer, outlook === "good");
  }
  expect(chances.lastOfGuess(0, () => "good", msOf(2, 1))).toBeGreaterThan(5);
  expect(chances.lastOfGuess(0, () => "bad", msOf(2, 1))).toBe(0);
});

test("the pace of read-backs is found from those that were measured", () => {
  const pace = new ReadPace(4);
  for (let i = 0; i < 200; i++) pace.note(1 + (i % 5), 4 + 0.5 * (1 + (i % 5)));
  expect(pace.line.latencyMs).toBeCloseTo(4, 3);
  expect(pace.line.layerMs).toBeCloseTo(0.5, 3);
  for (let i = 0; i < 200; i++) pace.note(1 + (i % 5), 9 + 2 * (1 + (i % 5))); // the machine is busy now
  expect(pace.ms(3)).toBeGreaterThan(12);
  const alone = new ReadPace(1);
  for (let i = 0; i < 100; i++) alone.note(1, 3);
  expect(alone.line.layerMs).toBeCloseTo(2, 3); // what one layer took beyond a read-back with nothing to compute
});

const SHAPE = {
  ...{ layers: 2, experts: 16, chosen: 2, matrices: 1 },
  classes: [{ layers: [0, 1], slots: 8, matrixBytes: [1] }],
};

test("guesses that are seldom right are no longer fetched, and those in front of them still are", () => {
  const cache = new ExpertCache(SHAPE, { policy: "promoe" });
  const guesses = [8, 9, 10, 11].map((expert, i) => ({ expert, score: 4 - i }));
  let fetched: number[] = [];
  for (let step = 0; step < 100; step++) {
    cache.beginStep("decode");
    cache.choose(0, [{ expert: step % 4, tokens: 1, weight: 1 }], "decode");
    cache.release(0);
    cache.predict(1, guesses, 0);
    fetched = [];
    for (let fetch = cache.nextFetch(); fetch; fetch = cache.nextFetch()) {
      if (fetch.layer === 1) fetched.push(fetch.expert);
      cache.arrived(fetch);
    }
    // The first two are always right. The others are not: they are in slots until something takes these.
    cache.choose(
      1,
      [8, 9].map((expert) => ({ expert, tokens: 1, weight: 1 })),
      "decode",
    );
    cache.release(1);
    cache.endStep();
    cache.check();
  }
  const { guessed, used } = cache.stats.guessesByDistance[1]!;
  expect(used / guessed).toBeGreaterThan(0.7); // of four guesses each time it would be a half
  expect(fetched).toEqual([]);
});

test("while enough is under way that nobody waits for, only what a layer waits for is begun", () => {
  const cache = new ExpertCache(SHAPE, { policy: "promoe" });
  cache.beginStep("decode");
  cache.predict(1, [{ expert: 3, score: 1 }], 0);
  expect(cache.nextFetch(false)).toBeUndefined();
  cache.choose(0, [{ expert: 5, tokens: 1, weight: 1 }], "decode");
  expect(cache.nextFetch(false)).toMatchObject({ layer: 0, expert: 5, cause: "demand" });
  expect(cache.nextFetch(false)).toBeUndefined();
  expect(cache.nextFetch()).toMatchObject({ layer: 1, expert: 3, cause: "predicted" });
});
