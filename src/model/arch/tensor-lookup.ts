/**
 * Finds tensors by name: the engine asks by GGUF's names, and safetensors files are searched by Hugging Face's. It reads no
 * tensor and does not know which a model needs (tensor-names.ts does).
 */
import { TidepoolError } from "../../errors.ts";
import type { ModelFile, TensorInfo } from "../../load/model-file.ts";

/** A part of a layer: its GGUF name, what may follow it, and whether the layer cannot do without it. */
export type TensorSpec = readonly [name: string, suffixes: readonly string[], isRequired: boolean];

/** What may follow the name of a matrix, and of a vector. */
export const MATRIX = ["weight", "bias"];
export const VECTOR = ["weight"];

/** GGUF name without "blk.N." and ".weight" -> the name in safetensors, without the layer's prefix and ".weight". */
const NORM_NAMES: Readonly<Record<string, string>> = {
  attn_norm: "input_layernorm",
  ffn_norm: "post_attention_layernorm",
  post_attention_norm: "post_attention_layernorm",
  post_ffw_norm: "post_feedforward_layernorm",
};

/** The same of the whole model's tensors. */
const MODEL_NAMES: Readonly<Record<string, string>> = { token_embd: "embed_tokens", output_norm: "norm" };

/** Under this name a row says what stands before a layer's number in safetensors, if it is not "layers". */
const LAYERS = "layers";

/**
 * What stands before "layers.N" in text models, in the text part of multi-modal ones, and in models that were saved without a head
 * or with another than that of language models.
 */
const PREFIXES = [
  ...["model.", "language_model.model.", "model.language_model.", "backbone."],
  ...["transformer.", "gpt_neox.", "", "bert.", "roberta."],
];

/** Other names of the head, which stands before the prefix. */
const HEADS = ["language_model.lm_head", "embed_out"];

/** The tensors of one layer. */
export interface LayerTensors {
  has(name: string, suffix?: string): boolean;
}

/** @throws TidepoolError `invalid_file` naming the tensor. */
export function requireTensor(tensor: TensorInfo | undefined, name: string): TensorInfo {
  if (tensor) return tensor;
  throw new TidepoolError("invalid_file", `the tensor ${name} is missing`, { tensor: name });
}

export class TensorNames {
  private readonly file: ModelFile;
  private readonly names: Readonly<Record<string, string>>;

  /**
   * @param names the names in safetensors of tensors, by those in GGUF: without the suffix, or with it where the file's own name has
   * none ("ssm_dt.bias"); those of norms and of the whole model have defaults. "ffn_up.N" is an expert's, whose number stands for {}
   */
  constructor(file: ModelFile, names: Readonly<Record<string, string>> = {}) {
    this.file = file;
    this.names = { ...MODEL_NAMES, ...NORM_NAMES, ...names };
  }

  /** A tensor of the whole model: "token_embd", "output_norm", "output". */
  model(name: string, suffix = "weight"): TensorInfo | undefined {
    if (this.file.format === "gguf") {
      const other = name === "output_norm" ? "token_embd_norm" : name; // LFM2's final norm
      return this.first([`${name}.${suffix}`, `${other}.${suffix}`]);
    }
    if (name === "output")
      return this.first([this.names[name] ?? "lm_head", ...HEADS].map((head) => `${head}.${suffix}`));
    const stem = this.names[name] ?? this.numbered(name) ?? name;
    return this.first(PREFIXES.map((prefix) => `${prefix}${stem}.${suffix}`));
  }

  /** A tensor of a layer: "attn_q", "ffn_norm". */
  layer(index: number, name: string, suffix = "weight"): TensorInfo | undefined {
    if (this.file.format === "gguf") {
      return this.file.tensors.get(`blk.${index}.${name}${suffix === "" ? "" : `.${suffix}`}`);
    }
    const other = this.inSafetensors(name, suffix);
    const layers = this.names[LAYERS] ?? LAYERS;
    return other === undefined
      ? undefined
      : this.first(PREFIXES.map((prefix) => `${prefix}${layers}.${index}.${other}`));
  }

  private inSafetensors(name: string, suffix: string): string | undefined {
    const bare = this.names[`${name}.${suffix}`];
    const stem = this.names[name] ?? this.numbered(name);
    return bare ?? (stem === undefined || suffix === "" ? stem : `${stem}.${suffix}`);
  }

  /** One of several of a kind, such as an expert's: "ffn_up.3". */
  private numbered(name: string): string | undefined {
    const dot = name.lastIndexOf(".");
    return this.names[`${name.slice(0, dot)}.N`]?.replace("{}", name.slice(dot + 1));
  }

  /** The tensors of a layer. */
  at(index: number): LayerTensors {
    return { has: (name, suffix) => this.layer(index, name, suffix) !== undefined };
  }

  /** A norm of a layer: Falcon-H1 writes one without a suffix. */
  norm(index: number, name: string): TensorInfo | undefined {
    return this.layer(index, name) ?? this.layer(index, name, "");
  }

  require(tensor: TensorInfo | undefined, name: string): TensorInfo {
    return requireTensor(tensor, name);
  }

  private first(names: readonly string[]): TensorInfo | undefined {
    for (const name of names) {
      const tensor = this.file.tensors.get(name);
      if (tensor) return tensor;
    }
    return undefined;
  }
}
