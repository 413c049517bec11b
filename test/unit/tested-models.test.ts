/** The README's table of tested models: that it is what was noted of real runs, and that every case of a model is in it. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { cases as embedding } from "../model/embedding.cases.ts";
import { cases as golden } from "../model/golden.cases.ts";
import { cases as transformers } from "../model/transformers.cases.ts";
import { KNOWN_BY, modelOfCase, readTested, testedTable, withTable } from "../support/tested-models.ts";

const tested = Object.entries(readTested());
const all = (kind: "golden" | "transformers") => tested.flatMap(([, each]) => each[kind]).sort();

test("the README has the table that the script makes", () => {
  const page = readFileSync("README.md", "utf8");
  expect(withTable(page, readTested())).toBe(page);
});

test("every model that has a case was run and passed: npm test, then npm run test:table", () => {
  const models = [...golden, ...embedding, ...transformers].flatMap(({ name }) => modelOfCase(name) ?? []);
  for (const kind of ["golden", "transformers"] as const) {
    const named = new Set(models.filter((model) => model.kind === kind).map(({ name }) => name));
    expect(all(kind)).toEqual([...named].sort());
  }
});

test("every architecture in it is known by some model", () => {
  expect(tested.map(([name]) => name).filter((name) => !(name in KNOWN_BY))).toEqual([]);
});

test("a page without a place for the table is no page of this kind", () => {
  expect(() => withTable("# A page", {})).toThrow("no place marked <!-- tested models -->");
  const row = { golden: ["a", "b"], transformers: ["c"], real: ["d"] };
  expect(testedTable({ llama: row, new: { ...row, transformers: [], real: [] } }).slice(2)).toEqual([
    expect.stringMatching(
      /^\| `llama` \| Llama .* \| GGUF, safetensors \| llama.cpp \(2 variants\); transformers \(c\); d, real weights \|$/,
    ),
    "| `new` |  | GGUF | llama.cpp (2 variants) |",
  ]);
});
