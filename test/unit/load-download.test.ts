/** The pure parts of downloads: byte ranges against a plain set, names, the Hub's listings, back-off, rates, notes, the bar. */
import { describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { progressLine, ProgressBar } from "../../src/api/progress-bar.ts";
import { ByteRanges } from "../../src/load/download/byte-ranges.ts";
import { DOWNLOAD_LIMITS, downloadWorld, pauseMs } from "../../src/load/download/limits.ts";
import {
  chooseFile,
  hubBase,
  hubRemote,
  parseListing,
  type HubListing,
} from "../../src/load/download/hub.ts";
import { keptValue, parseKept, type KeptFile } from "../../src/load/download/kept/kept-file.ts";
import { parseModelName, type HubName } from "../../src/load/model-name.ts";
import { RateMeter } from "../../src/load/download/rate.ts";
import { testSeed } from "../support/seed.ts";

describe("byte ranges", () => {
  test("do what a set of positions does", () => {
    const random = new Random(testSeed("byte ranges"));
    for (let round = 0; round < 50; round++) {
      const size = 1 + random.below(60);
      const naive = new Set<number>();
      const ranges = new ByteRanges();
      for (let step = 0; step < 30; step++) {
        const start = random.below(size + 1);
        const end = start + random.below(size + 1 - start);
        if (random.below(8) > 0) {
          ranges.add(start, end);
          for (let at = start; at < end; at++) naive.add(at);
        } else {
          ranges.clip(end);
          for (const at of naive) if (at >= end) naive.delete(at);
        }
        compare(ranges, naive, size, random);
      }
    }
  });

  function compare(ranges: ByteRanges, naive: Set<number>, size: number, random: Random): void {
    expect(ranges.totalBytes).toBe(naive.size);
    const start = random.below(size);
    const end = start + random.below(size + 1 - start);
    const missing = Array.from({ length: end - start }, (_, i) => start + i).filter((at) => !naive.has(at));
    expect(ranges.covers(start, end)).toBe(missing.length === 0);
    const gap = ranges.firstGap(start, end);
    expect(gap?.start).toBe(missing[0]);
    if (gap) {
      let stop = gap.start;
      while (stop < end && !naive.has(stop)) stop++;
      expect(gap.end).toBe(stop);
    }
    const list = ranges.list();
    expect(list.every((range, i) => i === 0 || range.start > (list[i - 1] as { end: number }).end)).toBe(
      true,
    );
  }
});

describe("names", () => {
  const hub = (repo: string, revision = "main", file?: string, isExplicit = false) => ({
    ...{ kind: "hub", repo, revision, isExplicit },
    ...(file !== undefined && { file }),
  });

  test.each([
    ["org/repo", hub("org/repo")],
    ["org/repo@v2", hub("org/repo", "v2")],
    ["org/repo@refs/pr/12", hub("org/repo", "refs/pr/12")],
    ["org/repo/model-Q4_0.gguf", hub("org/repo", "main", "model-Q4_0.gguf")],
    ["org/repo/sub/model.gguf@v2", hub("org/repo", "v2", "sub/model.gguf")],
    ["org/repo@v2/sub/model.gguf", hub("org/repo", "v2", "sub/model.gguf")],
    ["hub:org/model.gguf", hub("org/model.gguf", "main", undefined, true)],
    ["https://host/a.gguf", { kind: "url", url: "https://host/a.gguf" }],
    ["folder/model.gguf", { kind: "path", path: "folder/model.gguf" }],
    ["./org/repo", { kind: "path", path: "./org/repo" }],
    ["/org/repo", { kind: "path", path: "/org/repo" }],
    ["../a/b", { kind: "path", path: "../a/b" }],
    ["org/repo/../x", { kind: "path", path: "org/repo/../x" }],
    ["org/repo@v1/x.gguf@v2", { kind: "path", path: "org/repo@v1/x.gguf@v2" }],
    ["C:\\models\\a.gguf", { kind: "path", path: "C:\\models\\a.gguf" }],
    ["model", { kind: "path", path: "model" }],
  ])("%s", (name, expected) => {
    expect(parseModelName(name)).toEqual(expected);
  });
});

describe("the Hub", () => {
  const listing = (...paths: string[]): HubListing => ({
    commit: "c",
    files: paths.map((path) => ({ path })),
  });
  const repo: HubName = { kind: "hub", repo: "org/repo", revision: "main", isExplicit: false };

  test.each([
    ["the only GGUF", listing("README.md", "m.gguf", "config.json", "model.safetensors"), "m.gguf"],
    [
      "the first of its shards",
      listing("m-00002-of-00002.gguf", "m-00001-of-00002.gguf"),
      "m-00001-of-00002.gguf",
    ],
    ["not a projector", listing("mmproj-f16.gguf", "q/m.gguf"), "q/m.gguf"],
    ["a folder of safetensors", listing("config.json", "model.safetensors"), undefined],
  ])("chooses %s", (_name, files, expected) => {
    expect(chooseFile(repo, files)).toBe(expected);
  });

  test.each([
    [listing("a.gguf", "b.gguf"), /2 models; say which: org\/repo\/a.gguf, org\/repo\/b.gguf/],
    [listing("README.md"), /neither a GGUF file nor safetensors/],
    [listing("sub/model.safetensors", "config.json"), /neither a GGUF file nor safetensors/],
  ])("says why it cannot choose", (files, message) => {
    expect(() => chooseFile(repo, files)).toThrow(message);
  });

  test("reads a listing, and leaves out what is malformed", () => {
    const sha256 = "a".repeat(64);
    const siblings = [
      { rfilename: "m.gguf", size: 3, lfs: { sha256, size: 7 } },
      { rfilename: "../x" },
      null,
      { rfilename: "c", size: "x" },
    ];
    expect(parseListing(JSON.stringify({ sha: "abc", siblings }))).toEqual({
      commit: "abc",
      files: [{ path: "m.gguf", sizeBytes: 7, sha256 }, { path: "c" }],
    });
    for (const text of ["", "[]", "{}", '{"siblings":3}', "null"]) expect(parseListing(text)).toBeUndefined();
  });

  test("addresses: the base may have a path, names are escaped, the token is for one origin", () => {
    const options = { baseUrl: "https://mirror.example/hub/", token: "t" };
    expect(hubRemote(options, "org/repo", "refs/pr/1", "a b/m#1.gguf")).toMatchObject({
      url: "https://mirror.example/hub/org/repo/resolve/refs%2Fpr%2F1/a%20b/m%231.gguf",
      authorization: { origin: "https://mirror.example", token: "t" },
    });
    expect(() => hubBase({ baseUrl: "mirror.example" })).toThrow(/hub.baseUrl is mirror.example/);
  });
});

test("pauses double up to a bound, vary, and are never shorter than the server asks", () => {
  const world = downloadWorld({ random: new Random(1) });
  const { firstPauseMs, lastPauseMs } = DOWNLOAD_LIMITS;
  for (let failures = 1; failures < 20; failures++) {
    const most = Math.min(lastPauseMs, firstPauseMs * 2 ** (failures - 1));
    const ms = pauseMs(world, failures);
    expect(ms).toBeGreaterThanOrEqual(most / 2);
    expect(ms).toBeLessThanOrEqual(most);
  }
  expect(pauseMs(world, 1, 90_000)).toBe(90_000);
});

describe("seconds left", () => {
  test("follow the rate of late, and leave out what was there before", () => {
    const meter = new RateMeter();
    expect(meter.secondsLeft(1_000_000, 2_000_000, 10)).toBeUndefined();
    let left: number | undefined;
    for (let tick = 1; tick <= 20; tick++)
      left = meter.secondsLeft(1_000_000 + tick * 10_000, 2_000_000, 10 + tick * 100);
    expect(left).toBeCloseTo(8, 3);
    for (let tick = 1; tick <= 200; tick++)
      left = meter.secondsLeft(1_200_000 + tick * 1000, 2_000_000, 2010 + tick * 100);
    expect(left).toBeGreaterThan(50);
    expect(left).toBeLessThan(61);
    expect(meter.secondsLeft(2_000_000, 2_000_000, 30_000)).toBe(0);
  });
});

describe("notes", () => {
  const kept: KeptFile = {
    ...{
      kind: "file",
      model: "m",
      lockName: "l",
      file: "f",
      url: "u",
      sizeBytes: 10,
      isComplete: false,
      atMs: 5,
    },
    have: [{ start: 0, end: 4 }],
  };

  test("come back as they were", () => {
    expect(parseKept(JSON.parse(JSON.stringify(keptValue(kept))))).toMatchObject(kept);
  });

  test.each([
    { have: [{ start: 0, end: 11 }] },
    { have: [{ start: 5, end: 4 }] },
    { have: 3 },
    { sizeBytes: -1 },
    { isComplete: true },
    { version: 2 },
    { kind: "other" },
    { model: 7 },
  ])("that are wrong are none: %j", (change) => {
    expect(parseKept({ ...(keptValue(kept) as object), ...change })).toBeUndefined();
  });
});

describe("the bar", () => {
  test("says that it waits for another's download, without amounts", () => {
    const line = progressLine({ phase: "waiting", done: 0, total: 0 }, 80);
    expect(line).toBe("Waiting: another tab or process is downloading this model");
    expect(progressLine({ phase: "waiting", done: 0, total: 0 }, 20)).toHaveLength(19);
  });

  test("tells which server fails, how often and how, on a terminal and in a log", () => {
    const retry = {
      ...({ phase: "retrying", reason: "hub.example cannot be reached" } as const),
      ...{ done: 2, total: 10, secondsLeft: 0.8 },
    };
    const line = "hub.example cannot be reached: failed 2 of 10 times, trying again in 1 s";
    expect(progressLine(retry, 100)).toBe(line);
    let log = "";
    const quiet = new ProgressBar({ isTTY: false, write: (text) => (log += text) });
    quiet.show({ phase: "download", done: 1, total: 2 });
    quiet.show(retry);
    expect(log).toBe(`tidepool: ${line}\n`);
  });

  test("says phase, share, amount and time, within the terminal's width", () => {
    const progress = { phase: "download", done: 5e6, total: 2e7, secondsLeft: 75 } as const;
    expect(progressLine(progress, 100)).toBe(
      `Downloading [########${"-".repeat(22)}] 5.0 of 20.0 MB, 1 min 15 s left`,
    );
    expect(progressLine(progress, 20)).toHaveLength(19);
  });

  test("shows the download while it lasts, and says nothing where there is no terminal", () => {
    const said: string[] = [];
    const bar = new ProgressBar({ isTTY: true, columns: 80, write: (text) => said.push(text) });
    bar.show({ phase: "download", done: 1, total: 2 });
    bar.show({ phase: "weights", done: 1, total: 2 });
    bar.show({ phase: "download", done: 2, total: 2 });
    bar.show({ phase: "weights", done: 2, total: 2 });
    bar.end();
    expect(said.map((text) => /Downloading|Uploading/.exec(text)?.[0])).toEqual([
      "Downloading",
      "Downloading",
      "Uploading",
      undefined,
    ]);
    const quiet = new ProgressBar({ write: (text) => said.push(text) });
    quiet.show({ phase: "download", done: 1, total: 2 });
    quiet.end();
    expect(said).toHaveLength(4);
  });
});
