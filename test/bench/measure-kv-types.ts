/**
 * Measures keys and values of each type: the bytes of pools for 1,024 to 131,072 tokens, by formula and as the sizes of the buffers
 * that are made (nothing is computed in them), how many requests of that context fit a budget, and, round by round in turn, how fast
 * a shipped model decodes behind prompts of several lengths. It says nothing of answers: `npm run eval -- --long` does.
 */
import { assert, Random } from "../../src/base.ts";
import { openGpu, type Gpu } from "../../src/gpu/device.ts";
import { packedBits, type KvDtype } from "../../src/gpu/packed.ts";
import { KvPool } from "../../src/gpu/pool.ts";
import { openModel } from "../../src/load/model-file.ts";
import type { KvLayer } from "../../src/shape/shape.ts";
import { TestSession } from "../support/session.ts";
import { tokenizerOf } from "./eval-engine.ts";
import type { Measurement } from "./report.ts";

const MODEL = "demo/models/tide-dense.gguf";
const PROMPTS = [256, 1024, 2048];
const NEW_TOKENS = 32;
const SEED = 29;
/** Prompts are of these tokens, which are plain text. */
const FIRST_TOKENS = 256;
const ENDS = "<|endoftext|><|im_end|>";

/** A layer of Llama 3.2 1B, two of its sixteen: the others take as much again. */
const LAYER: KvLayer = { kvHeads: 8, headDim: 64, keysOnly: false };
const [MADE_LAYERS, LAYERS] = [2, 16];
const BLOCK_TOKENS = 32;
const CONTEXTS = [1, 4, 16, 32, 64, 128].map((k) => 1024 * k);
const BUDGET_BYTES = 4 * 2 ** 30;

export async function measureKvTypes(provider: GPU, name: string, repeats: number): Promise<Measurement[]> {
  const gpu = await openGpu(provider);
  const exact = gpu.features.f16 ? "f16" : "f32";
  const types = [exact, "q8", "q4", "q2"] as const;
  try {
    return [
      ...(await measureBytes(gpu, types, name)),
      ...(await measureDecode(gpu, types, { name, dtype: exact, repeats })),
    ];
  } finally {
    gpu.device.destroy();
  }
}

/** Bits of a number of a packed block of 32 tokens: its code, and its share of a group's word; of an exact one its own. */
function bitsOf(type: KvDtype): number {
  const bits = packedBits(type);
  if (bits) return bits + 32 / BLOCK_TOKENS;
  return type === "f16" ? 16 : 32;
}

/** Bytes of all layers, by formula. */
function formula(type: KvDtype, tokens: number): number {
  return (2 * LAYERS * LAYER.kvHeads * LAYER.headDim * tokens * bitsOf(type)) / 8;
}

async function measureBytes(gpu: Gpu, types: readonly KvDtype[], name: string): Promise<Measurement[]> {
  const out: Measurement[] = [];
  for (const tokens of CONTEXTS) {
    for (const type of types) {
      const note = (metric: string, unit: string, value: number): void =>
        void out.push({ name: `${name}, ${type} at ${tokens}`, metric, unit, values: [value] });
      const bytes = formula(type, tokens);
      note("KV of Llama 3.2 1B, formula", "MiB", bytes / 2 ** 20);
      note("KV of Llama 3.2 1B, buffers", "MiB", (await bufferBytes(gpu, type, tokens)) / 2 ** 20);
      note("of the exact bytes", "%", (100 * bytes) / formula(types[0] as KvDtype, tokens));
      note("requests in 4 GiB", "requests", Math.floor(BUDGET_BYTES / bytes));
    }
  }
  return out;
}

/** Bytes of the buffers of a pool of two layers, for all layers. */
async function bufferBytes(gpu: Gpu, dtype: KvDtype, tokens: number): Promise<number> {
  const layers = Array.from({ length: MADE_LAYERS }, () => LAYER);
  const options = { layers, blockTokens: BLOCK_TOKENS, slots: 1, dtype };
  const pool = new KvPool(gpu.device, options);
  const made = await pool.allocate(tokens / BLOCK_TOKENS);
  pool.destroy();
  assert(made, `no memory for ${tokens} tokens in ${dtype}`);
  const buffers = [...made.keys, ...made.values];
  const bytes = buffers.reduce((sum, { size }) => sum + size, 0);
  for (const buffer of buffers) buffer.destroy();
  return (bytes * LAYERS) / MADE_LAYERS;
}

async function measureDecode(
  gpu: Gpu,
  types: readonly KvDtype[],
  { name, dtype, repeats }: { name: string; dtype: "f16" | "f32"; repeats: number },
): Promise<Measurement[]> {
  const sessions: [kvDtype: KvDtype, test: TestSession][] = [];
  for (const kvDtype of types) {
    const options = { dtype, kvDtype, maxRequests: 1, poolTokens: 4096 } as const;
    sessions.push([kvDtype, await TestSession.open(gpu, await openModel(MODEL), options)]);
  }
  const random = new Random(SEED);
  const ends = (await tokenizerOf(MODEL)).encode(ENDS, { special: true });
  const logitBias = Object.fromEntries(ends.map((end) => [end, -100]));
  const params = { maxTokens: NEW_TOKENS, logitBias, cache: "off" } as const; // answers of one length
  const out = new Map<string, Measurement>();
  const note = (kvDtype: KvDtype, metric: string, value: number): void => {
    const key = `${kvDtype} ${metric}`;
    const values = [...(out.get(key)?.values ?? []), value];
    out.set(key, { name: `${name}, tide-dense in ${kvDtype}`, metric, unit: "tokens/s", values });
  };
  for (let repeat = -1; repeat < repeats; repeat++) {
    for (const context of PROMPTS) {
      const tokens = Array.from({ length: context }, () => random.below(FIRST_TOKENS));
      for (const [kvDtype, test] of sessions) {
        const { timing, finishReason } = await test.generate({ kind: "tokens", tokens }, params).done;
        assert(finishReason === "length", `an answer in ${kvDtype} ended by "${finishReason}"`);
        if (repeat < 0) continue; // compiles shaders
        note(kvDtype, `decode behind ${context}`, timing.decodeTokensPerSecond);
        note(kvDtype, `prefill of ${context}`, timing.prefillTokensPerSecond);
      }
    }
  }
  for (const [, test] of sessions) await test.close();
  return [...out.values()];
}
