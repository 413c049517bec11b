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
  sentenceTraits({ modules: list, pooling, settings, dense: [] });

/** Modules with matrices behind the pooling, the first of which says this. */
const denseTraits = (config: Record<string, unknown>, list = modules("Transformer", "Pooling", "Dense")) =>
  sentenceTraits({ modules: list, pooling: {}, settings: {}, dense: [config] });

const DENSE = { out_features: 48, bias: false, activation_function: "torch.nn.modules.linear.Identity" };

test("the rows of a matrix behind the pooling", () => {
  expect(denseTraits(DENSE).dense).toEqual([48]);
  expect(traits({}).dense).toEqual([]);
});

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
    "a module that nothing computes",
    () => traits({}, {}, modules("Transformer", "Pooling", "LSTM")),
    "models.LSTM",
  ],
  ["a bias of a matrix", () => denseTraits({ ...DENSE, bias: true }), "Dense: bias: true"],
  ["what is silent of a bias", () => denseTraits({ out_features: 4 }), "Dense: bias: true"],
  [
    "an activation behind a matrix",
    () => denseTraits({ ...DENSE, activation_function: "torch.nn.modules.activation.Tanh" }),
    "only Identity",
  ],
  ["a matrix without rows", () => denseTraits({ ...DENSE, out_features: 0 }), "Dense: out_features: 0"],
  [
    "a matrix before the pooling",
    () => denseTraits(DENSE, modules("Transformer", "Dense", "Pooling")),
    "models.Dense in place 1 does not run here, only dense_2 and dense_3",
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
