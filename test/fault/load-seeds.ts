/**
 * The whole models that are mutated: the goldens, where they are, the shipped models, and a safetensors model made here.
 */
import { existsSync, readFileSync } from "node:fs";
import { byteLevelVocab } from "../support/tiny-vocab.ts";
import { f32Bytes, writeSafetensors } from "../support/gguf-writer.ts";
import type { Files } from "./load-target.ts";

const SHIPPED = ["tide-dense", "tide-hybrid"];
export const GOLDENS = [
  ...["llama", "llama3rope", "llamalinear", "llamayarn", "qwen3", "gemma3", "smollm3"],
  ...["lfm2", "mamba2", "granitehybrid", "falconh1", "qwen35", "gptoss", "olmoe", "qwen3moe"],
];

/** @param goldenPath the path of a golden model's file, by the model's name */
export function seedModels(root: string, goldenPath?: (name: string) => string): Files[] {
  const models: Files[] = SHIPPED.map((name) => ({
    "model.gguf": readFileSync(`${root}/demo/models/${name}.gguf`),
  }));
  // Three times, since each has many files.
  const folder = safetensorsModel();
  models.push(folder, folder, folder);
  for (const name of goldenPath ? GOLDENS : []) {
    const path = (goldenPath as (name: string) => string)(name);
    if (existsSync(path)) models.push({ "model.gguf": readFileSync(path) });
  }
  // Plain arrays: Node's buffers share a pool, and their slices would be views.
  return models.map((files) =>
    Object.fromEntries(Object.entries(files).map(([name, bytes]) => [name, Uint8Array.from(bytes)])),
  );
}

const HIDDEN = 32;
const FFN = 64;
const LAYERS = 2;

/** A small llama with everything that a published folder has. */
function safetensorsModel(): Files {
  const vocab = byteLevelVocab("gpt-2", { words: ["he", "ll", "hell"] });
  const tokens = vocab.get("tokenizer.ggml.tokens") as string[];
  const tensor = (name: string, ...shape: number[]) => ({
    name,
    dtype: "F32",
    shape,
    data: f32Bytes(new Float32Array(shape.reduce((product, size) => product * size, 1)).fill(0.01)),
  });
  const layer = (i: number) => {
    const at = `model.layers.${i}`;
    return [
      tensor(`${at}.input_layernorm.weight`, HIDDEN),
      tensor(`${at}.self_attn.q_proj.weight`, HIDDEN, HIDDEN),
      tensor(`${at}.self_attn.k_proj.weight`, HIDDEN / 2, HIDDEN),
      tensor(`${at}.self_attn.v_proj.weight`, HIDDEN / 2, HIDDEN),
      tensor(`${at}.self_attn.o_proj.weight`, HIDDEN, HIDDEN),
      tensor(`${at}.post_attention_layernorm.weight`, HIDDEN),
      tensor(`${at}.mlp.gate_proj.weight`, FFN, HIDDEN),
      tensor(`${at}.mlp.up_proj.weight`, FFN, HIDDEN),
      tensor(`${at}.mlp.down_proj.weight`, HIDDEN, FFN),
    ];
  };
  const weights = writeSafetensors(
    [
      tensor("model.embed_tokens.weight", tokens.length, HIDDEN),
      ...Array.from({ length: LAYERS }, (_, i) => layer(i)).flat(),
      tensor("model.norm.weight", HIDDEN),
    ],
    { format: "pt" },
  );
  return {
    "config.json": json(config(tokens.length)),
    "generation_config.json": json({ bos_token_id: 0, eos_token_id: [1, 3] }),
    "tokenizer.json": json(tokenizer(tokens, vocab.get("tokenizer.ggml.merges") as string[])),
    "tokenizer_config.json": json({
      bos_token: "<s>",
      eos_token: { content: "</s>" },
      add_bos_token: true,
      chat_template:
        "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}" +
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    }),
    "model.safetensors": weights,
  };
}

function config(vocabSize: number): Record<string, unknown> {
  return {
    model_type: "llama",
    hidden_size: HIDDEN,
    intermediate_size: FFN,
    num_hidden_layers: LAYERS,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    head_dim: HIDDEN / 2,
    max_position_embeddings: 256,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    rope_scaling: {
      ...{ rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4 },
      original_max_position_embeddings: 128,
    },
    vocab_size: vocabSize,
    tie_word_embeddings: true,
    bos_token_id: 0,
    eos_token_id: 1,
  };
}

function tokenizer(tokens: readonly string[], merges: readonly string[]): Record<string, unknown> {
  const control = tokens.slice(0, 4).map((content, id) => ({ id, content, special: true }));
  const regex = "'s|'t| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
  const split = { type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false };
  const bytes = { type: "ByteLevel", add_prefix_space: false, use_regex: false };
  return {
    version: "1.0",
    added_tokens: control,
    normalizer: {
      type: "Sequence",
      normalizers: [{ type: "NFC" }, { type: "Replace", pattern: { String: "~" }, content: "-" }],
    },
    pre_tokenizer: { type: "Sequence", pretokenizers: [split, bytes] },
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
    },
    decoder: { type: "ByteLevel" },
    model: {
      type: "BPE",
      vocab: Object.fromEntries(tokens.slice(4).map((token, i) => [token, i + 4])),
      merges,
      byte_fallback: false,
      ignore_merges: false,
    },
  };
}

function json(value: unknown): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}
