/** The desk at which requests arrive: who is accepted, what is told of a rejection, and what is counted of promises. */
import { expect, test } from "vitest";
import { TidepoolError } from "../../src/errors.ts";
import { CostModel } from "../../src/schedule/cost/model.ts";
import { Request, type RequestSpec } from "../../src/schedule/request.ts";
import type { PromptLoad, SchedulerLoad } from "../../src/schedule/slo/load.ts";
import type { EngineObjectives, GenerateParams } from "../../src/wire/protocol.ts";
import { Desk } from "../../src/worker/slo/desk.ts";

/** A machine of 1 ms a prompt token and 10 ms a decode step, and a clock that the test moves. */
class Bench {
  nowMs = 0;
  load: SchedulerLoad = {
    waiting: [],
    prefilling: [],
    running: [],
    seats: 4,
    promptsUnderWay: 4,
    decodesNext: false,
  };
  readonly costs = new CostModel({
    ...{ blockTokens: 32, bytesPerBlock: 1024, flopsPerToken: 1e6, isSoftware: true, tiers: [] },
  });
  readonly desk: Desk;
  private nextId = 1;

  constructor(objectives: EngineObjectives = {}) {
    const took = (ms: number) => ({ ms, nowMs: (this.nowMs += 1000) });
    for (let tokens = 32; tokens <= 512; tokens += 32) this.costs.prefilled(tokens, 0, took(tokens));
    for (let rows = 1; rows <= 4; rows++) this.costs.decoded(rows, 100 * rows, took(10));
    this.desk = new Desk(
      {
        scheduler: { load: () => this.load },
        ...{
          costs: this.costs,
          steps: { busyMs: () => 0, slow: this.costs, mean: this.costs },
          nowMs: () => this.nowMs,
        },
        chunkLimit: (_, decoding) => (decoding.length > 0 ? 64 : 256),
        cached: () => ({ tokens: { gpu: 0 }, loadMs: 0 }),
      },
      objectives,
    );
  }

  /** A request of so many tokens arrives. @throws what it is rejected with */
  ask(tokens: number, params: GenerateParams = {}, more: { id?: number; resume?: object } = {}): Request {
    const { id = this.nextId++, resume } = more;
    const spec = specOf(id, tokens);
    this.desk.receive(spec, { id, params, arrivedMs: this.nowMs, resume });
    return new Request(spec);
  }

  /** What it is rejected with. */
  rejection(tokens: number, params: GenerateParams): TidepoolError["details"] {
    try {
      this.ask(tokens, params);
    } catch (error) {
      expect(error).toMatchObject({ code: "rejected" });
      return (error as TidepoolError).details;
    }
    throw new Error("it was accepted");
  }
}

const specOf = (id: number, tokens: number): RequestSpec => ({
  ...{ id, prompt: Array<number>(tokens).fill(1), maxNewTokens: 1000, stopIds: new Set<number>() },
});

const promptLoad = (id: number, remainingTokens: number, objectives = {}): PromptLoad => ({
  ...{
    id,
    remainingTokens,
    from: 0,
    arrivedMs: 0,
    arrival: id,
    patience: remainingTokens,
    leftTokens: 1,
    objectives,
  },
  ...{ isDue: false, isResumed: false, priority: "interactive" as const },
});

test("a request that cannot be in time is rejected with what was predicted, the limit and when to come back", () => {
  const bench = new Bench();
  const details = bench.rejection(400, { ttftMs: 100 });
  expect(details).toMatchObject({ reason: "ttft", limitMs: 100 });
  expect(details["predictedMs"]).toBeGreaterThan(300);
  expect(details["predictedMs"]).toBeLessThan(600);
  expect(details["retryAfterMs"]).toBeGreaterThan(0);
  bench.ask(400, { ttftMs: 1000 });
  bench.ask(400);
  expect(bench.rejection(40, { deadlineMs: 200, maxTokens: 100 })).toMatchObject({ reason: "deadline" });
  expect(bench.rejection(40, { tbtMs: 1 })).toMatchObject({ reason: "tbt", limitMs: 1 });
  const { accepted, goodput } = bench.desk.figures();
  expect([accepted, goodput.rejected]).toEqual([2, { ttft: 1, tbt: 1, deadline: 1 }]);
});

test("the engine's objectives are those of requests that name none", () => {
  const bench = new Bench({ ttftMs: 100 });
  expect(bench.rejection(400, {})).toMatchObject({ reason: "ttft", limitMs: 100 });
  expect(bench.rejection(400, { tbtMs: 1000 })).toMatchObject({ reason: "ttft", limitMs: 100 });
  bench.ask(400, { ttftMs: 5000 });
});

test("nobody judges the engine's own requests, nor those that another engine has accepted", () => {
  const bench = new Bench({ ttftMs: 0.01 });
  bench.ask(400, {}, { id: -1 });
  bench.ask(400, {}, { resume: { tokens: [] } });
  expect(bench.rejection(400, {})).toMatchObject({ reason: "ttft" });
  expect(bench.desk.figures().accepted).toBe(1);
});

test("a request is rejected that would make another miss what it was promised", () => {
  const bench = new Bench();
  const long = bench.ask(400, { ttftMs: 500 });
  bench.load = { ...bench.load, prefilling: [promptLoad(long.id, 400, { ttftMs: 500 })] };
  bench.ask(20, { ttftMs: 1000 });
  expect(bench.rejection(300, { ttftMs: 1000 })).toMatchObject({ reason: "ttft", limitMs: 1000 });
  bench.load = { ...bench.load, prefilling: [promptLoad(99, 400)] }; // nobody promised anything
  bench.ask(300, { ttftMs: 1000 });
});

test("a request is rejected whose chunks would keep those that decode waiting for too long", () => {
  const bench = new Bench();
  const decoding = bench.ask(100, { tbtMs: 60 }); // a step of 10 ms and a chunk of 64
  const objectives = { tbtMs: 60 };
  const answer = { generatedTokens: 1, leftTokens: 100 };
  const running = [{ id: decoding.id, contextTokens: 100, startedMs: bench.nowMs, objectives, ...answer }];
  bench.load = { ...bench.load, running };
  const details = bench.rejection(300, {});
  expect(details).toMatchObject({ reason: "tbt", limitMs: 60 });
  expect(details["predictedMs"]).toBeGreaterThan(60);
  bench.load = { ...bench.load, running: [{ ...running[0]!, objectives: {} }] }; // nobody promised anything
  bench.ask(300);
  bench.load = { ...bench.load, running: [] };
  bench.ask(300);
});

test("what is promised is measured: predicted and real times, and whether they were kept", () => {
  const bench = new Bench();
  const request = bench.ask(100, { ttftMs: 500, tbtMs: 100 });
  bench.nowMs += 200;
  bench.desk.tokens(request, 1);
  for (const gap of [10, 10, 90]) {
    bench.nowMs += gap;
    bench.desk.tokens(request, 1);
  }
  const pace = bench.desk.ended(request, "finished");
  expect(pace).toMatchObject({ ttftMs: 200, kept: true });
  expect(pace?.tbtMs).toBeCloseTo(90, 0);
  expect(pace?.predicted?.ttftMs).toBeGreaterThan(50);
  expect(bench.desk.ended(request, "finished")).toBeUndefined(); // once
  expect(bench.costs.errors().ttft.count).toBe(1);

  const late = bench.ask(100, { ttftMs: 500 });
  bench.nowMs += 501;
  bench.desk.tokens(late, 1);
  expect(bench.desk.ended(late, "finished")?.kept).toBe(false);
  const aborted = bench.ask(100, { ttftMs: 500 });
  bench.desk.tokens(aborted, 1);
  expect(bench.desk.ended(aborted, "aborted")).not.toHaveProperty("kept");
  const { kept, late: lateCount, aborted: abortedCount, failed } = bench.desk.figures().goodput;
  expect([kept, lateCount, abortedCount, failed]).toEqual([1, 1, 1, 0]);
});

test("without early rejection a request is told that it is late at its turn, or when it cannot decode", () => {
  const bench = new Bench({ rejection: "none" });
  const waits = bench.ask(400, { ttftMs: 100 });
  expect(bench.desk.tooLate(waits, "start")).toBeUndefined();
  bench.nowMs += 101;
  expect(bench.desk.tooLate(waits, "start")).toMatchObject({ code: "rejected", details: { reason: "ttft" } });
  expect(bench.desk.tooLate(waits, "start")).toBeUndefined(); // it was told
  const running = [1, 2, 3].map((id) => ({
    ...{
      id: 100 + id,
      contextTokens: 100,
      startedMs: 0,
      generatedTokens: 1,
      leftTokens: 100,
      objectives: {},
    },
  }));
  bench.load = { ...bench.load, running };
  const slow = bench.ask(100, { tbtMs: 1 });
  expect(() => bench.desk.tokens(slow, 1)).toThrow(/time between tokens/);
  const early = new Bench({ rejection: "early" });
  early.load = { ...early.load, running };
  const accepted = early.ask(100, { tbtMs: 500 });
  early.nowMs += 100_000;
  expect(early.desk.tooLate(accepted, "start")).toBeUndefined();
  early.desk.tokens(accepted, 1);
});
