/** Activation traces, generated and in files, and their replay against the expert cache in simulated time. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { runReplayExperts } from "../../src/api/commands/replay-experts.ts";
import { Random } from "../../src/base.ts";
import {
  guessesOf,
  noGuess,
  readActivations,
  usesOf,
  writeActivationHeader,
  writeActivationStep,
  type ActivationHeader,
  type ActivationStep,
  type ActivationTrace,
} from "../../src/cache/experts/activations.ts";
import { bestOf, generateActivity, qwenActivity } from "../../src/sim/experts/generate.ts";
import { laptop, type ExpertMachine } from "../../src/sim/experts/machine.ts";
import { replayExperts, type ExpertReplayRow } from "../../src/sim/experts/replay.ts";
import { expertStrategyNames, parseExpertStrategies } from "../../src/sim/experts/strategies.ts";
import { testSeed } from "../support/seed.ts";

const folder = mkdtempSync(join(tmpdir(), "experts-"));
afterAll(() => rmSync(folder, { recursive: true }));

const mean = (values: readonly number[]): number =>
  values.reduce((sum, each) => sum + each, 0) / values.length;

function fileOf({ header, steps }: ActivationTrace): Uint8Array<ArrayBuffer> {
  const parts = [writeActivationHeader(header), ...steps.map((step) => writeActivationStep(header, step))];
  const bytes = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** A shape that is replayed in a moment. */
const small = { ...qwenActivity, layers: 12, experts: 64, chosen: 4, promptTokens: 32, newTokens: 40 };

describe("the generated trace", () => {
  test("has the locality that is measured on models of this shape", () => {
    const { header, steps } = generateActivity({
      ...qwenActivity,
      layers: 6,
      promptTokens: 2,
      newTokens: 60,
    });
    const { chosen, layers, distances } = header;
    const former: number[] = [];
    const recall = new Map<string, number[]>();
    steps.forEach((step, i) => {
      const before = steps[i - 1];
      if (step.phase !== "decode" || before?.phase !== "decode") return;
      for (const layer of layers) {
        const used = usesOf(header, step, layer).map(({ expert }) => expert);
        const had = new Set(usesOf(header, before, layer).map(({ expert }) => expert));
        former.push(used.filter((expert) => had.has(expert)).length / chosen);
        for (const distance of distances) {
          const guesses = guessesOf(header, step, layer, distance);
          if (!guesses) continue;
          for (const count of [chosen, 2 * chosen]) {
            const guessed = new Set(guesses.slice(0, count).map(({ expert }) => expert));
            const name = `${distance}@${count}`;
            recall.set(name, [
              ...(recall.get(name) ?? []),
              used.filter((e) => guessed.has(e)).length / chosen,
            ]);
          }
        }
      }
    });
    expect(mean(former)).toBeCloseTo(0.375, 1.3);
    const expected = { "1@8": 0.775, "1@16": 0.92, "2@8": 0.66, "3@8": 0.56, "4@8": 0.5 };
    for (const [name, value] of Object.entries(expected))
      expect(Math.abs(mean(recall.get(name)!) - value), name).toBeLessThan(0.03);
  });

  test("is equal for equal seeds, and different for others", () => {
    const made = (seed: number) => fileOf(generateActivity({ ...small, seed }));
    expect(Buffer.from(made(3)).equals(Buffer.from(made(3)))).toBe(true);
    expect(Buffer.from(made(3)).equals(Buffer.from(made(4)))).toBe(false);
  });

  test("bestOf agrees with sorting", () => {
    const random = new Random(testSeed("best-of"));
    for (let round = 0; round < 200; round++) {
      const values = Array.from({ length: 1 + random.below(20) }, () => random.below(8));
      const order = values.map((_, i) => i).sort((a, b) => values[b]! - values[a]! || a - b);
      const count = 1 + random.below(values.length);
      expect(bestOf(values, count)).toEqual(order.slice(0, count));
    }
  });
});

const header: ActivationHeader = {
  ...{ model: "toy", fingerprint: "ab", layers: [1, 3], experts: 5, chosen: 2, matrixBytes: [4, 4, 4] },
  ...{ hiddenSize: 3, distances: [1], guesses: 1 },
};

const stepOf = (phase: ActivationStep["phase"], tokens: number): ActivationStep => ({
  ...{ phase, tokens },
  experts: Uint16Array.from({ length: 4 * tokens }, (_, i) => i % 5),
  weights: Float32Array.from({ length: 4 * tokens }, (_, i) => 1 / (1 + i)),
  inputs: Uint16Array.from({ length: 6 * tokens }, (_, i) => i),
  ...(phase === "decode" && {
    guesses: Uint16Array.from({ length: 2 * tokens }, (_, i) => (i ? 4 : noGuess)),
  }),
});

describe("activation files", () => {
  const trace: ActivationTrace = {
    header,
    steps: [stepOf("prefill", 3), stepOf("decode", 1), stepOf("decode", 2)],
  };

  test("are read as they were written", () => {
    expect(readActivations("toy.act", fileOf(trace))).toEqual(trace);
    const step = trace.steps[0]!;
    expect(usesOf(header, step, 0).map(({ expert, tokens }) => [expert, tokens])).toEqual([
      [0, 2],
      [1, 1],
      [2, 1],
      [3, 1],
      [4, 1],
    ]);
    expect(guessesOf(header, trace.steps[1]!, 1, 1)).toEqual([{ expert: 4, score: 1 }]);
    expect(guessesOf(header, trace.steps[1]!, 0, 1)).toBeUndefined();
  });

  test("cut at any byte but the end of a step, they are refused with the step's number", () => {
    const bytes = fileOf(trace);
    const ends = new Set<number>();
    let at = writeActivationHeader(header).length;
    for (const step of [undefined, ...trace.steps]) {
      if (step) at += writeActivationStep(header, step).length;
      ends.add(at);
    }
    for (let cut = 0; cut < bytes.length; cut++) {
      const read = () => readActivations("toy.act", bytes.subarray(0, cut));
      if (ends.has(cut)) expect(read().steps.length).toBeLessThan(3);
      else expect(read, String(cut)).toThrow(/^toy\.act(:| is| begins) /);
    }
  });

  test("what they say must be possible", () => {
    const bytes = fileOf(trace);
    const first = writeActivationHeader(header).length;
    const changed = (at: number, ...values: number[]): Uint8Array => {
      const copy = bytes.slice();
      copy.set(values, at);
      return copy;
    };
    const read = (given: Uint8Array) => () => readActivations("toy.act", given);
    expect(read(changed(0, 65))).toThrow(/begins with "AIDEEXP1", expected .* begins with TIDEEXP1/);
    expect(read(changed(8, 255, 255, 255))).toThrow(/the header has 16777\d+ bytes/);
    expect(read(changed(12, 65))).toThrow(/^toy\.act: /);
    expect(read(changed(first, 2))).toThrow(/step 0: phase is 2; expected 0 or 1/);
    expect(read(changed(first + 4, 0))).toThrow(/step 0: 0 tokens/);
    expect(read(changed(first + 8, 9))).toThrow(/step 0: expert 9 of 5/);
    expect(read(changed(first + 8 + 24 + 2, 0x80, 0x7f))).toThrow(/step 0: a weight is Infinity/);
    const other = (over: Partial<ActivationHeader>) => () => writeActivationHeader({ ...header, ...over });
    expect(other({ experts: 0 })).toThrow(/header\.experts is 0, expected a whole number/);
    expect(() =>
      writeActivationStep(header, { ...stepOf("decode", 1), experts: new Uint16Array(3) }),
    ).toThrow(/step\.experts has 3 elements; expected 4/);
  });
});

const plain: ExpertMachine = {
  ...{ linkBytesPerSecond: 1000, diskBytesPerSecond: 500, ramBytes: 1e9, layerMs: 10, promptTokenMs: 1 },
  ...{ readBackMs: 2, passMs: 1 },
};

describe("a replay", () => {
  const one = (over: Partial<ExpertMachine> = {}, choices = [0, 1, 1]) => {
    const only: ActivationHeader = {
      ...{
        ...header,
        layers: [0],
        experts: 2,
        chosen: 1,
        matrixBytes: [1],
        hiddenSize: 0,
        distances: [],
        guesses: 0,
      },
    };
    const steps = choices.map((expert): ActivationStep => ({
      ...{ phase: "decode", tokens: 1, experts: Uint16Array.of(expert), weights: Float32Array.of(1) },
    }));
    const [strategy] = parseExpertStrategies("lru");
    const options = { strategy: strategy!, rate: 0.5, machine: { ...plain, ...over }, groupLayers: 1 };
    return replayExperts({ header: only, steps }, options);
  };

  test("takes the time that its parts take", () => {
    // Two misses (read 2 ms, copied in 1 ms, run again: 6 + 2 ms), and three steps of 10 + 2 ms.
    const row = one();
    expect(3000 / row.decodeTokensPerSecond).toBeCloseTo(3 * 12 + 2 * (3 + 8));
    expect(row.stallShare).toBeCloseTo(6 / 58);
    expect(row.hitRate).toBeCloseTo(1 / 3);
    expect(row.demandMb * 3).toBeCloseTo(2e-6);
    // What was evicted comes from RAM, unless that is too small.
    expect(4000 / one({}, [0, 1, 0, 0]).decodeTokensPerSecond).toBeCloseTo(4 * 12 + 2 * 11 + 9);
    expect(4000 / one({ ramBytes: 1 }, [0, 1, 0, 0]).decodeTokensPerSecond).toBeCloseTo(4 * 12 + 3 * 11);
  });

  const trace = generateActivity(small);
  const rows = new Map<string, ExpertReplayRow>(
    parseExpertStrategies(expertStrategyNames.join(",")).map((strategy) => [
      strategy.name,
      replayExperts(trace, { strategy, rate: 0.4, machine: laptop, groupLayers: 4 }),
    ]),
  );
  const decode = (name: string): number => rows.get(name)!.decodeTokensPerSecond;
  const prefill = (name: string): number => rows.get(name)!.prefillTokensPerSecond;

  test("shows what each part of ProMoE's cache is worth", () => {
    expect(decode("resident")).toBeCloseTo(1000 / (12 * laptop.layerMs));
    for (const name of expertStrategyNames)
      expect(decode(name), name).toBeLessThanOrEqual(decode("resident"));
    expect(decode("promoe") / decode("on-demand")).toBeGreaterThan(1.3);
    expect(decode("promoe")).toBeGreaterThan(1.3 * decode("promoe-blind"));
    expect(decode("promoe")).toBeGreaterThan(decode("promoe-whole"));
    expect(decode("promoe")).toBeGreaterThan(1.2 * decode("promoe-fifo"));
    expect(prefill("promoe") / prefill("on-demand")).toBeGreaterThan(1.1);
  });

  test("counts guesses by distance: nearer ones are better", () => {
    const { accuracy, fetchRate, goodPredByDistance } = rows.get("promoe")!;
    expect(accuracy).toBeGreaterThan(0.4);
    expect(fetchRate).toBeGreaterThan(0.5);
    expect(goodPredByDistance).toHaveLength(4);
    expect(goodPredByDistance[0]).toBeGreaterThan(goodPredByDistance[3]!);
    expect(rows.get("lru")).toMatchObject({ accuracy: null, goodPred: null, usedMb: 0, wastedMb: 0 });
  });

  test("is the same again", () => {
    const [strategy] = parseExpertStrategies("promoe");
    const again = replayExperts(trace, { strategy: strategy!, rate: 0.4, machine: laptop, groupLayers: 4 });
    expect(again).toEqual(rows.get("promoe"));
  });
});

describe("the command", () => {
  const file = join(folder, "small.act");
  writeFileSync(file, fileOf(generateActivity({ ...small, layers: 4 })));

  test("prints a row for each policy at each rate, as a table or JSON", async () => {
    const asked = { trace: file, policy: "lru,promoe", rate: "0.25,0.5", expertBytes: "1MB" };
    const lines = (await runReplayExperts(asked)).split("\n");
    expect(lines).toHaveLength(5);
    expect(lines[0]).toMatch(/^policy +rate +hits +prefill tok\/s +decode tok\/s +stalled/);
    const rows = JSON.parse(await runReplayExperts({ ...asked, json: true })) as ExpertReplayRow[];
    expect(rows.map(({ strategy, rate }) => [strategy, rate])).toEqual([
      ["lru", 0.25],
      ["promoe", 0.25],
      ["lru", 0.5],
      ["promoe", 0.5],
    ]);
    const larger = JSON.parse(
      await runReplayExperts({ ...asked, expertBytes: "4MB", json: true }),
    ) as ExpertReplayRow[];
    expect(larger[0]!.decodeTokensPerSecond).toBeLessThan(rows[0]!.decodeTokensPerSecond);
  });

  test.each([
    [{ policy: "fifo" }, /policy "fifo" is not one of on-demand, lru/],
    [{ rate: "1.5" }, /--rate is "1.5", expected above 0, at most 1/],
    [{ group: "2.5" }, /--group is "2.5", expected a whole number of layers/],
    [{ link: "fast" }, /--link is "fast", expected a positive number of bytes/],
    [{ expertBytes: "0" }, /--expert-bytes is "0"/],
    [{ trace: join(folder, "none.act") }, /none\.act does not exist/],
  ])("names the bad option: %j", async (bad, message) => {
    await expect(runReplayExperts({ trace: file, ...bad })).rejects.toThrow(message);
  });
});
