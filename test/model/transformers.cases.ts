/**
 * Tiny random models of test/goldens, as `transformers` saves them (safetensors, shards, config.json), against the logits
 * that `transformers` computes from the same files in float32 (test/goldens/make.py).
 */
import { openModel } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { Runner } from "../../src/model/runner.ts";
import { embedAll } from "./embedding.cases.ts";
import { argmaxMisses, nmse, runFile, type Golden, type Setting } from "./golden.ts";

/** The folders of test/goldens, with VECTOR_FAMILIES; a unit test holds that none is missing. */
export const FAMILIES = [
  "llama",
  "mistral",
  "qwen3",
  "smollm3",
  "gemma3",
  "qwen2",
  "gemma2",
  "phi3",
  "ministral3",
  "granite",
  "olmo3",
  "exaone4",
  "hunyuan",
  "ernie",
  "glm4",
  "lfm2",
  "granitehybrid",
  "mamba2",
  "falconh1",
  "qwen35",
  "gpt2",
  "gptneox",
  "falcon",
  "phi",
  "starcoder2",
  "stablelm",
  "arcee",
  "mixtral",
  "qwen2moe",
  "qwen3moe",
  "olmoe",
  "lfm2moe",
  "granitemoe",
  "granitehybridmoe",
  "qwen3next",
  "qwen35moe",
  "erniemoe",
  "glm4moe",
  "deepseek2",
  "deepseek3",
  "nemotronh",
  "stablelm12",
  "apertus",
  "gptoss",
  "gptossmxfp4",
  "gemma3n",
  "gemma4",
  "gemma4moe",
  "internlm2",
  "minicpm",
  "gemma",
  "seedoss",
];

/** Those that make vectors of texts. */
export const VECTOR_FAMILIES = [
  "bert",
  "roberta",
  "xlmroberta",
  "modernbert",
  "nomicbert",
  "gemmaembedding",
  "qwen3embedding",
];

/** 16 bits do not hold its streams (golden.cases.ts holds the refusal). */
const REFUSED_IN_F16 = "gemma3n";

const F32_GATE = 1e-9;
const F16_GATE = 1e-4;

/** What make.py writes beside a model. */
interface SavedGolden extends Golden {
  /** The files of the model. */
  files: string[];
  /** Texts of which it has vectors. */
  inputs?: number[][];
}

async function loadFamily(env: CaseEnv, family: string, numbers = "logits.f32") {
  const read = (file: string) => env.golden(`${family}/${file}`);
  const golden = JSON.parse(new TextDecoder().decode(await read("golden.json"))) as SavedGolden;
  const locate = async (file: string) =>
    golden.files.includes(file) ? openBytes(await read(file), file) : undefined;
  const expected = new Float32Array((await read(numbers)).slice().buffer);
  return { golden, expected, file: await openModel({ first: undefined, locate }) };
}

function familyCase(family: string, dtype: "f32" | "f16"): Case {
  return {
    name: `model/transformers/${family} ${dtype}`,
    needs: { f16: dtype === "f16" },
    full: dtype === "f16", // files are read alike for both
    async run(env) {
      const { golden, expected, file } = await loadFamily(env, family);
      const setting: Setting = { dtype, kvDtype: dtype, blockTokens: 16, feed: "chunks of 7" };
      const actual = await runFile(env.gpu, file, golden.tokens, setting);
      const gate = dtype === "f16" ? F16_GATE : F32_GATE;
      const error = nmse(actual, expected);
      if (!(error < gate)) throw new Error(`NMSE ${error.toExponential(2)}, gate ${gate}`);
      const misses = dtype === "f32" ? argmaxMisses(actual, expected, golden.vocabSize) : [];
      if (misses.length > 0) throw new Error(`arg-max differs in rows ${misses.join(", ")}`);
    },
  };
}

function vectorCase(family: string): Case {
  return {
    name: `model/transformers/${family} f32`,
    async run(env) {
      const { golden, expected, file } = await loadFamily(env, family, "vectors.f32");
      const sizes = { blockTokens: 16, chunkTokens: 64, seats: 2, poolTokens: 128 };
      const runner = await Runner.load(env.gpu, file, { dtype: "f32", kvDtype: "f32", ...sizes });
      await file.close();
      try {
        const vectors = await embedAll(runner, golden.inputs ?? []);
        const error = nmse(Float32Array.from(vectors.flatMap((vector) => [...vector])), expected);
        if (!(error < F32_GATE)) throw new Error(`NMSE ${error.toExponential(2)}, gate ${F32_GATE}`);
      } finally {
        runner.destroy();
      }
    },
  };
}

export const cases: Case[] = [
  ...FAMILIES.map((family) => familyCase(family, "f32")),
  ...FAMILIES.filter((family) => family !== REFUSED_IN_F16).map((family) => familyCase(family, "f16")),
  ...VECTOR_FAMILIES.map(vectorCase),
];
