/**
 * Settings that nobody read. Those of families that change what a model computes are refused by name, because a model that
 * is computed without them answers fluently and wrongly; the exceptions are listed with the reason why they change nothing.
 * It reads no setting itself.
 */
import { TidepoolError } from "../../errors.ts";
import type { Hyperparameters } from "./hyperparameters.ts";
import { shown, type Settings } from "./settings-reader.ts";

/** A key of a family that may go unread. */
interface Harmless {
  key: RegExp;
  /** Whether this value changes nothing in this model. Default: no value does. */
  when?: (value: unknown, params: Hyperparameters) => boolean;
  why: string;
}

/** What keys of an architecture in GGUF metadata change what is computed, without the architecture's prefix. */
const METADATA_FAMILIES: readonly RegExp[] = [
  /^(attention|rope|ssm|shortconv|expert|experts|moe|wkv|kda|hyper_connection|xielu|indexer)[._]/,
  /soft_?cap|scale|scaling|multiplier|clamp|window|parallel|activation|gating|nextn|interval/,
  /(_norm|norm_|dense_block_count|every_n_layers|interleave|deepstack|token_shift|lora_rank|pattern)/,
];

const METADATA_HARMLESS: readonly Harmless[] = [
  {
    key: /^(attention|rope)\./,
    when: (_, { headDim }) => headDim === 0,
    why: "there is no attention (Mamba-2)",
  },
  { key: /^attention\.causal$/, when: isTrue, why: "every architecture here is causal" },
  {
    key: /^attention\.layer_norm_epsilon$/,
    why: "only architectures whose norms are LayerNorms read it; RMS norms have an epsilon of their own",
  },
  {
    key: /^expert|dense_block_count$/,
    when: (_, { experts }) => experts === 0,
    why: "there are no experts, which is seen by their count",
  },
  {
    key: /^attention\.sliding_window$/,
    when: (value, { contextTokens }) => Number(value) >= contextTokens,
    why: "the window sees the whole context",
  },
  {
    key: /^rope\.dimension_sections$/,
    why: "all sections of a text's positions hold the same number, so that they rotate as one",
  },
  { key: /^rope\.scaling\.finetuned$/, why: "tells how the model was trained; llama.cpp prints it" },
  { key: /^rope\.scaling\.yarn_(ext|attn)_factor$/, when: (value) => value === 1, why: "the default" },
  {
    key: /^rope\.scaling\.yarn_log_multiplier$/,
    why: "llama.cpp reads it only for architectures that read it here",
  },
  { key: /^full_attention_interval$/, when: (value) => value === 1, why: "every layer is attention" },
  { key: /^(embedding|residual|logit)_scale$/, when: (value) => value === 1, why: "a factor of 1" },
  {
    key: /^(vision|audio|mm|clip)\./,
    why: "belongs to the encoder of pictures or sound, which text does not pass through",
  },
];

/** @throws TidepoolError `unsupported` naming the first key that would change what is computed. */
export function refuseUnreadMetadata(
  metadata: Settings,
  read: ReadonlySet<string>,
  architecture: string,
  params: Hyperparameters,
): void {
  const prefix = `${architecture}.`;
  for (const [key, value] of metadata) {
    if (read.has(key) || !key.startsWith(prefix)) continue;
    if (matters(key.slice(prefix.length), value, params, METADATA_FAMILIES, METADATA_HARMLESS))
      throw refusal("GGUF metadata", key, value, architecture);
  }
}

/** What keys of config.json change what is computed. */
const CONFIG_FAMILIES: readonly RegExp[] = [
  /rope|rotary|attn|attention|soft_?cap|scal(e|ing)|multiplier|window|expert|moe|clamp|alibi|parallel/i,
  /hidden_act|activation|qk_?(layer_?)?norm|layer_types|nextn|mtp_|quantization|_norm_type|norm_first/i,
];

const CONFIG_HARMLESS: readonly Harmless[] = [
  { key: /^(attention|attn|mlp|qkv)_(out_)?bias$/, why: "biases are taken from the tensors that are there" },
  { key: /^classifier_/, why: "belongs to a head that classifies texts" },
  { key: /dropout|_pdrop$/, why: "nothing is dropped after training" },
  { key: /_init_scale$|^rescale_prenorm_residual$/, why: "scales weights before training" },
  { key: /^mtp_/, why: "belongs to layers that only predict further tokens, which are left out" },
  {
    key: /^rope_parameters\.mrope_(section|interleaved)$/,
    why: "all sections of a text's positions hold the same number, so that they rotate as one",
  },
  { key: /attn_implementation|use_flash|use_sdpa|fused_attn/, why: "chooses a kernel of another engine" },
  { key: /^layer_types$/, when: isAllFull, why: "every layer sees everything" },
  {
    key: /^(sliding_window|max_window_layers)$/,
    why: "transformers reads it only for the model types that read it here",
  },
  { key: /^hidden_act(ivation)?$/, why: "transformers reads the other name for this model type" },
  { key: /^(projector|vision|multimodal)_/, why: "belongs to the encoder of pictures" },
  { key: /^rope_parameters\.max_position_embeddings$/, why: "the context again" },
  {
    key: /^attention_head_dim$/,
    when: (value, { headDim }) => value === headDim,
    why: "the head size under another name",
  },
  {
    key: /^(embedding|residual|logits?|attention)_(multiplier|scaling|scale)$/,
    when: isOne,
    why: "a factor of 1",
  },
];

/** @throws TidepoolError `unsupported` naming the first key that would change what is computed. */
export function refuseUnreadConfig(
  settings: Settings,
  read: ReadonlySet<string>,
  modelType: string,
  params: Hyperparameters,
): void {
  for (const [key, value] of settings) {
    if (read.has(key)) continue;
    if (matters(key, value, params, CONFIG_FAMILIES, CONFIG_HARMLESS))
      throw refusal("config.json", key, value, modelType);
  }
}

function matters(
  key: string,
  value: unknown,
  params: Hyperparameters,
  families: readonly RegExp[],
  harmless: readonly Harmless[],
): boolean {
  if (!families.some((family) => family.test(key)) || isOff(key, value)) return false;
  return !harmless.some((each) => each.key.test(key) && (each.when?.(value, params) ?? true));
}

/** A switch that is off and a factor that is absent; `causal` alone does something when it is off. */
function isOff(key: string, value: unknown): boolean {
  if (/causal/.test(key)) return false;
  return value === undefined || value === null || value === false || value === 0 || value === "none";
}

function isTrue(value: unknown): boolean {
  return value === true;
}

function isOne(value: unknown): boolean {
  return value === 1;
}

function isAllFull(value: unknown): boolean {
  return Array.isArray(value) && value.every((type) => type === "full_attention");
}

function refusal(where: string, key: string, value: unknown, architecture: string): TidepoolError {
  const message = `${where}: ${key} is ${shown(value)}, which "${architecture}" does not compute with here: the model would answer wrongly`;
  return new TidepoolError("unsupported", message, { key, architecture });
}
