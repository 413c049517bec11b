/**
 * The prefill queue: in which order prompts are computed and in which chunks, against a naive model of it; who gives way; what
 * is fetched while requests wait. What can go wrong at random is scheduler-faults.test.ts's business.
 */
import { describe, expect, it } from "vitest";
import { Random } from "../../src/base.ts";
import { BlockPool } from "../../src/cache/blocks.ts";
import { createPrefixCache } from "../../src/cache/policy/create.ts";
import { StateSlotPool } from "../../src/cache/state-slot-pool.ts";
import { CostModel, type StepCosts } from "../../src/schedule/cost/model.ts";
import { chunkLimit, MIN_CHUNK, type ChunkLimit } from "../../src/schedule/queue/chunk.ts";
import { BACKGROUND_PATIENCE } from "../../src/schedule/queue/place.ts";
import { Preemption } from "../../src/schedule/queue/pre-emption.ts";
import { PrefillQueue } from "../../src/schedule/queue/prefill-queue.ts";
import { MAX_PREFETCHED } from "../../src/schedule/queue/prefetch.ts";
import { Request, type RequestSpec } from "../../src/schedule/request.ts";
import {
  Scheduler,
  type LowerTiers,
  type Plan,
  type SchedulerOptions,
} from "../../src/schedule/scheduler.ts";
import { testSeed } from "../support/seed.ts";

const stopIds = new Set<number>();
const COST = { flopsLinear: 1, flopsQuadratic: 0, bytesPerToken: 4, bytesPerSnapshot: 0 };

function make(more: Partial<SchedulerOptions> = {}, slots = 20_000): Scheduler {
  const pool = new BlockPool(slots);
  const { cache } = createPrefixCache({ policy: "lru", blockTokens: 4, cost: COST, pool });
  const options = { blockTokens: 4, chunkTokens: 16, seats: 64, promptsUnderWay: 64, ...more };
  return new Scheduler(cache, pool, options);
}

let unique = 1;
/** A prompt that shares nothing with any other. */
const prompt = (length: number): number[] => Array.from({ length }, () => unique++);

function submit(scheduler: Scheduler, length: number, more: Partial<RequestSpec> = {}): Request {
  const spec = { id: unique++, prompt: prompt(length), maxNewTokens: 1, stopIds, ...more };
  return scheduler.submit(spec);
}

/** Plans and commits the next step. */
function step(scheduler: Scheduler): Plan | undefined {
  const plan = scheduler.next();
  if (plan)
    scheduler.commit(
      plan,
      plan.spans.map(({ samples }) => (samples > 0 ? [unique++] : [])),
    );
  return plan;
}

/** The requests in the order in which the chunks of prompts run, until all is done. */
function order(scheduler: Scheduler): Request[] {
  const requests: Request[] = [];
  for (let plan = step(scheduler); plan; plan = step(scheduler))
    if (plan.phase === "prefill") requests.push(...plan.spans.map(({ request }) => request));
  return requests;
}

describe("the order of prompts", () => {
  it("is the shortest first, and a short one goes before the next chunk of a long one", () => {
    const scheduler = make();
    const long = submit(scheduler, 64);
    step(scheduler);
    const [middle, short] = [submit(scheduler, 30), submit(scheduler, 10)];
    expect(order(scheduler)).toEqual([short, middle, middle, long, long, long]);
  });

  it("waits for a long prompt where only one may be under way, as it was", () => {
    const scheduler = make({ promptsUnderWay: 1 });
    const long = submit(scheduler, 40);
    step(scheduler);
    const short = submit(scheduler, 10);
    expect(order(scheduler)).toEqual([long, long, short]);
  });

  it("counts what is left behind what the cache has, and notices what it has found since", () => {
    const scheduler = make();
    const shared = prompt(60);
    submit(scheduler, 0, { prompt: [...shared, 1, 2] });
    order(scheduler);
    const short = submit(scheduler, 12);
    const cached = submit(scheduler, 0, { prompt: [...shared, 3, 4, 5] });
    expect(order(scheduler)).toEqual([cached, short]);
    const late = prompt(40);
    const waiting = submit(scheduler, 0, { prompt: [...late, 7, 8] });
    const lease = scheduler.borrow(late, 0);
    scheduler.giveBack(lease, late.length);
    const others = [14, 14, 14].map((length) => submit(scheduler, length));
    const ids = order(scheduler).map(({ id }) => id);
    expect(ids[0]).toBe(others[0]?.id); // waiting requests are looked at one a step
    expect(ids.indexOf(waiting.id)).toBeLessThan(3);
  });

  it("lets interactive requests before background ones, until those have waited long enough", () => {
    const scheduler = make({ chunkTokens: 4096 }, 200_000);
    const background = submit(scheduler, 100, { priority: "background" });
    let before = 0;
    for (; background.status === "waiting"; before += 4096) {
      submit(scheduler, 4096);
      step(scheduler);
      expect(before).toBeLessThanOrEqual(BACKGROUND_PATIENCE + 100 + 4096);
    }
    expect(before).toBeGreaterThan(BACKGROUND_PATIENCE);
  });

  it("takes turns once a long prompt has been overtaken by as many tokens as it had", () => {
    const scheduler = make({ chunkTokens: 10 });
    const long = submit(scheduler, 50);
    const ran: boolean[] = [];
    for (let count = 0; long.status !== "done" && count < 50; count++) {
      submit(scheduler, 10);
      const plan = step(scheduler);
      if (plan?.phase === "prefill") ran.push(plan.spans[0]?.request === long);
    }
    expect(ran.map(Number).join("")).toBe("0000010101011");
  });

  it("hurries a prompt that computes the prefix of a better one", () => {
    const scheduler = make();
    const shared = prompt(32);
    const leader = submit(scheduler, 0, { prompt: [...shared, ...prompt(100)], priority: "background" });
    step(scheduler);
    const other = submit(scheduler, 90);
    const follower = submit(scheduler, 0, { prompt: [...shared, 1, 2, 3] });
    const ran = order(scheduler);
    expect(ran.slice(0, 2)).toEqual([leader, follower]);
    expect(follower.cachedTokens).toBe(32);
    expect(ran[2]).toBe(other);
  });

  it("lets nobody begin in place of one that is due and waits for another's prefix", () => {
    const queue = new PrefillQueue(() => ({ gpu: 0, stored: 0 }));
    const shared = prompt(8);
    const [follower, leader, other] = [[...shared, 1], [...shared, 2], [3]].map((tokens, id) => {
      const request = new Request({ id, prompt: tokens, maxNewTokens: 1, stopIds });
      queue.push(request);
      return request;
    }) as [Request, Request, Request];
    queue.begin(leader);
    leader.status = "prefilling";
    const waitsForLoads = new Set([leader]);
    expect(queue.next(0, waitsForLoads, true)).toEqual({ request: other });
    queue.ran({ request: leader }, 9);
    expect(queue.next(0, waitsForLoads, true)).toBeUndefined();
    expect(queue.next(0, new Set(), true)).toEqual({ request: leader, onBehalfOf: follower });
    leader.computed = 9;
    expect(queue.next(0, waitsForLoads, true)).toEqual({ request: follower });
  });

  it("is that of a naive queue, whatever arrives", () => {
    const random = new Random(testSeed("schedule-queue"));
    for (let round = 0; round < 200; round++) {
      const chunkTokens = 4 + random.below(30);
      const scheduler = make({ chunkTokens });
      const naive: Naive[] = [];
      let left = 1 + random.below(25);
      for (let at = 0; left > 0 || naive.length > 0; at++) {
        for (let more = random.below(4); more > 0 && left > 0; more--, left--) {
          const priority = random.below(5) === 0 ? "background" : "interactive";
          const request = submit(scheduler, 1 + random.below(random.pick([10, 100])), { priority });
          naive.push(arrived(request, unique));
        }
        const wanted = naiveNext(naive, chunkTokens);
        let plan = step(scheduler);
        while (plan?.phase === "decode") plan = step(scheduler);
        const [span] = plan?.spans ?? [];
        expect([span?.request.id, span?.count], `step ${at}`).toEqual(wanted ?? [undefined, undefined]);
      }
    }
  });
});

interface Naive {
  id: number;
  arrival: number;
  left: number;
  patience: number;
  isBackground: boolean;
}

function arrived({ id, promptLength, priority }: Request, arrival: number): Naive {
  const isBackground = priority === "background";
  const patience = promptLength + (isBackground ? BACKGROUND_PATIENCE : 0);
  return { id, arrival, left: promptLength, patience, isBackground };
}

/** Sorts the whole queue anew for each chunk: those that are due by arrival, then the others. */
function naiveNext(queue: Naive[], chunkTokens: number): [id: number, count: number] | undefined {
  const due = queue.filter(({ patience }) => patience <= 0).sort((a, b) => a.arrival - b.arrival);
  const rest = queue.filter(({ patience }) => patience > 0);
  rest.sort(
    (a, b) => Number(a.isBackground) - Number(b.isBackground) || a.left - b.left || a.arrival - b.arrival,
  );
  const next = [...due, ...rest][0];
  if (!next) return undefined;
  const count = Math.min(chunkTokens, next.left);
  for (const other of queue) if (other.arrival < next.arrival) other.patience -= count;
  next.patience += count;
  next.left -= count;
  if (next.left === 0) queue.splice(queue.indexOf(next), 1);
  return [next.id, count];
}

describe("the load", () => {
  it("tells who waits in the order of service, who is under way and who decodes since when", () => {
    const scheduler = make({ seats: 2, promptsUnderWay: 2 });
    const running = submit(scheduler, 10, { maxNewTokens: 9 });
    const plan = scheduler.next() as Plan;
    scheduler.commit(plan, [[unique++]], [], 1234);
    const long = submit(scheduler, 40, { arrivedMs: 5 });
    while (long.computed === 0) step(scheduler);
    const [second, first] = [submit(scheduler, 30), submit(scheduler, 20)];
    const background = submit(scheduler, 3, { priority: "background" });
    const load = scheduler.load();
    expect(load.waiting.map(({ id }) => id)).toEqual([first.id, second.id, background.id]);
    expect(load.prefilling).toMatchObject([{ id: long.id, remainingTokens: 24, from: 16, arrivedMs: 5 }]);
    expect(load.running).toMatchObject([
      { id: running.id, contextTokens: running.computed, startedMs: 1234 },
    ]);
    expect(load.seats).toBe(2);
  });

  it("knows what cache and lower tiers have of a prompt that is not submitted", () => {
    const lower: LowerTiers = {
      storedBlocks: (_, from) => Math.max(0, 5 - from),
      restoreTerms: () => ({ mode: "compute", loadMs: [1], computeMs: () => 1, nowMs: () => 0 }),
      spill: () => {},
    };
    const scheduler = make({ lower });
    const tokens = prompt(40);
    const lease = scheduler.borrow(tokens.slice(0, 12), 0);
    scheduler.giveBack(lease, 12);
    expect(scheduler.known({ tokens, storage: "disk" })).toEqual({ gpu: 12, stored: 8 });
    expect(scheduler.known({ tokens, storage: "off" })).toEqual({ gpu: 0, stored: 0 });
    expect(scheduler.known({ tokens: tokens.slice(0, 12), storage: "disk" })).toEqual({ gpu: 8, stored: 0 });
  });
});

describe("chunks", () => {
  const costs: StepCosts = {
    prefillMs: (tokens, from) => 2 + 0.1 * tokens + 1e-4 * tokens * (from + tokens / 2),
    decodeMs: (rows, context) => 5 + rows + 0.001 * context,
  };
  const decoding = (...limits: (number | undefined)[]): Request[] =>
    limits.map((tbtMs) => ({ objectives: { tbtMs }, computed: 100 }) as Request);

  it("are the longest that keep the tightest objective of those that decode", () => {
    const random = new Random(testSeed("chunks"));
    for (let round = 0; round < 500; round++) {
      const limits = Array.from({ length: 1 + random.below(4) }, () => 10 + random.below(150));
      const from = random.below(5000);
      const chunk = chunkLimit({ costs, chunkTokens: 512 })(from, decoding(...limits));
      const stepMs = (tokens: number): number =>
        costs.prefillMs(tokens, from) + costs.decodeMs(limits.length, 100 * limits.length);
      const budget = 0.85 * Math.min(...limits);
      if (chunk > MIN_CHUNK) expect(stepMs(chunk)).toBeLessThanOrEqual(budget);
      const longer = chunk < 32 ? 2 * chunk : chunk + 32;
      if (chunk < 512) expect(stepMs(longer)).toBeGreaterThan(budget);
      expect(chunk % (chunk < 32 ? MIN_CHUNK : 32)).toBe(0);
    }
  });

  it("are whole where nobody asks, and the engine's limit holds for those that do not say", () => {
    expect(chunkLimit({ costs, chunkTokens: 512 })(0, decoding(undefined))).toBe(512);
    expect(chunkLimit({ costs, chunkTokens: 512, tbtMs: 30 })(0, decoding(undefined))).toBeLessThan(512);
    expect(chunkLimit({ costs, chunkTokens: 512, tbtMs: 1 })(0, decoding(undefined))).toBe(MIN_CHUNK);
    expect(chunkLimit({ costs, chunkTokens: 20, tbtMs: 1 })(0, decoding(undefined))).toBe(MIN_CHUNK);
    expect(chunkLimit({ costs, chunkTokens: 5, tbtMs: 1 })(0, decoding(undefined))).toBe(5);
  });

  it("are short beside requests that decode, and whole when they have ended", () => {
    const asked: number[] = [];
    const limit: ChunkLimit = (from, others) => {
      asked.push(from);
      expect(others.every((each) => each instanceof Request && each.status === "decoding")).toBe(true);
      return 4;
    };
    const scheduler = make({ chunkLimit: limit, seats: 2 });
    submit(scheduler, 3, { maxNewTokens: 4 });
    step(scheduler);
    submit(scheduler, 60);
    const counts: number[] = [];
    for (let plan = step(scheduler); plan; plan = step(scheduler))
      if (plan.phase === "prefill") counts.push(plan.spans[0]?.count ?? 0);
    expect(counts).toEqual([4, 4, 16, 16, 16, 4].slice(0, counts.length));
    expect(asked.slice(0, 2)).toEqual([0, 4]);
  });
});

describe("giving way", () => {
  const fake = (id: number, computed: number, more: object = {}): Request =>
    ({ id, computed, priority: "interactive", storage: "disk", ...more }) as Request;
  const costs = { recomputeMs: (tokens: number) => tokens, reloadMs: (blocks: number) => 2 * blocks };

  it("is for background first, then for prompts, then for who loses least, and never upwards", () => {
    const giving = new Preemption(costs, 4);
    const [asking, small, large] = [fake(1, 50), fake(2, 10), fake(3, 90)];
    const background = fake(4, 1000, { priority: "background" });
    const unstored = fake(5, 30, { storage: "off" });
    expect(giving.victimFor(asking, [large], [small, background])).toBe(background);
    expect(giving.victimFor(asking, [large], [small])).toBe(large);
    expect(giving.victimFor(asking, [], [small, large])).toBe(small);
    expect(giving.victimFor(asking, [], [large, unstored])).toBe(unstored); // 30 to compute, 44 to load
    expect(giving.victimFor(asking, [], [large, fake(6, 60, { storage: "off" })])).toBe(large);
    expect(giving.victimFor(background, [small], [large])).toBeUndefined();
    expect(giving.victimFor(background, [small], [fake(7, 9, { priority: "background" })])?.id).toBe(7);
    expect(giving.victimFor(asking, [], [])).toBeUndefined();
    const [older, younger] = [fake(0, 5), fake(9, 500)];
    expect(giving.victimFor(asking, [older, younger], [large])).toBe(younger);
    expect(giving.victimFor(asking, [older], [large])).toBe(large);
    expect(giving.victimFor(asking, [older], [])).toBeUndefined();
    expect(new Preemption(undefined, 4).victimFor(asking, [], [small, large])).toBe(large);
  });

  it("sends down what comes back sooner than it is computed again", () => {
    expect(new Preemption(costs, 4).isSentDown(fake(1, 40))).toBe(true);
    expect(new Preemption({ ...costs, reloadMs: (blocks) => 5 * blocks }, 4).isSentDown(fake(1, 40))).toBe(
      false,
    );
    expect(new Preemption(costs, 4).isSentDown(fake(1, 40, { storage: "off" }))).toBe(false);
    expect(new Preemption(undefined, 4).isSentDown(fake(1, 40))).toBe(true);
    const facts = { blockTokens: 32, bytesPerBlock: 1e6, flopsPerToken: 1e9, isSoftware: false };
    const without = new CostModel({ ...facts, tiers: [] });
    expect(without.reloadMs(1)).toBe(Infinity);
    const tiers = [
      { name: "disk", isInMemory: false },
      { name: "ram", isInMemory: true },
    ];
    const model = new CostModel({ ...facts, tiers });
    expect(model.reloadMs(3)).toBeCloseTo(3 * model.loadMs("ram"));
    expect(model.recomputeMs(64)).toBe(model.prefillMs(64, 0));
  });

  it("happens to a background request though it is older, and the oldest interactive one moves on", () => {
    const scheduler = make({ seats: 3, chunkTokens: 64 }, 12);
    const background = submit(scheduler, 12, { maxNewTokens: 30, priority: "background" });
    const [first, second] = [
      submit(scheduler, 12, { maxNewTokens: 20 }),
      submit(scheduler, 12, { maxNewTokens: 20 }),
    ];
    const gone: Request[] = [];
    const requests = [background, first, second];
    while (requests.some(({ status }) => status !== "done")) {
      const before = requests.filter(({ status }) => status === "decoding");
      step(scheduler);
      gone.push(...before.filter(({ status }) => status === "waiting"));
      scheduler.check();
    }
    expect(gone[0]).toBe(background);
    expect(gone).not.toContain(first);
  });

  it("saves no state of what is sooner computed again", () => {
    for (const [reload, wanted] of [
      [0, 1],
      [Infinity, 0],
    ] as const) {
      let saved = 0;
      const giveWayCosts = { recomputeMs: () => 1, reloadMs: () => reload };
      const scheduler = makeRecurrent(
        { giveWayCosts, states: { save: (saves) => void (saved += saves.length) } },
        7,
      );
      const old = submit(scheduler, 8, { maxNewTokens: 16 });
      const young = submit(scheduler, 11, { maxNewTokens: 12 });
      while (young.status !== "decoding") step(scheduler);
      while (isDecoding(young)) step(scheduler);
      expect(old.status).toBe("decoding");
      expect(young.status).toBe("waiting");
      expect(saved, `reload in ${reload} ms`).toBe(wanted);
    }
  });
});

const isDecoding = ({ status }: Request): boolean => status === "decoding";

/** A scheduler of a model with recurrent layers. */
function makeRecurrent(more: Partial<SchedulerOptions>, slots: number): Scheduler {
  const pool = new BlockPool(slots);
  const snapshotPool = new StateSlotPool(10, 4);
  const cost = { ...COST, bytesPerSnapshot: 40 };
  const { cache } = createPrefixCache({
    ...{ policy: "marconi", blockTokens: 4, cost, pool, snapshotPool, tunerBytes: 1000 },
  });
  const states = { save: () => {} };
  return new Scheduler(cache, pool, { blockTokens: 4, chunkTokens: 64, seats: 2, states, ...more });
}

describe("what waits", () => {
  it("has its stored blocks fetched: of the next few, each once, none that may not be looked for", () => {
    const asked: [id: number, from: number, blocks: number][] = [];
    const lower: LowerTiers = {
      storedBlocks: (_, from) => Math.max(0, 3 - from),
      restoreTerms: () => ({ mode: "compute", loadMs: [1, 1, 1], computeMs: () => 1, nowMs: () => 0 }),
      prefetch: ({ id }, from, blocks) => asked.push([id, from, blocks]),
      spill: () => {},
    };
    const scheduler = make({ seats: 1, lower });
    submit(scheduler, 5, { maxNewTokens: 40 });
    step(scheduler);
    scheduler.takeMoves();
    asked.length = 0;
    const lengths = [40, 30, 20, 9, 60, 70];
    const requests = lengths.map((length) => submit(scheduler, length));
    submit(scheduler, 25, { storage: "off" });
    scheduler.takeMoves();
    scheduler.takeMoves();
    const id = (index: number): number => (requests[index] as Request).id;
    expect(asked).toEqual([
      [id(3), 0, 2],
      [id(2), 0, 3],
      [id(1), 0, 3],
    ]);
    expect(asked.length).toBeLessThanOrEqual(MAX_PREFETCHED);
    scheduler.abort(requests[3] as Request);
    scheduler.takeMoves();
    expect(asked.slice(3)).toEqual([[id(0), 0, 3]]);
  });

  it("has its blocks and the state behind them fetched in a model with recurrent layers", () => {
    const asked: unknown[] = [];
    const lower: LowerTiers = {
      storedBlocks: () => 5,
      storedState: () => 10,
      restoreTerms: () => ({ mode: "compute", loadMs: [1], computeMs: () => 1, nowMs: () => 0 }),
      prefetch: (request, from, blocks, at) => asked.push([request.id, from, blocks, at]),
      spill: () => {},
    };
    const scheduler = makeRecurrent({ lower }, 100);
    const request = submit(scheduler, 30);
    scheduler.takeMoves();
    expect(asked).toEqual([[request.id, 0, 2, 10]]);
  });
});
