/**
 * The same model in other files: the goldens rewritten as safetensors (whole and sharded, with Hugging Face's names, row
 * order and config.json) and as sharded GGUF must give the same logits.
 */
import { openModel, type ModelFile } from "../../src/load/model-file.ts";
import { openBytes, type Source } from "../../src/load/source.ts";
import type { Case } from "../support/cases.ts";
import { f32Bytes, writeGguf, writeSafetensors, type SafeTensorInput } from "../support/gguf-writer.ts";
import { loadGolden, nmse, runFile } from "./golden.ts";

const GATE = 1e-9;
const GATE_GEMMA = 1e-7;

const LAYER: Record<string, string> = {
  attn_norm: "input_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  attn_q_norm: "self_attn.q_norm",
  attn_k_norm: "self_attn.k_norm",
  ffn_norm: "post_attention_layernorm",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
};

const GEMMA_LAYER: Record<string, string> = {
  ...LAYER,
  post_attention_norm: "post_attention_layernorm",
  ffn_norm: "pre_feedforward_layernorm",
  post_ffw_norm: "post_feedforward_layernorm",
};

const WHOLE: Record<string, string> = {
  "token_embd.weight": "model.embed_tokens.weight",
  "output_norm.weight": "model.norm.weight",
  "output.weight": "lm_head.weight",
};

interface Tensor {
  name: string;
  /** Contiguous dimension first. */
  shape: number[];
  values: Float32Array<ArrayBuffer>;
}

async function tensorsOf(file: ModelFile): Promise<Tensor[]> {
  const tensors: Tensor[] = [];
  for (const info of file.tensors.values()) {
    const bytes = new Uint8Array(info.sizeBytes);
    let at = 0;
    for await (const piece of file.readTensor(info)) {
      bytes.set(piece, at);
      at += piece.length;
    }
    tensors.push({ name: info.name, shape: info.shape, values: new Float32Array(bytes.buffer) });
  }
  return tensors;
}

/** GGUF row (head, 2i + s) is Hugging Face's row (head, s * half + i). */
function unpermute({ values, shape }: Tensor, headDim: number): Float32Array<ArrayBuffer> {
  const [columns, rows] = shape as [number, number];
  const out = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    const head = Math.floor(row / headDim);
    const inHead = row % headDim;
    const target = head * headDim + (inHead % 2) * (headDim / 2) + Math.floor(inHead / 2);
    out.set(values.subarray(row * columns, (row + 1) * columns), target * columns);
  }
  return out;
}

function toSafetensors(tensor: Tensor, architecture: string, headDim: number): SafeTensorInput {
  const names = architecture === "gemma3" ? GEMMA_LAYER : LAYER;
  const [, layer, what] = /^blk\.(\d+)\.(\w+)\.weight$/.exec(tensor.name) ?? [];
  const name = what === undefined ? WHOLE[tensor.name] : `model.layers.${layer}.${names[what]}.weight`;
  if (name === undefined || name.includes("undefined")) throw new Error(`no name for ${tensor.name}`);
  const interleaved = architecture === "llama" || architecture === "smollm3";
  let { values } = tensor;
  if (interleaved && (what === "attn_q" || what === "attn_k")) values = unpermute(tensor, headDim);
  if (architecture === "gemma3" && tensor.shape.length === 1) values = values.map((value) => value - 1);
  return { name, dtype: "F32", shape: [...tensor.shape].reverse(), data: f32Bytes(values) };
}

function configOf(metadata: Map<string, unknown>, architecture: string): Record<string, unknown> {
  const get = (key: string) => metadata.get(`${architecture}.${key}`) as number | undefined;
  const heads = get("attention.head_count") as number;
  const hidden = get("embedding_length") as number;
  const scaling = get("rope.scaling.type") as string | undefined;
  return {
    model_type: architecture === "gemma3" ? "gemma3_text" : architecture,
    hidden_size: hidden,
    num_hidden_layers: get("block_count"),
    num_attention_heads: heads,
    num_key_value_heads: get("attention.head_count_kv"),
    head_dim: get("attention.key_length") ?? hidden / heads,
    ...(architecture === "gemma3" && { query_pre_attn_scalar: get("attention.key_length") }),
    intermediate_size: get("feed_forward_length"),
    vocab_size: get("vocab_size"),
    max_position_embeddings: get("context_length"),
    rms_norm_eps: get("attention.layer_norm_rms_epsilon"),
    rope_theta: get("rope.freq_base"),
    rope_local_base_freq: get("rope.freq_base_swa"),
    sliding_window: get("attention.sliding_window"),
    ...(scaling && {
      rope_scaling: {
        rope_type: scaling,
        factor: get("rope.scaling.factor"),
        original_max_position_embeddings: get("rope.scaling.original_context_length"),
      },
    }),
  };
}

async function safetensorsSources(model: Uint8Array, sharded: boolean): Promise<Source[]> {
  const file = await openModel([openBytes(model, "model.gguf")]);
  if (file.format !== "gguf") throw new Error("the goldens are GGUF files");
  const architecture = file.metadata.get("general.architecture") as string;
  const config = configOf(file.metadata, architecture);
  const tensors = (await tensorsOf(file)).map((t) =>
    toSafetensors(t, architecture, config["head_dim"] as number),
  );
  const json = (name: string, value: unknown) =>
    openBytes(new TextEncoder().encode(JSON.stringify(value)), name);
  if (!sharded)
    return [json("config.json", config), openBytes(writeSafetensors(tensors), "model.safetensors")];
  const half = Math.ceil(tensors.length / 2);
  const parts = [tensors.slice(0, half), tensors.slice(half)];
  const names = parts.map((_, index) => `model-0000${index + 1}-of-00002.safetensors`);
  const map = parts.flatMap((part, index) => part.map(({ name }) => [name, names[index]]));
  return [
    json("config.json", config),
    json("model.safetensors.index.json", { metadata: {}, weight_map: Object.fromEntries(map) as unknown }),
    ...parts.map((part, index) => openBytes(writeSafetensors(part), names[index] as string)),
  ];
}

async function shardedGguf(model: Uint8Array): Promise<Source[]> {
  const file = await openModel([openBytes(model, "model.gguf")]);
  if (file.format !== "gguf") throw new Error("the goldens are GGUF files");
  const tensors = await tensorsOf(file);
  const scalars = [...file.metadata].filter(([, value]) => typeof value !== "object") as [
    string,
    string | number,
  ][];
  const half = Math.ceil(tensors.length / 2);
  return [tensors.slice(0, half), tensors.slice(half)].map((part, index) => {
    const split = { "split.no": index, "split.count": 2, "split.tensors.count": tensors.length };
    const metadata = { ...(index === 0 ? Object.fromEntries(scalars) : {}), ...split };
    const inputs = part.map(({ name, shape, values }) => ({
      name,
      type: "F32",
      shape,
      data: f32Bytes(values),
    }));
    return openBytes(writeGguf({ metadata, tensors: inputs }), `model-0000${index + 1}-of-00002.gguf`);
  });
}

/** Queries, keys and values, and their biases, one below the other in one tensor of each attention layer. */
async function fusedGguf(model: Uint8Array): Promise<Source[]> {
  const file = await openModel([openBytes(model, "model.gguf")]);
  if (file.format !== "gguf") throw new Error("the goldens are GGUF files");
  const tensors = new Map((await tensorsOf(file)).map((tensor) => [tensor.name, tensor]));
  for (const name of [...tensors.keys()].filter((each) => /attn_q\.(weight|bias)$/.test(each))) {
    const parts = ["q", "k", "v"].map((part) => name.replace("attn_q.", `attn_${part}.`));
    const [first, ...rest] = parts.map((part) => tensors.get(part)) as [Tensor, ...Tensor[]];
    const values = Float32Array.from([first, ...rest].flatMap((tensor) => [...tensor.values]));
    const rows = [first, ...rest].reduce((sum, { shape }) => sum + (shape.at(-1) ?? 0), 0);
    for (const part of parts) tensors.delete(part);
    const fused = name.replace("attn_q.", "attn_qkv.");
    tensors.set(fused, { name: fused, shape: [...first.shape.slice(0, -1), rows], values });
  }
  const metadata = Object.fromEntries([...file.metadata].filter(([key]) => !key.startsWith("tokenizer.")));
  const inputs = [...tensors.values()].map(({ name, shape, values }) => ({
    ...{ name, type: "F32", shape, data: f32Bytes(values) },
  }));
  return [
    openBytes(writeGguf({ metadata: metadata as Record<string, number>, tensors: inputs }), "fused.gguf"),
  ];
}

function sameLogits(
  name: string,
  variant: string,
  rewrite: (model: Uint8Array) => Promise<Source[]>,
  folder = `goldens/models/${variant}`,
): Case {
  return {
    name: `model/formats/${variant} as ${name}`,
    async run(env) {
      const { golden, expected, model } = await loadGolden(env, folder);
      const file = await openModel(await rewrite(model));
      const setting = { dtype: "f32", kvDtype: "f32", blockTokens: 32, feed: "once" } as const;
      const error = nmse(await runFile(env.gpu, file, golden.tokens, setting), expected);
      const gate = variant === "gemma3" ? GATE_GEMMA : GATE;
      if (!(error < gate)) throw new Error(`NMSE ${error.toExponential(2)}, gate ${gate}`);
    },
  };
}

export const cases: Case[] = [
  ...["llama", "llamalinear", "llamayarn", "qwen3", "smollm3", "gemma3"].map((variant) =>
    sameLogits("safetensors", variant, (model) => safetensorsSources(model, false)),
  ),
  sameLogits("sharded safetensors", "qwen3", (model) => safetensorsSources(model, true)),
  sameLogits("sharded GGUF", "qwen3", shardedGguf),
  sameLogits("fused GGUF", "qwen35", fusedGguf),
  sameLogits("fused GGUF", "llama-bias", fusedGguf, "goldens/metadata/llama-bias"),
];
