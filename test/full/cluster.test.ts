/**
 * The given conversation trace on the simulated cluster: what the paper found, at the settings of the README. Prints the rows.
 */
import { describe, expect, test } from "vitest";
import { namedModel } from "../../src/sim/options.ts";
import {
  replayCluster,
  schedulerNames,
  selectionNames,
  type ClusterOptions,
} from "../../src/sim/cluster/index.ts";
import { sharedPresent, skipLoudly } from "../support/shared.ts";
import { givenTrace } from "../support/traces.ts";

const usual: ClusterOptions = {
  ...{ scheduler: "none", selection: "kvcache", instances: { prefill: 8, decode: 8 }, speed: 1 },
  ...{ ttftMs: 30_000, tbtMs: 100, model: namedModel("llama3-70b")! },
};

async function rowsOf<K extends keyof ClusterOptions>(
  name: K,
  values: readonly ClusterOptions[K][],
  options: Partial<ClusterOptions>,
) {
  const trace = await givenTrace("conversation");
  const rows = values.map((value) => replayCluster(trace, { ...usual, ...options, [name]: value }));
  console.info(JSON.stringify(rows));
  return rows;
}

if (!sharedPresent) skipLoudly("full/cluster", 4);

describe.skipIf(!sharedPresent)("the conversation trace", { timeout: 600_000 }, () => {
  test.each([
    { instances: { prefill: 8, decode: 8 }, tbtMs: 28 },
    { instances: { prefill: 8, decode: 2 }, tbtMs: 50 },
  ])(
    "where prefill and decode are scarce, early rejection beats none, and predictions beat both: %j",
    async (options) => {
      const [none, early, predicted] = await rowsOf("scheduler", schedulerNames, { ...options, speed: 2 });
      expect(early!.rejected).toBeLessThan(none!.rejected);
      expect(predicted!.rejected).toBeLessThan(early!.rejected);
      expect(early!.goodput).toBeGreaterThan(none!.goodput);
      expect(predicted!.goodput).toBeGreaterThan(early!.goodput);
      expect(early!.loadDeviation).toBeLessThan(none!.loadDeviation);
      expect(predicted!.loadDeviation).toBeLessThan(early!.loadDeviation);
    },
  );

  test("where only prefill is scarce, both kinds of early rejection are one", async () => {
    const [none, early, predicted] = await rowsOf("scheduler", schedulerNames, { speed: 2 });
    expect(early!.goodput).toBeGreaterThan(none!.goodput);
    expect(predicted).toEqual({ ...early, scheduler: "predicted" });
  });

  test("the first token comes sooner the more of the caches the choice knows", async () => {
    const free = { ttftMs: Infinity, tbtMs: Infinity };
    const rows = await rowsOf("selection", selectionNames, free);
    const means = rows.map(({ ttftMs }) => ttftMs.mean);
    expect(means).toEqual(means.toSorted((a, b) => b - a));
    expect(means[1]).toBeCloseTo(5270, -2); // what the prefill's efficiency is fitted to
  });
});
