/** The shipped models' table: that it says the truth about the engine, and what names resolve to. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename } from "node:path";
import { expect, test } from "vitest";
import {
  DEFAULT_MODEL,
  resolveModel,
  RUNNABLE_NAMES,
  SHIPPED_MODELS,
  shippedPath,
} from "../../src/api/shipped.ts";
import { ARCHITECTURE_NAMES } from "../../src/model/arch/rows.ts";
import { cases } from "../model/shipped.cases.ts";

test("a shipped model is offered exactly if its architecture runs", () => {
  for (const { name, architecture, runs } of SHIPPED_MODELS)
    expect([name, runs]).toEqual([name, ARCHITECTURE_NAMES.includes(architecture)]);
  expect(RUNNABLE_NAMES).toContain(DEFAULT_MODEL);
});

test("every model file in demo/models is in the table, and goes into the models' package alone", async () => {
  const files = readdirSync("demo/models").filter((file) => file.endsWith(".gguf"));
  const known = SHIPPED_MODELS.map(({ name }) => `${name}.gguf`);
  expect(files.filter((file) => !known.includes(file))).toEqual([]);
  const models = packageOf("demo/models/package.json");
  const core = packageOf("package.json");
  expect(models.files).toContain("*.gguf");
  expect(models.version).toBe(core.version);
  expect(core.files.filter((file) => file.startsWith("demo"))).toEqual([]);
  const { tideDense, tideHybrid, tideMoe } = await import("../../demo/models/index.js");
  expect([tideDense, tideHybrid, tideMoe].map((url) => basename(url.pathname))).toEqual(known);
});

interface Package {
  version: string;
  files: string[];
}

const packageOf = (file: string) => JSON.parse(readFileSync(file, "utf8")) as Package;

test("every shipped model that runs is compared with PyTorch's logits", () => {
  for (const name of RUNNABLE_NAMES)
    expect(cases.filter((each) => each.name.startsWith(`model/shipped/${name} `)).length).toBeGreaterThan(0);
});

test("a name resolves to its file, and what is no name stays as it is", () => {
  if (existsSync("demo/models/tide-dense.gguf"))
    expect(resolveModel("tide-dense")).toBe(`${process.cwd()}/demo/models/tide-dense.gguf`);
  expect(resolveModel("./tide-dense")).toBe("./tide-dense");
  expect(resolveModel("https://example.org/a.gguf")).toBe("https://example.org/a.gguf");
  for (const { name, runs } of SHIPPED_MODELS) if (!runs) expect(resolveModel(name)).toBe(name);
  expect(() => shippedPath("tide-none")).toThrow("the model tide-none is not installed: install its package");
});
