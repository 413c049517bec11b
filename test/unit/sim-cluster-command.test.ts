/** `tidepool replay --scheduler` as the command calls it: words in, text out. */
import { expect, test } from "vitest";
import { runReplay } from "../../src/api/commands/replay.ts";
import type { ClusterRow } from "../../src/sim/cluster/index.ts";

const trace = "generate:documents";
const cluster = { trace, first: "120", scheduler: "predicted", selection: "load", instances: "2p1d" };

test("JSON: a row for each combination, with the fields that the issue names", async () => {
  const words = { scheduler: "none, early,predicted", selection: "kvcache,random", instances: "2p1d,1p1d" };
  const text = await runReplay({ ...cluster, ...words, speed: "1,20", json: true });
  const rows = JSON.parse(text) as ClusterRow[];
  expect(rows.length).toBe(3 * 2 * 2 * 2);
  expect(
    new Set(rows.map((row) => [row.scheduler, row.selection, row.instances, row.speed].join())).size,
  ).toBe(24);
  for (const row of rows) {
    expect(row).toMatchObject({ requests: 120, finished: 120 - row.rejected });
    for (const spread of [row.ttftMs, row.tbtMs])
      expect(Object.keys(spread).sort()).toEqual(["mean", "p50", "p90", "p99"]);
    expect(row.goodput).toBeLessThanOrEqual(row.finished);
    expect(row.loadDeviation).toBeGreaterThanOrEqual(0);
  }
  expect(Object.keys(rows[0]!)).toEqual(
    expect.arrayContaining(["wasted", "tokenHitRate", "decodeLoadDeviation"]),
  );
});

test("the table has a line for each row; what is left out is Mooncake's", async () => {
  const lines = (await runReplay({ trace, scheduler: "early" })).split("\n");
  expect(lines.length).toBe(2);
  expect(lines[0]).toMatch(
    /^scheduler +selection +instances +speed +requests +rejected .* goodput .* load deviation$/,
  );
  expect(lines[1]).toMatch(/^early +kvcache +8p8d +1 /);
});

test("objectives, capacity and model reach the cluster; without objectives nothing is rejected and all is kept", async () => {
  const row = async (options: object): Promise<ClusterRow> =>
    (JSON.parse(await runReplay({ ...cluster, json: true, ...options })) as ClusterRow[])[0]!;
  const loaded = { speed: "100" };
  const strict = await row({ ...loaded, ttftMs: "700" });
  expect(strict.rejected).toBeGreaterThan(0);
  expect(strict.ttftMs.p99).toBeLessThanOrEqual(700);
  const free = await row({ ...loaded, ttftMs: "inf", tbtMs: "inf" });
  expect(free).toMatchObject({ rejected: 0, finished: 120, goodput: 120 });
  const small = await row({ ...loaded, ttftMs: "inf", tbtMs: "inf", capacity: "1MB" });
  expect(small.tokenHitRate).toBeLessThan(free.tokenHitRate);
  const light = await row({ ...loaded, ttftMs: "inf", tbtMs: "inf", model: "llama3-8b" });
  expect(light.ttftMs.mean).toBeLessThan(free.ttftMs.mean / 3);
});

test.each([
  [{ scheduler: "late" }, /--scheduler is "late", expected one of none, early, predicted/],
  [{ scheduler: "" }, /--scheduler is "", expected one of/],
  [{ selection: "load,best" }, /--selection is "best", expected one of random, load, cache-aware, kvcache/],
  [{ instances: "8" }, /--instances is "8", expected .*8p8d/],
  [{ instances: "0p1d" }, /--instances is "0p1d"/],
  [{ instances: "2p9999d" }, /--instances is "2p9999d", .* 1 to 512/],
  [{ speed: "-1" }, /--speed is "-1", expected a number above 0/],
  [{ speed: "inf" }, /--speed is "inf"/],
  [{ ttftMs: "soon" }, /--ttft-ms is "soon", expected a number of milliseconds above 0, or inf/],
  [{ tbtMs: "0" }, /--tbt-ms is "0"/],
  [{ policy: "lru,lfu" }, /--policy is "lru,lfu", expected one/],
  [{ policy: "offline" }, /--policy is "offline"/],
  [{ capacity: "inf,1GB" }, /--capacity is "inf,1GB", expected one/],
  [{ model: "nvidia-hybrid-7b" }, /model has recurrent layers/],
  [{ csv: true }, /--csv does not go with --scheduler/],
  [{ serve: true }, /--serve does not go/],
  [{ scheduler: undefined }, /--selection needs --scheduler, with one or more of none, early, predicted/],
])("bad options are refused by their flags: %j", async (options, message) => {
  const given = { ...cluster, ...options } as Parameters<typeof runReplay>[0];
  await expect(runReplay(given)).rejects.toThrow(message);
});

test.each(["policy", "capacity"])("without --scheduler, --%s is needed", async (name) => {
  const options = { trace, policy: "lru", capacity: "inf", [name]: undefined };
  await expect(runReplay(options)).rejects.toThrow(`--${name} is missing`);
});
