/** The comparison of executed cases with committed numbers. */
import { expect, test } from "vitest";
import { compareCounts } from "../runtime/counts.ts";
import { merged, type StepResult } from "../runtime/result.ts";

const step = (name: string, ran: number, skipped = 0): StepResult => ({
  name,
  ran,
  passed: ran,
  skipped,
  failures: [],
  where: "",
  durationMs: 1,
});

const compare = (results: StepResult[], said: string[] = []): string[] =>
  compareCounts("normal", results, (line) => said.push(line), {
    unit: { ran: 10, skipped: 2 },
  }).map(({ error }) => error);

test("equal numbers are no failure", () => expect(compare([step("unit", 10, 2)])).toEqual([]));

test("a case that no longer runs, or is skipped instead, is a failure", () => {
  expect(compare([step("unit", 9, 2)])).toHaveLength(1);
  expect(compare([step("unit", 11, 2)])).toHaveLength(1);
  expect(compare([step("unit", 9, 3)])).toEqual([
    "ran 9 and skipped 3, but test/expected-counts.json expects 10 and 2",
  ]);
});

test("a step without a number is a failure, except on drivers that few machines have, which is said", () => {
  expect(compare([step("chromium", 5)])).toHaveLength(1);
  const said: string[] = [];
  expect(compare([step("node-gpu", 5), step("node-swiftshader-alone", 5)], said)).toEqual([]);
  expect(said).toHaveLength(2);
});

test("the parts of a step are one result: nothing of a part is lost", () => {
  const failed = { ...step("x", 3), passed: 2, failures: [{ name: "a", error: "b" }], where: "here" };
  const other = { ...step("x", 4, 5), measured: ["m"], where: "here" };
  expect(merged("chromium", [failed, other])).toEqual({
    ...{ name: "chromium", ran: 7, passed: 6, skipped: 5, durationMs: 2 },
    ...{ failures: [{ name: "a", error: "b" }], measured: ["m"], where: "here" },
  });
});
