/**
 * How a model in a folder of sentence-transformers makes vectors of texts: what pools, and what is put before a text. It reads no
 * file (load/model-file.ts does).
 */
import { TidepoolError } from "../../errors.ts";
import type { SentenceFiles } from "../../load/model-file.ts";
import type { Pooling } from "../../shape/shape.ts";
import { DENSE_NAMES } from "../embedding.ts";
import { MAX_WIDTH } from "./hyperparameters.ts";
import { shown } from "./settings-reader.ts";

/** Modules that take part elsewhere: the model itself, and the length of 1 that `embed` gives a vector. */
const OWN_MODULES = ["Transformer", "Pooling", "Dense", "Normalize"];

const POOLINGS: Readonly<Record<string, Pooling>> = { mean: "mean", cls: "cls", lasttoken: "last" };

/** The older keys, each true or false. */
const FLAGS: Readonly<Record<string, Pooling>> = {
  pooling_mode_mean_tokens: "mean",
  pooling_mode_cls_token: "cls",
  pooling_mode_lasttoken: "last",
};

/** Longest prompt that is taken for a task. */
const MAX_PROMPT_CHARS = 4096;

/** @throws TidepoolError `unsupported` naming what would change the vectors. */
export function sentenceTraits({ modules, pooling = {}, dense, settings = {} }: SentenceFiles): {
  pooling: Pooling | undefined;
  dense: number[];
  tasks: Readonly<Record<string, string>>;
} {
  for (const [index, { type }] of modules.entries()) {
    const name = type.slice(type.lastIndexOf(".") + 1);
    if (!OWN_MODULES.includes(name)) throw refusal("modules.json", type, OWN_MODULES.join(", "));
    if (name === "Dense" && !DENSE_NAMES.includes(`dense_${index}`))
      throw refusal("modules.json", `${type} in place ${index}`, DENSE_NAMES.join(" and "));
  }
  return { pooling: poolingOf(pooling), dense: dense.map(rowsOf), tasks: tasksOf(settings["prompts"]) };
}

/** Rows of a matrix behind the pooling, which must be a matrix and no more. */
function rowsOf(config: Record<string, unknown>): number {
  const { out_features: rows, bias = true, activation_function: activation = "Tanh" } = config;
  if (bias !== false) throw refusal("Dense: bias", bias, "false");
  if (!String(activation).endsWith("Identity"))
    throw refusal("Dense: activation_function", activation, "Identity");
  if (Number.isInteger(rows) && Number(rows) > 0 && Number(rows) <= MAX_WIDTH) return Number(rows);
  throw refusal("Dense: out_features", rows, `1 to ${MAX_WIDTH}`);
}

function poolingOf(config: Record<string, unknown>): Pooling | undefined {
  const { pooling_mode: mode, include_prompt: counts = true } = config;
  if (counts !== true) throw refusal("include_prompt", counts, "true");
  if (typeof mode === "string" && Object.hasOwn(POOLINGS, mode)) return POOLINGS[mode];
  const set = Object.keys(config).filter((key) => key.startsWith("pooling_mode") && config[key]);
  const [only = ""] = set;
  if (set.length === 0) return undefined;
  if (set.length === 1 && Object.hasOwn(FLAGS, only)) return FLAGS[only];
  throw refusal("1_Pooling/config.json", set.join(" and "), Object.keys(FLAGS).join(", "));
}

function tasksOf(prompts: unknown): Readonly<Record<string, string>> {
  if (typeof prompts !== "object" || prompts === null) return {};
  const isPrompt = (text: unknown) =>
    typeof text === "string" && text !== "" && text.length <= MAX_PROMPT_CHARS;
  return Object.fromEntries(Object.entries(prompts).filter(([, text]) => isPrompt(text)));
}

function refusal(where: string, value: unknown, expected: string): TidepoolError {
  const message = `${where}: ${shown(value)} does not run here, only ${expected}: the vectors would be others`;
  return new TidepoolError("unsupported", message, { key: where });
}
