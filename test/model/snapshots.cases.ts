/**
 * Models with recurrent layers that go on from a saved state: from snapshots on the GPU, at every 16th token and inside
 * blocks, and through the lower tiers; in batches, after a pre-emption, with the pool full. What is computed is what a
 * cold run computes.
 */
import { TierStore } from "../../src/tier/store/store.ts";
import type { EngineOptions, GenerationResult, ScoreResult } from "../../src/wire/protocol.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { KeptBackend } from "../support/kept-backend.ts";
import { TestSession } from "../support/session.ts";
import { argmaxMisses, loadGolden, nmse, type Golden } from "./golden.ts";

const VARIANTS = ["lfm2", "granitehybrid", "granitehybridrope", "mamba2", "falconh1", "qwen35"];

/** The others are in the full run: they differ in attention alone, and each compiles its kernels anew. */
const IN_NORMAL_RUN = ["lfm2", "granitehybrid", "qwen35"];

/** As for a prefill from the first token (golden.cases.ts). */
const GATE = 1e-9;

/**
 * For a state that was at rest in f16, whose numbers were rounded by at most 2^-12 of their binade: (2^-12)^2 / 3, as if
 * nothing behind it made less of that.
 */
const HALF_GATE = 2e-8;

const BLOCK = 16;

const options = (policy: "vllm" | "marconi", more: EngineOptions = {}): EngineOptions => ({
  ...{ dtype: "f32", blockTokens: BLOCK, chunkTokens: 32, cache: { policy, restore: "load" } },
  ...more,
});

interface Bench {
  session: TestSession;
  golden: Golden;
  expected: Float32Array;
}

async function open(env: CaseEnv, variant: string, engine: EngineOptions, given?: TierStore): Promise<Bench> {
  const store = given ?? (await TierStore.open({ ramBytes: 2 ** 26 }));
  const { golden, expected, model } = await loadGolden(env, `goldens/models/${variant}`);
  return { session: await TestSession.load(env.gpu, model, engine, store), golden, expected };
}

/** Scores the rows from `from` on, which start from a state, and compares them with the reference's. */
async function checkFrom(
  { session, golden, expected }: Bench,
  from: number,
  gate = GATE,
): Promise<ScoreResult> {
  const { tokens, vocabSize } = golden;
  const call = { method: "score", tokens, from, logits: true } as const;
  const result = (await session.session.call(call)) as ScoreResult;
  const wanted = expected.subarray(from * vocabSize);
  const error = nmse(result.logits as Float32Array, wanted);
  if (!(error < gate)) throw new Error(`from token ${from}: NMSE ${error.toExponential(2)}, gate ${gate}`);
  const misses = argmaxMisses(result.logits as Float32Array, wanted, vocabSize);
  if (misses.length > 0) throw new Error(`from token ${from}: arg-max differs in rows ${misses.join(", ")}`);
  return result;
}

const tokensInput = (tokens: readonly number[]) => ({ kind: "tokens", tokens }) as const;

function variantCase(variant: string): Case {
  return {
    name: `model/snapshots/${variant} from a state at every 16th token, on the GPU and below`,
    full: !IN_NORMAL_RUN.includes(variant),
    async run(env) {
      const bench = await open(env, variant, options("vllm"));
      const { session, golden } = bench;
      try {
        const cold = await session.generate(tokensInput(golden.tokens), { maxTokens: 8 }).done;
        equal(cold.usage.computedTokens, golden.tokens.length, "computed when cold");
        for (const from of [16, 21, 32]) await checkFrom(bench, from);
        await checkWarm(bench, cold, "gpu");
        await session.session.mover?.drain(5000);
        for (const from of [16, 21, 32]) {
          session.session.scheduler.forget();
          const { usage } = await checkFrom(bench, from);
          equal(
            usage.cachedTokens.ram >= BLOCK * Math.floor((from - 1) / BLOCK),
            true,
            `loaded up to ${from}`,
          );
        }
        session.session.scheduler.forget();
        await checkWarm(bench, cold, "ram");
        session.checkIdle();
      } finally {
        await session.close();
      }
    },
  };
}

/** The same prompt again starts from the state at its last full block, and gives the same tokens. */
async function checkWarm({ session, golden }: Bench, cold: GenerationResult, tier: "gpu" | "ram" | "disk") {
  const warm = await session.generate(tokensInput(golden.tokens), { maxTokens: 8 }).done;
  equal(warm.tokens, cold.tokens, `tokens, from ${tier}`);
  const { cachedTokens, computedTokens, promptTokens } = warm.usage;
  equal(cachedTokens[tier] >= BLOCK * Math.floor((promptTokens - 1) / BLOCK), true, `cached in ${tier}`);
  equal(computedTokens + cachedTokens[tier], promptTokens, "sum");
}

/** States stored in f16: nearly the same logits and the same tokens, and nothing for an engine that stores exactly. */
function halfCase(variant: string): Case {
  return {
    name: `model/snapshots/${variant} from states at rest in 16 bits, and never for an exact engine`,
    full: variant !== "granitehybrid",
    async run(env) {
      const disk = new KeptBackend();
      const halvingStore = () => disk.openStore({ atRestStateBits: 16 });
      const store = await halvingStore();
      const first = await open(env, variant, options("vllm"), store);
      const cold = await first.session.generate(tokensInput(first.golden.tokens), { maxTokens: 8 }).done;
      await first.session.session.mover?.drain(5000);
      equal(new Set(store.list().map(({ encoding }) => encoding)).has("half"), true, "states are in 16 bits");
      await checkHalf(first, cold, "ram").finally(() => first.session.close());
      const second = await open(env, variant, options("vllm"), await halvingStore());
      await checkHalf(second, cold, "disk").finally(() => second.session.close());
      const exact = await open(env, variant, options("vllm"), await disk.openStore());
      await checkUnserved(exact, cold).finally(() => exact.session.close());
    },
  };
}

/** The prompt starts from a state of that tier, with nothing on the GPU; scores do so from there or from RAM, its copy. */
async function checkHalf(bench: Bench, cold: GenerationResult, tier: "ram" | "disk"): Promise<void> {
  const { scheduler } = bench.session.session;
  scheduler.forget();
  await checkWarm(bench, cold, tier);
  for (const from of [21, 32]) {
    scheduler.forget();
    const { ram, disk } = (await checkFrom(bench, from, HALF_GATE)).usage.cachedTokens;
    equal(ram + disk >= BLOCK, true, `score from ${from} starts from a stored state`);
  }
  bench.session.checkIdle();
}

async function checkUnserved({ session, golden }: Bench, cold: GenerationResult): Promise<void> {
  const { tokens, usage } = await session.generate(tokensInput(golden.tokens), { maxTokens: 8 }).done;
  equal(usage.cachedTokens, { gpu: 0, ram: 0, disk: 0 }, "cached tokens of an engine that stores exactly");
  equal(tokens, cold.tokens, "tokens");
}

/** Turns of one conversation; the second goes on from the state behind the first one's last token. */
const conversationCase: Case = {
  name: "model/snapshots/marconi keeps the last token's state and the branch point's",
  async run(env) {
    const { session, golden } = await open(env, "granitehybrid", options("marconi"));
    try {
      const system = golden.tokens.slice(0, 21);
      const ask = (tail: readonly number[]) =>
        session.generate(tokensInput([...system, ...tail]), { maxTokens: 5 }).done;
      const first = await ask([1, 2, 3]);
      const asked = [1, 2, 3, ...first.tokens, 7, 8];
      const second = await ask(asked);
      equal(second.usage.cachedTokens.gpu, 21 + 3 + first.tokens.length - 1, "goes on behind the first turn");
      const other = await ask([50, 51]);
      equal(other.usage.cachedTokens.gpu, 0, "the branch point has no state yet");
      const third = await ask([60, 61]);
      equal(third.usage.cachedTokens.gpu, 21, "the branch point has one now");
      const again = await freshAnswers(env, [asked, [50, 51], [60, 61]], system);
      equal([second.tokens, other.tokens, third.tokens], again, "answers");
      const { snapshots } = ((await session.session.call({ method: "cacheStats" })) as Stats).gpu;
      equal(snapshots.taken, 5, "snapshots taken: four ends and a branch point");
      session.checkIdle();
    } finally {
      await session.close();
    }
  },
};

interface Stats {
  gpu: { snapshots: { taken: number } };
}

async function freshAnswers(
  env: CaseEnv,
  tails: readonly (readonly number[])[],
  system: readonly number[],
): Promise<number[][]> {
  const { session } = await open(env, "granitehybrid", options("marconi"));
  try {
    const answers: number[][] = [];
    for (const tail of tails) {
      const input = tokensInput([...system, ...tail]);
      answers.push((await session.generate(input, { maxTokens: 5, cache: "off" }).done).tokens);
    }
    return answers;
  } finally {
    await session.close();
  }
}

/** Requests in different states share batches in a pool too small for all; some are pre-empted and go on. */
const batchCase: Case = {
  name: "model/snapshots/12 requests in different states in a pool too small for all",
  async run(env) {
    const small = { poolTokens: 192, maxRequests: 4 };
    const { session, golden } = await open(env, "granitehybrid", options("marconi", small));
    try {
      const inputs = Array.from({ length: 12 }, (_, index) => {
        const shared = golden.tokens.slice(0, 8 + 9 * (index % 3));
        return tokensInput([...shared, index, 3 * index, 40 + index]);
      });
      const alone: number[][] = [];
      for (const input of inputs) {
        alone.push((await session.generate(input, { maxTokens: 30, cache: "off" }).done).tokens);
      }
      const check = () => session.session.scheduler.check();
      const together = await Promise.all(
        inputs.map((input) => session.generate(input, { maxTokens: 30 }, check).done),
      );
      equal(
        together.map(({ tokens }) => tokens),
        alone,
        "tokens",
      );
      session.checkIdle();
    } finally {
      await session.close();
    }
  },
};

/** A stop found late: one step more than wanted has run, and the state before it is the one that is kept. */
const lateStopCase: Case = {
  name: "model/snapshots/a stop that is found late leaves the state before it",
  async run(env) {
    const { session, golden } = await open(env, "lfm2", options("marconi"));
    try {
      const prompt = golden.tokens.slice(0, 19);
      const free = await session.generate(tokensInput(prompt), { maxTokens: 9, cache: "off" }).done;
      let aborted: number[] = [];
      const run = session.generate(tokensInput(prompt), { maxTokens: 200 }, (output) => {
        aborted = [...aborted, ...output.tokens];
        if (aborted.length >= 4) session.session.abort(output.id);
      });
      await run.done;
      const next = [...prompt, ...free.tokens.slice(0, 4), 9, 10, 11];
      const warm = await session.generate(tokensInput(next), { maxTokens: 6 }).done;
      equal(warm.usage.cachedTokens.gpu >= prompt.length, true, "goes on behind the aborted request");
      const cold = await session.generate(tokensInput(next), { maxTokens: 6, cache: "off" }).done;
      equal(warm.tokens, cold.tokens, "tokens");
      session.checkIdle();
    } finally {
      await session.close();
    }
  },
};

export const cases: Case[] = [
  ...VARIANTS.map(variantCase),
  ...VARIANTS.map(halfCase),
  conversationCase,
  batchCase,
  lateStopCase,
];
