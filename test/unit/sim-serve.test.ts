/** Serving a trace in simulated time: the real scheduler against what can be worked out by hand, and against the replay. */
import { describe, expect, test } from "vitest";
import { costOf, namedShapes } from "../../src/sim/cost-shape.ts";
import { replay } from "../../src/sim/replay.ts";
import { quantileShares, SeriesCollector, servedQuantiles, timePoints } from "../../src/sim/series.ts";
import { maxServedTokens, serve, serveSteps, type ServeOptions } from "../../src/sim/serve.ts";
import { percentilesOf, prefillMs, PromptQueue, quantile, timingFor } from "../../src/sim/timing.ts";
import { tokenCount, tokensOf } from "../../src/sim/tokens.ts";
import { parseTrace, type Trace, type TraceRequest } from "../../src/sim/trace.ts";
import { defaultWorkloads, generate } from "../../src/sim/workload.ts";
import { testSeed } from "../support/seed.ts";

const dense = costOf(namedShapes["llama3-8b"]!);
const hybrid = costOf(namedShapes["nvidia-hybrid-7b"]!);
/** A token costs 1 ms wherever it stands, a decode step 10 ms and 1 ms a row. */
const plainCost = { flopsLinear: 1, flopsQuadratic: 0, bytesPerToken: 1, bytesPerSnapshot: 0 };
const timing = { prefillTokensPerSecond: 1000, decodeStepMs: 10, decodeRowMs: 1 };
const plain: ServeOptions = {
  ...{ policy: "lru", capacity: { bytes: 400 }, cost: plainCost, timing },
  ...{ blockTokens: 4, chunkTokens: 16, seats: 2, clock: { nowMs: () => 0 } },
};

const piece = (from: number, length: number): Int32Array => Int32Array.from({ length }, (_, i) => from + i);

function request(timestampMs: number, input: Int32Array, output: Int32Array): TraceRequest {
  const inputTokens = input.length;
  const pieces = [input, output];
  return { timestampMs, inputTokens, outputTokens: output.length, inputSymbols: inputTokens, pieces };
}

const tokenTrace = (requests: TraceRequest[]): Trace => ({ name: "hand", symbolTokens: 1, requests });

describe("by hand", () => {
  test("chunks of a prompt, its decode steps, and a second prompt that finds the first one's blocks", () => {
    const [first, second] = [piece(0, 20), new Int32Array(24)];
    second.set(first);
    second.set(piece(500, 4), 20);
    const trace = tokenTrace([request(0, first, piece(100, 3)), request(5, second, piece(200, 1))]);
    const { served, ...row } = serve(trace, plain);
    // 0..16 the first chunk, ..20 the second: its first token. A decode step (11), then the other prompt's 4 new tokens.
    expect([...served.ttftMs]).toEqual([20, 20 + 11 + 4 - 5]);
    expect([...served.queueMs]).toEqual([0, 20 + 11 - 5]);
    expect([...served.hitTokens]).toEqual([0, 20]);
    expect(row).toMatchObject({
      ...{ policy: "lru", capacity: 400, requests: 2, rejected: 0, evictions: 0, seconds: 0 },
      ...{ tokenHitRate: 20 / 44, blockHitRate: 5 / 11, flopsSaved: 20 },
      ...{ ttftMs: { p50: 20, p90: 30, p99: 30 }, queueMs: { p50: 0, p90: 26, p99: 26 } },
    });
  });

  test("a short prompt goes before the next chunk of a long one", () => {
    const long = request(0, piece(0, 64), piece(500, 1));
    const short = request(1, piece(1000, 4), piece(600, 1));
    const { served } = serve(tokenTrace([long, short]), plain);
    expect([...served.ttftMs]).toEqual([64 + 4, 16 + 4 - 1]);
  });

  test("without a free seat a request waits; one that is larger than the pool is rejected and counted", () => {
    const trace = tokenTrace([
      request(0, piece(0, 8), piece(100, 5)),
      request(0, piece(1000, 8), piece(200, 1)),
      request(0, piece(2000, 500), piece(300, 1)),
    ]);
    const { served, rejected, requests } = serve(trace, { ...plain, seats: 1 });
    // The first one's prompt (8), then its four other tokens (11 each), then the second one's prompt.
    expect([...served.ttftMs]).toEqual([8, 8 + 4 * 11 + 8, NaN]);
    expect({ rejected, requests }).toEqual({ rejected: 1, requests: 3 });
    expect(servedQuantiles(served)[0]).toBe(8);
  });

  test("the clock jumps to the next arrival where nothing runs", () => {
    const trace = tokenTrace([
      request(0, piece(0, 4), piece(100, 1)),
      request(1e6, piece(50, 4), piece(200, 1)),
    ]);
    expect([...serve(trace, plain).served.ttftMs]).toEqual([4, 4]);
  });
});

describe("against the replay", () => {
  const seed = testSeed("sim-serve");
  const trace = generate({ ...defaultWorkloads.chat, sessions: 20, seed });

  test.each([
    { model: "dense", cost: dense, policy: "lru" },
    { model: "dense", cost: dense, policy: "marconi" },
    { model: "hybrid", cost: hybrid, policy: "sglang" },
    { model: "hybrid", cost: hybrid, policy: "marconi" },
  ] as const)(
    "$model, $policy: with room for all it hits what the replay hits, less what overlaps",
    ({ cost, policy }) => {
      const options = { policy, capacity: "inf", cost } as const;
      const { served, ...row } = serve(trace, options);
      const bound = replay(trace, options).tokenHitRate;
      expect(row.tokenHitRate).toBeGreaterThan(bound - 0.25);
      expect(row.tokenHitRate).toBeLessThan(bound + 1e-9);
      expect(row.evictions).toBe(0);
      served.ttftMs.forEach((ttftMs, i) => expect(ttftMs).toBeGreaterThanOrEqual(served.queueMs[i]!));
    },
  );

  test("in slices it reports progress and gives the same row", () => {
    const options = {
      policy: "marconi",
      capacity: { bytes: 4e9 },
      cost: hybrid,
      clock: { nowMs: () => 0 },
    } as const;
    const steps = serveSteps(trace, options);
    let step = steps.next();
    for (; step.done !== true; step = steps.next()) expect(step.value.total).toBe(trace.requests.length);
    expect(step.value).toEqual(serve(trace, options));
  });
});

test("what cannot be served is refused: the policy that knows the future, too many tokens, no room for a block", () => {
  const trace = tokenTrace([request(0, piece(0, 8), piece(100, 1))]);
  expect(() => serve(trace, { ...plain, policy: "offline" })).toThrow(/offline cannot be served/);
  expect(() => serve(trace, { ...plain, capacity: { bytes: 3 } })).toThrow(/3 bytes has no room for a block/);
  const long = { ...trace, requests: [{ ...trace.requests[0]!, inputTokens: maxServedTokens }] };
  expect(() => serve(long, plain)).toThrow(/hand has 33554433 tokens; at most 33554432/);
});

test("a block's id stands for the same tokens everywhere, a cut-off block for its first ones, the rest is new", () => {
  const line = (input_length: number, hash_ids: number[], output_length: number): string =>
    JSON.stringify({ timestamp: 0, input_length, output_length, hash_ids });
  const trace = parseTrace("t", [line(1030, [7, 8, 9], 5), line(1536, [7, 8, 4], 1)].join("\n"));
  expect(tokenCount(trace)).toBe(1030 + 5 + 1536 + 1);
  const [a, b] = [tokensOf(trace, 0, 1035), tokensOf(trace, 1, 1537)];
  expect(a.subarray(0, 1024)).toEqual(b.subarray(0, 1024));
  expect([...a.subarray(1022, 1027)]).toEqual([1022, 1023, 1024, 1025, 1026]);
  expect(b[1024]).toBe(3 * 512);
  expect([...a.subarray(1030), b[1536]!].every((token) => token < 0)).toBe(true);
  expect(tokensOf(trace, 0, 1035)).toEqual(a);
  expect(serve(trace, { ...plain, capacity: "inf", blockTokens: 512 }).tokenHitRate).toBe(1024 / 2566);
});

test("the queue: a prompt waits for those before it, and its last token is always computed", () => {
  const queue = new PromptQueue(timing, plainCost);
  expect([queue.ttftMs(0, 100, 0), queue.ttftMs(10, 50, 40), queue.ttftMs(500, 9, 9)]).toEqual([100, 100, 1]);
  expect(prefillMs(timing, { ...plainCost, flopsQuadratic: 1 }, 2, 4)).toBe(2 + 12);
});

test("percentiles are nearest ranks; a server is made for the trace", () => {
  const values = Float64Array.from({ length: 10 }, (_, i) => 10 - i);
  expect(percentilesOf(values)).toEqual({ p50: 5, p90: 9, p99: 10 });
  expect([quantile(Float64Array.of(3), 0), quantile(Float64Array.of(), 0.5)]).toEqual([3, NaN]);
  const trace = tokenTrace([
    request(0, piece(0, 400), piece(9, 1)),
    request(1000, piece(0, 400), piece(9, 1)),
  ]);
  expect(timingFor(trace).prefillTokensPerSecond).toBe(1000);
});

test("the series of a replay: the distribution ascends, evictions add up to the row's", () => {
  const trace = generate({ ...defaultWorkloads.chat, sessions: 40 });
  const collector = new SeriesCollector(trace, timingFor(trace), hybrid);
  const row = replay(trace, {
    ...{ policy: "sglang", capacity: { bytes: 3e9 }, cost: hybrid },
    observe: collector.observe,
  });
  const { ttftMs, evictions } = collector.series();
  expect([ttftMs.length, evictions.length]).toEqual([quantileShares.length, timePoints]);
  expect([...ttftMs]).toEqual([...ttftMs].sort((a, b) => a - b));
  expect([...evictions]).toEqual([...evictions].sort((a, b) => a - b));
  expect(evictions.at(-1)).toBe(row.evictions);
});
