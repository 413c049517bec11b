/** What the files of sentence-transformers say of a model's vectors, and what of it is refused by name. */
import { expect, test } from "vitest";
import { openModel } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import { sentenceTraits } from "../../src/model/arch/sentence.ts";
import { writeSafetensors } from "../support/gguf-writer.ts";

const modules = (...names: string[]) =>
  names.map((name) => ({
    type: `sentence_transformers.models.${name}`,
    path: name === "Pooling" ? "1_Pooling" : "",
  }));

const USUAL = modules("Transformer", "Pooling", "Normalize");

const traits = (pooling: Record<string, unknown>, settings?: Record<string, unknown>, list = USUAL) =>
  sentenceTraits({ modules: list, pooling, settings });

test.each([
  [{ pooling_mode_mean_tokens: true, pooling_mode_cls_token: false }, "mean"],
  [{ pooling_mode_cls_token: true, include_prompt: true }, "cls"],
  [{ pooling_mode_lasttoken: true }, "last"],
  [{ pooling_mode: "lasttoken" }, "last"],
  [{ word_embedding_dimension: 384 }, undefined],
])("the pooling of %j is %s", (config, pooling) => {
  expect(traits(config).pooling).toBe(pooling);
});

test.each<[string, () => unknown, string]>([
  [
    "a sum of poolings",
    () => traits({ pooling_mode_mean_tokens: true, pooling_mode_cls_token: true }),
    "pooling_mode",
  ],
  [
    "another pooling",
    () => traits({ pooling_mode_max_tokens: true }),
    "pooling_mode_max_tokens does not run",
  ],
  ["prompts left out of the mean", () => traits({ include_prompt: false }), "include_prompt: false"],
  [
    "a matrix behind the pooling",
    () => traits({}, {}, modules("Transformer", "Pooling", "Dense")),
    "models.Dense",
  ],
])("%s is refused by name", (_what, read, message) => {
  expect(read).toThrow(message);
});

test("prompts are tasks, those without words are none", () => {
  const settings = { prompts: { query: "query: ", document: "" }, default_prompt_name: null };
  expect(traits({ pooling_mode: "mean" }, settings).tasks).toEqual({ query: "query: " });
  expect(traits({ pooling_mode: "mean" }).tasks).toEqual({});
});

test("modules are looked for beside the model, and their folders must be plain", async () => {
  const text = (name: string, value: unknown) =>
    openBytes(new TextEncoder().encode(JSON.stringify(value)), name);
  const open = (list: unknown) => {
    const files = new Map(
      Object.entries({
        "config.json": { model_type: "bert" },
        "modules.json": list,
        "1_Pooling/config.json": { pooling_mode_cls_token: true },
      }),
    );
    const locate = (name: string) => {
      if (name === "model.safetensors") return Promise.resolve(openBytes(writeSafetensors([]), name));
      return Promise.resolve(files.has(name) ? text(name, files.get(name)) : undefined);
    };
    return openModel({ first: undefined, locate });
  };
  const file = await open(USUAL);
  expect(file).toMatchObject({
    sentence: { pooling: { pooling_mode_cls_token: true }, settings: undefined },
  });
  await file.close();
  const outside = [{ type: "sentence_transformers.models.Pooling", path: "../elsewhere" }];
  await expect(open(outside)).rejects.toThrow("modules.json: is not a list of modules");
});
