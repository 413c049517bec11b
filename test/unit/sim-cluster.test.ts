/** The simulated cluster: the Conductor against a naive model, times by hand, conservation, and the three rejection modes. */
import { describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { replayCluster } from "../../src/sim/cluster/cluster.ts";
import {
  BALANCING_THRESHOLD,
  Conductor,
  selectionNames,
  type InstanceView,
  type Selection,
} from "../../src/sim/cluster/conductor.ts";
import { EventQueue } from "../../src/sim/cluster/events.ts";
import { a800Node, ClusterCost, type Machine } from "../../src/sim/cluster/hardware.ts";
import type { ClusterEvent, ClusterRow, Prefilled } from "../../src/sim/cluster/report.ts";
import type { ClusterOptions } from "../../src/sim/cluster/settings.ts";
import { schedulerNames } from "../../src/sim/cluster/words.ts";
import { costOf, namedShapes } from "../../src/sim/cost-shape.ts";
import type { Trace, TraceRequest } from "../../src/sim/trace.ts";
import { defaultWorkloads, generate } from "../../src/sim/workload.ts";
import { testSeed } from "../support/seed.ts";

/** A token of a prompt takes 1 ms, a decode step 10 ms and 1 ms a request; 10 tokens are copied in 1 ms. */
const model = { flopsLinear: 1, flopsQuadratic: 0, bytesPerToken: 1, bytesPerSnapshot: 0 };
const machine: Machine = {
  ...{ flopsPerSecond: 1000, prefillEfficiency: 1, promptMs: 0 },
  ...{ gpuBytesPerSecond: 1e12, decodeEfficiency: 1, stepMs: 10, gpuBytes: 1e9 },
  ...{ hostBytes: 1e9, hostToGpuBytesPerSecond: 1e9, networkBytesPerSecond: 10_000 },
};
const one: ClusterOptions = {
  ...{ scheduler: "none", selection: "load", instances: { prefill: 1, decode: 1 }, speed: 1 },
  ...{ ttftMs: Infinity, tbtMs: Infinity, model, machine },
};

const piece = (from: number, length: number): Int32Array => Int32Array.from({ length }, (_, i) => from + i);

function request(timestampMs: number, input: Int32Array, outputTokens: number): TraceRequest {
  const inputTokens = input.length;
  const pieces = [input, new Int32Array(0)];
  return { timestampMs, inputTokens, outputTokens, inputSymbols: inputTokens, pieces };
}

const traceOf = (requests: TraceRequest[]): Trace => ({ name: "hand", symbolTokens: 1, requests });

function observed(trace: Trace, options: ClusterOptions): { row: ClusterRow; events: ClusterEvent[] } {
  const events: ClusterEvent[] = [];
  return { row: replayCluster(trace, { ...options, observe: (event) => events.push(event) }), events };
}

const prefilledOf = (events: readonly ClusterEvent[]): Prefilled[] =>
  events.flatMap((event) => (event.kind === "prefilled" ? [event.prefilled] : []));

describe("the Conductor", () => {
  const cost = {
    prefillMs: (tokens: number, from: number) => tokens + (tokens * (from + tokens / 2)) / 1000,
    transferMs: (tokens: number) => tokens / 7,
  };

  /** Algorithm 1, word for word, with the best prefix taken from the others. */
  function naive(inputTokens: number, views: readonly InstanceView[], mayCopy: boolean) {
    let ttft = Infinity;
    let chosen = { instance: -1, copies: false };
    views.forEach((view, instance) => {
      const others = views.filter((_, i) => i !== instance).map(({ sharableTokens }) => sharableTokens);
      const best = Math.max(0, ...others);
      const ratio = view.prefixTokens > 0 ? best / view.prefixTokens : best > 0 ? Infinity : 1;
      const copies = mayCopy && ratio > BALANCING_THRESHOLD;
      const holders = views.filter((other, i) => i !== instance && other.sharableTokens === best);
      const linkMs = Math.min(...holders.map((holder) => holder.linkMs));
      const prefix = copies ? best : view.prefixTokens;
      const transferMs = copies ? linkMs + cost.transferMs(best - view.prefixTokens) : 0;
      const candidate = transferMs + view.queueMs + cost.prefillMs(inputTokens - prefix, prefix);
      if (candidate < ttft) [ttft, chosen] = [candidate, { instance, copies }];
    });
    return { ttft, ...chosen };
  }

  test("chooses as the algorithm does, with and without copies, for random instances", () => {
    const seed = testSeed("sim-cluster");
    const random = new Random(seed);
    let copied = 0;
    for (let round = 0; round < 500; round++) {
      const inputTokens = 1 + random.below(3000);
      const views = Array.from({ length: 1 + random.below(6) }, (): InstanceView => {
        const sharableTokens = random.below(3) === 0 ? 0 : random.below(inputTokens);
        const prefixTokens = sharableTokens + random.below(inputTokens - sharableTokens);
        return { prefixTokens, sharableTokens, queueMs: random.below(8000), linkMs: random.below(100) };
      });
      for (const selection of ["cache-aware", "kvcache"] as const) {
        const expected = naive(inputTokens, views, selection === "kvcache");
        const choice = new Conductor(selection, cost, random).choose(inputTokens, views);
        expect(choice.ttftMs).toBeCloseTo(expected.ttft, 6);
        expect([choice.instance, choice.source !== undefined]).toEqual([expected.instance, expected.copies]);
        if (choice.source !== undefined) {
          expect(choice.source).not.toBe(choice.instance);
          expect(views[choice.source]!.sharableTokens).toBe(choice.prefixTokens);
          copied++;
        }
      }
    }
    expect(copied).toBeGreaterThan(20);
  });

  test("load takes one with the shortest queue, whatever is cached; random takes each at times", () => {
    const views = [50, 10, 10].map((queueMs, i) => ({
      ...{ queueMs, linkMs: 0, prefixTokens: i === 0 ? 900 : 0, sharableTokens: i === 0 ? 900 : 0 },
    }));
    const taken = (selection: Selection): number[] => {
      const conductor = new Conductor(selection, cost, new Random(7));
      return [...new Set(Array.from({ length: 50 }, () => conductor.choose(1000, views).instance))].sort();
    };
    expect(taken("load")).toEqual([1, 2]);
    expect(taken("random")).toEqual([0, 1, 2]);
    expect(taken("cache-aware")).toEqual([0]);
  });
});

describe("by hand", () => {
  test("events come in the order of their times, those of one time in the order in which they were planned", () => {
    const random = new Random(testSeed("sim-cluster events"));
    const events = new EventQueue();
    const seen: [number, number][] = [];
    for (let i = 0; i < 300; i++) {
      const atMs = random.below(40);
      events.at(atMs, () => seen.push([events.nowMs, i]));
    }
    while (events.step());
    expect(seen.length).toBe(300);
    expect(seen).toEqual(seen.toSorted(([a, i], [b, k]) => a - b || i - k));
  });

  test("a prompt waits for the one before it, finds its blocks, and decodes beside it", () => {
    const trace = traceOf([request(0, piece(0, 100), 4), request(10, piece(0, 150), 3)]);
    const { row, events } = observed(trace, one);
    const [first, second] = prefilledOf(events);
    expect(first).toMatchObject({ startMs: 0, endMs: 100, hitTokens: 0, ttftMs: 100, predictedTtftMs: 100 });
    expect(second).toMatchObject({
      startMs: 100,
      endMs: 150,
      hitTokens: 100,
      ttftMs: 140,
      predictedTtftMs: 140,
    });
    // Steps of one request take 11 ms: those of the first end at 111, 122, 133; the other joins at 150, alone.
    const ends = events.flatMap((event) => (event.kind === "finished" ? [[event.id, event.atMs]] : []));
    expect(ends).toEqual([
      [0, expect.closeTo(133, 3)],
      [1, expect.closeTo(172, 3)],
    ]);
    expect(row).toMatchObject({ requests: 2, rejected: 0, wasted: 0, finished: 2, goodput: 2 });
    expect(row.tokenHitRate).toBeCloseTo(100 / 250, 9);
    expect(row.tbtMs.mean).toBeCloseTo(11, 3);
  });

  test("a request joins a running batch between two steps; its first gap counts what it waited", () => {
    const trace = traceOf([request(0, piece(0, 10), 6), request(0, piece(100, 5), 3)]);
    const { row } = observed(trace, { ...one, instances: { prefill: 2, decode: 1 } });
    // At 5 the second decodes alone (11 ms, to 16); the first joins then: two steps of 12 ms, then it goes on alone.
    expect(row.tbtMs.p99).toBeCloseTo(16 - 10 + 12, 3);
  });

  test("a longer prefix of another instance is copied, and stays there", () => {
    const shared = piece(0, 1000);
    const longer = new Int32Array(1100);
    longer.set(shared);
    longer.set(piece(5000, 100), 1000);
    const trace = traceOf([
      request(0, shared, 1),
      request(2000, piece(20_000, 3000), 1), // keeps the first instance busy
      request(2001, longer, 1),
      request(9000, longer, 1),
    ]);
    const options = { ...one, instances: { prefill: 2, decode: 1 }, selection: "kvcache" } as const;
    const { events } = observed(trace, options);
    const done = prefilledOf(events).sort((a, b) => a.id - b.id);
    expect(done.map(({ instance }) => instance)).toEqual([0, 0, 1, 1]);
    // 1000 tokens are copied in 100 ms, then 100 are computed.
    expect(done[2]).toMatchObject({ startMs: 2101, endMs: 2201, hitTokens: 1000 });
    expect(done[3]).toMatchObject({ hitTokens: 1099 });
    const local = observed(trace, { ...options, selection: "cache-aware" });
    expect(prefilledOf(local.events).find(({ id }) => id === 2)).toMatchObject({ instance: 1, hitTokens: 0 });
  });

  test("with too little memory a request waits to decode; one that never fits is refused by name", () => {
    const trace = traceOf([request(0, piece(0, 10), 10), request(0, piece(50, 10), 10)]);
    const room = { ...one, instances: { prefill: 2, decode: 1 }, machine: { ...machine, gpuBytes: 40 } };
    const { row } = observed(trace, room); // 36 - 1 bytes: room for one of 20 tokens
    expect(row.tbtMs.p99).toBeGreaterThan(9 * 11);
    expect(row.finished).toBe(2);
    const tight = { ...room, machine: { ...machine, gpuBytes: 20 } };
    expect(() => replayCluster(trace, tight)).toThrow(/request 1 of hand has 20 tokens; .* room for 17/);
  });
});

describe("conservation", () => {
  const seed = testSeed("sim-cluster conservation");
  const llama = costOf(namedShapes["llama3-70b"]!);
  const trace = generate({
    ...defaultWorkloads.documents,
    sessions: 60,
    documents: 12,
    sessionsPerSecond: 8,
    seed,
  });

  test.each(
    schedulerNames.flatMap((scheduler) => selectionNames.map((selection) => ({ scheduler, selection }))),
  )(
    "$scheduler, $selection: every request ends once; nothing decodes without its prompt; no instance computes two at once",
    ({ scheduler, selection }) => {
      const slow = { ...a800Node, flopsPerSecond: a800Node.flopsPerSecond / 8, hostBytes: 8e9 };
      const { row, events } = observed(trace, {
        ...{ scheduler, selection, instances: { prefill: 3, decode: 2 }, speed: 4 },
        ...{ ttftMs: 10_000, tbtMs: 24, model: llama, machine: slow, seed },
      });
      expect(row.rejected).toBeGreaterThan(0);
      expect(row.goodput).toBeLessThanOrEqual(row.finished);
      expect(row.rejected + row.finished).toBe(trace.requests.length);
      expectOnce(events, trace.requests.length);
      expectInTurn(prefilledOf(events));
    },
  );

  /** Arrives, is accepted or not, is computed or not, and ends: each once, in that order. */
  function expectOnce(events: readonly ClusterEvent[], requests: number): void {
    const ways = new Map<number, string[]>();
    for (const event of events) {
      if (event.kind === "sample") continue;
      const id = event.kind === "prefilled" ? event.prefilled.id : event.id;
      const word = event.kind === "rejected" && event.isWasted ? "wasted" : event.kind;
      ways.set(id, [...(ways.get(id) ?? []), word]);
    }
    expect(ways.size).toBe(requests);
    const known = [
      "rejected",
      "accepted rejected",
      "accepted prefilled wasted",
      "accepted prefilled finished",
    ];
    for (const way of ways.values()) expect(known).toContain(way.join(" "));
  }

  function expectInTurn(prefilled: readonly Prefilled[]): void {
    const freeAt = new Map<number, number>();
    for (const { instance, startMs, endMs, hitTokens, inputTokens } of prefilled) {
      expect(startMs).toBeGreaterThanOrEqual(freeAt.get(instance) ?? 0);
      expect(hitTokens).toBeLessThan(inputTokens);
      freeAt.set(instance, endMs);
    }
  }

  test("equal options give equal rows; another seed of the choices does not", () => {
    const options: ClusterOptions = { ...one, selection: "random", instances: { prefill: 4, decode: 2 } };
    const row = replayCluster(trace, options);
    expect(replayCluster(trace, options)).toEqual(row);
    expect(replayCluster(trace, { ...options, seed: 2 })).not.toEqual(row);
  });
});

describe("rejection", () => {
  /** A prompt takes 10 s, an answer 10 s, and 8 may decode at once: two in three of those that arrive have room. */
  const steady = traceOf(
    Array.from({ length: 600 }, (_, i) => request(i * 800, piece(i * 20_000, 10_000), 1000)),
  );
  const wide: ClusterOptions = {
    ...one,
    ...{ instances: { prefill: 10, decode: 1 }, ttftMs: 30_000, tbtMs: 11.2 },
    machine: { ...machine, stepMs: 2, hostBytes: 1e6, networkBytesPerSecond: 1e6 },
  };

  test("early rejection swings, since it sees the load of prompts that are not computed yet too late; forecasts do not", () => {
    const [none, early, predicted] = schedulerNames.map((scheduler) =>
      replayCluster(steady, { ...wide, scheduler }),
    ) as [ClusterRow, ClusterRow, ClusterRow];
    console.info(
      [none, early, predicted].map(
        (row) =>
          `${row.scheduler}: ${row.rejected} rejected (${row.wasted} computed), goodput ${row.goodput}, load ${row.loadDeviation.toFixed(3)}`,
      ),
    );
    expect(predicted.rejected).toBeLessThan(early.rejected * 0.9);
    expect(none.wasted).toBeGreaterThan(early.wasted);
    expect(predicted.wasted).toBeLessThan(early.wasted * 0.6);
    expect(predicted.goodput).toBeGreaterThan(early.goodput * 1.1);
    expect(predicted.loadDeviation).toBeLessThan(early.loadDeviation / 2);
    expect(predicted.decodeLoadDeviation).toBeLessThan(early.decodeLoadDeviation);
  });

  test("without rejection prompts are computed in vain, or too late", () => {
    const busy = { ...wide, instances: { prefill: 7, decode: 1 }, ttftMs: 15_000, tbtMs: Infinity };
    const none = replayCluster(steady, { ...busy, scheduler: "none" });
    const early = replayCluster(steady, { ...busy, scheduler: "early" });
    expect(none.ttftMs.p90).toBeGreaterThan(15_000);
    expect(early.ttftMs.p99).toBeLessThanOrEqual(15_000);
    expect(early.goodput).toBeGreaterThan(none.goodput);
  });

  test("a promise that was made is kept: what is predicted is what is measured, where nothing is copied", () => {
    const { events } = observed(steady, { ...wide, scheduler: "predicted" });
    for (const { predictedTtftMs, ttftMs } of prefilledOf(events))
      expect(ttftMs).toBeCloseTo(predictedTtftMs, 3);
  });
});

describe("costs", () => {
  const cost = new ClusterCost(costOf(namedShapes["llama3-70b"]!), a800Node);

  test("are near what Mooncake's limits say of an unloaded machine: 100 ms between tokens is 5 times, 30 s to the first 10 times", () => {
    expect(cost.decodeMs(1, 8000)).toBeGreaterThan(15);
    expect(cost.decodeMs(1, 8000)).toBeLessThan(25);
    expect(cost.prefillMs(20_000, 0)).toBeGreaterThan(2500);
    expect(cost.prefillMs(20_000, 0)).toBeLessThan(4500);
    expect(cost.transferMs(3_000_000) / 1000).toBeCloseTo(9.83, 1); // 1 TB at 100 GB/s
  });

  test("cached tokens cost little, and later tokens more than earlier ones", () => {
    expect(cost.prefillMs(1000, 100_000)).toBeGreaterThan(2 * cost.prefillMs(1000, 0));
    expect(cost.prefillMs(1000, 19_000)).toBeLessThan(cost.prefillMs(20_000, 0) / 10);
  });
});
