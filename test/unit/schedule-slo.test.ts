/** Promises: what is predicted for a request, whether it is accepted, and how it is counted when it has ended. */
import { describe, expect, it } from "vitest";
import { Random } from "../../src/base.ts";
import type { StepCosts } from "../../src/schedule/cost/model.ts";
import { BlockPool } from "../../src/cache/blocks.ts";
import { createPrefixCache } from "../../src/cache/policy/create.ts";
import { chunkLimit } from "../../src/schedule/queue/chunk.ts";
import { Scheduler } from "../../src/schedule/scheduler.ts";
import { Admission, type Arrival, type DecodeLoad } from "../../src/schedule/slo/admission.ts";
import { KEPT_LIFETIMES, Lifetimes } from "../../src/schedule/slo/lifetimes.ts";
import { Goodput, keeps, RequestTimes } from "../../src/schedule/slo/goodput.ts";
import { Histogram } from "../../src/schedule/slo/histogram.ts";
import type { RejectionMode } from "../../src/schedule/slo/objectives.ts";
import type { PromptLoad, RunningLoad, SchedulerLoad } from "../../src/schedule/slo/load.ts";
import { predict, type Candidate } from "../../src/schedule/slo/prediction.ts";
import { workOff, type WorkTerms } from "../../src/schedule/slo/work-off.ts";
import { testSeed } from "../support/seed.ts";

/** A machine with round numbers. */
const costs: StepCosts = {
  prefillMs: (tokens, from) => 2 + 0.1 * tokens + 1e-4 * tokens * (from + tokens / 2),
  decodeMs: (rows, context) => 5 + rows + 0.001 * context,
};
const idle: SchedulerLoad = {
  waiting: [],
  prefilling: [],
  running: [],
  seats: 8,
  promptsUnderWay: 4,
  decodesNext: false,
};
const CHUNK = 64;
const terms: WorkTerms = { costs, slow: costs, chunkLimit: () => CHUNK, answerLeft: () => Infinity };

function prompt(id: number, remainingTokens: number, more: Partial<PromptLoad> = {}): PromptLoad {
  const rank = { isDue: false, priority: "interactive" as const, isResumed: false, arrival: id };
  const answer = { leftTokens: 100, objectives: {}, patience: remainingTokens };
  return { id, remainingTokens, from: 0, arrivedMs: 0, ...rank, ...answer, ...more };
}

function running(id: number, leftTokens = 100, more: Partial<RunningLoad> = {}): RunningLoad {
  const row = { contextTokens: 100, startedMs: 0, generatedTokens: 1, objectives: {} };
  return { id, leftTokens, ...row, ...more };
}

const foretell = (candidate: Candidate, load: SchedulerLoad, more: Partial<WorkTerms> = {}) =>
  predict(candidate, load, { ...terms, ...more }).prediction;

describe("a prediction", () => {
  it("of an idle engine is the prompt alone, without what is cached", () => {
    const predicted = foretell({ promptTokens: 64, cachedTokens: {} }, idle);
    expect(predicted.ttftMs).toBeCloseTo(costs.prefillMs(64, 0));
    expect(predicted).toMatchObject({ ahead: 0, computedTokens: 64, parts: { queueMs: 0, decodeMs: 0 } });
    const cached = foretell({ promptTokens: 512, cachedTokens: { gpu: 256, ram: 192 }, loadMs: 30 }, idle);
    expect(cached.computedTokens).toBe(64);
    expect(cached.ttftMs).toBeCloseTo(30 + costs.prefillMs(64, 448));
    const busy = foretell({ promptTokens: 64, cachedTokens: { ram: 32 }, loadMs: 30 }, idle, { busyMs: 20 });
    expect(busy.parts).toMatchObject({ queueMs: 20, loadMs: 10 });
  });

  it("is what the scheduler then does: the very one, worked off step by step", () => {
    const random = new Random(testSeed("prediction"));
    for (let round = 0; round < 60; round++) {
      const bench = new WorkedOff(random);
      for (let step = random.below(30); step > 0; step--) bench.step();
      bench.submit(1 + random.below(6));
      const { scheduler, at, nowMs } = bench;
      const load = scheduler.load();
      const { firsts } = workOff(load, bench.terms);
      const waiting = [...load.prefilling, ...load.waiting].map(({ id }) => id);
      expect(firsts.map(({ id }) => id).sort()).toEqual(waiting.sort());
      while (bench.step());
      for (const { id, atMs } of firsts) {
        const truth = at.get(id)! - nowMs;
        expect(atMs, `request ${id}`).toBeCloseTo(truth, 3);
      }
    }
  });

  it("tells of what the time is made", () => {
    const load = { ...idle, running: [running(1)], waiting: [prompt(2, 50)] };
    const { ttftMs, parts, ahead } = foretell({ promptTokens: 128, cachedTokens: {} }, load);
    expect(ahead).toBe(1);
    const first = costs.prefillMs(50, 0) + costs.decodeMs(2, 150);
    expect(parts.queueMs).toBeCloseTo(first);
    expect(parts.prefillMs).toBeCloseTo(costs.prefillMs(64, 0) + costs.prefillMs(64, 64));
    expect(parts.decodeMs).toBeCloseTo(costs.decodeMs(2, 152));
    expect(parts.queueMs + parts.loadMs + parts.prefillMs + parts.decodeMs).toBeCloseTo(ttftMs);
  });

  it("lets nobody ahead who goes behind: longer prompts, background, unless they are due", () => {
    const ahead = (...waiting: PromptLoad[]): number =>
      foretell({ promptTokens: 100, cachedTokens: {} }, { ...idle, waiting }).ahead;
    expect(ahead(prompt(1, 50), prompt(2, 100), prompt(3, 101))).toBe(2);
    const due = { isDue: true, patience: 0 };
    expect(ahead(prompt(1, 150, due), prompt(2, 5, { priority: "background", patience: 9999 }))).toBe(1);
  });

  it("waits for a seat where all are taken, until an answer has come to its usual length", () => {
    const load = { ...idle, running: [running(1, 100, { generatedTokens: 20 }), running(2, 5)], seats: 2 };
    const answerLeft = (tokens: number): number => 30 - tokens;
    const { parts } = foretell({ promptTokens: 10, cachedTokens: {} }, load, { answerLeft });
    const steps = (count: number, context: number): number =>
      Array.from({ length: count }, (_, at) => costs.decodeMs(2, context + 2 * at)).reduce(
        (a, b) => a + b,
        0,
      );
    expect(parts.queueMs).toBeCloseTo(steps(5, 200));
    const later = { ...load, running: [running(1, 100, { generatedTokens: 20 }), running(2, 50)] };
    const seat = foretell({ promptTokens: 10, cachedTokens: {} }, later, { answerLeft });
    expect(seat.parts.queueMs).toBeCloseTo(steps(10, 200));
    const unknown = foretell(
      { promptTokens: 10, cachedTokens: {} },
      { ...load, running: load.running.map((each) => ({ ...each, leftTokens: Infinity })) },
    );
    expect(unknown.ttftMs).toBeLessThan(100); // nobody knows how long, and it is not made up
  });

  it("counts chunks of those behind between two tokens, and the whole answer where its length is known", () => {
    const candidate = { promptTokens: 64, cachedTokens: {}, newTokens: 11 };
    const alone = foretell(candidate, idle);
    expect(alone.tbtMs).toBeCloseTo(costs.decodeMs(1, 64));
    expect(alone.totalMs).toBeCloseTo(alone.ttftMs + 10 * alone.tbtMs);
    const beside = foretell(candidate, { ...idle, waiting: [prompt(1, 128)] });
    expect(beside.tbtMs).toBeGreaterThan(costs.decodeMs(1, 64) + costs.prefillMs(64, 0));
    expect(foretell({ ...candidate, newTokens: 1 }, idle).tbtMs).toBeGreaterThan(0);
  });

  it("tells how long others would wait between two tokens, by their tightest objective", () => {
    const load = { ...idle, running: [running(1, 100, { objectives: { tbtMs: 40 } }), running(2)] };
    const { outlook } = predict({ promptTokens: 128, cachedTokens: {} }, load, terms);
    const worst = costs.prefillMs(64, 64) + costs.decodeMs(3, 202 + 128);
    expect(outlook.strain?.limitMs).toBe(40);
    expect(outlook.strain?.predictedMs).toBeCloseTo(worst);
    const slow: StepCosts = { prefillMs: (...of) => 2 * costs.prefillMs(...of), decodeMs: costs.decodeMs };
    const slower = predict({ promptTokens: 128, cachedTokens: {} }, load, { ...terms, slow });
    expect(slower.outlook.strain?.predictedMs).toBeCloseTo(worst + costs.prefillMs(64, 64));
    expect(slower.prediction.ttftMs).toBe(
      predict({ promptTokens: 128, cachedTokens: {} }, load, terms).prediction.ttftMs,
    );
  });

  it("judges others' gaps only with chunks of the request itself", () => {
    const objectives = { tbtMs: 1 }; // all gaps are too long for it
    const strainOf = (load: Partial<SchedulerLoad>, promptTokens: number) =>
      predict({ promptTokens, cachedTokens: {} }, { ...idle, ...load }, terms).outlook.strain;
    // It is done before the longer prompt, whose chunks come between later tokens of those that decode.
    const decoding = [running(1, 100, { objectives: { tbtMs: 40 } })];
    const strain = strainOf({ running: decoding, waiting: [prompt(2, 640)] }, 32);
    expect(strain?.predictedMs).toBeCloseTo(costs.prefillMs(32, 0) + costs.decodeMs(2, 132));
    // The shorter prompt decodes from its end on: no gap of its own holds a chunk that was computed before.
    const later = strainOf({ waiting: [prompt(2, 32, { objectives })] }, 64);
    expect(later?.limitMs).toBe(1);
    expect(later?.predictedMs).toBeCloseTo(costs.prefillMs(64, 0) + costs.decodeMs(2, 96));
    // Who has their first token only after it has been computed is not kept waiting by it.
    expect(strainOf({ waiting: [prompt(2, 640, { objectives })] }, 32)?.limitMs ?? Infinity).toBe(Infinity);
  });

  it("ends, however many chunks there are", () => {
    const load = { ...idle, waiting: Array.from({ length: 50 }, (_, id) => prompt(id, 100_000)) };
    const { outlook } = predict({ promptTokens: 50_000, cachedTokens: {} }, load, {
      ...terms,
      chunkLimit: () => 8,
    });
    expect(outlook.firsts.length).toBe(51);
    expect(outlook.firsts.every(({ atMs }, at, all) => at === 0 || atMs >= all[at - 1]!.atMs)).toBe(true);
  });
});

/** A scheduler at work, its steps taking what `costs` says. */
class WorkedOff {
  readonly scheduler: Scheduler;
  readonly seats: number;
  readonly terms: WorkTerms;
  nowMs = 0;
  /** When each request got its first token. */
  readonly at = new Map<number, number>();
  private readonly random: Random;
  private nextId = 1;

  constructor(random: Random) {
    this.random = random;
    this.seats = 2 + random.below(6);
    const pool = new BlockPool(20_000);
    const cost = { flopsLinear: 1, flopsQuadratic: 0, bytesPerToken: 4, bytesPerSnapshot: 0 };
    const { cache } = createPrefixCache({ policy: "lru", blockTokens: 4, cost, pool });
    const limit = chunkLimit({ costs, chunkTokens: CHUNK });
    const options = {
      blockTokens: 4,
      chunkTokens: CHUNK,
      seats: this.seats,
      promptsUnderWay: 1 + random.below(4),
    };
    this.scheduler = new Scheduler(cache, pool, { ...options, chunkLimit: limit });
    this.terms = { ...terms, chunkLimit: limit };
    this.submit(1 + random.below(6));
  }

  submit(count: number): void {
    const { random } = this;
    for (; count > 0; count--) {
      const id = this.nextId++;
      const tokens = Array.from({ length: 1 + random.below(400) }, (_, at) => id * 1000 + at);
      const priority = random.pick(["interactive", "interactive", "background"] as const);
      const objectives = random.below(3) === 0 ? { tbtMs: 15 + random.below(30) } : {};
      const maxNewTokens = 1 + random.below(40);
      this.scheduler.submit({ id, prompt: tokens, maxNewTokens, stopIds: new Set(), priority, objectives });
    }
  }

  step(): boolean {
    const plan = this.scheduler.next();
    if (!plan) return false;
    const context = plan.spans.reduce((sum, { from }) => sum + from, 0);
    const [first] = plan.spans;
    this.nowMs +=
      plan.phase === "decode"
        ? costs.decodeMs(plan.spans.length, context)
        : costs.prefillMs(first!.count, first!.from);
    for (const { request, samples } of plan.spans)
      if (samples > 0 && !this.at.has(request.id)) this.at.set(request.id, this.nowMs);
    this.scheduler.commit(
      plan,
      plan.spans.map(({ samples }) => (samples > 0 ? [7] : [])),
    );
    return true;
  }
}

describe("admission", () => {
  const tbtMs = (rows: number): number => 10 * rows;
  const admission = (mode: RejectionMode, ...decodeMs: number[]): Admission => {
    const gate = new Admission({ mode, tbtMs });
    for (const ms of decodeMs) gate.decodeTimes.add(ms);
    return gate;
  };
  const decodes = (count: number, startedMs = 0): DecodeLoad["running"] =>
    Array.from({ length: count }, () => ({ startedMs, contextTokens: 10 }));

  function arrival(more: Partial<Arrival> & { ttftMs?: number; totalMs?: number }): Arrival {
    const { ttftMs = 100, totalMs, ...rest } = more;
    const parts = { queueMs: 0, loadMs: 0, prefillMs: ttftMs, decodeMs: 0 };
    const more2 = { cachedTokens: {}, computedTokens: 1, ahead: 0 };
    return {
      ...{ nowMs: 0, objectives: {}, promptTokens: 10, decode: [{ running: [], arriving: [] }] },
      prediction: { ttftMs, tbtMs: 1, ...(totalMs !== undefined && { totalMs }), parts, ...more2 },
      ...rest,
    };
  }

  it("rejects on arrival what would come too late, and says what was predicted and when to come again", () => {
    for (const mode of ["early", "predicted"] as const) {
      const gate = admission(mode);
      expect(gate.decide(arrival({ ttftMs: 200, objectives: { ttftMs: 200 } }))).toEqual({ accepted: true });
      expect(gate.decide(arrival({ ttftMs: 500, objectives: { ttftMs: 200 } }))).toEqual({
        ...{ accepted: false, reason: "ttft", predictedMs: 500, limitMs: 200, retryAfterMs: 300 },
      });
      const late = gate.decide(arrival({ totalMs: 900, objectives: { deadlineMs: 800 } }));
      expect(late).toMatchObject({ reason: "deadline", predictedMs: 900, limitMs: 800 });
      const pushing = gate.decide(arrival({ objectives: { ttftMs: 200 }, othersTtftShare: 1.5 }));
      expect(pushing).toMatchObject({ reason: "ttft", predictedMs: 300, limitMs: 200 });
    }
    const strict = new Admission({ mode: "early", tbtMs, threshold: 0.5 });
    expect(strict.decide(arrival({ ttftMs: 120, objectives: { ttftMs: 200 } })).accepted).toBe(false);
  });

  it("in mode none rejects nothing on arrival, but at its turn what is too late, and a full decode", () => {
    const gate = admission("none");
    const objectives = { ttftMs: 200, tbtMs: 30, deadlineMs: 400 };
    const decode = [{ running: decodes(3), arriving: [] }];
    expect(gate.decide(arrival({ ttftMs: 900, objectives, decode })).accepted).toBe(true);
    expect(gate.decideStart({ nowMs: 200, arrivedMs: 0, objectives }).accepted).toBe(true);
    expect(gate.decideStart({ nowMs: 201, arrivedMs: 0, objectives })).toMatchObject({ reason: "ttft" });
    const { ttftMs: _, ...slow } = objectives;
    expect(gate.decideStart({ nowMs: 401, arrivedMs: 0, objectives: slow })).toMatchObject({
      reason: "deadline",
    });
    expect(gate.decideDecode({ nowMs: 0, objectives, promptTokens: 1, decode })).toMatchObject({
      ...{ reason: "tbt", predictedMs: 40, limitMs: 30 },
    });
    const kept = admission("predicted").decideStart({ nowMs: 900, arrivedMs: 0, objectives });
    expect(kept.accepted).toBe(true);
  });

  it("early goes by the decode load that there is, predicted by the load when the prompt is computed", () => {
    const objectives = { tbtMs: 30 };
    // Full now, empty by the time: all that run will have run for longer than the mean.
    const leaving = arrival({ ttftMs: 600, objectives, decode: [{ running: decodes(3), arriving: [] }] });
    expect(admission("early", 500).decide(leaving)).toMatchObject({ reason: "tbt", retryAfterMs: 500 });
    expect(admission("predicted", 500).decide(leaving).accepted).toBe(true);
    expect(admission("predicted", 700).decide(leaving).accepted).toBe(false);
    expect(admission("predicted").decide(leaving).accepted).toBe(false);
    // Empty now, full by the time: the prompts before it will have been computed.
    const arriving = [100, 200, 300].map((atMs) => ({ atMs, contextTokens: 10 }));
    const filling = arrival({ ttftMs: 400, objectives, decode: [{ running: [], arriving }] });
    expect(admission("early", 500).decide(filling).accepted).toBe(true);
    expect(admission("predicted", 500).decide(filling)).toMatchObject({ reason: "tbt", predictedMs: 40 });
    expect(admission("predicted", 250).decide(filling).accepted).toBe(true); // the first has ended again
    const sooner = arrival({ ttftMs: 250, objectives, decode: [{ running: [], arriving }] });
    expect(admission("predicted", 500).decide(sooner).accepted).toBe(true);
  });

  it("spreads requests evenly over instances that decode", () => {
    const decode = [
      { running: decodes(4), arriving: [] },
      { running: decodes(1), arriving: [] },
    ];
    expect(admission("early").forecastTbtMs(decode, 10, 0, 0)).toBeCloseTo(30);
    expect(admission("early").decide(arrival({ objectives: { tbtMs: 30 }, decode })).accepted).toBe(true);
    expect(admission("early").decide(arrival({ objectives: { tbtMs: 29 }, decode })).accepted).toBe(false);
  });

  it("counts the context of those that decode, and that of the request itself", () => {
    const gate = new Admission({ mode: "early", tbtMs: (_, context) => context });
    const decode = [{ running: decodes(3), arriving: [] }];
    expect(gate.forecastTbtMs(decode, 50, 0, 0)).toBe(80);
    expect(gate.decide(arrival({ objectives: { tbtMs: 79 }, promptTokens: 50, decode })).accepted).toBe(
      false,
    );
    expect(gate.decide(arrival({ objectives: { tbtMs: 80 }, promptTokens: 50, decode })).accepted).toBe(true);
  });

  it("forecasts by the share of requests that decode for longer, and not by their mean alone", () => {
    const objectives = { tbtMs: 35 };
    const old = arrival({ ttftMs: 100, objectives, decode: [{ running: decodes(3, -300), arriving: [] }] });
    // Of those that came to 300 all came to 400: they are the long ones. By the mean all three have ended.
    expect(admission("predicted", 100, 100, 100, 500).decide(old)).toMatchObject({ predictedMs: 40 });
    // Of two that came to 300 one came to 400: 1.5 of three are left, and the request itself.
    const gate = admission("predicted", 100, 350, 500);
    expect(gate.forecastTbtMs(old.decode, 10, 0, 100)).toBeCloseTo(25);
    expect(gate.decide(old).accepted).toBe(true);
    // One that comes in 50 decodes for 50 by then: all do.
    const coming = [{ running: [], arriving: [{ atMs: 50, contextTokens: 10 }] }];
    expect(gate.forecastTbtMs(coming, 10, 0, 100)).toBeCloseTo(20);
    expect(gate.forecastTbtMs(coming, 10, 0, 40)).toBeCloseTo(10);
    expect(gate.forecastTbtMs(coming, 10, 0, 451)).toBeCloseTo(10 + 10 / 3);
  });
});

describe("decode times", () => {
  it("are not known before the first: no request ends", () => {
    const times = new Lifetimes();
    expect(times.mean).toBeUndefined();
    expect(times.stillRuns(1e9, 1e9)).toBe(1);
    expect(times.meanLeft(1)).toBe(Infinity);
    for (const ms of [NaN, -1, Infinity]) times.add(ms);
    expect(times.mean).toBeUndefined();
  });

  it("tell what a list of the last ones tells, in bounded memory", () => {
    const random = new Random(testSeed("decode times"));
    const times = new Lifetimes();
    const all: number[] = [];
    for (let round = 0; round < 3 * KEPT_LIFETIMES; round++) {
      const ms = random.below(3) === 0 ? random.below(5) : 1000 * random.next(); // some are equal
      all.push(ms);
      times.add(ms);
      const last = all.slice(-KEPT_LIFETIMES);
      const longer = (than: number): number => last.filter((each) => each > than).length;
      expect(times.mean).toBeCloseTo(last.reduce((sum, each) => sum + each, 0) / last.length, 6);
      const ageMs = random.below(3) === 0 ? random.pick(last) : 1200 * random.next();
      const laterMs = random.below(3) === 0 ? 0 : 1000 * random.next();
      const byMean = Math.exp(-laterMs / (times.mean as number));
      const share = longer(ageMs) > 0 ? longer(ageMs + laterMs) / longer(ageMs) : byMean;
      expect(times.stillRuns(ageMs, laterMs)).toBeCloseTo(share, 9);
      const older = last.filter((each) => each > ageMs);
      const left = older.reduce((sum, each) => sum + each - ageMs, 0) / older.length;
      expect(times.meanLeft(ageMs)).toBeCloseTo(older.length > 0 ? left : (times.mean as number), 6);
    }
  });

  it("of 0 end at once", () => {
    const times = new Lifetimes();
    times.add(0);
    expect(times.stillRuns(0, 0)).toBe(1);
    expect(times.stillRuns(0, 1)).toBe(0);
  });
});

describe("goodput", () => {
  it("is what finished within its objectives; all others are counted by how they ended", () => {
    const goodput = new Goodput();
    const times = { ttftMs: 100, tbtMs: 20, tbtP99Ms: 25, totalMs: 500 };
    goodput.finished(times, {});
    goodput.finished(times, { ttftMs: 100, tbtMs: 20, deadlineMs: 500 });
    goodput.finished(times, { ttftMs: 99 });
    goodput.finished(times, { tbtMs: 19 });
    goodput.finished(times, { deadlineMs: 499 });
    goodput.rejected("tbt");
    goodput.ended("aborted");
    goodput.ended("failed");
    const figures = goodput.figures();
    expect(figures).toMatchObject({ kept: 2, late: 3, aborted: 1, failed: 1 });
    expect(figures.rejected).toEqual({ ttft: 0, tbt: 1, deadline: 0 });
    expect(figures.ttftMs.p50).toBeCloseTo(100);
    expect(keeps({ ttftMs: 5, tbtMs: undefined, tbtP99Ms: undefined, totalMs: 5 }, { tbtMs: 1 })).toBe(true);
  });

  it("takes the mean of the longest tenth of a request's gaps as its time between tokens", () => {
    const times = new RequestTimes(1000);
    times.tokens(0, 1100);
    let nowMs = 1500;
    for (let token = 0; token <= 20; token++)
      times.tokens(1, (nowMs += token === 7 ? 300 : token === 9 ? 100 : 10));
    const { ttftMs, tbtMs, tbtP99Ms, totalMs } = times.figures;
    expect(ttftMs).toBe(510);
    expect(tbtMs).toBeCloseTo(200);
    expect(tbtP99Ms).toBeCloseTo(300);
    expect(totalMs).toBe(nowMs - 1000);
    expect(new RequestTimes(0).figures.tbtMs).toBeUndefined();
  });

  it("keeps distributions in bounded memory, within 2% of the truth", () => {
    const random = new Random(testSeed("histogram"));
    const histogram = new Histogram();
    const values = Array.from({ length: 5000 }, () => 10 ** (random.next() * 4));
    for (const value of values) histogram.add(value);
    values.sort((a, b) => a - b);
    for (const share of [0.01, 0.5, 0.9, 0.99, 1]) {
      const truth = values[Math.ceil(share * values.length) - 1] as number;
      expect(Math.abs((histogram.quantile(share) as number) / truth - 1)).toBeLessThan(0.02);
    }
    const longest = values.slice(-500).reduce((sum, value) => sum + value, 0) / 500;
    expect((histogram.meanOfLongest(0.1) as number) / longest).toBeCloseTo(1, 2);
    expect(histogram.quantile(0.5)).toBeDefined();
    expect(new Histogram().quantiles()).toEqual({ p50: undefined, p90: undefined, p99: undefined });
  });
});
