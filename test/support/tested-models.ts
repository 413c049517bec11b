/**
 * The README's table of tested models: what test/tested-models.json says was run (test/runtime/tested.ts writes it), with the models
 * that people know each architecture by. It runs nothing.
 */
import { readFileSync } from "node:fs";

/** What was run of an architecture, by name. */
export interface Tested {
  /** Variants compared with llama.cpp's logits (../shared/goldens/models). */
  golden: string[];
  /** Families compared with the logits of transformers, from safetensors (test/goldens). */
  transformers: string[];
  /** Real weights, end to end (test/real). */
  real: string[];
}

/** By `general.architecture`. */
export type TestedModels = Record<string, Tested>;

export const TESTED_FILE = "test/tested-models.json";

/** Models by which an architecture is known. */
export const KNOWN_BY: Readonly<Record<string, string>> = {
  llama: "Llama 2 and 3.x, SmolLM2, Mistral 7B and Nemo, Mixtral, TinyLlama",
  qwen2: "Qwen2, Qwen2.5, DeepSeek-R1-Distill-Qwen",
  qwen3: "Qwen3, Qwen3 Embedding",
  mistral3: "Ministral 3, Mistral Small 3.x",
  phi3: "Phi-3, Phi-3.5, Phi-4, Phi-4-mini",
  granite: "Granite 3.x, Granite 4.0 and 4.1 (dense)",
  ernie4_5: "ERNIE 4.5 0.3B",
  "hunyuan-dense": "Hunyuan 0.5B to 7B",
  olmo2: "OLMo 2, OLMo 3",
  exaone4: "EXAONE 4.0 1.2B and 32B",
  seed_oss: "Seed-OSS 36B",
  internlm2: "InternLM2 and 2.5",
  minicpm: "MiniCPM 1B and 2B",
  glm4: "GLM-4 9B and 32B, GLM-Edge",
  smollm3: "SmolLM3 3B",
  gemma: "Gemma 2B and 7B",
  gemma2: "Gemma 2 2B to 27B",
  gemma3: "Gemma 3 270M to 27B",
  gemma3n: "Gemma 3n E2B and E4B",
  gemma4: "Gemma 4 E2B, E4B, 26B-A4B and 31B",
  apertus: "Apertus 8B",
  arcee: "AFM 4.5B",
  bert: "all-MiniLM, BGE, E5",
  "nomic-bert": "Nomic Embed Text",
  "nomic-bert-moe": "Nomic Embed Text v2",
  "modern-bert": "ModernBERT",
  "gemma-embedding": "EmbeddingGemma 300M",
  starcoder2: "StarCoder2 3B to 15B",
  gpt2: "GPT-2",
  gptneox: "Pythia, RedPajama 3B, Dolly",
  falcon: "Falcon 7B and 40B",
  phi2: "Phi-1, Phi-1.5, Phi-2",
  stablelm: "StableLM 2 1.6B and 12B, StableLM Zephyr 3B",
  lfm2: "LFM2 350M to 2.6B",
  granitehybrid: "Granite 4.0 H",
  mamba2: "Mamba-2 130M to 2.7B",
  "falcon-h1": "Falcon-H1 0.5B to 34B",
  qwen35: "Qwen3.5 0.8B to 27B",
  nemotron_h: "Nemotron-H 4B and 8B, Nemotron Nano 2",
  qwen3next: "Qwen3-Next 80B-A3B",
  qwen3moe: "Qwen3 30B-A3B and 235B-A22B",
  olmoe: "OLMoE 1B-7B",
  qwen2moe: "Qwen1.5-MoE-A2.7B, Qwen2 57B-A14B",
  lfm2moe: "LFM2 8B-A1B",
  granitemoe: "Granite 3.x 1B-A400M and 3B-A800M",
  qwen35moe: "Qwen3.5 35B-A3B",
  "ernie4_5-moe": "ERNIE 4.5 21B-A3B",
  glm4moe: "GLM-4.5-Air",
  "gpt-oss": "gpt-oss 20B and 120B",
  deepseek2: "DeepSeek-V2 (Lite), DeepSeek-V3 and R1, Kimi K2",
  nemotron_h_moe: "Nemotron 3 Nano 30B-A3B",
};

/** The model that a GPU case compares with a reference, by the case's name. */
export function modelOfCase(name: string): { kind: "golden" | "transformers"; name: string } | undefined {
  const family = /^model\/transformers\/(\S+) f/.exec(name)?.[1];
  if (family !== undefined) return { kind: "transformers", name: family };
  const variant = /^model\/(?:embedding\/(\S+) f|(\w+)\/(?:once|chunks of 7|one by one) blocks)/.exec(name);
  const golden = variant?.[1] ?? variant?.[2];
  return golden === undefined ? undefined : { kind: "golden", name: golden };
}

export const readTested = (): TestedModels => JSON.parse(readFileSync(TESTED_FILE, "utf8")) as TestedModels;

/** The table, as Markdown lines. */
export function testedTable(tested: TestedModels): string[] {
  const rows = Object.entries(tested).map(([architecture, each]) => {
    const { transformers, real } = each;
    const isFolder = transformers.length > 0 || real.some((name) => name.endsWith(" in safetensors"));
    const formats = isFolder ? "GGUF, safetensors" : "GGUF";
    return `| \`${architecture}\` | ${KNOWN_BY[architecture] ?? ""} | ${formats} | ${howTested(each)} |`;
  });
  return ["| architecture | models | tested formats | compared with |", "|---|---|---|---|", ...rows];
}

function howTested({ golden, transformers, real }: Tested): string {
  return [
    ...(golden.length > 0 ? [`llama.cpp${golden.length > 1 ? ` (${golden.length} variants)` : ""}`] : []),
    ...(transformers.length > 0 ? [`transformers (${transformers.join(", ")})`] : []),
    ...real.map((name) => `${name}, real weights`),
  ].join("; ");
}

const BEGIN = "<!-- tested models -->\n\n";
const END = "\n\n<!-- end of tested models -->";

/** A page with the table in its place. @throws Error if the page has no place for it */
export function withTable(page: string, tested: TestedModels): string {
  const [from, to] = [page.indexOf(BEGIN) + BEGIN.length, page.indexOf(END)];
  if (!page.includes(BEGIN) || to < from) throw new Error(`the page has no place marked ${BEGIN.trim()}`);
  return page.slice(0, from) + testedTable(tested).join("\n") + page.slice(to);
}
