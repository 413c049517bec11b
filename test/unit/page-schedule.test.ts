/** What the scheduler lab makes of a replay's events: outcomes by arrival, loads over time, and how far predictions were off. */
import { expect, test } from "vitest";
import { BINS, medianError, TallyMaker } from "../../demo/schedule/tally.ts";
import {
  conversationTrace,
  replayCluster,
  type ClusterOptions,
  type Prefilled,
} from "../../src/sim/cluster/index.ts";
import { namedModel } from "../../src/sim/options.ts";
import { sequenceOf } from "../../src/sim/trace.ts";

test("every request of a replay is counted once, where it arrived", () => {
  const trace = conversationTrace(3, 4);
  const options: ClusterOptions = {
    ...{ scheduler: "early", selection: "kvcache", instances: { prefill: 2, decode: 1 }, speed: 1 },
    ...{ ttftMs: 20_000, tbtMs: 40, model: namedModel("llama3-70b")! },
  };
  const maker = new TallyMaker(trace.requests.map(({ timestampMs }) => timestampMs));
  const row = replayCluster(trace, { ...options, observe: maker.take });
  const { bins, prompts, binMs } = maker.end();
  const sum = (name: "kept" | "late" | "rejected" | "wasted"): number =>
    bins.reduce((total, bin) => total + bin[name], 0);
  expect([sum("kept"), sum("late")]).toEqual([row.goodput, row.finished - row.goodput]);
  expect([sum("wasted"), sum("wasted") + sum("rejected")]).toEqual([row.wasted, row.rejected]);
  expect(row.rejected).toBeGreaterThan(0);
  expect(prompts.length).toBe(row.finished + row.wasted);
  const first = trace.requests.filter(({ timestampMs }) => timestampMs < binMs).length;
  const { kept, late, rejected, wasted } = bins[0]!;
  expect(kept + late + rejected + wasted).toBe(first);
  expect(bins.length).toBe(BINS);
  expect(bins[BINS >> 1]!.prefillLoad).toBeGreaterThan(0);
});

test("the median error is that of the predictions, as a share of what was measured", () => {
  const of = (predictedTtftMs: number, ttftMs: number) => ({ predictedTtftMs, ttftMs }) as Prefilled;
  expect(medianError([of(90, 100), of(200, 100), of(100, 100)])).toBeCloseTo(0.1, 9);
  expect(medianError([])).toBeUndefined();
});

test("the generated conversations are like Mooncake's: lengths, rate, and turns that share full blocks", () => {
  const { requests, symbolTokens } = conversationTrace(1);
  const mean = (name: "inputTokens" | "outputTokens"): number =>
    requests.reduce((sum, request) => sum + request[name], 0) / requests.length;
  expect(requests.length / 3600).toBeCloseTo(3.4, 0);
  expect(Math.abs(mean("inputTokens") / 12_035 - 1)).toBeLessThan(0.1);
  expect(Math.abs(mean("outputTokens") / 342.6 - 1)).toBeLessThan(0.1);
  expect(
    requests.every((request) => sequenceOf(request).length === Math.ceil(request.inputTokens / symbolTokens)),
  ).toBe(true);
  expect(conversationTrace(1, 1)).toEqual(conversationTrace(1, 1));
});
