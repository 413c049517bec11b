/** The goldens: each has its case; those of test/goldens say what they were made with, and stay small. */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { FAMILIES, VECTOR_FAMILIES } from "../model/transformers.cases.ts";
import { EMBEDDING_VARIANTS, METADATA, VARIANTS } from "../model/variants.ts";
import { sharedPath, sharedPresent, skipLoudly } from "../support/shared.ts";

const FOLDER = "test/goldens";
const MAX_FAMILY_BYTES = 200_000;

const folders = readdirSync(FOLDER).filter((name) => statSync(`${FOLDER}/${name}`).isDirectory());

test("every folder has a case, and every case a folder", () => {
  expect(folders.sort()).toEqual([...FAMILIES, ...VECTOR_FAMILIES].sort());
});

test.each(folders)("%s says what it was made with, and has no file that nobody reads", (name) => {
  const folder = `${FOLDER}/${name}`;
  const golden = JSON.parse(readFileSync(`${folder}/golden.json`, "utf8")) as Record<string, unknown>;
  expect(golden["transformers"]).toMatch(/^5\./);
  expect(golden["torch"]).toBe("2.13.0");
  expect(golden["seed"]).toBe(13);
  const numbers = VECTOR_FAMILIES.includes(name) ? "vectors.f32" : "logits.f32";
  const named = ["golden.json", numbers, ...(golden["files"] as string[])];
  const files = readdirSync(folder, { recursive: true, encoding: "utf8" });
  expect(files.filter((file) => statSync(`${folder}/${file}`).isFile()).sort()).toEqual(named.sort());
  const bytes = named.reduce((sum, file) => sum + statSync(`${folder}/${file}`).size, 0);
  expect(bytes).toBeLessThan(MAX_FAMILY_BYTES);
});

test("shards, tied heads and all three types of numbers are among them", () => {
  const configs = folders.map(
    (name) => JSON.parse(readFileSync(`${FOLDER}/${name}/config.json`, "utf8")) as object,
  );
  const values = (key: string) => new Set(configs.map((config) => (config as Record<string, unknown>)[key]));
  const types = new Set([...values("dtype"), ...values("torch_dtype")].filter(Boolean));
  expect([...types].sort()).toEqual(["bfloat16", "float16", "float32"]);
  expect([...values("tie_word_embeddings")]).toEqual(expect.arrayContaining([true, false]));
  const sharded = folders.filter((name) => existsSync(`${FOLDER}/${name}/model.safetensors.index.json`));
  expect(sharded.length).toBeGreaterThan(1);
});

if (!sharedPresent) skipLoudly("given goldens", 2);

describe.skipIf(!sharedPresent)("every given folder has a case, and every case a folder", () => {
  test.each([
    ["models", [...VARIANTS, ...EMBEDDING_VARIANTS]],
    ["metadata", METADATA],
  ])("%s", (folder, names) => {
    expect([...names].sort()).toEqual(readdirSync(sharedPath(`goldens/${folder}`)).sort());
  });
});
