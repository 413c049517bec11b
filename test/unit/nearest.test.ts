/** What is said of a model whose architecture is unknown: which known one is most like it, and in what it differs. */
import { describe, expect, test } from "vitest";
import { reportLines } from "../../src/api/report.ts";
import type { ModelFile } from "../../src/load/model-file.ts";
import { nearestKnown } from "../../src/model/arch/nearest.ts";
import type { ModelReport } from "../../src/wire/protocol.ts";

const LAYER = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output"];
const FFN = ["ffn_norm", "ffn_gate", "ffn_up", "ffn_down"];

/** A file of two layers of an architecture that nobody knows. */
function gguf(parts: readonly string[], more: Record<string, unknown> = {}): ModelFile {
  const names = [0, 1].flatMap((layer) => parts.map((part) => `blk.${layer}.${part}.weight`));
  const all = ["token_embd.weight", "output_norm.weight", ...names];
  const settings = {
    block_count: 2,
    embedding_length: 64,
    feed_forward_length: 128,
    context_length: 256,
    vocab_size: 100,
    "attention.head_count": 4,
    "attention.layer_norm_rms_epsilon": 1e-5,
    ...more,
  };
  const metadata = new Map<string, unknown>([["general.architecture", "newllm"]]);
  for (const [key, value] of Object.entries(settings)) metadata.set(`newllm.${key}`, value);
  const tensors = new Map(all.map((name) => [name, { name, type: "F32", shape: [64, 100] }]));
  return { name: "m.gguf", format: "gguf", metadata, tensors } as unknown as ModelFile;
}

describe("the nearest known architecture", () => {
  test("reads all of the model", () => {
    expect(nearestKnown(gguf([...LAYER, ...FFN]))).toEqual({ architecture: "llama", differences: [] });
    const qwen = [...LAYER, "attn_q_norm", "attn_k_norm", ...FFN];
    expect(nearestKnown(gguf(qwen))).toEqual({ architecture: "qwen3", differences: [] });
  });

  test("differs in keys and tensors, which are named once for all layers", () => {
    const parts = [...LAYER, "attn_q_norm", "attn_k_norm", "attn_lanterns", ...FFN.slice(0, -1)];
    expect(nearestKnown(gguf(parts, { "attention.clamp_kqv": 8 }))).toEqual({
      architecture: "qwen3",
      differences: [
        "does not compute with the keys attention.clamp_kqv",
        "would miss the tensors blk.N.ffn_down.weight",
        "has no part for the tensors blk.N.attn_lanterns.weight",
      ],
    });
  });

  test("is told of safetensors too", () => {
    const layer = ["q", "k", "v", "o"].map((name) => `self_attn.${name}_proj`);
    const names = [...layer, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm"];
    const all = [
      "model.embed_tokens.weight",
      "model.norm.weight",
      ...[...names, "post_attention_layernorm"].map((name) => `model.layers.0.${name}.weight`),
    ];
    const tensors = new Map(all.map((name) => [name, { name, type: "F32", shape: [64, 100] }]));
    const text = { num_hidden_layers: 1, hidden_size: 64, num_attention_heads: 4, clip_qkv_scale: 8 };
    const config = { model_type: "newllm", text_config: { ...text, model_type: "newllm_text" } };
    const file = { name: "m", format: "safetensors", config, tensors } as unknown as ModelFile;
    expect(nearestKnown(file)).toEqual({
      architecture: "llama",
      differences: ["does not compute with the keys clip_qkv_scale"],
    });
  });

  test("is told of unknown ones alone", () => {
    const known = gguf(LAYER);
    if (known.format === "gguf") known.metadata.set("general.architecture", "llama");
    expect(nearestKnown(known)).toBeUndefined();
    expect(nearestKnown(gguf(LAYER, { block_count: "many" }))).toBeUndefined();
  });

  test("is a line of the report", () => {
    const report = {
      ...{ name: "m.gguf", format: "gguf", architecture: "newllm", fileBytes: 0, tensors: {}, parameters: 0 },
      ...{ tokenizer: "ready", chatTemplate: "ready", runs: false, problems: ["unknown"], capabilities: [] },
    } as ModelReport;
    const nearest = { architecture: "qwen3", differences: ["would miss the tensors a", "b"] };
    expect(reportLines({ ...report, nearest }).at(-1)).toMatch(
      /^nearest known +qwen3, which would miss the tensors a; b$/,
    );
    expect(reportLines({ ...report, nearest: { ...nearest, differences: [] } }).at(-1)).toMatch(
      /qwen3, which reads every key and tensor/,
    );
  });
});
