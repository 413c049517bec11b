/**
 * Names of tensors: the engine asks by GGUF's names, and safetensors files are searched by Hugging Face's. It reads no
 * tensor.
 */
import { inFile, TidepoolError } from "../../errors.ts";
import type { ModelFile, TensorInfo } from "../../load/model-file.ts";
import type { LayerShape, Mixer, ModelShape } from "../../shape/shape.ts";
import { formatOf } from "../matrix/formats.ts";

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

/** The tensor of queries, keys and values where they have none of their own. */
export const FUSED_NAME = "attn_qkv";

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

  /** Whether queries, keys and values of a layer's attention stand one below the other in one tensor. */
  isFused(index: number): boolean {
    return !this.layer(index, "attn_q") && this.layer(index, FUSED_NAME) !== undefined;
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

/** A part of a layer: its GGUF name, what may follow it, and whether the layer cannot do without it. */
type TensorSpec = readonly [name: string, suffixes: readonly string[], isRequired: boolean];

const MATRIX = ["weight", "bias"];
const VECTOR = ["weight"];

const MIXER_TENSORS: Record<Mixer["kind"], readonly TensorSpec[]> = {
  attention: [["attn_output", MATRIX, true]],
  "short-conv": [
    ["shortconv.in_proj", MATRIX, true],
    ["shortconv.conv", MATRIX, true],
    ["shortconv.out_proj", MATRIX, true],
  ],
  mamba2: [
    ["ssm_in", MATRIX, true],
    ["ssm_conv1d", MATRIX, true],
    ["ssm_out", MATRIX, true],
    ["ssm_norm", VECTOR, false],
    ["ssm_dt", ["bias"], true],
    ["ssm_a", [""], true],
    ["ssm_d", [""], true],
  ],
  "gated-delta": [
    ["attn_qkv", MATRIX, true],
    ["attn_gate", MATRIX, true],
    ["ssm_conv1d", MATRIX, true],
    ["ssm_norm", VECTOR, true],
    ["ssm_out", MATRIX, true],
    ["ssm_dt", ["bias"], true],
    ["ssm_a", [""], true],
  ],
};

const QUERY_KEY_VALUE: readonly TensorSpec[] = [
  ["attn_q", MATRIX, true],
  ["attn_k", MATRIX, true],
  ["attn_v", MATRIX, true],
];
const FUSED_QKV: readonly TensorSpec[] = [[FUSED_NAME, MATRIX, true]];
const HEAD_NORMS: readonly TensorSpec[] = [
  ["attn_q_norm", VECTOR, true],
  ["attn_k_norm", VECTOR, true],
];
const GATES: readonly TensorSpec[] = [
  ["ssm_beta", MATRIX, true],
  ["ssm_alpha", MATRIX, true],
];
const GROUPED_GATES: readonly TensorSpec[] = [["ssm_ba", MATRIX, true]];
const POST_NORMS: readonly TensorSpec[] = [
  ["post_attention_norm", VECTOR, true],
  ["post_ffw_norm", VECTOR, true],
];
const FEED_FORWARD: readonly TensorSpec[] = [
  ["ffn_gate", MATRIX, true],
  ["ffn_up", MATRIX, true],
  ["ffn_down", MATRIX, true],
];

function mixerTensors(mixer: Mixer, isFused: boolean): TensorSpec[] {
  const own = MIXER_TENSORS[mixer.kind];
  if (mixer.kind === "gated-delta") return [...own, ...(mixer.baGrouped ? GROUPED_GATES : GATES)];
  if (mixer.kind !== "attention") return [...own];
  return [...own, ...(isFused ? FUSED_QKV : QUERY_KEY_VALUE), ...(mixer.qkNorm ? HEAD_NORMS : [])];
}

function layerTensors({ mixers, ffn }: LayerShape, isFused: boolean, postNorms: boolean): TensorSpec[] {
  return [
    ["attn_norm", VECTOR, true],
    ...mixers.flatMap((mixer) => mixerTensors(mixer, isFused)),
    ...(postNorms ? POST_NORMS : []),
    ...(ffn ? FEED_FORWARD : []),
  ];
}

/**
 * The tensors that a model is computed from, as they are in the file.
 * @throws TidepoolError `invalid_file` naming one that is missing.
 */
export function usedTensors(file: ModelFile, shape: ModelShape): TensorInfo[] {
  const names = new TensorNames(file, shape.postNorms);
  const used = new Set<TensorInfo>();
  const add = (tensor: TensorInfo | undefined) => tensor && used.add(tensor);
  add(names.require(names.model("token_embd"), "token_embd.weight"));
  add(names.require(names.model("output_norm"), "output_norm.weight"));
  add(names.model("output"));
  add(names.model("rope_freqs"));
  shape.layers.forEach((layer, index) => {
    for (const [name, suffixes, isRequired] of layerTensors(layer, names.isFused(index), shape.postNorms)) {
      const found = suffixes.map((suffix) => names.layer(index, name, suffix));
      const label = [`blk.${index}.${name}`, suffixes[0]].filter(Boolean).join(".");
      if (isRequired) names.require(found[0], label);
      found.forEach(add);
    }
    if (layer.ffn) add(names.require(names.ffnNorm(index), `blk.${index}.ffn_norm.weight`));
  });
  return [...used];
}

/** Checks by the header alone that the tensors a model needs are there, in formats that have kernels, and no others. */
export function checkTensors(file: ModelFile, shape: ModelShape): void {
  try {
    const used = new Set(usedTensors(file, shape));
    for (const tensor of used) formatOf(tensor.type, tensor.name);
    for (const tensor of file.tensors.values()) if (!used.has(tensor)) refuseUnused(tensor, shape);
  } catch (error) {
    throw inFile(file.name, error);
  }
}

/** What may stand in a file without taking part. */
const IGNORED: readonly { name: RegExp; why: string }[] = [
  { name: /^(v|a|mm|mmproj)\./, why: "encoders of pictures and sound in GGUF files of other engines" },
  {
    name: /(^|\.)(vision_tower|vision_model|visual|audio_tower|audio_model|multi_modal_projector|embed_vision)\./,
    why: "the same in safetensors",
  },
  { name: /rotary_emb\.inv_freq$|attn_rot_embd\.weight$|rope_freqs/, why: "follows from the settings" },
  { name: /^mtp\./, why: "layers that predict further tokens" },
];

/** The layer that a tensor belongs to. */
const LAYER_OF = /^(?:blk|(?:model\.|language_model\.model\.|model\.language_model\.)layers)\.(\d+)\./;

/** A tensor that nothing reads would change what the model says. */
function refuseUnused({ name }: TensorInfo, { layers, unusedLayers, architecture }: ModelShape): void {
  const layer = Number(LAYER_OF.exec(name)?.[1]);
  if (layer >= layers.length && layer < layers.length + unusedLayers) return;
  if (IGNORED.some((each) => each.name.test(name))) return;
  const message = `the tensor ${name} has no part in "${architecture}" here: without it the model would answer wrongly`;
  throw new TidepoolError("unsupported", message, { tensor: name });
}
