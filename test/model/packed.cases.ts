/**
 * Whole models whose KV pool is packed: near what they compute with exact keys and values, and bit for bit the same keys and values
 * whatever steps a prompt is computed in, with every kind of attention; restored through a lower tier, and from states inside blocks.
 */
import type { KvDtype } from "../../src/gpu/packed.ts";
import type { KvPool } from "../../src/gpu/pool.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import type { GenerationResult } from "../../src/wire/protocol.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { expectSame } from "../support/rig.ts";
import { TestSession } from "../support/session.ts";
import { loadGolden, nmse, runTokens, type Feed } from "./golden.ts";
import { EXACT } from "./variants.ts";

/** Full attention, windows, caps, sinks, latent vectors, shared keys and values, and a hybrid. */
const VARIANTS = ["llama", "gemma3", "gemma2", "gptoss", "deepseek2", "gemma3n", "lfm2"];

const IN_NORMAL_RUN = ["gemma2", "gptoss", "deepseek2"];

/**
 * Of the rows behind the first block, the median of what codes of so many bits change, at least (they are used) and at most. Not the
 * sum: where another expert is chosen, one row is far off.
 */
const GATES: Readonly<Record<"q8" | "q4" | "q2", [least: number, most: number]>> = {
  q8: [1e-9, 2e-3],
  q4: [1e-7, 0.3],
  q2: [1e-6, 1],
};

/** Rows of the first block see exact keys and values alone. */
const EXACT_GATE = 1e-7;

const BLOCK = 16;

/** Logits, and the bytes of the complete blocks. */
async function run(env: CaseEnv, model: Uint8Array, tokens: number[], kvDtype: KvDtype, feed: Feed) {
  const blocks: Uint8Array[] = [];
  const setting = { dtype: "f32", kvDtype, blockTokens: BLOCK, feed } as const;
  const logits = await runTokens(env.gpu, model, tokens, setting, {
    look: async ({ pool, plan, memory }, slots) => {
      const sum = (of: KvPool) =>
        [...new Set([...of.keys, ...of.values])].reduce((n, { size }) => n + size, 0);
      equal(sum(pool), plan.kvBytesPerToken * BLOCK * pool.slots, "bytes of the pool");
      equal([memory.kvPoolBytes, memory.kvTailBytes], [sum(pool), sum(pool.partial)], "bytes as reported");
      if (plan.states.maxSlots === 0) equal(plan.kvTailBytes, sum(pool.partial), "bytes of tails as planned");
      const full = slots.slice(0, Math.floor(tokens.length / BLOCK));
      blocks.push(...(await pool.readSlots(full)));
    },
  });
  return { logits, blocks };
}

/** NMSE of each row. */
function byRow(actual: Float32Array, expected: Float32Array, vocab: number): number[] {
  return Array.from({ length: expected.length / vocab }, (_, row) => {
    const [from, to] = [row * vocab, (row + 1) * vocab];
    return nmse(actual.subarray(from, to), expected.subarray(from, to));
  });
}

function median(numbers: readonly number[]): number {
  return [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)] as number;
}

function variantCase(variant: string, kvDtype: "q8" | "q4" | "q2"): Case {
  return {
    name: `model/packed/${variant} in ${kvDtype}`,
    full: kvDtype !== "q8" || !IN_NORMAL_RUN.includes(variant),
    async run(env) {
      const folder = `goldens/models/${variant}`;
      const { golden, expected, model } = await loadGolden(env, folder, EXACT.includes(variant));
      const once = await run(env, model, golden.tokens, kvDtype, "once");
      const errors = byRow(once.logits, expected, golden.vocabSize);
      const [exact, error] = [Math.max(...errors.slice(0, BLOCK)), median(errors.slice(BLOCK))];
      const [least, most] = GATES[kvDtype];
      if (!(exact < EXACT_GATE)) throw new Error(`NMSE ${exact.toExponential(2)} in the first block`);
      if (!(error > least && error < most))
        throw new Error(`median NMSE ${error.toExponential(2)}, expected ${least} to ${most}`);
      const inChunks = await run(env, model, golden.tokens, kvDtype, "chunks of 7");
      once.blocks.forEach((block, index) =>
        expectSame(`block ${index} in chunks of 7`, inChunks.blocks[index] as Uint8Array, block),
      );
      expectSame("logits in chunks of 7", inChunks.logits, once.logits);
      const oneByOne = await run(env, model, golden.tokens, kvDtype, "one by one");
      const between = median(byRow(oneByOne.logits, once.logits, golden.vocabSize));
      if (!(between < most)) throw new Error(`NMSE ${between.toExponential(2)} from one by one to once`);
    },
  };
}

/** A prompt computed, restored from RAM, and in a batch: the tokens are the same. */
function restoredCase(variant: string, kvDtype: "q8" | "q4" | "q2"): Case {
  return {
    name: `model/packed/${variant} in ${kvDtype}, restored and in a batch`,
    async run(env) {
      const { golden, model } = await loadGolden(env, `goldens/models/${variant}`);
      const store = await TierStore.open({ ramBytes: 2 ** 26 });
      const cache = { policy: "vllm", restore: "load" } as const;
      const engine = { dtype: "f32", kvDtype, blockTokens: BLOCK, chunkTokens: 32, cache } as const;
      const session = await TestSession.load(env.gpu, model, engine, store);
      const generate = (from: number): Promise<GenerationResult> =>
        session.generate({ kind: "tokens", tokens: golden.tokens.slice(from) }, { maxTokens: 20 }).done;
      try {
        const cold = [await generate(0), await generate(1), await generate(2)];
        const onGpu = await generate(0);
        equal(onGpu.usage.cachedTokens.gpu > 0, true, "cached on the GPU");
        equal(onGpu.tokens, cold[0]?.tokens, "tokens from the GPU");
        await session.session.mover?.drain(5000);
        session.session.scheduler.forget();
        const warm = await Promise.all([0, 1, 2].map(generate));
        equal((warm[0]?.usage.cachedTokens.ram ?? 0) > 0, true, "restored");
        equal(
          warm.map(({ tokens }) => tokens),
          cold.map(({ tokens }) => tokens),
          "tokens restored",
        );
        session.checkIdle();
      } finally {
        await session.close();
      }
    },
  };
}

export const cases: Case[] = [
  ...VARIANTS.flatMap((variant) =>
    (["q8", "q4", "q2"] as const).map((kvDtype) => variantCase(variant, kvDtype)),
  ),
  restoredCase("llama", "q4"),
  restoredCase("lfm2", "q8"),
];
