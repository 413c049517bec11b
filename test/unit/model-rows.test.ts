/**
 * What the rows of attention models say beside a file's settings: windows, rotations, caps, factors and the names of norms, as
 * llama.cpp (GGUF) and transformers (config.json) have them where the file leaves them out.
 */
import { describe, expect, test } from "vitest";
import { TidepoolError } from "../../src/errors.ts";
import type { ModelFile } from "../../src/load/model-file.ts";
import { readShape } from "../../src/model/arch/rows.ts";
import { checkTensors, usedTensors } from "../../src/model/arch/tensor-names.ts";
import { ropeFrequencies, withRopeChoice } from "../../src/model/op/rope.ts";
import { normsOf, type AttentionMixer, type LayerShape, type ModelShape } from "../../src/shape/shape.ts";
import type { RunnerOptions } from "../../src/model/runner.ts";
import { WeightsFingerprint } from "../../src/worker/fingerprint.ts";

type Changes = Record<string, unknown>;

const tensorsOf = (names: readonly string[]) =>
  new Map(names.map((name) => [name, { name, type: "F32", shape: [64, 100], sizeBytes: 25_600 }]));

function ggufFile(arch: string, changes: Changes = {}, tensors: readonly string[] = []): ModelFile {
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
  const entries = Object.entries(own).map(([key, value]): [string, unknown] => [`${arch}.${key}`, value]);
  const metadata = new Map([["general.architecture", arch], ...entries]);
  return { name: "m.gguf", format: "gguf", metadata, tensors: tensorsOf(tensors) } as unknown as ModelFile;
}

const gguf = (arch: string, changes?: Changes, tensors?: readonly string[]): ModelShape =>
  readShape(ggufFile(arch, changes, tensors)).shape;

const SIZES: Changes = {
  num_hidden_layers: 8,
  hidden_size: 64,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  intermediate_size: 128,
  vocab_size: 100,
};

const config = (model_type: string, changes: Changes = {}, sizes = SIZES): ModelShape => {
  const settings = { model_type, ...sizes, ...changes };
  const file = { name: "model.safetensors", format: "safetensors", config: settings, tensors: new Map() };
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
const first = (shape: ModelShape) => attention(shape)[0] as AttentionMixer;
const windows = (shape: ModelShape) => attention(shape).map(({ window }) => window);
const tables = (shape: ModelShape) => attention(shape).map(({ ropeTable }) => ropeTable);
const norms = (shape: ModelShape) => Object.fromEntries(normsOf(shape.layers[0] as LayerShape));

describe("GGUF", () => {
  test("Gemma 2: every other layer is local, scores and logits are capped", () => {
    const usual = gguf("gemma2");
    expect(windows(usual)).toEqual([4096, 0, 4096, 0]);
    expect(tables(usual)).toEqual([0, 0, 0, 0]);
    expect([first(usual).softCap, usual.logitSoftCap]).toEqual([50, 30]);
    const open = gguf("gemma2", { attn_logit_softcapping: 0, final_logit_softcapping: 0 });
    expect([first(open).softCap, open.logitSoftCap]).toEqual([0, 0]);
    expect(gguf("gemma").logitSoftCap).toBe(0);
  });

  test("Phi-3: every layer has the window that the file names", () => {
    expect(windows(gguf("phi3", { "attention.sliding_window": 64 }))).toEqual([64, 64, 64, 64]);
    expect(windows(gguf("phi3", { "attention.sliding_window": 0 }))).toEqual([0, 0, 0, 0]);
    expect(gguf("phi3").layers[0]?.ffn).toMatchObject({ fused: true });
  });

  test("Gemma 2: 46 layers scale queries by another size", () => {
    const sizes = { "attention.key_length": 32, embedding_length: 96 };
    expect(first(gguf("gemma2", sizes)).scale).toBe(1 / Math.sqrt(32));
    expect(first(gguf("gemma2", { ...sizes, block_count: 46 })).scale).toBe(1 / Math.sqrt(24));
  });

  test("OLMo 3: local layers are never stretched, nor made longer", () => {
    const yarn = { "rope.scaling.type": "yarn", "rope.scaling.factor": 8, "rope.scaling.attn_factor": 1.2 };
    const shape = gguf("olmo2", { ...yarn, "rope.freq_base": 5e5, "attention.sliding_window": 16 });
    expect(windows(shape)).toEqual([16, 16, 16, 0]);
    expect(tables(shape)).toEqual([1, 1, 1, 0]);
    expect(shape.ropeTables).toMatchObject([
      { theta: 5e5, scaling: { type: "yarn" }, magnitude: 1.2 },
      { theta: 5e5, scaling: { type: "none" } },
    ]);
    expect(shape.ropeTables[1]).not.toHaveProperty("magnitude");
    expect(gguf("olmo2").ropeTables.length).toBe(1);
    expect(first(shape).qkNorm).toBe("vector");
  });

  test("EXAONE 4: 64 layers have windows, and those without do not rotate", () => {
    expect([windows(gguf("exaone4")), tables(gguf("exaone4"))]).toEqual([
      [0, 0, 0, 0],
      [0, 0, 0, 0],
    ]);
    const large = gguf("exaone4", { block_count: 64 });
    expect(windows(large).slice(0, 5)).toEqual([4096, 4096, 4096, 0, 4096]);
    expect(tables(large).slice(0, 5)).toEqual([0, 0, 0, undefined, 0]);
    expect(windows(gguf("exaone4", { "attention.sliding_window": 32 }))).toEqual([32, 32, 32, 0]);
  });

  test("post-norms alone, and a norm before the feed-forward under the name of a post-norm", () => {
    for (const arch of ["olmo2", "exaone4"])
      expect(norms(gguf(arch))).toEqual({ mixerPost: "post_attention_norm", ffnPost: "post_ffw_norm" });
    expect(norms(gguf("seed_oss"))).toEqual({ mixer: "attn_norm", ffn: "post_attention_norm" });
  });

  test("Ministral 3: queries grow with their position, and YaRN's own factor is divided", () => {
    const yarn = { "rope.scaling.type": "yarn", "rope.scaling.factor": 16 };
    const original = { "rope.scaling.original_context_length": 64 };
    const scaled = gguf("mistral3", { ...yarn, ...original, "attention.temperature_scale": 0.1 });
    expect(first(scaled).temperature).toEqual({ scale: 0.1, tokens: 64 });
    expect(scaled.ropeTables[0]?.scaling).not.toHaveProperty("attentionFactor");
    const divided = gguf("mistral3", { ...yarn, "rope.scaling.yarn_log_multiplier": 1 });
    expect(divided.ropeTables[0]?.scaling).toMatchObject({ attentionFactor: 1 });
    expect(first(divided)).not.toHaveProperty("temperature");
  });

  test("MiniCPM: the factors of its first models where the file does not say", () => {
    const usual = gguf("minicpm", { embedding_length: 512 });
    expect([usual.embeddingScale, usual.residualScale, usual.logitScale]).toEqual([12, 0.7, 0.5]);
    const said = gguf("minicpm", { embedding_scale: 2, residual_scale: 0.5, logit_scale: 4 });
    expect([said.embeddingScale, said.residualScale, said.logitScale]).toEqual([2, 0.5, 0.25]);
  });

  test("GLM-4V has rows for the other layout, Granite may not rotate at all", () => {
    expect(gguf("glm4").ropeLayout).toBe("interleaved");
    const sections = { "rope.dimension_sections": Int32Array.of(2, 1, 1, 0) };
    expect(gguf("glm4", sections).ropeLayout).toBe("half");
    expect(tables(gguf("granite"))[0]).toBe(0);
    expect(tables(gguf("granite", { "rope.scaling.finetuned": false }))[0]).toBe(undefined);
  });

  test.each([
    ["hunyuan-dense", "rope.scaling.alpha", 1000],
    ["qwen2", "attention.sliding_window", 128],
    ["gemma", "attn_logit_softcapping", -1],
  ])("%s.%s %s is refused by name", (arch, key, value) => {
    expect(errorOf(() => gguf(arch, { [key]: value })).message).toContain(`${arch}.${key}`);
  });
});

describe("LongRoPE", () => {
  const factors = ["rope_factors_long.weight", "rope_factors_short.weight"];
  const original = { "rope.scaling.original_context_length": 64, "rope.scaling.attn_factor": 1.19 };
  const phi3 = (tensors = factors) => gguf("phi3", original, tensors);

  test("it is there if its tensors are", () => {
    expect(phi3().ropeTables[0]).toMatchObject({
      scaling: { type: "longrope", originalContext: 64 },
      magnitude: 1.19,
    });
    expect(phi3([]).ropeTables[0]?.scaling).toEqual({ type: "none" });
    const error = errorOf(() => gguf("phi3", { "rope.scaling.type": "longrope" }));
    expect(error.details["key"]).toBe("phi3.rope.scaling.type");
    const other = ggufFile("llama", {}, ["token_embd.weight", "output_norm.weight", ...factors]);
    expect(errorOf(() => checkTensors(other, readShape(other).shape)).code).toMatch(
      /unsupported|invalid_file/,
    );
  });

  test("an engine whose context is longer than the original takes the long factors, for all positions", () => {
    const chosen = (context: number) => {
      const { scaling } = withRopeChoice(phi3(), context).ropeTables[0] as { scaling: { chosen?: string } };
      return scaling.chosen;
    };
    expect([chosen(1), chosen(64), chosen(65), chosen(256)]).toEqual(["short", "short", "long", "long"]);
    const plain = gguf("llama");
    expect(withRopeChoice(plain, 256)).toEqual(plain);
  });

  test("the choice is part of the fingerprint", () => {
    const options = { dtype: "f32", kvDtype: "f32", blockTokens: 32 } as RunnerOptions;
    const of = (context: number) =>
      new WeightsFingerprint().fingerprint(withRopeChoice(phi3(), context), options);
    expect(of(64)).not.toBe(of(65));
    expect(of(65)).toBe(of(256));
  });

  test("both tensors are needed to load, and the chosen one is read", () => {
    const names = (shape: ModelShape, tensors: readonly string[]) => {
      const file = ggufFile(
        "phi3",
        { ...original, block_count: 1 },
        [
          ...["token_embd", "output_norm", "blk.0.attn_norm", "blk.0.attn_qkv", "blk.0.attn_output"],
          ...["blk.0.ffn_norm", "blk.0.ffn_up", "blk.0.ffn_down"],
        ]
          .map((name) => `${name}.weight`)
          .concat(tensors),
      );
      return usedTensors(file, shape)
        .map(({ name }) => name)
        .filter((name) => name.startsWith("rope"));
    };
    const shape = gguf("phi3", { ...original, block_count: 1 }, factors);
    expect(names(shape, factors)).toEqual(["rope_factors_short.weight", "rope_factors_long.weight"]);
    expect(names(withRopeChoice(shape, 64), factors)).toEqual(["rope_factors_short.weight"]);
    expect(names(withRopeChoice(shape, 65), factors)).toEqual(["rope_factors_long.weight"]);
    expect(errorOf(() => names(shape, factors.slice(0, 1))).details["tensor"]).toBe(
      "rope_factors_short.weight",
    );
  });

  const lists = { short_factor: [1, 2, 3, 4, 5, 6, 7, 8], long_factor: [8, 7, 6, 5, 4, 3, 2, 1] };
  const settings = { max_position_embeddings: 256, original_max_position_embeddings: 64 };

  test("config.json holds the factors themselves", () => {
    for (const type of ["longrope", "su"]) {
      const shape = config("phi3", { ...settings, rope_scaling: { type, ...lists } });
      const [table] = withRopeChoice(shape, 65).ropeTables;
      const { frequencies, mscale } = ropeFrequencies(table as ModelShape["ropeTables"][0]);
      expect(frequencies[0]).toBe(1 / 8);
      expect(mscale).toBeCloseTo(Math.sqrt(1 + Math.log(4) / Math.log(64)), 12);
      const short = withRopeChoice(shape, 64).ropeTables[0] as ModelShape["ropeTables"][0];
      expect(ropeFrequencies(short).frequencies[1]).toBeCloseTo(10_000 ** (-2 / 16) / 2, 12);
      expect(ropeFrequencies(short).mscale).toBe(mscale);
    }
  });

  test("a list of another length is refused by name", () => {
    const rope_parameters = { rope_type: "longrope", rope_theta: 1e4, ...lists, long_factor: [1, 2] };
    const error = errorOf(() => config("phi3", { ...settings, rope_parameters }));
    expect(error.details["key"]).toBe("rope_parameters.long_factor");
  });
});

describe("config.json", () => {
  /** transformers' defaults. */
  test.each<[string, number[], number, number]>([
    ["qwen2", [4096, 32, 32, 32, 128, 22_016, 151_936, 32_768], 1e-6, 10_000],
    ["ministral3", [4096, 34, 32, 8, 128, 14_336, 131_072, 262_144], 1e-5, 1_000_000],
    ["phi3", [3072, 32, 32, 32, 96, 8192, 32_064, 4096], 1e-5, 10_000],
    ["granite", [4096, 32, 32, 32, 128, 11_008, 32_000, 2048], 1e-6, 10_000],
    ["ernie4_5", [1024, 18, 16, 2, 128, 3072, 103_424, 131_072], 1e-5, 500_000],
    ["hunyuan_v1_dense", [4096, 32, 32, 32, 128, 11_008, 290_943, 2048], 1e-5, 10_000],
    ["seed_oss", [4096, 64, 80, 8, 128, 27_648, 155_136, 524_288], 1e-6, 10_000],
    ["glm4", [4096, 40, 32, 2, 128, 13_696, 151_552, 131_072], 1.5625e-7, 10_000],
    ["olmo2", [4096, 32, 32, 32, 128, 11_008, 50_304, 2048], 1e-5, 10_000],
    ["olmo3", [4096, 32, 32, 32, 128, 11_008, 50_304, 2048], 1e-5, 500_000],
    ["exaone4", [4096, 32, 32, 32, 128, 16_384, 102_400, 2048], 1e-5, 10_000],
    ["gemma", [3072, 28, 16, 16, 256, 24_576, 256_000, 8192], 1e-6, 10_000],
    ["gemma2", [2304, 26, 8, 4, 256, 9216, 256_000, 8192], 1e-6, 10_000],
  ])("%s: the sizes of an empty config", (type, expected, eps, theta) => {
    const shape = config(type, {}, {});
    const { heads, kvHeads, headDim } = first(shape);
    const { hiddenSize, layers, vocabSize, contextTokens } = shape;
    const ffn = layers[0]?.ffn as { width: number };
    expect([hiddenSize, layers.length, heads, kvHeads, headDim, ffn.width, vocabSize, contextTokens]).toEqual(
      expected,
    );
    expect([shape.normEps, shape.ropeTables[0]?.theta]).toEqual([eps, theta]);
  });

  test("Ministral 3: YaRN and the temperature of an empty config, and the text model inside Mistral 3", () => {
    const empty = config("ministral3", {}, {});
    expect(empty.ropeTables[0]?.scaling).toMatchObject({ type: "yarn", factor: 16, attentionFactor: 1 });
    expect(first(empty).temperature).toEqual({ scale: 0.1, tokens: 16_384 });
    const rope_parameters = { rope_type: "yarn", rope_theta: 1e6, factor: 4, llama_4_scaling_beta: 0.2 };
    const said = {
      ...rope_parameters,
      original_max_position_embeddings: 64,
      max_position_embeddings: 256,
    };
    const whole = { text_config: { model_type: "ministral3", ...SIZES, rope_parameters: said } };
    const inner = config(
      "mistral3",
      { ...whole, projector_hidden_act: "gelu", vision_feature_layer: -1 },
      {},
    );
    expect(inner.architecture).toBe("mistral3");
    expect(first(inner).temperature).toEqual({ scale: 0.2, tokens: 64 });
    const older = { text_config: { model_type: "mistral", ...SIZES } };
    expect(config("mistral3", older, {}).architecture).toBe("llama");
  });

  test("Hunyuan: a fixed alpha makes the base larger", () => {
    const rope_scaling = { type: "dynamic", alpha: 1000, factor: 1, beta_fast: 32, beta_slow: 1, mscale: 1 };
    const shape = config("hunyuan_v1_dense", { rope_scaling, use_qk_norm: true, attention_head_dim: 16 });
    const { frequencies } = ropeFrequencies(shape.ropeTables[0] as ModelShape["ropeTables"][0]);
    const base = 10_000 * 1000 ** (16 / 14);
    frequencies.forEach((value, pair) => expect(value).toBeCloseTo(base ** ((-2 * pair) / 16), 14));
    expect(first(shape).qkNorm).toBe("rotated");
    const { message } = errorOf(() => config("hunyuan_v1_dense", { use_qk_norm: false }));
    expect(message).toContain("use_qk_norm");
    const dynamic = { rope_scaling: { type: "dynamic", factor: 2, alpha: 1000 } };
    expect(errorOf(() => config("llama", dynamic)).message).toContain("rope_scaling.rope_type");
  });

  test("Granite: four factors", () => {
    const factors = { embedding_multiplier: 12, residual_multiplier: 0.22, logits_scaling: 8 };
    const shape = config("granite", { ...factors, attention_multiplier: 0.0078125 });
    expect([shape.embeddingScale, shape.residualScale, shape.logitScale]).toEqual([12, 0.22, 1 / 8]);
    expect(first(shape).scale).toBe(0.0078125);
    expect(first(config("granite")).scale).toBe(1);
  });

  test("OLMo 3: the older form, and one base for each type of layer", () => {
    const rope_scaling = { rope_type: "yarn", factor: 8, original_max_position_embeddings: 64 };
    const older = config("olmo3", { rope_scaling, rope_theta: 3e5, sliding_window: 16 });
    expect(windows(older)).toEqual([16, 16, 16, 0, 16, 16, 16, 0]);
    expect(older.ropeTables).toMatchObject([
      { theta: 3e5, scaling: { type: "yarn" } },
      { theta: 3e5, scaling: { type: "none" } },
    ]);
    const rope_parameters = {
      full_attention: { ...rope_scaling, rope_theta: 2e5 },
      sliding_attention: { rope_type: "default", rope_theta: 1e5 },
    };
    expect(config("olmo3", { rope_parameters }).ropeTables).toMatchObject([
      { theta: 2e5, scaling: { type: "yarn" } },
      { theta: 1e5, scaling: { type: "none" } },
    ]);
  });

  test("EXAONE 4: letters, a number, no window", () => {
    const lettered = config("exaone4", { sliding_window_pattern: "LLLG" });
    expect(windows(lettered).slice(0, 4)).toEqual([4096, 4096, 4096, 0]);
    expect(tables(lettered).slice(0, 4)).toEqual([0, 0, 0, undefined]);
    expect(windows(config("exaone4", { sliding_window_pattern: 2 })).slice(0, 2)).toEqual([4096, 0]);
    const layer_types = Array.from({ length: 8 }, (_, i) => (i < 4 ? "sliding_attention" : "full_attention"));
    const listed = config("exaone4", { sliding_window_pattern: 4, layer_types });
    expect(windows(listed)).toEqual([4096, 4096, 4096, 4096, 0, 0, 0, 0]);
    const open = config("exaone4", { sliding_window: null, sliding_window_pattern: null });
    expect([windows(open)[0], tables(open)[0]]).toEqual([0, 0]);
    const error = errorOf(() => config("exaone4", { sliding_window_pattern: "LXG" }));
    expect(error.details["key"]).toBe("sliding_window_pattern");
  });

  test("Gemma: an old name of its activation, and both keys of it", () => {
    const activation = (shape: ModelShape) => (shape.layers[0]?.ffn as { activation: string }).activation;
    expect(activation(config("gemma", { hidden_act: "gelu", hidden_activation: null }))).toBe("gelu_tanh");
    expect(activation(config("gemma2", { hidden_act: "gelu_pytorch_tanh" }))).toBe("gelu_tanh");
    expect(errorOf(() => config("gemma2", { hidden_activation: "relu" })).code).toBe("unsupported");
  });

  test("GLM-4 and Ernie 4.5 rotate neighbours here too, and half of a head is the default", () => {
    const glm = config("glm4");
    expect([glm.ropeLayout, glm.ropeTables[0]?.rot]).toEqual(["interleaved", 8]);
    const nested = { rope_type: "default", rope_theta: 1e4, partial_rotary_factor: 0.25 };
    expect(config("glm4", { rope_parameters: nested }).ropeTables[0]?.rot).toBe(4);
    expect([config("ernie4_5").ropeLayout, config("qwen2").ropeLayout]).toEqual(["interleaved", "half"]);
  });

  test.each(["internlm2", "minicpm"])("%s is read from GGUF files only", (type) => {
    expect(errorOf(() => config(type)).message).toContain(`"${type}" is read from GGUF files only`);
  });
});
