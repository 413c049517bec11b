/**
 * Tiny random models of test/goldens, as `transformers` saves them (safetensors, shards, config.json), against the logits
 * that `transformers` computes from the same files in float32 (test/goldens/make.py).
 */
import { openModel } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { argmaxMisses, nmse, runFile, type Golden, type Setting } from "./golden.ts";

/** The folders of test/goldens; a unit test holds that none is missing. */
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
];

const F32_GATE = 1e-9;
const F16_GATE = 1e-4;

/** What make.py writes beside a model. */
interface SavedGolden extends Golden {
  /** The files of the model. */
  files: string[];
}

async function loadFamily(env: CaseEnv, family: string) {
  const read = (file: string) => env.golden(`${family}/${file}`);
  const golden = JSON.parse(new TextDecoder().decode(await read("golden.json"))) as SavedGolden;
  const sources = await Promise.all(golden.files.map(async (file) => openBytes(await read(file), file)));
  const expected = new Float32Array((await read("logits.f32")).slice().buffer);
  return { golden, expected, file: await openModel(sources) };
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

export const cases: Case[] = FAMILIES.flatMap((family) => [
  familyCase(family, "f32"),
  familyCase(family, "f16"),
]);
