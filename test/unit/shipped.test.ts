/** The shipped models' table: that it says the truth about the engine, and what names resolve to. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";
import {
  DEFAULT_MODEL,
  resolveModel,
  RUNNABLE_NAMES,
  SHIPPED_MODELS,
  shippedPath,
} from "../../src/api/shipped.ts";
import { ARCHITECTURE_NAMES } from "../../src/model/arch.ts";
import { cases } from "../model/shipped.cases.ts";

test("a shipped model is offered exactly if its architecture runs", () => {
  for (const { name, architecture, runs } of SHIPPED_MODELS)
    expect([name, runs]).toEqual([name, ARCHITECTURE_NAMES.includes(architecture)]);
  expect(RUNNABLE_NAMES).toContain(DEFAULT_MODEL);
});

test("every model file in demo/models is in the table, and goes into the package", () => {
  const files = readdirSync("demo/models").filter((file) => file.endsWith(".gguf"));
  const known = SHIPPED_MODELS.map(({ name }) => `${name}.gguf`);
  expect(files.filter((file) => !known.includes(file))).toEqual([]);
  const { files: packed } = JSON.parse(readFileSync("package.json", "utf8")) as { files: string[] };
  expect(packed).toContain("demo/models/*.gguf");
});

test("every shipped model that runs is compared with PyTorch's logits", () => {
  for (const name of RUNNABLE_NAMES)
    expect(cases.filter((each) => each.name.startsWith(`model/shipped/${name} `)).length).toBeGreaterThan(0);
});

test("a name resolves to its file, and what is no name stays as it is", () => {
  expect(shippedPath("tide-dense")).toBe(`${process.cwd()}/demo/models/tide-dense.gguf`);
  expect(resolveModel("./tide-dense")).toBe("./tide-dense");
  expect(resolveModel("https://example.org/a.gguf")).toBe("https://example.org/a.gguf");
  for (const { name, runs } of SHIPPED_MODELS) if (!runs) expect(resolveModel(name)).toBe(name);
  if (existsSync(shippedPath("tide-dense")))
    expect(resolveModel("tide-dense")).toBe(shippedPath("tide-dense"));
  else expect(() => resolveModel("tide-dense")).toThrow("the shipped model tide-dense is missing");
});
