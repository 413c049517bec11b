import { gzipSync } from "node:zlib";
import { expect, test } from "vitest";
import { plotRows } from "../../src/sim/plot.ts";
import { parseCapacities, parsePolicies } from "../../src/sim/options.ts";
import { Recorder } from "../../src/sim/recorder.ts";
import type { ReplayRow } from "../../src/sim/replay.ts";
import type { Trace } from "../../src/sim/trace.ts";
import { decodeTraceBytes, parseTrace, sequenceOf } from "../../src/sim/trace.ts";
import { defaultWorkloads, generate } from "../../src/sim/workload.ts";
import { sharedPresent, skipLoudly } from "../support/shared.ts";
import { givenTrace } from "../support/traces.ts";

const jsonl = (...lines: unknown[]): string => lines.map((line) => JSON.stringify(line)).join("\n") + "\n";

test("a block trace: one symbol a block, huge ids become dense ones", () => {
  const line = { timestamp: 3, input_length: 700, output_length: 5 };
  const text = jsonl({ ...line, hash_ids: [2 ** 45, 7] }, { ...line, hash_ids: [2 ** 45, 2 ** 50] });
  const trace = parseTrace("t", text);
  expect(trace.symbolTokens).toBe(512);
  expect(trace.requests.map((request) => [...sequenceOf(request)])).toEqual([
    [0, 1],
    [0, 2],
  ]);
});

test("a chat trace: a session's turns grow, sessions share their system prompt", () => {
  const turn = (sid: number, tid: number, inLen: number) => {
    return { sid, tid, ts: 1, sys: 4, sysLen: 3, userLen: 2, outLen: 1, inLen };
  };
  const trace = parseTrace("t", jsonl(turn(0, 0, 5), turn(0, 1, 8), turn(1, 0, 5)));
  const [first, second, other] = trace.requests.map((request) => [...sequenceOf(request)]);
  expect(second!.slice(0, 6)).toEqual(first);
  expect(other!.slice(0, 3)).toEqual(first!.slice(0, 3));
  expect(other![3]).not.toBe(first![3]);
});

test("an agent schedule: the fifth-last observation goes once six turns have both parts", () => {
  const turns = Array.from({ length: 8 }, (_, t) => [[100 + t], [200 + t]]);
  const inLens = [1, 3, 5, 7, 9, 11, 13, 14];
  const schedule = jsonl(...inLens.map((inLen, tid) => ({ sid: 0, tid, ts: tid, inLen, outLen: 1 })));
  const trace = parseTrace("schedule", schedule, { name: "sessions", text: jsonl({ id: "x", turns }) });
  const last = [...sequenceOf(trace.requests[7]!)];
  expect(last).toEqual([100, 200, 201, 102, 202, 103, 203, 104, 204, 105, 205, 106, 206, 107, 207]);
  expect(() => parseTrace("schedule", schedule)).toThrow(/needs its session file/);
});

test("bad traces are refused with file, line and field", () => {
  expect(() => parseTrace("f", "")).toThrow("f is empty");
  expect(() => parseTrace("f", "{}\n")).toThrow(/f: line 1 does not have the fields of any known/);
  expect(() => parseTrace("f", "[1]\n")).toThrow("f: line 1: not an object");
  const good = { timestamp: 0, input_length: 1, output_length: 1, hash_ids: [0] };
  expect(() => parseTrace("f", jsonl(good) + "{\n")).toThrow(/f: line 2: not JSON/);
  expect(() => parseTrace("f", jsonl(good, { ...good, hash_ids: ["x"] }))).toThrow(/f: line 2: hash_ids/);
  expect(() => parseTrace("f", jsonl({ ...good, input_length: -1 }))).toThrow(/f: line 1: input_length/);
  const chat = { sid: 0, tid: 0, ts: 0, sys: 1, sysLen: 3, userLen: 2, outLen: 1, inLen: 6 };
  expect(() => parseTrace("f", jsonl(chat))).toThrow("inLen is 6, but the pieces have 5 tokens");
});

test("gzip is recognised by its bytes", async () => {
  expect(await decodeTraceBytes(new Uint8Array(gzipSync("hello")))).toBe("hello");
  expect(await decodeTraceBytes(new TextEncoder().encode("hello"))).toBe("hello");
});

test("a recorded trace keeps equal prefixes, lengths and nothing else", () => {
  const record = (salt: number) => {
    const recorder = new Recorder({ blockTokens: 4, salt: new Uint8Array(32).fill(salt) });
    const first = Int32Array.from({ length: 14 }, (_, i) => 9000 + i);
    const second = Int32Array.from([...first.subarray(0, 12), 1, 2, 3, 4, 5]);
    return [recorder.header(), recorder.line(10.4, first, 10), recorder.line(20, second, 13)].join("\n");
  };
  const trace = parseTrace("recorded", record(1));
  expect(trace.symbolTokens).toBe(4);
  const [first, second] = trace.requests;
  expect([first!.inputTokens, first!.outputTokens, first!.inputSymbols]).toEqual([10, 4, 2]);
  expect([...sequenceOf(first!)]).toEqual([0, 1, 2]);
  expect([...sequenceOf(second!)]).toEqual([0, 1, 2, 3]);
  expect(record(1)).toBe(record(1));
  expect(record(1)).not.toBe(record(2));
  expect(record(1)).not.toMatch(/900\d/);
  expect(() => new Recorder({ blockTokens: 4, salt: new Uint8Array(3) })).toThrow(/salt/);
});

/** A trace in few numbers: comparing millions of tokens one by one takes minutes. */
const digest = (trace: Trace): number[][] =>
  trace.requests.map((request) => {
    const hash = sequenceOf(request).reduce((sum, token) => (Math.imul(sum, 31) + token) | 0, 7);
    return [request.timestampMs, request.inputTokens, request.outputTokens, hash];
  });

test.each(Object.values(defaultWorkloads))(
  "$kind: equal seeds give equal traces, in time order",
  (workload) => {
    const small = { ...workload, sessions: 20 };
    const trace = generate(small);
    expect(digest(generate(small))).toEqual(digest(trace));
    expect(digest(generate({ ...small, seed: 2 }))).not.toEqual(digest(trace));
    for (const [i, request] of trace.requests.entries()) {
      expect(request.timestampMs).toBeGreaterThanOrEqual(trace.requests[i - 1]?.timestampMs ?? 0);
      expect(sequenceOf(request).length).toBe(request.inputTokens + request.outputTokens);
    }
  },
);

test("option words: units, blocks, inf, and refusals that name the word", () => {
  expect(parseCapacities("40GB,blocks:12,inf,1e9")).toEqual([
    { bytes: 4e10 },
    { blocks: 12 },
    "inf",
    { bytes: 1e9 },
  ]);
  for (const bad of ["", "0", "-1", "blocks:0", "12XB"])
    expect(() => parseCapacities(bad), bad).toThrow(/capacity is "/);
  expect(parsePolicies("lru, marconi")).toEqual(["lru", "marconi"]);
  expect(() => parsePolicies("lru,mru")).toThrow(/policy "mru" is not one of lru, lfu/);
});

test("the plot has one line for each policy and one point for each row", () => {
  const row = {
    requests: 1,
    blockHitRate: 0,
    flopsSaved: 0,
    bytesPeak: 0,
    snapshotsTaken: 0,
    evictions: 0,
    seconds: 0,
  };
  const rows: ReplayRow[] = (["lru", "marconi"] as const).flatMap((policy) =>
    [1e9, "inf"].map((capacity) => ({ ...row, policy, capacity, tokenHitRate: 0.5, alpha: null })),
  );
  const svg = plotRows("a <b>", rows);
  expect(svg.match(/<polyline/g)?.length).toBe(2);
  expect(svg.match(/<circle/g)?.length).toBe(4);
  expect(svg).toContain("a &lt;b&gt;");
  expect(svg).toContain("lru, 1 GB: 50.00%");
});

if (!sharedPresent) skipLoudly("sim-trace", 3);
test.skipIf(!sharedPresent).each([
  ["swe", 3340, 10_736],
  ["lmsyslike", 1384, 2451],
  ["sysprompt", 2536, 2771],
] as const)("%s expands to %d requests of %d input tokens on average", async (name, requests, mean) => {
  const trace = await givenTrace(name);
  expect(trace.requests.length).toBe(requests);
  const tokens = trace.requests.reduce((sum, request) => sum + request.inputTokens, 0);
  expect(Math.abs(tokens / requests - mean)).toBeLessThan(1);
});
