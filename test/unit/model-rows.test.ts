/**
 * Rows whose layers differ in norms, residual adds and feed-forwards: what of that the file decides, which tensors a layer then
 * needs, and what is refused. That they compute the right thing is for the goldens (test/model).
 */
import { expect, test } from "vitest";
import type { ModelFile } from "../../src/load/model-file.ts";
import { DIALECTS } from "../../src/model/arch/config/dialects.ts";
import { ARCHITECTURES, readShape } from "../../src/model/arch/rows.ts";
import { usedTensors } from "../../src/model/arch/tensor-names.ts";
import type { AttentionMixer, LayerShape, MlpFeedForward, ModelShape } from "../../src/shape/shape.ts";

type Changes = Readonly<Record<string, unknown>>;

function gguf(arch: string, changes: Changes = {}, tensors: readonly string[] = []): ModelFile {
  const own: Changes = {
    block_count: 2,
    embedding_length: 64,
    "attention.head_count": 4,
    feed_forward_length: 128,
    context_length: 256,
    vocab_size: 100,
    "attention.layer_norm_epsilon": 1e-5,
    ...changes,
  };
  const metadata = new Map(Object.entries(own).map(([key, value]) => [`${arch}.${key}`, value]));
  metadata.set("general.architecture", arch);
  const found = new Map(tensors.map((name) => [name, { name, shape: [64] }]));
  return { name: "m.gguf", format: "gguf", metadata, tensors: found } as unknown as ModelFile;
}

function safetensors(config: Changes, tensors: readonly string[] = []): ModelFile {
  const found = new Map(tensors.map((name) => [name, { name, shape: [64] }]));
  return {
    name: "model.safetensors",
    format: "safetensors",
    config,
    tensors: found,
  } as unknown as ModelFile;
}

const shapeOf = (file: ModelFile): ModelShape => readShape(file).shape;
const firstLayer = (file: ModelFile): LayerShape => shapeOf(file).layers[0] as LayerShape;
const ffnOf = (file: ModelFile) => firstLayer(file).ffn as MlpFeedForward;
const attentionOf = (file: ModelFile) => firstLayer(file).mixers[0] as AttentionMixer;

const PRE = { mixer: "attn_norm", ffn: "ffn_norm" };
const ONE = { mixer: "attn_norm" };

test("an epsilon of LayerNorm is read under its own name", () => {
  expect(shapeOf(gguf("gpt2"))).toMatchObject({ norm: "layer", normEps: 1e-5, learnedPositions: true });
  expect(() => shapeOf(gguf("gpt2", { "attention.layer_norm_epsilon": undefined }))).toThrow(
    /gpt2\.attention\.layer_norm_epsilon is missing/,
  );
});

test.each<[string, ModelFile, unknown, boolean]>([
  ["GPT-2", gguf("gpt2"), PRE, false],
  ["GPT-NeoX", gguf("gptneox", { use_parallel_residual: true }), PRE, true],
  ["GPT-NeoX in sequence", gguf("gptneox", { use_parallel_residual: false }), PRE, false],
  ["Phi-2", gguf("phi2"), ONE, true],
  ["Falcon 7B", gguf("falcon"), ONE, true],
  [
    "Falcon 40B",
    gguf("falcon", {}, ["blk.0.attn_norm_2.weight"]),
    { mixer: "attn_norm_2", ffn: "attn_norm" },
    true,
  ],
  ["StableLM", gguf("stablelm", {}, ["blk.0.ffn_norm.weight"]), PRE, false],
  ["StableLM 2 12B", gguf("stablelm", { use_parallel_residual: true }), ONE, true],
])("%s: norms and residual adds", (_, file, norms, parallel) => {
  expect(firstLayer(file)).toMatchObject({ norms, parallel });
});

test("StableLM norms its heads if the file has the weights", () => {
  expect(attentionOf(gguf("stablelm")).qkNorm).toBe(false);
  expect(attentionOf(gguf("stablelm", {}, ["blk.0.attn_q_norm.weight"])).qkNorm).toBe("layer");
});

test("a parallel residual that a row does not read is refused by name", () => {
  expect(() => shapeOf(gguf("starcoder2", { use_parallel_residual: true }))).toThrow(
    /starcoder2\.use_parallel_residual is true, which "starcoder2" does not compute with/,
  );
});

test("Nemotron-H: a layer is a mixer or a feed-forward, and has one norm", () => {
  const file = gguf("nemotron_h", {
    block_count: 3,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.head_count_kv": [0, 2, 0],
    feed_forward_length: [0, 0, 128],
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 128,
    "ssm.state_size": 32,
    "ssm.time_step_rank": 4,
    "ssm.group_count": 2,
  });
  const { layers } = shapeOf(file);
  expect(layers.map(({ mixers, ffn }) => [mixers.map(({ kind }) => kind), ffn?.kind])).toEqual([
    [["mamba2"], undefined],
    [["attention"], undefined],
    [[], "mlp"],
  ]);
  expect((layers[1]?.mixers[0] as AttentionMixer).ropeTable).toBeUndefined();
  const needed = ["blk.2.attn_norm", "blk.2.ffn_up", "blk.2.ffn_down"];
  expect(() => usedTensors(file, shapeOf(file))).toThrow(/token_embd\.weight is missing/);
  expect(missingOf(file).filter((name) => name.startsWith("blk.2."))).toEqual(
    needed.map((name) => `${name}.weight`),
  );
});

/** The tensors that a file lacks, one after another. */
function missingOf(file: ModelFile): string[] {
  const shape = shapeOf(file);
  const missing: string[] = [];
  for (let tries = 0; tries < 100; tries++) {
    try {
      usedTensors(file, shape);
      return missing;
    } catch (error) {
      const name = /the tensor (\S+) is missing/.exec((error as Error).message)?.[1] ?? String(error);
      missing.push(name);
      (file.tensors as Map<string, unknown>).set(name, { name, shape: [64] });
    }
  }
  throw new Error("a file is never whole");
}

test("xIELU: each layer's constants, out of what the softplus keeps positive", () => {
  const metadata = gguf("apertus", { "attention.layer_norm_rms_epsilon": 1e-5 });
  const settings = metadata.format === "gguf" ? metadata.metadata : new Map<string, unknown>();
  const set = (values: Changes) => {
    for (const [key, value] of Object.entries(values)) (settings as Map<string, unknown>).set(key, value);
  };
  set({ "xielu.alpha_p": [0, 1], "xielu.alpha_n": [0, 2], "xielu.beta": 0.5, "xielu.eps": [-1e-6, -1e-6] });
  expect(ffnOf(metadata)).toMatchObject({ activation: "xielu", gated: false });
  const { positive, negative, slope, limit } = ffnOf(metadata).xielu ?? {};
  expect([positive, negative]).toEqual(
    [Math.log(2), 0.5 + Math.log(2)].map((value) => expect.closeTo(value, 12)),
  );
  expect([slope, limit]).toEqual([0.5, -1e-6]);
  set({ "xielu.alpha_n": [0] });
  expect(() => shapeOf(metadata)).toThrow(/xielu\.alpha_n is a list of 1, expected one entry for each of 2/);
});

test("config.json of GPT-2: its own names, four times the width, and no other attention", () => {
  const config = { model_type: "gpt2", n_embd: 64, n_layer: 2, n_head: 4, n_positions: 128, n_inner: null };
  const shape = shapeOf(safetensors(config));
  expect(shape).toMatchObject({ hiddenSize: 64, contextTokens: 128, norm: "layer", transposed: true });
  expect(ffnOf(safetensors(config))).toMatchObject({ width: 256, activation: "gelu_tanh", gated: false });
  expect(() => shapeOf(safetensors({ ...config, scale_attn_by_inverse_layer_idx: true }))).toThrow(
    /scale_attn_by_inverse_layer_idx true does not run here, only false/,
  );
});

test("config.json of Falcon: key heads of three kinds of files, and no ALiBi", () => {
  const config = {
    model_type: "falcon",
    hidden_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    vocab_size: 9,
  };
  const kvHeads = (changes: Changes) => attentionOf(safetensors({ ...config, ...changes })).kvHeads;
  expect(kvHeads({})).toBe(1);
  expect(kvHeads({ multi_query: false })).toBe(4);
  expect(kvHeads({ new_decoder_architecture: true, num_kv_heads: 2 })).toBe(2);
  expect(attentionOf(safetensors(config)).groupedQkv).toBe(true);
  expect(ffnOf(safetensors(config))).toMatchObject({ width: 256, activation: "gelu" });
  expect(() => shapeOf(safetensors({ ...config, alibi: true }))).toThrow(/alibi true does not run here/);
});

test("Falcon 40B in safetensors has the names of its norms apart", () => {
  const config = {
    model_type: "falcon",
    hidden_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    vocab_size: 9,
  };
  const file = safetensors(config, ["transformer.h.0.ln_attn.weight", "transformer.h.0.ln_mlp.weight"]);
  expect(firstLayer(file)).toMatchObject({
    norms: { mixer: "attn_norm_2", ffn: "ffn_norm" },
    parallel: true,
  });
});

test("what every row is called in config.json can be read, and nothing else can", () => {
  const types = new Set(ARCHITECTURES.flatMap(({ config }) => config));
  expect([...types].sort()).toEqual(Object.keys(DIALECTS).sort());
});
