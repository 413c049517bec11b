/** `tidepool replay` as the command calls it: files in, text out. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, expect, test } from "vitest";
import { runReplay } from "../../src/api/commands/replay.ts";
import type { ReplayRow } from "../../src/sim/replay.ts";
import type { ServeRow } from "../../src/sim/serve.ts";

const folder = mkdtempSync(join(tmpdir(), "replay-"));
afterAll(() => rmSync(folder, { recursive: true }));

function file(name: string, content: string | Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

const line = (hash_ids: number[]): string =>
  JSON.stringify({ timestamp: 0, input_length: hash_ids.length * 512, output_length: 1, hash_ids });
const trace = file(
  "trace.jsonl.gz",
  gzipSync([line([1, 2, 3]), line([1, 2, 4]), line([1, 2, 3])].join("\n")),
);
const shape = JSON.stringify({
  name: "small",
  hiddenSize: 8,
  kvElementBytes: 2,
  stateElementBytes: 2,
  layers: [{ kind: "attention", count: 1, heads: 2, kvHeads: 1, headDim: 4 }],
});

test("JSON: a row for each policy at each capacity, with the fields that the issue names", async () => {
  const text = await runReplay({ trace, policy: "lru,marconi", capacity: "blocks:3,inf", json: true });
  const rows = JSON.parse(text) as ReplayRow[];
  expect(rows.map((row) => [row.policy, row.capacity])).toEqual([
    ["lru", "blocks:3"],
    ["marconi", "blocks:3"],
    ["lru", "inf"],
    ["marconi", "inf"],
  ]);
  expect(Object.keys(rows[0]!)).toEqual(
    "policy capacity requests blockHitRate tokenHitRate flopsSaved bytesPeak snapshotsTaken evictions alpha seconds".split(
      " ",
    ),
  );
  expect(rows[2]).toMatchObject({ requests: 3, blockHitRate: 5 / 9, tokenHitRate: 5 / 9, alpha: null });
});

test("CSV and the table have one line a row; a shape file sets the bytes; the plot is written", async () => {
  const plot = join(folder, "out.svg");
  const model = file("shape.json", shape);
  const csv = await runReplay({ trace, policy: "lru", capacity: "inf", model, csv: true, plot });
  expect(csv.split("\n").length).toBe(2);
  const bytesPerToken = 2 * 1 * 4 * 2;
  expect(csv.split("\n")[1]!.split(",")[6]).toBe(String(4 * 512 * bytesPerToken));
  expect(readFileSync(plot, "utf8")).toMatch(/^<svg/);
  expect((await runReplay({ trace, policy: "lru,lfu", capacity: "1GB" })).split("\n").length).toBe(3);
});

test("--serve adds times to first token to every form; --first cuts the trace", async () => {
  const options = { trace, policy: "lru", capacity: "inf", serve: true, first: "2" };
  const rows = JSON.parse(await runReplay({ ...options, json: true })) as ServeRow[];
  expect(rows[0]).toMatchObject({ requests: 2, rejected: 0, tokenHitRate: 2 / 6 });
  expect(rows[0]!.ttftMs.p99).toBeGreaterThanOrEqual(rows[0]!.ttftMs.p50);
  expect("served" in rows[0]!).toBe(false);
  const header = (await runReplay({ ...options, csv: true })).split("\n")[0]!;
  expect(header).toMatch(/,seconds,ttftMs\.p50,ttftMs\.p90,ttftMs\.p99,queueMs\.p50.*,rejected$/);
  expect(await runReplay(options)).toContain("ttftMs.p90");
});

test("a generated workload needs no file", async () => {
  const rows = JSON.parse(
    await runReplay({ trace: "generate:few-shot:5", policy: "sglang", capacity: "1GB", json: true }),
  ) as ReplayRow[];
  expect(rows[0]).toMatchObject({ policy: "sglang", capacity: 1e9, requests: 1000 });
});

test.each([
  [{ policy: "best" }, /policy "best" is not one of/],
  [{ capacity: "much" }, /capacity is "much", expected/],
  [{ model: "gpt" }, /model "gpt" is neither/],
  [{ blockTokens: "0" }, /--block-tokens must be/],
  [{ first: "none" }, /--first must be/],
  [{ policy: "offline", serve: true }, /offline cannot be served/],
  [{ json: true, csv: true }, /exclude each other/],
  [{ trace: "generate:poems" }, /generate:KIND/],
  [{ trace: "absent.jsonl" }, /absent\.jsonl does not exist/],
  [{ model: file("bad.json", "{}") }, /bad\.json: name must be a string/],
])("bad options are refused: %j", async (options, message) => {
  await expect(runReplay({ trace, policy: "lru", capacity: "inf", ...options })).rejects.toThrow(message);
});
