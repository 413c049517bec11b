/** What steps are told to the cost model, how long those under way still take, and how slow the slow ones are. */
import { expect, test } from "vitest";
import { CostModel } from "../../src/schedule/cost/model.ts";
import type { Plan } from "../../src/schedule/scheduler.ts";
import { StepClock } from "../../src/worker/slo/step-clock.ts";

const facts = { blockTokens: 32, bytesPerBlock: 1024, flopsPerToken: 1e6, isSoftware: true, tiers: [] };

/** Of the slow steps, by how much they exceed the usual ones. */
const slowness = ({ costs, steps }: Pick<ReturnType<typeof bench>, "costs" | "steps">) => ({
  prefill: steps.slow.prefillMs(100, 0) / costs.prefillMs(100, 0),
  decode: steps.slow.decodeMs(2, 100) / costs.decodeMs(2, 100),
});

function bench() {
  const costs = new CostModel(facts);
  const clock = { nowMs: 0 };
  return { costs, clock, steps: new StepClock(costs, () => clock.nowMs) };
}

const prefill = (count: number, from = 0) =>
  ({ phase: "prefill", spans: [{ count, from }] }) as unknown as Plan;
const decode = (...froms: number[]) =>
  ({ phase: "decode", spans: froms.map((from) => ({ count: 1, from })) }) as unknown as Plan;

test("a step that was submitted while another ran began when that had ended", () => {
  const { costs, clock, steps } = bench();
  for (let at = 0; at < 10; at++) {
    const first = steps.submitted(prefill(100));
    const second = steps.submitted(decode(100, 200));
    clock.nowMs += 300;
    steps.ran(first);
    clock.nowMs += 20;
    steps.ran(second);
    clock.nowMs += 10_000; // nothing to do
  }
  expect(costs.prefillMs(100, 0)).toBeCloseTo(300, -2);
  expect(costs.decodeMs(2, 302)).toBeCloseTo(20, -1);
  expect(costs.errors().prefill.count).toBe(10);
});

test("what is under way takes what is left of what is expected, and nothing when it is dropped", () => {
  const { costs, clock, steps } = bench();
  expect(steps.busyMs()).toBe(0);
  const expected = costs.prefillMs(200, 0);
  const step = steps.submitted(prefill(200));
  expect(steps.busyMs()).toBeCloseTo(expected);
  clock.nowMs += expected / 2;
  expect(steps.busyMs()).toBeCloseTo(expected / 2);
  clock.nowMs += expected;
  expect(steps.busyMs()).toBe(0);
  steps.dropped();
  steps.ran(step); // it is heard of after all
  expect(costs.errors().prefill.count).toBe(0);
});

test("slow steps are judged by those that were slow, within bounds", () => {
  const own = bench();
  const { costs, clock, steps } = own;
  expect(slowness(own).prefill).toBe(1);
  const run = (times: number) => {
    const step = steps.submitted(prefill(100));
    clock.nowMs += times * costs.prefillMs(100, 0);
    steps.ran(step);
  };
  for (let at = 0; at < 64; at++) run(at % 5 === 0 ? 2 : 1);
  expect(slowness(own).prefill).toBeGreaterThan(1.5);
  expect(slowness(own).prefill).toBeLessThan(2.5);
  expect(steps.mean.prefillMs(100, 0) / costs.prefillMs(100, 0)).toBeGreaterThan(1.1);
  expect(steps.mean.prefillMs(100, 0)).toBeLessThan(steps.slow.prefillMs(100, 0));
  for (let at = 0; at < 64; at++) run(at % 2 === 0 ? 100 : 1);
  expect(slowness(own).prefill).toBe(4);
});

test("short steps that are reported late do not make long ones seem slow", () => {
  const own = bench();
  const { costs, clock, steps } = own;
  for (let at = 0; at < 100; at++) {
    const step = steps.submitted(prefill(100));
    clock.nowMs += 300;
    steps.ran(step);
    const late = steps.submitted(decode(100, 200));
    clock.nowMs += at % 10 === 9 ? 40 : 10;
    steps.ran(late);
  }
  expect(costs.decodeMs(2, 302)).toBeCloseTo(10, 0);
  expect(slowness(own).decode).toBeGreaterThan(2);
  expect(slowness(own).prefill).toBeLessThan(1.1);
});

test("steps that are reported together are measured together, and each is told its share", () => {
  const own = bench();
  const { costs, clock, steps } = own;
  for (let at = 0; at < 64; at++) {
    const first = steps.submitted(decode(100));
    const second = steps.submitted(decode(101));
    clock.nowMs += 20; // both have run
    steps.ran(first);
    clock.nowMs += at % 2 === 0 ? 0 : 0.1;
    steps.ran(second);
  }
  expect(costs.decodeMs(1, 101)).toBeCloseTo(10, 0);
  expect(costs.errors().decode.count).toBe(128);
  expect(costs.errors().decode.median).toBeLessThan(0.05);
  expect(slowness(own).decode).toBeLessThan(1.3);
  const quick = steps.submitted(decode(100)); // nothing was under way: it was quick indeed
  clock.nowMs += 2;
  steps.ran(quick);
  expect(costs.errors().decode.count).toBe(129);
});
