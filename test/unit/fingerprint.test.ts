/**
 * Two models that differ in one respect: neither finds a stored block of the other. What can differ is not listed here but
 * taken from the code: the metadata keys are those that the reader asks for, the tensors those of a file, the options
 * those that a runner has.
 */
import { readdirSync, readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import { describe, expect, test } from "vitest";
import { openModel, type ModelFile, type TensorInfo } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import { readShape, type ReadShape } from "../../src/model/arch/rows.ts";
import type { RunnerOptions } from "../../src/model/runner.ts";
import type { ModelShape } from "../../src/shape/shape.ts";
import { chainKeys, recordKey, rootKey, type Key } from "../../src/tier/record/keys.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import { canonical, NUMERICS_VERSION, WeightsFingerprint } from "../../src/worker/fingerprint.ts";
import { sharedPath, sharedPresent, skipLoudly } from "../support/shared.ts";

const TOKENS = Array.from({ length: 64 }, (_, index) => index);

const OPTIONS: Required<RunnerOptions> = {
  ...{
    dtype: "f32",
    kvDtype: "f32",
    tailDtype: "f32",
    blockTokens: 16,
    chunkTokens: 256,
    seats: 8,
    poolTokens: 1024,
  },
  ...{ poolMayBeLess: true, poolStartTokens: 512, poolBytes: 2 ** 20, memoryBytes: 2 ** 30, snapshots: 4 },
  ...{
    stateStartSlots: 6,
    tables: "gpu",
    expertMemory: 2 ** 20,
    expertRamBytes: 2 ** 21,
    expertPolicy: "lru",
    expertAblation: { predicts: false },
    readBackMs: 1,
    experts: "exact",
    unimportantAbove: 0.6,
  },
};

/** Options that decide how much is done at once and how much memory it takes, but nothing that is computed. */
const SIZES: readonly string[] = [
  ...["chunkTokens", "seats", "poolTokens", "poolMayBeLess", "poolStartTokens", "poolBytes"],
  ...["memoryBytes", "snapshots", "stateStartSlots", "tables"],
  ...["expertMemory", "expertRamBytes", "expertPolicy", "expertAblation", "readBackMs"],
];

const TENSOR: TensorInfo = {
  ...{ name: "blk.0.attn_k.weight", type: "Q4_0", shape: [64, 32], offset: 0, sizeBytes: 1152, shard: 0 },
};

interface Model {
  shape?: ModelShape;
  tensors?: readonly { info: TensorInfo; pieces: readonly Uint8Array[] }[];
  options?: RunnerOptions;
  numerics?: number;
}

type Settings = ReadonlyMap<string, unknown>;

const readMetadata = (metadata: Settings): ReadShape =>
  readShape({ name: "m.gguf", format: "gguf", metadata, tensors: new Map() } as unknown as ModelFile);

const readConfig = (settings: Settings): ReadShape => {
  const config = nested(settings);
  return readShape({ name: "m", format: "safetensors", config, tensors: new Map() } as unknown as ModelFile);
};

const LLAMA = new Map<string, unknown>(
  Object.entries({
    "general.architecture": "llama",
    "general.name": "a model",
    "llama.block_count": 2,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.key_length": 16,
    "llama.feed_forward_length": 128,
    "llama.context_length": 256,
    "llama.vocab_size": 100,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
  }),
);

const BASE = readMetadata(LLAMA).shape;

const WEIGHTS = [{ info: TENSOR, pieces: [Uint8Array.of(1, 2, 3), Uint8Array.of(4)] }];

function fingerprintOf({ shape = BASE, tensors = WEIGHTS, options = OPTIONS, numerics }: Model = {}): Key {
  const weights = new WeightsFingerprint();
  for (const { info, pieces } of tensors) for (const piece of pieces) weights.onPiece(info, piece);
  return weights.fingerprint(shape, options, numerics);
}

/** How many blocks a model finds that another has stored for the same tokens. */
async function found(by: Key, of: Key, blockTokens = OPTIONS.blockTokens): Promise<number> {
  const store = await TierStore.open({ ramBytes: 2 ** 20 });
  let parentKey = rootKey(of, "");
  for (let blockIndex = 0; blockIndex < TOKENS.length / blockTokens; blockIndex++) {
    const tokens = TOKENS.slice(blockIndex * blockTokens, (blockIndex + 1) * blockTokens);
    const common = { kind: "block", fingerprint: of, namespace: "", payload: new Uint8Array(8) } as const;
    store.put({ ...common, parentKey, blockIndex, tokens });
    parentKey = recordKey("block", parentKey, tokens);
  }
  const count = store.has(chainKeys(by, "", TOKENS, blockTokens)).length;
  await store.close();
  return count;
}

/** Values that a key might have in place of this one. */
function otherValues(value: unknown): unknown[] {
  if (typeof value === "bigint") return otherValues(Number(value));
  if (typeof value === "number") return [value * 2, value + 1, value - 1, value / 2, value * 1.5];
  if (typeof value === "boolean") return [!value];
  if (typeof value === "string") return ["linear", "yarn", "none", `${value} 2`];
  if (Array.isArray(value) && typeof value[0] === "string") return [[...(value as string[]), "one more"]];
  if (value !== undefined && value !== null && typeof value === "object") {
    const list = Array.from(value as ArrayLike<number>);
    return [0, list.length - 1].flatMap((at) =>
      otherValues(list[at]).map((each) => list.map((old, index) => (index === at ? each : old))),
    );
  }
  const list = Array.from({ length: 64 }, (_, index) => index % 2);
  return [2, 64, 0.5, 1, true, false, "linear", "yarn", list, list.map(Boolean)];
}

type Change = (value: unknown) => ModelShape;

const nameless = ({ name: _name, ...rest }: ModelShape) => rest;

/** Shapes that one other value of a key makes of a model, where that is a model too. */
function othersBy(base: ModelShape, value: unknown, change: Change): ModelShape[] {
  return otherValues(value).flatMap((other) => {
    try {
      const shape = change(other);
      return isDeepStrictEqual(nameless(shape), nameless(base)) ? [] : [shape];
    } catch {
      return []; // no model has this value
    }
  });
}

/** For each key that is read of a model: the models that other values of it make. */
function variants(
  entries: Settings,
  read: (settings: Settings) => ReadShape,
): { base: ModelShape; byKey: Map<string, ModelShape[]> } {
  const { shape: base, keys } = read(entries);
  const byKey = new Map<string, ModelShape[]>();
  for (const key of keys) {
    const change: Change = (value) => read(new Map([...entries, [key, value]])).shape;
    byKey.set(key, othersBy(base, entries.get(key), change));
  }
  return { base, byKey };
}

/**
 * Keys that are read of all these models, without the architecture's prefix, and how many other models each made. A key
 * without any (the name, say) does not reach the shape, and so not the programs that are built from it.
 */
async function checkModels(
  models: Iterable<Settings>,
  read: (settings: Settings) => ReadShape,
): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  for (const entries of models) {
    const prefix = `${String(entries.get("general.architecture"))}.`;
    const { base, byKey } = variants(entries, read);
    const own = fingerprintOf({ shape: base });
    for (const [key, others] of byKey) {
      const short = key.startsWith(prefix) ? key.slice(prefix.length) : key;
      counts.set(short, (counts.get(short) ?? 0) + others.length);
      for (const shape of others) {
        expect(await found(fingerprintOf({ shape }), own), `${key} of ${prefix}`).toBe(0);
      }
    }
  }
  return counts;
}

describe("each metadata key that the shape reads", () => {
  const folders = ["goldens/models", "goldens/metadata"];

  test.runIf(sharedPresent)("GGUF, over the golden models", async () => {
    const models: Map<string, unknown>[] = [];
    for (const folder of folders) {
      for (const name of readdirSync(sharedPath(folder))) {
        const model = readFileSync(sharedPath(`${folder}/${name}/model.gguf`));
        try {
          const file = await openModel([openBytes(model, "model.gguf")]);
          if (file.format !== "gguf") continue;
          readMetadata(file.metadata);
          models.push(file.metadata);
        } catch {
          // a file that does not run
        }
      }
    }
    expect(models.length).toBeGreaterThan(12);
    const counts = await checkModels(models, readMetadata);
    expect([...counts].filter(([, count]) => count > 0).length).toBeGreaterThan(20);
  });

  if (!sharedPresent) skipLoudly("identity: keys of the golden models", 1);

  test("config.json", async () => {
    const common = {
      ...{ num_hidden_layers: 8, hidden_size: 64, num_attention_heads: 4, num_key_value_heads: 2 },
      ...{ head_dim: 16, vocab_size: 100, max_position_embeddings: 256, intermediate_size: 128 },
      ...{ rms_norm_eps: 1e-5, rope_theta: 10_000, sliding_window: 32, _name_or_path: "a model" },
    };
    const scaled = (rope_scaling: Record<string, unknown>) => ({
      ...common,
      model_type: "llama",
      rope_scaling,
    });
    const original = { original_max_position_embeddings: 64, factor: 4 };
    const configs: Record<string, unknown>[] = [
      ...[
        "llama",
        "mistral",
        "qwen3",
        "smollm3",
        "gemma3_text",
        "gemma2",
        "ministral3",
        "granite",
        "olmo3",
      ].map((model_type) => ({ ...common, model_type })),
      scaled({ rope_type: "linear", factor: 2 }),
      scaled({ rope_type: "yarn", ...original, beta_fast: 32, beta_slow: 1, attention_factor: 1 }),
      scaled({ rope_type: "llama3", ...original, low_freq_factor: 1, high_freq_factor: 4 }),
    ];
    const models = configs.map((config) => new Map(flat(config)));
    const counts = await checkModels(models, readConfig);
    expect(counts.get("rope_scaling.low_freq_factor")).toBeGreaterThan(0);
    expect([...counts].filter(([, count]) => count > 0).length).toBeGreaterThan(15);
  });
});

/** Nested objects as keys with a point. */
function flat(config: Record<string, unknown>, prefix = ""): [string, unknown][] {
  return Object.entries(config).flatMap(([key, value]): [string, unknown][] =>
    typeof value === "object" && value !== null && !Array.isArray(value)
      ? flat(value as Record<string, unknown>, `${prefix}${key}.`)
      : [[prefix + key, value]],
  );
}

/** The object whose flat form this is. */
function nested(settings: Settings): Record<string, unknown> {
  const whole: Record<string, unknown> = {};
  for (const [key, value] of settings) {
    const names = key.split(".");
    const last = names.pop() as string;
    let inner = whole;
    for (const name of names) inner = (inner[name] ??= {}) as Record<string, unknown>;
    inner[last] = value;
  }
  return whole;
}

describe("what else decides a block's bytes", () => {
  const own = fingerprintOf();

  test("a model finds its own", async () => {
    expect(await found(fingerprintOf(), own)).toBe(4);
  });

  const [weight] = WEIGHTS as [(typeof WEIGHTS)[0]];
  const changed = (info: Partial<TensorInfo>) => [{ ...weight, info: { ...TENSOR, ...info } }];

  test.each<[string, Model]>([
    ["a tensor's type", { tensors: changed({ type: "IQ4_NL" }) }],
    ["F16 and BF16", { tensors: changed({ type: "BF16" }) }],
    ["a tensor's dimensions", { tensors: changed({ shape: [32, 64] }) }],
    ["a tensor's name", { tensors: changed({ name: "blk.0.attn_v.weight" }) }],
    ["a weight", { tensors: [{ info: TENSOR, pieces: [Uint8Array.of(1, 2, 3), Uint8Array.of(5)] }] }],
    [
      "a tensor more (RoPE divisors)",
      { tensors: [...WEIGHTS, { ...weight, info: { ...TENSOR, name: "rope_freqs.weight" } }] },
    ],
    ["the version of the numerics", { numerics: NUMERICS_VERSION + 1 }],
    [
      "divisors of RoPE",
      {
        shape: {
          ...BASE,
          ropeTables: BASE.ropeTables.map((table) => ({ ...table, divisors: Float32Array.of(1, 2) })),
        },
      },
    ],
    ["a number that JSON lacks", { shape: { ...BASE, residualScale: Infinity } }],
  ])("%s", async (_name, model) => {
    expect(await found(fingerprintOf(model), own)).toBe(0);
    expect(await found(own, fingerprintOf(model))).toBe(0);
  });

  test("each type of each tensor of a file", async () => {
    const file = await openModel([openBytes(readFileSync("demo/models/tide-hybrid.gguf"), "m.gguf")]);
    const infos = [...file.tensors.values()];
    const tensors = infos.map((info) => ({ info, pieces: [Uint8Array.of(1)] }));
    const before = fingerprintOf({ tensors });
    const seen = new Set([before]);
    infos.forEach((info, at) => {
      const other = {
        info: { ...info, type: info.type === "BF16" ? "F16" : "BF16" } as TensorInfo,
        pieces: [Uint8Array.of(1)],
      };
      seen.add(fingerprintOf({ tensors: tensors.with(at, other) }));
    });
    expect(seen.size).toBe(infos.length + 1);
  });

  test.each(Object.keys(OPTIONS))("the option %s, or it decides a size only", (name) => {
    const value: unknown = OPTIONS[name as keyof RunnerOptions];
    const other = typeof value === "number" ? value + 1 : typeof value === "boolean" ? !value : "f16";
    const options = { ...OPTIONS, [name]: other } as RunnerOptions;
    expect(fingerprintOf({ options }) === own).toBe(SIZES.includes(name));
  });

  test("an option or a part of the shape that is added later", () => {
    const options = { ...OPTIONS, adapterOfTomorrow: "lora" } as RunnerOptions;
    expect(fingerprintOf({ options })).not.toBe(own);
    const layers = BASE.layers.map((layer) => ({ ...layer, later: 1 }));
    expect(fingerprintOf({ shape: { ...BASE, layers } })).not.toBe(own);
  });

  test("the name, the order of tensors and their places in files change nothing", () => {
    const second = { info: { ...TENSOR, name: "output_norm.weight" }, pieces: [Uint8Array.of(9)] };
    const moved = { ...weight, info: { ...TENSOR, offset: 4096, shard: 2 } };
    expect(fingerprintOf({ shape: { ...BASE, name: "another" } })).toBe(own);
    expect(fingerprintOf({ tensors: [second, moved] })).toBe(fingerprintOf({ tensors: [weight, second] }));
  });
});

/** What is stored under these is lost to its users if the form of a shape changes without need. */
test.each([
  ["tide-dense", "0004e8187dc80dc433c7cd231de15453"],
  ["tide-hybrid", "d4cfe5d5701b63a12775cd1f86eb50fa"],
])("the form of a shape is that of stored records: %s", async (name, expected) => {
  const file = await openModel([openBytes(readFileSync(`demo/models/${name}.gguf`), "m.gguf")]);
  const options = { dtype: "f32", kvDtype: "f32", blockTokens: 32, chunkTokens: 32, seats: 1 } as const;
  const { shape } = readShape(file);
  expect(new WeightsFingerprint().fingerprint(shape, options, 1)).toBe(expected);
});

test("canonical texts differ where values do, and refuse what is not plain", () => {
  const values = [
    null,
    0,
    -0,
    NaN,
    Infinity,
    1,
    "1",
    true,
    [],
    [1],
    ["1"],
    {},
    { a: 1 },
    { a: "1" },
    { a: [1] },
    { a: null },
    1n,
  ];
  expect(new Set(values.map(canonical)).size).toBe(values.length);
  expect(canonical({ b: 1, a: 2 })).toBe(canonical({ a: 2, b: 1 }));
  expect(canonical(Float32Array.of(1, 2))).toBe(canonical([1, 2]));
  expect(() => canonical(new Map([["a", 1]]))).toThrow("plain data");
});
