/**
 * What the settings of a model file mean: the forms that converters write, the defaults that llama.cpp and transformers have,
 * and which keys are refused by name because nothing here computes with them.
 */
import { describe, expect, test } from "vitest";
import { TidepoolError } from "../../src/errors.ts";
import type { ModelFile } from "../../src/load/model-file.ts";
import { readShape } from "../../src/model/arch/rows.ts";
import type { AttentionMixer, ModelShape } from "../../src/shape/shape.ts";
import { checkTensors, usedTensors } from "../../src/model/arch/tensor-names.ts";

type Changes = Record<string, unknown>;

/** Metadata of a small model of an architecture; `changes` are keys without its prefix, undefined leaves one out. */
function metadataOf(arch: string, changes: Changes = {}): Map<string, unknown> {
  const own: Changes = {
    block_count: 4,
    embedding_length: 64,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    feed_forward_length: 128,
    context_length: 256,
    vocab_size: 100,
    "attention.layer_norm_rms_epsilon": 1e-5,
    ...changes,
  };
  const entries = Object.entries(own).filter(([, value]) => value !== undefined);
  return new Map([
    ["general.architecture", arch],
    ...entries.map(([key, value]) => [`${arch}.${key}`, value] as [string, unknown]),
  ]);
}

const RECURRENT: Changes = {
  "ssm.conv_kernel": 4,
  "ssm.inner_size": 128,
  "ssm.state_size": 32,
  "ssm.time_step_rank": 4,
  "ssm.group_count": 2,
};

const gguf = (arch: string, changes?: Changes, tensors: Map<string, unknown> = new Map()): ModelFile =>
  ({ name: "m.gguf", format: "gguf", metadata: metadataOf(arch, changes), tensors }) as unknown as ModelFile;

const ggufShape = (arch: string, changes?: Changes): ModelShape => readShape(gguf(arch, changes)).shape;

const configShape = (config: Changes): ModelShape => {
  const file = { name: "model.safetensors", format: "safetensors", config, tensors: new Map() };
  return readShape(file as unknown as ModelFile).shape;
};

function errorOf(work: () => unknown): TidepoolError {
  try {
    work();
  } catch (error) {
    expect(error).toBeInstanceOf(TidepoolError);
    return error as TidepoolError;
  }
  throw new Error("nothing was thrown");
}

const attention = (shape: ModelShape): AttentionMixer[] =>
  shape.layers.flatMap(({ mixers }) => mixers.filter((mixer) => mixer.kind === "attention"));
const windows = (shape: ModelShape) => attention(shape).map(({ window }) => window);
const tables = (shape: ModelShape) => attention(shape).map(({ ropeTable }) => ropeTable);
const thetas = (shape: ModelShape) => shape.ropeTables.map(({ theta }) => theta);

describe("GGUF metadata", () => {
  test("lists with one entry a layer, the same and different ones", () => {
    const shape = ggufShape("llama", {
      "attention.head_count": Int32Array.of(4, 4, 2, 4),
      "attention.head_count_kv": Int32Array.of(2, 1, 2, 4),
      feed_forward_length: BigUint64Array.of(128n, 64n, 128n, 96n),
    });
    expect(attention(shape).map(({ heads, kvHeads, headDim }) => [heads, kvHeads, headDim])).toEqual([
      [4, 2, 16],
      [4, 1, 16],
      [2, 2, 16],
      [4, 4, 16],
    ]);
    expect(shape.layers.map(({ ffn }) => ffn?.width)).toEqual([128, 64, 128, 96]);
  });

  test.each(["attention.head_count", "attention.head_count_kv", "feed_forward_length"])(
    "%s as a list that is empty or too short",
    (key) => {
      for (const value of [new Int32Array(0), Int32Array.of(4, 4)])
        expect(errorOf(() => ggufShape("llama", { [key]: value })).message).toContain(`llama.${key}`);
    },
  );

  test.each<[string, Changes, unknown]>([
    ["a factor without a type", { "rope.scaling.factor": 4 }, { type: "linear", factor: 4 }],
    ["the factor's old name", { "rope.scale_linear": 4 }, { type: "linear", factor: 4 }],
    [
      "both names of the factor",
      { "rope.scale_linear": 2, "rope.scaling.factor": 4 },
      { type: "linear", factor: 4 },
    ],
    ["a type without a factor", { "rope.scaling.type": "linear" }, { type: "none" }],
    ["a factor of 0", { "rope.scaling.type": "linear", "rope.scaling.factor": 0 }, { type: "none" }],
    [
      "no scaling, whatever the factor",
      { "rope.scaling.type": "none", "rope.scaling.factor": 4 },
      { type: "none" },
    ],
    [
      "YaRN without the original context",
      { "rope.scaling.type": "yarn", "rope.scaling.factor": 4 },
      { type: "yarn", factor: 4, originalContext: 256, betaFast: 32, betaSlow: 1 },
    ],
    [
      "YaRN without a factor",
      { "rope.scaling.type": "yarn", "rope.scaling.original_context_length": 64 },
      { type: "yarn", factor: 1, originalContext: 64, betaFast: 32, betaSlow: 1 },
    ],
  ])("RoPE: %s", (_name, changes, scaling) => {
    expect(ggufShape("llama", changes).ropeTables[0]?.scaling).toEqual(scaling);
  });

  test("RoPE: attn_factor multiplies, beside YaRN's own factor", () => {
    expect(ggufShape("llama", { "rope.scaling.attn_factor": 1.19 }).ropeTables[0]?.magnitude).toBe(1.19);
    expect(ggufShape("llama").ropeTables[0]).not.toHaveProperty("magnitude");
  });

  test("RoPE: a scaling that does not run", () => {
    const error = errorOf(() => ggufShape("llama", { "rope.scaling.type": "longrope" }));
    expect(error).toMatchObject({ code: "unsupported", details: { key: "llama.rope.scaling.type" } });
  });

  test("Gemma 3: window, pattern, bases and cap", () => {
    const local = { "attention.sliding_window": 16, "rope.freq_base": 1e6 };
    const usual = ggufShape("gemma3", { ...local, block_count: 7 });
    expect(windows(usual)).toEqual([16, 16, 16, 16, 16, 0, 16]);
    expect(tables(usual)).toEqual([1, 1, 1, 1, 1, 0, 1]);
    expect(thetas(usual)).toEqual([1e6, 1e4]);
    expect(usual.logitSoftCap).toBe(0);
    const third = ggufShape("gemma3", { ...local, "attention.sliding_window_pattern": 3 });
    expect(windows(third)).toEqual([16, 16, 0, 16]);
    const listed = ggufShape("gemma3", {
      ...local,
      "attention.sliding_window_pattern": Uint8Array.of(0, 1, 0, 1),
    });
    expect(windows(listed)).toEqual([0, 16, 0, 16]);
    expect(tables(listed)).toEqual([0, 1, 0, 1]);
    const none = ggufShape("gemma3", { "rope.freq_base": 1e6 });
    expect([windows(none), tables(none)]).toEqual([
      [0, 0, 0, 0],
      [0, 0, 0, 0],
    ]);
    expect(ggufShape("gemma3", { final_logit_softcapping: 30 }).logitSoftCap).toBe(30);
  });

  test("Gemma 3: the bases under the names of another converter", () => {
    const changes = {
      "rope.global.freq_base": 1e6,
      "rope.local.freq_base": 2e4,
      "attention.sliding_window": 16,
    };
    expect(thetas(ggufShape("gemma3", changes))).toEqual([1e6, 2e4]);
  });

  test("Gemma 3: 62 layers scale queries by another size", () => {
    const sizes = { "attention.key_length": 32, embedding_length: 96 };
    expect(attention(ggufShape("gemma3", sizes))[0]?.scale).toBe(1 / Math.sqrt(32));
    expect(attention(ggufShape("gemma3", { ...sizes, block_count: 62 }))[0]?.scale).toBe(1 / Math.sqrt(24));
  });

  test("Qwen3.5: layers that predict further tokens are left out, and layers may be listed", () => {
    const kinds = (changes: Changes) =>
      ggufShape("qwen35", { ...RECURRENT, ...changes }).layers.map(({ mixers }) => mixers[0]?.kind);
    expect(kinds({ block_count: 5, nextn_predict_layers: 1 })).toEqual([
      "gated-delta",
      "gated-delta",
      "gated-delta",
      "attention",
    ]);
    expect(kinds({ "attention.recurrent_layers": Uint8Array.of(0, 1, 0, 1) })).toEqual([
      "attention",
      "gated-delta",
      "attention",
      "gated-delta",
    ]);
    expect(ggufShape("glm4moe", { block_count: 5, nextn_predict_layers: 1 })).toMatchObject({
      unusedLayers: 1,
      layers: { length: 4 },
    });
    const error = errorOf(() => kinds({ nextn_predict_layers: 4 }));
    expect(error.message).toMatch(/qwen35.nextn_predict_layers is 4, expected an integer from 0 to 3/);
  });

  test("the embedding's rows are the vocabulary, whatever the settings say", () => {
    const rows = (count: number) => new Map([["token_embd.weight", { shape: [64, count] }]]);
    expect(readShape(gguf("llama", { vocab_size: 80 }, rows(96))).shape.vocabSize).toBe(96);
    expect(readShape(gguf("llama", { vocab_size: undefined }, rows(96))).shape.vocabSize).toBe(96);
    expect(ggufShape("llama", { vocab_size: 80 }).vocabSize).toBe(80);
    expect(errorOf(() => ggufShape("llama", { vocab_size: undefined })).message).toMatch(
      /vocabulary has an unknown/,
    );
  });
});

describe("keys that nothing computes with", () => {
  test.each<[string, string, unknown]>([
    ["llama", "attention.temperature_scale", 0.1],
    ["llama", "attention.clamp_kqv", 8],
    ["llama", "attention.max_alibi_bias", 8],
    ["llama", "attention.causal", false],
    ["llama", "attention.sliding_window_pattern", 4],
    ["llama", "attention.key_length_mla", 192],
    ["llama", "attention.something_new", 3],
    ["llama", "embedding_scale", 12],
    ["llama", "residual_scale", 0.22],
    ["llama", "logit_scale", 3],
    ["llama", "rope.freq_base_swa", 1e4],
    ["llama", "rope.scaling.alpha", 1000],
    ["llama", "rope.scaling.yarn_attn_factor", 2],
    ["llama", "rope.something_new", "x"],
    ["llama", "swiglu_clamp_exp", 7],
    ["llama", "router_logit_softcapping", 30],
    ["llama", "hidden_activation", "relu"],
    ["llama", "use_parallel_residual", true],
    ["llama", "nextn_predict_layers", 1],
    ["llama", "ssm.dt_b_c_rms", true],
    ["qwen3", "attention.sliding_window", 128],
    ["smollm3", "attention.sliding_window", 128],
    ["gemma3", "attention.shared_kv_layers", 2],
    ["qwen3", "n_deepstack_layers", 3],
  ])("%s.%s %s is refused by name", (arch, key, value) => {
    const error = errorOf(() => ggufShape(arch, { [key]: value }));
    expect(error).toMatchObject({ code: "unsupported", details: { key: `${arch}.${key}`, file: "m.gguf" } });
    expect(error.message).toContain(`${arch}.${key}`);
  });

  test.each<[string, string, unknown]>([
    ["llama", "attention.value_length", 32],
    ["llama", "attention.key_length_swa", 32],
    ["llama", "rope.dimension_count_swa", 8],
    ["gemma3", "attention.value_length_swa", 8],
  ])("%s.%s %s differs from what all layers have", (arch, key, value) => {
    const error = errorOf(() => ggufShape(arch, { [key]: value }));
    expect(error).toMatchObject({ code: "unsupported", details: { key: `${arch}.${key}` } });
  });

  test.each<[string, string, unknown]>([
    ["llama", "attention.causal", true],
    ["llama", "attention.layer_norm_epsilon", 1e-5],
    ["llama", "attention.clamp_kqv", 0],
    ["llama", "attention.value_length", 16],
    ["llama", "rope.scaling.finetuned", true],
    ["llama", "rope.scaling.yarn_log_multiplier", 0.1],
    ["llama", "rope.scaling.yarn_ext_factor", 1],
    ["llama", "expert_used_count", 0],
    ["granitehybrid", "expert_shared_feed_forward_length", 2048],
    ["llama", "logit_scale", 1],
    ["llama", "tensor_data_layout", "Meta AI original pth"],
    ["llama", "use_parallel_residual", false],
    ["qwen3", "attention.sliding_window", 4096],
    ["llama", "vocab_size", 0],
    ["llama", "vocab_size", "many"],
    ["qwen3", "pooling_type", 3],
    ["qwen3", "rope.dimension_sections", Int32Array.of(2, 1, 1, 0)],
    ["gemma3", "mm.tokens_per_image", 256],
    ["gemma3", "vision.attention.head_count", 16],
    ["gemma3", "vision.embedding_length", 1152],
  ])("%s.%s %s changes nothing", (arch, key, value) => {
    const rows = new Map([["token_embd.weight", { shape: [64, 96] }]]);
    const read = () =>
      readShape(gguf(arch, { "attention.key_length": 16, ...RECURRENT, [key]: value }, rows));
    expect(read().shape.vocabSize).toBe(96);
  });

  test("Mamba-2 has no attention to set", () => {
    const none = { "attention.head_count": 0, "attention.head_count_kv": 0, feed_forward_length: 0 };
    const changes = { ...none, ...RECURRENT, "rope.dimension_count": 64, "attention.key_length": 64 };
    expect(ggufShape("mamba2", changes).layers.length).toBe(4);
  });

  test("keys of other namespaces are nobody's business", () => {
    const metadata = metadataOf("llama");
    metadata.set("general.rope.scale", BigUint64Array.of(2n ** 64n - 1n)).set("mymodel.attention.x", 3);
    const file = { name: "m.gguf", format: "gguf", metadata, tensors: new Map() } as unknown as ModelFile;
    expect(readShape(file).shape.layers.length).toBe(4);
  });

  test("the keys that a shape was read from are told", () => {
    const { keys } = readShape(gguf("llama"));
    for (const key of metadataOf("llama").keys()) expect(keys).toContain(key);
    expect(keys).toContain("llama.rope.scale_linear");
    expect(keys).not.toContain("general.alignment");
  });
});

describe("config.json", () => {
  const sizes = {
    num_hidden_layers: 8,
    hidden_size: 64,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 16,
    intermediate_size: 128,
    vocab_size: 100,
  };

  /** transformers' defaults: bases of the rotation, scale of the scores, window, layers that have it. */
  test.each<[string, number[], number, number[]]>([
    ["llama", [10_000], 0.25, [0, 0, 0, 0, 0, 0, 0, 0]],
    ["mistral", [10_000], 0.25, Array<number>(8).fill(4096)],
    ["qwen3", [10_000], 0.25, [0, 0, 0, 0, 0, 0, 0, 0]],
    ["smollm3", [2_000_000], 0.25, [0, 0, 0, 0, 0, 0, 0, 0]],
    ["gemma3_text", [1_000_000, 10_000], 1 / 16, [4096, 4096, 4096, 4096, 4096, 0, 4096, 4096]],
    ["gemma3", [1_000_000, 10_000], 1 / 16, [4096, 4096, 4096, 4096, 4096, 0, 4096, 4096]],
  ])("%s: what is left out is the model type's own", (type, bases, scale, seen) => {
    const shape = configShape({ model_type: type, ...sizes });
    expect(thetas(shape)).toEqual(bases);
    expect(attention(shape)[0]?.scale).toBe(scale);
    expect(windows(shape)).toEqual(seen);
    expect(shape.normEps).toBe(1e-6);
  });

  test.each<[string, number[]]>([
    ["llama", [4096, 32, 32, 32, 128, 11_008, 32_000, 2048]],
    ["mistral", [4096, 32, 32, 8, 128, 14_336, 32_000, 131_072]],
    ["qwen3", [4096, 32, 32, 32, 128, 22_016, 151_936, 32_768]],
    ["smollm3", [2048, 36, 16, 4, 128, 11_008, 128_256, 32_768]],
    ["gemma3_text", [2304, 26, 8, 4, 256, 9216, 262_208, 131_072]],
    ["gemma3n_text", [2048, 35, 8, 2, 256, 16_384, 262_400, 32_768]],
    ["gemma4_text", [2304, 30, 8, 4, 256, 9216, 262_144, 131_072]],
    ["apertus", [4096, 32, 32, 32, 128, 14_336, 131_072, 65_536]],
    ["gpt_oss", [2880, 36, 64, 8, 64, 2880, 201_088, 131_072]],
  ])("%s: the sizes of an empty config", (type, expected) => {
    const shape = configShape({ model_type: type });
    const { heads, kvHeads, headDim } = attention(shape)[0] as AttentionMixer;
    const { hiddenSize, layers, vocabSize, contextTokens } = shape;
    const width = layers[0]?.ffn?.width;
    expect([hiddenSize, layers.length, heads, kvHeads, headDim, width, vocabSize, contextTokens]).toEqual(
      expected,
    );
  });

  test("the published Gemma 3 4B: most is left out, and the text model is nested", () => {
    const text = {
      hidden_size: 2560,
      intermediate_size: 10_240,
      model_type: "gemma3_text",
      num_hidden_layers: 34,
      rope_scaling: { factor: 8.0, rope_type: "linear" },
      sliding_window: 1024,
    };
    const shape = configShape({ model_type: "gemma3", text_config: text, mm_tokens_per_image: 256 });
    expect(attention(shape)[0]).toMatchObject({
      heads: 8,
      kvHeads: 4,
      headDim: 256,
      window: 1024,
      scale: 1 / 16,
    });
    expect(shape.ropeTables).toEqual([
      { theta: 1e6, rot: 256, scaling: { type: "linear", factor: 8 } },
      { theta: 1e4, rot: 256, scaling: { type: "none" } },
    ]);
    expect(shape.vocabSize).toBe(262_208);
  });

  test("Gemma 3 with rope_parameters by layer type", () => {
    const nested = {
      full_attention: { rope_type: "linear", factor: 8, rope_theta: 2e6 },
      sliding_attention: { rope_type: "default", rope_theta: 3e4 },
    };
    const shape = configShape({ model_type: "gemma3_text", ...sizes, rope_parameters: nested });
    expect(shape.ropeTables).toEqual([
      { theta: 2e6, rot: 16, scaling: { type: "linear", factor: 8 } },
      { theta: 3e4, rot: 16, scaling: { type: "none" } },
    ]);
    const bare = { full_attention: { rope_type: "default" }, sliding_attention: { rope_type: "default" } };
    expect(thetas(configShape({ model_type: "gemma3_text", ...sizes, rope_parameters: bare }))).toEqual([
      1e6, 1e4,
    ]);
    const flat = { rope_type: "default", rope_theta: 5e5 };
    const error = errorOf(() => configShape({ model_type: "gemma3_text", ...sizes, rope_parameters: flat }));
    expect(error.details["key"]).toMatch(/^rope_parameters\./);
  });

  test("Gemma 3: a pattern, a list of layers, an explicit null", () => {
    const gemma = (changes: Changes) => configShape({ model_type: "gemma3_text", ...sizes, ...changes });
    expect(windows(gemma({ sliding_window_pattern: 2 }))).toEqual([4096, 0, 4096, 0, 4096, 0, 4096, 0]);
    expect(windows(gemma({ _sliding_window_pattern: 2 }))).toEqual([4096, 0, 4096, 0, 4096, 0, 4096, 0]);
    const types = sizesOf(8, (index) => (index === 0 ? "full_attention" : "sliding_attention"));
    expect(windows(gemma({ layer_types: types, sliding_window: 7 }))).toEqual([0, 7, 7, 7, 7, 7, 7, 7]);
    const open = gemma({ sliding_window: null });
    expect([windows(open)[0], tables(open)[0]]).toEqual([0, 1]);
    expect(gemma({ final_logit_softcapping: 30 }).logitSoftCap).toBe(30);
  });

  test("both forms in one file", () => {
    const rope = { rope_type: "linear", factor: 2, rope_theta: 5e5 };
    const both = { rope_theta: 5e5, rope_scaling: { type: "linear", factor: 2 }, rope_parameters: rope };
    expect(configShape({ model_type: "llama", ...sizes, ...both }).ropeTables).toEqual([
      { theta: 5e5, rot: 16, scaling: { type: "linear", factor: 2 } },
    ]);
  });

  test("the flat form of version 5 of transformers", () => {
    const rope = { rope_type: "yarn", rope_theta: 5e5, factor: 4, original_max_position_embeddings: 64 };
    const shape = configShape({ model_type: "qwen3", ...sizes, rope_parameters: rope });
    expect(shape.ropeTables[0]).toMatchObject({ theta: 5e5, scaling: { type: "yarn", originalContext: 64 } });
  });

  test("Qwen3: a window from a layer on, only if it is used", () => {
    const qwen = (changes: Changes) =>
      windows(
        configShape({ model_type: "qwen3", ...sizes, sliding_window: 9, max_window_layers: 6, ...changes }),
      );
    expect(qwen({})).toEqual([0, 0, 0, 0, 0, 0, 0, 0]);
    expect(qwen({ use_sliding_window: true })).toEqual([0, 0, 0, 0, 0, 0, 9, 9]);
  });

  test("SmolLM3: layers without rotation, listed or by interval", () => {
    const smol = (changes: Changes) => tables(configShape({ model_type: "smollm3", ...sizes, ...changes }));
    expect(smol({ no_rope_layers: [0, 1, 1, 1, 1, 1, 1, 0] })).toEqual([
      undefined,
      0,
      0,
      0,
      0,
      0,
      0,
      undefined,
    ]);
    expect(smol({ no_rope_layer_interval: 2 })).toEqual([
      0,
      undefined,
      0,
      undefined,
      0,
      undefined,
      0,
      undefined,
    ]);
  });

  test.each<[string, string, unknown]>([
    ["llama", "hidden_act", "relu"],
    ["llama", "attention_multiplier", 0.01],
    ["llama", "embedding_multiplier", 12],
    ["llama", "use_qk_norm", true],
    ["llama", "rope_interleaved", true],
    ["llama", "attn_logit_cap_new", 5],
    ["llama", "layer_types", ["full_attention", "sliding_attention"]],
    ["llama", "rope_scaling", { rope_type: "linear", factor: 2, something: 1 }],
    ["llama", "rope_scaling", { rope_type: "dynamic", factor: 2, original_max_position_embeddings: 8 }],
    ["gpt_oss", "swiglu_limit", 5],
    ["gemma3n_text", "altup_num_inputs", 2],
    ["gemma4_text", "use_bidirectional_attention", "all"],
    ["gemma4_text", "per_layer_config", { 0: { sliding_window: 4 } }],
    ["minicpm", "sparse_config", { dense_len: 8192 }],
    ["llama", "num_local_experts", 8],
    ["qwen3", "layer_types", sizesOf(8, () => "chunked_attention")],
    ["gemma3", "use_bidirectional_attention", true],
  ])("%s with %s %j is refused by name", (type, key, value) => {
    const error = errorOf(() => configShape({ model_type: type, ...sizes, [key]: value }));
    expect(error.code).toBe("unsupported");
    expect(error.message).toContain(key);
  });

  test.each<[string, Changes]>([
    ["awq", { quantization_config: { quant_method: "awq", bits: 4, group_size: 128 } }],
    ["gptq", { quantization_config: { quant_method: "gptq", bits: 4 } }],
    ["compressed-tensors", { quantization_config: { quant_method: "compressed-tensors", format: "pack" } }],
    ["bitsandbytes", { quantization_config: { quant_method: "bitsandbytes", load_in_4bit: true } }],
    ["dense", { compression_config: { format: "dense" } }],
    ["awq", { text_config: { quantization_config: { quant_method: "awq" } } }],
  ])("weights packed by %s are refused by name", (method, changes) => {
    const error = errorOf(() => configShape({ model_type: "llama", ...sizes, ...changes }));
    expect(error).toMatchObject({ code: "unsupported", details: { method } });
    expect(error.message).toContain(`packed by ${method}`);
  });

  /** As published: SmolLM2, Mistral 7B, Qwen3 0.6B, Gemma 3 1B. */
  test.each<[string, Changes]>([
    [
      "llama",
      {
        attention_bias: false,
        attention_dropout: 0.0,
        is_llama_config: true,
        mlp_bias: false,
        pretraining_tp: 1,
        rope_interleaved: false,
        rope_scaling: null,
        sliding_window: 4096,
        torch_dtype: "bfloat16",
        "transformers.js_config": { kv_cache_dtype: { q4f16: "float16" } },
        _attn_implementation_autoset: true,
      },
    ],
    ["mistral", { attention_dropout: 0.0, sliding_window: null, rope_theta: 1e6 }],
    ["qwen3", { attention_bias: false, attention_dropout: 0.0, max_window_layers: 28, rope_scaling: null }],
    [
      "gemma3_text",
      {
        attention_bias: false,
        attention_dropout: 0.0,
        attn_logit_softcapping: null,
        cache_implementation: "hybrid",
        final_logit_softcapping: null,
        hidden_activation: "gelu_pytorch_tanh",
        hidden_act: "gelu_pytorch_tanh",
        use_bidirectional_attention: false,
        sliding_window_pattern: 6,
        _sliding_window_pattern: 6,
      },
    ],
    [
      "qwen3_moe",
      { num_experts: 8, decoder_sparse_step: 1, mlp_only_layers: [], router_aux_loss_coef: 0.001 },
    ],
  ])("%s with everything that is published beside it", (type, extra) => {
    expect(configShape({ model_type: type, ...sizes, ...extra }).layers.length).toBe(8);
  });

  test("Nomic's own config.json, in the words of GPT-2", () => {
    const own = {
      ...{ model_type: "nomic_bert", n_embd: 768, n_head: 12, n_inner: 3072, n_layer: 12, n_positions: 8192 },
      ...{ activation_function: "swiglu", causal: false, prenorm: false, rotary_emb_base: 1000 },
      ...{ rotary_emb_fraction: 1, rotary_emb_interleaved: false, rotary_emb_scale_base: null },
      ...{ layer_norm_epsilon: 1e-12, attn_pdrop: 0, use_flash_attn: true, fused_bias_fc: true },
    };
    const file = (config: Changes) =>
      ({
        ...{ name: "m", format: "safetensors", config, tensors: new Map() },
        sentence: { modules: [], pooling: { pooling_mode_mean_tokens: true }, dense: [] },
      }) as unknown as ModelFile;
    expect(readShape(file(own)).shape).toMatchObject({
      hiddenSize: 768,
      contextTokens: 8192,
      normEps: 1e-12,
    });
    const error = errorOf(() => readShape(file({ ...own, activation_function: "gelu" })));
    expect(error.message).toMatch(/activation_function gelu does not run here, only swiglu/);
  });

  test("dynamic scaling changes nothing up to the end of the context", () => {
    const scaling = { type: "dynamic", factor: 2 };
    const shape = configShape({ model_type: "internlm2", ...sizes, rope_scaling: scaling });
    expect(shape.ropeTables[0]?.scaling).toEqual({ type: "none" });
  });

  test("MiniCPM: its factors, under keys of its own", () => {
    const factors = { scale_emb: 12, scale_depth: 1.4, dim_model_base: 256 };
    const shape = configShape({ model_type: "minicpm", ...sizes, hidden_size: 512, ...factors });
    expect(shape).toMatchObject({
      embeddingScale: 12,
      residualScale: 1.4 / Math.sqrt(8),
      logitScale: 0.5,
    });
  });

  test("gpt-oss as published, its experts in MXFP4", () => {
    const shape = configShape({
      ...{ model_type: "gpt_oss", ...sizes, num_local_experts: 32, experts_per_token: 4 },
      ...{ num_experts_per_tok: 4, sliding_window: 128, swiglu_limit: 7.0, initial_context_length: 4096 },
      rope_scaling: {
        ...{ beta_fast: 32.0, beta_slow: 1.0, factor: 32.0, original_max_position_embeddings: 4096 },
        ...{ rope_type: "yarn", truncate: false },
      },
      quantization_config: { quant_method: "mxfp4", modules_to_not_convert: ["lm_head"] },
    });
    expect(windows(shape)).toEqual([128, 0, 128, 0, 128, 0, 128, 0]);
    expect(shape.ropeTables[0]?.scaling).toMatchObject({ type: "yarn", factor: 32, truncate: false });
  });

  const gemma4 = (changes: Changes) =>
    attention(
      configShape({ model_type: "gemma4_text", ...sizes, head_dim: 16, num_hidden_layers: 6, ...changes }),
    ).map(({ headDim, kvHeads, sharesKvOf }) => [headDim, kvHeads, sharesKvOf]);

  test("Gemma 4: sizes of global layers, as published and as transformers 5 writes them", () => {
    const local = Array.from({ length: 5 }, () => [16, 2, undefined]);
    expect(gemma4({ global_head_dim: 32 })).toEqual([...local, [32, 2, undefined]]);
    const published = { global_head_dim: 32, num_global_key_value_heads: 1, attention_k_eq_v: true };
    expect(gemma4(published)).toEqual([...local, [32, 1, undefined]]);
    const listed = { per_layer_config: { 5: { head_dim: 32, num_key_value_heads: 1 } } };
    expect(gemma4(listed)).toEqual(gemma4(published));
    const types = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"];
    const shared = { num_hidden_layers: 4, layer_types: types, global_head_dim: 32, num_kv_shared_layers: 2 };
    expect(gemma4(shared).map(([, , owner]) => owner)).toEqual([undefined, undefined, 0, 1]);
  });

  test.each([{ 0: { head_dim: 32 } }, { 5: { head_dim: 0 } }, { 5: { num_key_value_heads: "2" } }])(
    "Gemma 4: per_layer_config %j is refused",
    (per_layer_config) => {
      expect(errorOf(() => gemma4({ per_layer_config })).message).toContain("per_layer_config");
    },
  );

  test("Gemma 4: a part of the pairs of global layers turns", () => {
    const shape = configShape({ model_type: "gemma4_text", ...sizes, head_dim: 16, global_head_dim: 32 });
    expect(shape.ropeTables[0]).toMatchObject({
      theta: 1e6,
      rot: 32,
      scaling: { type: "linear", factor: 1 },
    });
    expect(shape.ropeTables[0]?.divisors).toEqual([1, 1, 1, 1, ...sizesOf(12, () => 1e30)]);
    expect(shape.ropeTables[1]).toMatchObject({ theta: 1e4, rot: 16 });
  });

  test("Gemma 3n: shares of gates become standard deviations, those of transformers", () => {
    const shape = (changes: Changes) =>
      configShape({ model_type: "gemma3n_text", ...sizes, num_kv_shared_layers: 2, ...changes }).layers.map(
        ({ ffn }) => (ffn?.kind === "mlp" ? ffn.sparsity : undefined),
      );
    const deviations = shape({ activation_sparsity_pattern: [0.95, 0.5, 0, 0, 0, 0, 0, 0] });
    const { intermediate_size: width } = sizes;
    expect(deviations[0]).toBeCloseTo(1.6448536269514722 * Math.sqrt((width - 1) / width), 12);
    expect(deviations[1]).toBeCloseTo(0, 12);
    expect(deviations.slice(2)).toEqual(sizesOf(6, () => undefined));
    expect(shape({})).toEqual(sizesOf(8, () => undefined));
    const error = errorOf(() => shape({ activation_sparsity_pattern: sizesOf(8, () => 1) }));
    expect(error.message).toContain("activation_sparsity_pattern is 1, expected shares from 0 to 1");
  });

  const kinds = (shape: ModelShape) =>
    shape.layers.map(({ mixers }) => mixers.map(({ kind }) => kind).join());

  test("LFM2: which layers are attention, in either form, and the width that is made of the stated one", () => {
    const lfm2 = (changes: Changes) =>
      configShape({ model_type: "lfm2", ...sizes, num_hidden_layers: 2, ...changes });
    const types = { layer_types: ["conv", "full_attention"] };
    expect(kinds(lfm2(types))).toEqual(["short-conv", "attention"]);
    expect(kinds(lfm2({ full_attn_idxs: [0] }))).toEqual(["attention", "short-conv"]);
    expect(lfm2({ ...types, block_ff_dim: 6656 }).layers[0]?.ffn?.width).toBe(4608); // LFM2-350M
    expect(lfm2({ ...types, intermediate_size: 12_288 }).layers[0]?.ffn?.width).toBe(8192); // LFM2-1.2B
    expect(lfm2({ ...types, block_auto_adjust_ff_dim: false }).layers[0]?.ffn?.width).toBe(128);
  });

  const MAMBA = { mamba_n_heads: 8, mamba_d_head: 16, mamba_d_state: 16 };

  test("Granite hybrids: layers, multipliers, experts, and whether attention rotates", () => {
    const granite = (changes: Changes) =>
      configShape({
        ...{ model_type: "granitemoehybrid", ...sizes, ...MAMBA, num_hidden_layers: 2, num_local_experts: 0 },
        ...{ layer_types: ["mamba", "attention"], shared_intermediate_size: 96, ...changes },
      });
    const shape = granite({ attention_multiplier: 0.2, logits_scaling: 4, embedding_multiplier: 12 });
    expect(kinds(shape)).toEqual(["mamba2", "attention"]);
    expect(shape).toMatchObject({ embeddingScale: 12, residualScale: 1, logitScale: 0.25 });
    expect(attention(shape)[0]).toMatchObject({ scale: 0.2, ropeTable: undefined });
    expect(shape.layers[0]?.ffn?.width).toBe(96);
    expect(tables(granite({ position_embedding_type: "rope" }))).toEqual([0]);
    expect(kinds(granite({ layer_types: ["linear_attention", "full_attention"] }))).toEqual(kinds(shape));
  });

  test.each([
    ["qwen3_moe", { num_experts: 128 }, { norm_topk_prob: true }], // as Qwen3-30B-A3B has it, and as transformers 5 writes it
    ["qwen3_moe", { num_local_experts: 128 }, {}],
    ["glm4_moe", { n_routed_experts: 128 }, { num_nextn_predict_layers: 1 }],
    [
      "ernie4_5_moe",
      { moe_num_experts: 64 },
      { moe_use_aux_free: true, moe_gate: "topk", moe_capacity: [64] },
    ],
  ])("%s: how many experts there are, and what is seen by tensors", (type, count, more) => {
    const config = { model_type: type, ...sizes, head_dim: 16, ...count, ...more };
    const router = { name: "model.layers.0.mlp.gate.weight", shape: [64, 128] };
    const file = {
      ...{ name: "m", format: "safetensors", config },
      tensors: new Map([[router.name, router]]),
    };
    const { shape } = readShape(file as unknown as ModelFile);
    expect(shape.layers[0]?.ffn).toMatchObject({ kind: "experts", experts: Object.values(count)[0] });
    expect(shape.layers[1]?.ffn?.kind).toBe("mlp");
    expect(shape.unusedLayers).toBe(type === "glm4_moe" ? 1 : 0);
  });

  test("Nemotron-H: layers as letters or as words, and as many as there are of them", () => {
    const { num_hidden_layers: _, ...rest } = sizes;
    const shape = (changes: Changes) => configShape({ model_type: "nemotron_h", ...rest, ...changes });
    const lettered = shape({ hybrid_override_pattern: "M-*" });
    expect(kinds(lettered)).toEqual(["mamba2", "", "attention"]);
    expect(kinds(shape({ layers_block_type: ["linear_attention", "mlp", "full_attention"] }))).toEqual(
      kinds(lettered),
    );
    expect(errorOf(() => shape({ hybrid_override_pattern: "MX" })).message).toMatch(
      /layers_block_type X does not run/,
    );
    expect(errorOf(() => shape({ hybrid_override_pattern: "M", moe_latent_size: 64 })).message).toMatch(
      /moe_latent_size 64/,
    );
  });

  test("experts of a type whose keys are not known are refused by name", () => {
    const error = errorOf(() => configShape({ model_type: "qwen3", ...sizes, num_experts: 8 }));
    expect(error.message).toMatch(/"qwen3" with 8 experts does not run yet/);
  });

  test("Falcon-H1: the factors that GGUF's converter multiplies into weights", () => {
    const config = {
      ...{ model_type: "falcon_h1", ...sizes, ...MAMBA, mamba_d_ssm: 128, lm_head_multiplier: 0.5 },
      ...{
        attention_in_multiplier: 2,
        attention_out_multiplier: 3,
        key_multiplier: 0.5,
        ssm_in_multiplier: 2,
      },
      ...{ ssm_multipliers: [1, 2, 3, 4, 5], mlp_multipliers: [7, 8], ssm_out_multiplier: 9 },
    };
    const shape = configShape(config);
    expect(attention(shape)[0]?.scale).toBe((4 * 0.5) / 4);
    expect(shape.logitScale).toBe(0.5);
    expect(shape.factors).toEqual({
      attn_output: [[6]],
      ffn_gate: [[7]],
      ffn_down: [[8]],
      ssm_in: [
        [2, 128],
        [4, 128],
        [6, 16],
        [8, 16],
        [10, 8],
      ],
      ssm_out: [[9]],
    });
    for (const changes of [{ ssm_multipliers: [1, 2] }, { mamba_d_head: 8 }, { time_step_limit: [0.01, 1] }])
      expect(errorOf(() => configShape({ ...config, ...changes })).details["key"]).toBe(
        Object.keys(changes)[0],
      );
    const gated = { mamba_rms_norm: true, mamba_norm_before_gate: true };
    expect(errorOf(() => configShape({ ...config, ...gated })).details["key"]).toBe("mamba_norm_before_gate");
    expect(errorOf(() => configShape({ ...config, attention_bias: true })).details["key"]).toBe(
      "attention_bias",
    );
  });

  test("Mamba-2 and Qwen3.5 with the sizes of their recurrent layers", () => {
    const mamba = configShape({
      model_type: "mamba2",
      hidden_size: 64,
      num_hidden_layers: 2,
      num_heads: 8,
      head_dim: 16,
      n_groups: 1,
    });
    expect(kinds(mamba)).toEqual(["mamba2", "mamba2"]);
    expect(mamba.layers[0]).toMatchObject({
      ffn: undefined,
      mixers: [{ heads: 8, headDim: 16, stateSize: 128 }],
    });
    const qwen = configShape({
      ...{ model_type: "qwen3_5", mtp_num_hidden_layers: 1 },
      text_config: {
        ...sizes,
        rope_parameters: { rope_theta: 1e7, mrope_section: [1, 1, 0], mrope_interleaved: true },
      },
    });
    expect(kinds(qwen)).toEqual(
      ["gated-delta", "gated-delta", "gated-delta", "attention"].concat([
        "gated-delta",
        "gated-delta",
        "gated-delta",
        "attention",
      ]),
    );
    expect(qwen.layers[0]?.mixers[0]).toMatchObject({
      keyHeads: 16,
      valueHeads: 32,
      keyHeadOrder: "blocked",
    });
    expect([qwen.ropeTables[0]?.rot, qwen.normOffset]).toEqual([4, 1]);
  });
});

function sizesOf<T>(length: number, entry: (index: number) => T): T[] {
  return Array.from({ length }, (_, index) => entry(index));
}

describe("tensors that nothing reads", () => {
  const names = (extra: string[]) => [
    "token_embd.weight",
    "output_norm.weight",
    ...["attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"].map(
      (name) => `blk.0.${name}.weight`,
    ),
    ...extra,
  ];
  const check = (extra: string[]) => {
    const tensors = new Map(names(extra).map((name) => [name, { name, type: "F32", shape: [64, 100] }]));
    const file = gguf("llama", { block_count: 1 }, tensors);
    checkTensors(file, readShape(file).shape);
  };

  test("a model with fused queries, keys and values is whole", () => {
    expect(() => check([])).not.toThrow();
    expect(() => check(["blk.0.attn_qkv.bias", "v.blk.0.attn_q.weight", "rope_freqs.weight"])).not.toThrow();
  });

  test.each([
    "blk.0.attn_norm.bias",
    "blk.0.attn_sinks.bias",
    "blk.0.attn_q_norm.weight",
    "blk.0.ffn_gate_exps.weight",
    "blk.1.attn_q.weight",
    "rope_factors_long.weight",
    "position_embd.weight",
  ])("%s is refused by name", (name) => {
    const error = errorOf(() => check([name]));
    expect(error).toMatchObject({ code: "unsupported", details: { tensor: name, file: "m.gguf" } });
  });

  test.each(["IQ2_XXS", "I32", "F8_E4M3"])("%s where it is used is refused by the tensor's name", (type) => {
    const tensors = new Map(names([]).map((name) => [name, { name, type: "F32", shape: [64, 100] }]));
    tensors.set("blk.0.ffn_up.weight", { name: "blk.0.ffn_up.weight", type, shape: [64, 100] });
    const file = gguf("llama", { block_count: 1 }, tensors);
    const error = errorOf(() => checkTensors(file, readShape(file).shape));
    expect(error).toMatchObject({ code: "unsupported", details: { tensor: "blk.0.ffn_up.weight", type } });
  });

  test("layers that only predict further tokens may be there", () => {
    const file = gguf("qwen35", {});
    const { shape } = readShape(gguf("llama", { block_count: 1 }));
    const tensors = new Map(
      names(["blk.1.attn_norm.weight", "blk.1.nextn.eh_proj.weight"]).map((name) => [
        name,
        { name, type: "F32", shape: [64, 100] },
      ]),
    );
    const withLayer = { ...file, tensors } as unknown as ModelFile;
    const trunk = { ...shape, unusedLayers: 1 };
    expect(() => checkTensors(withLayer, trunk)).not.toThrow();
    expect(new Set(usedTensors(withLayer, trunk).map(({ name }) => name))).toEqual(new Set(names([])));
    expect(errorOf(() => checkTensors(withLayer, shape)).details["tensor"]).toBe("blk.1.attn_norm.weight");
  });
});
