/** Promises: what is predicted for a request, whether it is accepted, and how it is counted when it has ended. */
import { describe, expect, it } from "vitest";
import { Random } from "../../src/base.ts";
import type { StepCosts } from "../../src/schedule/cost/model.ts";
import { byRank } from "../../src/schedule/queue/order.ts";
import { Admission, type Arrival, type DecodeLoad } from "../../src/schedule/slo/admission.ts";
import { DecodeTimes, KEPT_TIMES } from "../../src/schedule/slo/decode-times.ts";
import { Goodput, keeps, RequestTimes } from "../../src/schedule/slo/goodput.ts";
import { Histogram } from "../../src/schedule/slo/histogram.ts";
import type { RejectionMode } from "../../src/schedule/slo/objectives.ts";
import {
  predict,
  type Candidate,
  type PromptLoad,
  type SchedulerLoad,
} from "../../src/schedule/slo/prediction.ts";
import { testSeed } from "../support/seed.ts";

/** A machine with round numbers. */
const costs: StepCosts = {
  prefillMs: (tokens, from) => 2 + 0.1 * tokens + 1e-4 * tokens * (from + tokens / 2),
  decodeMs: (rows, context) => 5 + rows + 0.001 * context,
};
const chunkTokens = { besideDecodes: 64, alone: 512 };
const idle: SchedulerLoad = { waiting: [], prefilling: [], running: [], seats: 8 };

function prompt(id: number, remainingTokens: number, more: Partial<PromptLoad> = {}): PromptLoad {
  const rank = { isDue: false, priority: "interactive" as const, isResumed: false, arrival: id };
  return { id, remainingTokens, from: 0, arrivedMs: 0, ...rank, ...more };
}

/** The queue as it would be worked off, chunk by chunk; when the candidate's prompt is done. */
function simulated({ promptTokens }: Candidate, load: SchedulerLoad): number {
  let nowMs = 0;
  const running = load.running.map(({ contextTokens }) => contextTokens);
  const queue = [...load.prefilling, ...load.waiting, prompt(99, promptTokens)].sort(byRank);
  const chunk = load.running.length > 0 ? chunkTokens.besideDecodes : chunkTokens.alone;
  for (const { id, remainingTokens, from } of queue) {
    for (let at = 0; at < remainingTokens; at += chunk) {
      nowMs += costs.prefillMs(Math.min(chunk, remainingTokens - at), from + at);
      const isLast = at + chunk >= remainingTokens;
      if (id === 99 && isLast) return nowMs;
      const context = running.reduce((sum, tokens) => sum + tokens, 0);
      if (running.length > 0) nowMs += costs.decodeMs(running.length, context);
    }
    running.push(from + remainingTokens);
  }
  return nowMs;
}

describe("a prediction", () => {
  it("of an idle engine is the prompt alone, without what is cached", () => {
    const predicted = predict({ promptTokens: 512, cachedTokens: {} }, idle, {
      costs,
      nowMs: 0,
      chunkTokens,
    });
    expect(predicted.ttftMs).toBeCloseTo(costs.prefillMs(512, 0));
    expect(predicted).toMatchObject({ ahead: 0, computedTokens: 512, parts: { queueMs: 0, decodeMs: 0 } });
    const cached = predict({ promptTokens: 512, cachedTokens: { gpu: 256, ram: 128 }, loadMs: 30 }, idle, {
      ...{ costs, nowMs: 0, chunkTokens },
    });
    expect(cached.computedTokens).toBe(128);
    expect(cached.ttftMs).toBeCloseTo(30 + costs.prefillMs(128, 384));
  });

  it("follows from the queue: within 10% of working it off step by step", () => {
    const random = new Random(testSeed("prediction"));
    for (let round = 0; round < 300; round++) {
      const running = Array.from({ length: random.below(4) }, (_, id) => ({
        ...{ id, contextTokens: 1 + random.below(2000), startedMs: 0 },
      }));
      const waiting = Array.from({ length: random.below(6) }, (_, id) =>
        prompt(id, 1 + random.below(3000), {
          isDue: random.below(8) === 0,
          priority: random.pick(["interactive", "interactive", "background"]),
        }),
      ).sort(byRank);
      const load = { waiting, prefilling: [], running, seats: 100 };
      const candidate = { promptTokens: 1 + random.below(2000), cachedTokens: {} };
      const { ttftMs, parts } = predict(candidate, load, { costs, nowMs: 0, chunkTokens });
      const truth = simulated(candidate, load);
      const step = costs.decodeMs(running.length + waiting.length, 20_000); // the end of a chunk is cut off
      expect(Math.abs(ttftMs - truth), `${ttftMs} for ${truth}`).toBeLessThan(0.1 * truth + step);
      expect(parts.queueMs + parts.loadMs + parts.prefillMs + parts.decodeMs).toBeCloseTo(ttftMs);
    }
  });

  it("lets nobody ahead who goes behind: longer prompts, background, unless they are due", () => {
    const ahead = (...waiting: PromptLoad[]): number =>
      predict({ promptTokens: 100, cachedTokens: {} }, { ...idle, waiting }, { costs, nowMs: 0, chunkTokens })
        .ahead;
    expect(ahead(prompt(1, 50), prompt(2, 100), prompt(3, 101))).toBe(2);
    expect(ahead(prompt(1, 5000, { isDue: true }), prompt(2, 5, { priority: "background" }))).toBe(1);
  });

  it("waits for a seat where all are taken", () => {
    const running = [0, 1].map((id) => ({ id, contextTokens: 100, startedMs: 100 * id }));
    const load = { ...idle, running, seats: 2 };
    const terms = { costs, nowMs: 200, chunkTokens, decodeMs: 1000 };
    const { parts } = predict({ promptTokens: 10, cachedTokens: {} }, load, terms);
    expect(parts.queueMs).toBeCloseTo(800);
    const behind = { ...load, waiting: [prompt(1, 5)] };
    expect(predict({ promptTokens: 10, cachedTokens: {} }, behind, terms).parts.queueMs).toBeCloseTo(900);
    const held = { ...load, running: running.slice(0, 1), prefilling: [prompt(1, 5000)] };
    expect(predict({ promptTokens: 10, cachedTokens: {} }, held, terms).parts.queueMs).toBeCloseTo(800);
    const { decodeMs: _, ...unknown } = terms;
    expect(predict({ promptTokens: 10, cachedTokens: {} }, load, unknown).parts.queueMs).toBe(0);
  });

  it("counts chunks of those behind between two tokens, and the whole answer where its length is known", () => {
    const candidate = { promptTokens: 100, cachedTokens: {}, newTokens: 11 };
    const alone = predict(candidate, idle, { costs, nowMs: 0, chunkTokens });
    expect(alone.tbtMs).toBeCloseTo(costs.decodeMs(1, 100));
    expect(alone.totalMs).toBeCloseTo(alone.ttftMs + 10 * alone.tbtMs);
    const busy = { ...idle, waiting: [prompt(1, 5000)] };
    const beside = predict(candidate, busy, { costs, nowMs: 0, chunkTokens });
    expect(beside.tbtMs).toBeCloseTo(alone.tbtMs + costs.prefillMs(64, 0));
  });
});

describe("admission", () => {
  const tbtMs = (rows: number): number => 10 * rows;
  const admission = (mode: RejectionMode, ...decodeMs: number[]): Admission => {
    const gate = new Admission({ mode, tbtMs });
    for (const ms of decodeMs) gate.decodeTimes.add(ms);
    return gate;
  };
  const running = (count: number, startedMs = 0): DecodeLoad["running"] =>
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
    const decode = [{ running: running(3), arriving: [] }];
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
    const leaving = arrival({ ttftMs: 600, objectives, decode: [{ running: running(3), arriving: [] }] });
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
      { running: running(4), arriving: [] },
      { running: running(1), arriving: [] },
    ];
    expect(admission("early").forecastTbtMs(decode, 10, 0, 0)).toBeCloseTo(30);
    expect(admission("early").decide(arrival({ objectives: { tbtMs: 30 }, decode })).accepted).toBe(true);
    expect(admission("early").decide(arrival({ objectives: { tbtMs: 29 }, decode })).accepted).toBe(false);
  });

  it("counts the context of those that decode, and that of the request itself", () => {
    const gate = new Admission({ mode: "early", tbtMs: (_, context) => context });
    const decode = [{ running: running(3), arriving: [] }];
    expect(gate.forecastTbtMs(decode, 50, 0, 0)).toBe(80);
    expect(gate.decide(arrival({ objectives: { tbtMs: 79 }, promptTokens: 50, decode })).accepted).toBe(
      false,
    );
    expect(gate.decide(arrival({ objectives: { tbtMs: 80 }, promptTokens: 50, decode })).accepted).toBe(true);
  });

  it("forecasts by the share of requests that decode for longer, and not by their mean alone", () => {
    const objectives = { tbtMs: 35 };
    const old = arrival({ ttftMs: 100, objectives, decode: [{ running: running(3, -300), arriving: [] }] });
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
    const times = new DecodeTimes();
    expect(times.meanMs).toBeUndefined();
    expect(times.stillRuns(1e9, 1e9)).toBe(1);
    for (const ms of [NaN, -1, Infinity]) times.add(ms);
    expect(times.meanMs).toBeUndefined();
  });

  it("tell what a list of the last ones tells, in bounded memory", () => {
    const random = new Random(testSeed("decode times"));
    const times = new DecodeTimes();
    const all: number[] = [];
    for (let round = 0; round < 3 * KEPT_TIMES; round++) {
      const ms = random.below(3) === 0 ? random.below(5) : 1000 * random.next(); // some are equal
      all.push(ms);
      times.add(ms);
      const last = all.slice(-KEPT_TIMES);
      const longer = (than: number): number => last.filter((each) => each > than).length;
      expect(times.meanMs).toBeCloseTo(last.reduce((sum, each) => sum + each, 0) / last.length, 6);
      const ageMs = random.below(3) === 0 ? random.pick(last) : 1200 * random.next();
      const laterMs = random.below(3) === 0 ? 0 : 1000 * random.next();
      const byMean = Math.exp(-laterMs / (times.meanMs as number));
      const share = longer(ageMs) > 0 ? longer(ageMs + laterMs) / longer(ageMs) : byMean;
      expect(times.stillRuns(ageMs, laterMs)).toBeCloseTo(share, 9);
    }
  });

  it("of 0 end at once", () => {
    const times = new DecodeTimes();
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
