/**
 * Seeded runs of the scheduler through all that can go wrong: random arrivals, aborts, priorities, pool sizes, failing moves,
 * failing steps and lost devices. Conservation holds after each step, every request ends, and none waits beyond its
 * ageing bound. What the tokens are is scheduler.test.ts's business.
 */
import { expect, it } from "vitest";
import { Random } from "../../src/base.ts";
import { IS_FULL } from "../support/full.ts";
import { NaiveWorld } from "../support/naive-scheduler.ts";
import { testSeed } from "../support/seed.ts";
import { STOP } from "../support/fake-model.ts";

const RUNS = IS_FULL ? 10_000 : 200;
const MOST_STEPS = 10_000;
const TIMEOUT_MS = IS_FULL ? 900_000 : 60_000;

function faultRun(random: Random): NaiveWorld {
  const isLarge = random.below(2) === 0;
  const world = new NaiveWorld(
    random,
    {
      ...(random.below(2) === 0 && { chunkLimit: () => 1 + random.below(12) }),
      ...(random.below(2) === 0 && {
        giveWayCosts: { recomputeMs: (tokens) => tokens, reloadMs: (blocks) => blocks * random.below(8) },
      }),
      ...(random.below(4) === 0 && { maxPromptsPerStep: 1 + random.below(3) }),
    },
    isLarge ? 300 + random.below(300) : 44 + random.below(40),
  );
  const prefixes = [0, 1].map(() => Array.from({ length: 4 + random.below(12) }, () => 1 + random.below(20)));
  const arrivals = 1 + random.below(isLarge ? 24 : 10);
  for (let id = 0; id < arrivals; id++) {
    submitOne(world, random, id, { prefixes, longest: isLarge ? 60 : 16 });
    for (let steps = random.below(4); steps > 0; steps--) world.step();
    if (random.below(8) === 0) world.scheduler.abort(random.pick(world.watched).request);
    if (random.below(10) === 0) world.scheduler.forget();
    if (random.below(24) === 0) world.lose();
  }
  for (let steps = 0; world.step(); steps++) {
    if (steps > MOST_STEPS) throw new Error(`not every request has ended after ${steps} steps`);
    if (steps % 97 === 96) world.lose();
  }
  return world;
}

function submitOne(
  world: NaiveWorld,
  random: Random,
  id: number,
  { prefixes, longest }: { prefixes: readonly number[][]; longest: number },
): void {
  const shared = random.below(3) === 0 ? random.pick(prefixes) : [];
  const length = 1 + random.below(random.pick([6, longest]));
  const prompt = [...shared, ...Array.from({ length }, () => 1 + random.below(20))];
  world.submit({
    ...{ id, prompt, maxNewTokens: 1 + random.below(12), stopIds: new Set([STOP]) },
    priority: random.below(4) === 0 ? "background" : "interactive",
    storage: random.below(6) === 0 ? "off" : "disk",
  });
}

function runOf(seed: number): NaiveWorld {
  try {
    return faultRun(new Random(seed));
  } catch (error) {
    throw new Error(`run of seed ${seed}`, { cause: error });
  }
}

it(
  `goes through ${RUNS} runs: slots and seats are conserved, every request ends, none waits beyond its bound`,
  () => {
    const random = new Random(testSeed("scheduler-faults"));
    const sums: Record<string, number> = {};
    for (let run = 0; run < RUNS; run++) {
      const seed = random.uint32();
      const world = runOf(seed);
      expect([world.scheduler.activeCount, world.scheduler.usedBlocks], `run of seed ${seed}`).toEqual([
        0, 0,
      ]);
      for (const { request } of world.watched) expect(request.finishReason).toBeDefined();
      world.checkAges();
      for (const [name, count] of Object.entries(world.seen)) sums[name] = (sums[name] ?? 0) + count;
    }
    console.log(`${RUNS} runs: ${JSON.stringify(sums)}`);
    for (const name of ["overtaken", "due", "preempted", "prefetched", "background", "onBehalf"])
      expect(sums[name], name).toBeGreaterThan(RUNS / 20);
  },
  TIMEOUT_MS,
);
