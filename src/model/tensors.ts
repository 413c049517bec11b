/**
 * Names of tensors: the engine asks by GGUF's names, and safetensors files are searched by Hugging Face's. It reads no
 * tensor.
 */
import { inFile, TidepoolError } from "../errors.ts";
import type { ModelFile, TensorInfo } from "../load/model-file.ts";
import type { Mixer, ModelShape } from "./shape.ts";
import { formatOf } from "./formats.ts";

/** GGUF name without "blk.N." and ".weight" -> the name in safetensors, without the layer's prefix and ".weight". */
const LAYER_NAMES: Record<string, string> = {
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

/** Where the mixer and the feed-forward have norms after them too, the names shift (Gemma 3). */
const POST_NORM_NAMES: Record<string, string> = {
  post_attention_norm: "post_attention_layernorm",
  ffn_norm: "pre_feedforward_layernorm",
  post_ffw_norm: "post_feedforward_layernorm",
};

const MODEL_NAMES: Record<string, string> = {
  token_embd: "embed_tokens",
  output_norm: "norm",
  rope_freqs: "rope_freqs",
};

/** What stands before "layers.N" in text models, and in the text part of multi-modal ones. */
const PREFIXES = ["model.", "language_model.model.", "model.language_model."];

export class TensorNames {
  private readonly file: ModelFile;
  private readonly postNorms: boolean;

  constructor(file: ModelFile, postNorms: boolean) {
    this.file = file;
    this.postNorms = postNorms;
  }

  /** A tensor of the whole model: "token_embd", "output_norm", "output". */
  model(name: string, suffix = "weight"): TensorInfo | undefined {
    if (this.file.format === "gguf") {
      const other = name === "output_norm" ? "token_embd_norm" : name; // LFM2's final norm
      return this.first([`${name}.${suffix}`, `${other}.${suffix}`]);
    }
    if (name === "output")
      return this.first(["lm_head", "language_model.lm_head"].map((head) => `${head}.${suffix}`));
    return this.first(PREFIXES.map((prefix) => `${prefix}${MODEL_NAMES[name] ?? name}.${suffix}`));
  }

  /** A tensor of a layer: "attn_q", "ffn_norm". */
  layer(index: number, name: string, suffix = "weight"): TensorInfo | undefined {
    if (this.file.format === "gguf") {
      return this.file.tensors.get(`blk.${index}.${name}${suffix === "" ? "" : `.${suffix}`}`);
    }
    const other = (this.postNorms && POST_NORM_NAMES[name]) || LAYER_NAMES[name];
    return other === undefined
      ? undefined
      : this.first(PREFIXES.map((prefix) => `${prefix}layers.${index}.${other}.${suffix}`));
  }

  /** The norm before the feed-forward: Falcon-H1 writes it without a suffix, Qwen3.5 under the name of a post-norm. */
  ffnNorm(index: number): TensorInfo | undefined {
    const named = this.layer(index, "ffn_norm") ?? this.layer(index, "ffn_norm", "");
    return named ?? (this.postNorms ? undefined : this.layer(index, "post_attention_norm"));
  }

  /** @throws TidepoolError `invalid_file` naming the tensor. */
  require(tensor: TensorInfo | undefined, name: string): TensorInfo {
    if (tensor) return tensor;
    throw new TidepoolError("invalid_file", `the tensor ${name} is missing`, { tensor: name });
  }

  private first(names: readonly string[]): TensorInfo | undefined {
    for (const name of names) {
      const tensor = this.file.tensors.get(name);
      if (tensor) return tensor;
    }
    return undefined;
  }
}

/** GGUF names of the matrices that a mixer cannot do without. */
const MIXER_MATRICES: Record<Mixer["kind"], readonly string[]> = {
  attention: ["attn_q", "attn_k", "attn_v", "attn_output"],
  "short-conv": ["shortconv.in_proj", "shortconv.conv", "shortconv.out_proj"],
  mamba2: ["ssm_in", "ssm_conv1d", "ssm_out"],
  "gated-delta": ["attn_qkv", "attn_gate", "ssm_conv1d", "ssm_norm", "ssm_out"],
};

/** Checks by the header alone that the tensors a model cannot do without are there, in formats that have kernels. */
export function checkTensors(file: ModelFile, shape: ModelShape): void {
  try {
    checkNamed(file, shape);
  } catch (error) {
    throw inFile(file.name, error);
  }
}

function checkNamed(file: ModelFile, shape: ModelShape): void {
  const names = new TensorNames(file, shape.postNorms);
  names.require(names.model("token_embd"), "token_embd.weight");
  names.require(names.model("output_norm"), "output_norm.weight");
  shape.layers.forEach(({ mixers, ffn }, index) => {
    const wanted = ["attn_norm", ...mixers.flatMap(({ kind }) => MIXER_MATRICES[kind])];
    if (ffn) wanted.push("ffn_gate", "ffn_up", "ffn_down");
    for (const name of wanted) names.require(names.layer(index, name), `blk.${index}.${name}.weight`);
    if (ffn) names.require(names.ffnNorm(index), `blk.${index}.ffn_norm.weight`);
  });
  for (const tensor of file.tensors.values()) formatOf(tensor.type, tensor.name);
}
