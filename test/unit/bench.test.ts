/** What the benchmark and the evaluation say about their numbers: amounts, tables, CSV, and the scoring rules. */
import { expect, test } from "vitest";
import { answerEnded, answerIn, markdown, readEvalSet, repeats } from "../bench/eval-set.ts";
import { compared, longModes, longTable, meanOf, readLongSet } from "../bench/eval-long-set.ts";
import { RANDOM_28M, randomModel, STORIES_260K } from "../bench/random-model.ts";
import { csv, median, tableLines } from "../bench/report.ts";
import { bytesReadPerToken, chooseTargets, multiplyAddsPerPromptToken } from "../bench/targets.ts";
import { openModel } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";

test("an answer is the first line that holds something, and it has ended with its line feed", () => {
  expect(answerIn("\n  4821 \nQuestion: more")).toBe("4821");
  expect(answerIn("4821")).toBe("4821");
  expect(answerEnded("\n 48")).toBe(false);
  expect(answerEnded("\n 4821\n")).toBe(true);
});

test("groups of the evaluation set are chosen by name and distance, and unknown ones are named", () => {
  const { groups } = readEvalSet({ limit: 3, distances: [64], groups: ["needle-64", "needle-128", "list"] });
  expect(groups.map(({ name, items }) => [name, items.length])).toEqual([
    ["needle-64", 3],
    ["list", 3],
  ]);
  expect(() => readEvalSet({ limit: 1, distances: [65] })).toThrow("no group needle-65");
});

test("runs that stood before are counted once for each time that they come again", () => {
  expect(repeats([1, 2, 3, 1, 2, 3, 1, 2], 3)).toEqual({ again: 3, grams: 6 });
  expect(repeats([1, 2, 3, 4, 5], 3)).toEqual({ again: 0, grams: 3 });
  expect(repeats([1, 2], 3)).toEqual({ again: 0, grams: 0 });
});

test("scores as Markdown", () => {
  const scores = {
    perplexity: { items: 2, perplexity: 12.345 },
    list: { items: 3, correct: 2, accuracy: 2 / 3 },
    loops: { items: 50, repeated: 0.0213, ended: 46 },
    far: { skipped: "too long" },
  };
  expect(markdown("m", scores).split("\n").slice(2)).toEqual([
    "| perplexity | 2 | 12.35 |",
    "| list | 3 | 66.7% |",
    "| loops | 50 | 2.1% repeated, 46 end |",
    "| far | - | too long |",
  ]);
});

test("medians, the table's spread and the CSV's quoting", () => {
  expect(median([3, 1, 2])).toBe(2);
  expect(median([4, 1, 2, 3])).toBe(2.5);
  const rows = [{ name: "a", metric: 'with "quotes"', unit: "ms", values: [1, 3, 2] }];
  expect(tableLines(rows).at(-1)).toContain("2 ms  (1 to 3, 3 repeats)");
  const facts = { date: "d", commit: "c", cpu: "x, y", cores: 2, runtime: "r", adapter: "z" };
  expect(csv(rows, facts).split("\n")[1]).toBe('"a","with ""quotes""","ms",2,1,3,3,"d","c","x, y",2,"r","z"');
});

test("targets are chosen by the beginning of their names, always with the adapter", () => {
  expect(chooseTargets(["28m"]).map(({ name }) => name)).toEqual(["adapter", "28m-f16", "28m-q4_0"]);
  const withExperts = chooseTargets(["experts"]).map(({ name }) => name);
  expect(withExperts).toEqual(["adapter", "experts-tide-moe", "experts-random"]);
  expect(() => chooseTargets(["none"])).toThrow('no benchmark "none"');
});

test("the random models are as large as they say, and what a token reads follows from the shape", async () => {
  const model = await openModel([openBytes(randomModel(STORIES_260K, "F32", 1), "tiny.gguf")]);
  const elements = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1);
  const total = [...model.tensors.values()].reduce((sum, tensor) => sum + elements(tensor.shape), 0);
  expect(total).toBe(260_032);
  const large = { kind: "model", name: "x", shape: RANDOM_28M, type: "F16" } as const;
  expect(bytesReadPerToken(large, 0) / 2).toBe(8 * (512 * 64 * 24 + 3 * 512 * 1408) + 512 * 4096);
  expect(multiplyAddsPerPromptToken(large, 0)).toBe(8 * (512 * 64 * 24 + 3 * 512 * 1408));
});

test("modes of long contexts are named, and unknown ones are refused with those that exist", () => {
  expect(longModes("full,q2")).toEqual([
    { name: "full", options: {} },
    { name: "q2", options: { kvDtype: "q2" } },
  ]);
  for (const name of ["q3", "q4@2", "", "full@"])
    expect(() => longModes(name)).toThrow(`no mode "${name}"; there are full, q8, q4, q2`);
});

test("documents of the long set have needles and pairs whose answers stand in them", () => {
  const set = readLongSet([1024, 8192], 3);
  expect(set.contexts.map(({ tokens, documents }) => [tokens, documents.length])).toEqual([
    [1024, 3],
    [8192, 3],
  ]);
  for (const { text, questions } of set.contexts.flatMap(({ documents }) => documents)) {
    expect(questions.map(({ kind }) => kind).join()).toMatch(/^(needle,){12}(pair,?){4}$/);
    for (const { answer } of questions)
      for (const part of answer.split(" and ")) expect(text).toContain(part);
  }
  expect(() => readLongSet([1000], 1)).toThrow("no documents of 1000 tokens");
});

test("modes are compared on the same questions, and documents are what is independent", () => {
  const of = (...right: number[][]) => right.map((each) => ({ right: each.map(Boolean), nll: 1 }));
  const first = of([1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 1, 1]);
  const mode = of([1, 1, 0, 1], [1, 1, 1, 0], [0, 0, 1, 1]);
  const { questions, right, lost, gained, difference } = compared(mode, first);
  expect([questions, right, lost, gained]).toEqual([12, 8, 2, 1]);
  expect(difference.value).toBeCloseTo(-25 / 3);
  expect(difference.within).toBeCloseTo((4.303 * 25) / 3, -1); // t of two degrees times sd / sqrt(3) of 0, -25 and 0
  expect(compared(first, first).difference).toEqual({ value: 0, within: 25 });
  expect(compared(mode, first, (at) => at === 2).lost).toBe(1);
  expect(meanOf([1, 3]).value).toBe(2);
  const contexts = [{ tokens: 1024, documents: first }];
  const full = { mode: "full", kvBytesPerToken: 2048, seconds: 1, contexts };
  const q2 = { mode: "q2", kvBytesPerToken: 384, seconds: 1, contexts: [{ tokens: 1024, documents: mode }] };
  expect(longTable(readLongSet([1024], 3), [full, q2]).split("\n")[3]).toContain("| -8.3 ± ");
});
