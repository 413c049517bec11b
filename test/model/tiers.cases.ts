/**
 * Keys and values that come back from lower tiers: whatever way they are restored, the tokens are those of a cold run,
 * and usage says where they came from.
 */
import type { CacheOptions, GenerationResult } from "../../src/wire/protocol.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import type { Case } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { TestSession } from "../support/session.ts";

const FOLDER = "goldens/stories260K";

const LONG = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. ";

/** Enough text for several blocks, different from its first token on by `number`. */
const prompt = (number: number) => ({ kind: "text" as const, text: `${number} ${LONG.repeat(4)}` });

const PARAMS = { maxTokens: 12, logprobs: 0 };

async function open(env: Parameters<Case["run"]>[0], cache: CacheOptions): Promise<TestSession> {
  const model = await env.shared(`${FOLDER}/model.gguf`);
  const store = await TierStore.open({ ramBytes: 2 ** 26 });
  return TestSession.load(env.gpu, model, { dtype: "f32", blockTokens: 16, chunkTokens: 32, cache }, store);
}

function restoreCase(mode: "load" | "compute" | "both" | "auto"): Case {
  return {
    name: `model/tiers/restored by ${mode}`,
    async run(env) {
      const session = await open(env, { restore: mode });
      try {
        const cold = await session.generate(prompt(1), PARAMS).done;
        await session.session.mover?.drain(5000);
        session.session.scheduler.forget();
        const warm = await session.generate(prompt(1), PARAMS).done;
        checkRestored(cold, warm, mode);
        session.checkIdle();
      } finally {
        await session.close();
      }
    },
  };
}

function checkRestored(cold: GenerationResult, warm: GenerationResult, mode: string): void {
  const { promptTokens, computedTokens, cachedTokens } = warm.usage;
  equal(warm.tokens, cold.tokens, "tokens");
  equal(computedTokens + cachedTokens.gpu + cachedTokens.ram + cachedTokens.disk, promptTokens, "sum");
  equal(cold.usage.computedTokens, promptTokens, "computed when cold");
  const full = Math.floor((promptTokens - 1) / 16) * 16;
  if (mode === "load") equal(cachedTokens.ram, full, "loaded");
  if (mode === "compute") equal(cachedTokens.ram, 0, "loaded");
  warm.logprobs?.forEach(({ logprob }, index) => {
    const before = cold.logprobs?.[index]?.logprob as number;
    if (Math.abs(logprob - before) > 1e-4) throw new Error(`log-probability ${logprob}, cold ${before}`);
  });
}

export const cases: Case[] = [
  ...(["load", "compute", "both", "auto"] as const).map(restoreCase),
  {
    name: "model/tiers/a request that keeps nothing, and one that keeps to memory",
    async run(env) {
      const session = await open(env, { restore: "load" });
      try {
        await session.generate(prompt(2), { ...PARAMS, cache: "off" }).done;
        const again = await session.generate(prompt(2), { ...PARAMS, cache: "off" }).done;
        equal(again.usage.cachedTokens, { gpu: 0, ram: 0, disk: 0 }, "cache off");
        const { records } = (await session.session.mover!.store.stats()).ram;
        equal(records, 0, "records of requests that keep nothing");
        session.checkIdle();
      } finally {
        await session.close();
      }
    },
  },
  {
    name: "model/tiers/what a request stores for a time is a miss after it",
    async run(env) {
      const session = await open(env, { restore: "load" });
      try {
        await session.generate(prompt(4), { ...PARAMS, cacheMaxAgeMs: 1 }).done;
        const { mover, scheduler } = session.session;
        await mover?.drain(5000);
        await new Promise((resolve) => setTimeout(resolve, 5));
        scheduler.forget();
        const again = await session.generate(prompt(4), PARAMS).done;
        equal(again.usage.cachedTokens, { gpu: 0, ram: 0, disk: 0 }, "cached tokens");
        const { ram } = (await mover!.store.stats()) as { ram: { misses: { expired: number } } };
        equal(ram.misses.expired > 0, true, "expired records are counted");
      } finally {
        await session.close();
      }
    },
  },
  {
    name: "model/tiers/an archive carries a prefix to another session",
    async run(env) {
      const one = await open(env, { restore: "load" });
      const other = await open(env, { restore: "load" });
      try {
        const cold = await one.generate(prompt(3), PARAMS).done;
        await one.session.mover?.drain(5000);
        const exported = await one.session.call({ method: "cacheExport", input: prompt(3) });
        const { archive } = exported as { archive: Uint8Array };
        await other.session.call({ method: "cacheImport", archive });
        const warm = await other.generate(prompt(3), PARAMS).done;
        checkRestored(cold, warm, "load");
      } finally {
        await one.close();
        await other.close();
      }
    },
  },
  {
    name: "model/tiers/16 requests over 4 prefixes in a pool too small for all",
    async run(env) {
      const model = await env.shared(`${FOLDER}/model.gguf`);
      const store = await TierStore.open({ ramBytes: 2 ** 26 });
      const options = { dtype: "f32", blockTokens: 16, chunkTokens: 32, poolTokens: 512 } as const;
      const session = await TestSession.load(env.gpu, model, options, store);
      try {
        const inputs = Array.from({ length: 16 }, (_, index) => ({
          kind: "text" as const,
          text: `${prompt(index % 4).text} ${["The cat", "A dog", "Tim", "Sue"][Math.floor(index / 4)]}`,
        }));
        const alone: number[][] = [];
        for (const input of inputs) alone.push((await session.generate(input, PARAMS).done).tokens);
        session.session.scheduler.forget();
        const check = () => session.session.scheduler.check();
        const together = await Promise.all(
          inputs.map((input) => session.generate(input, PARAMS, check).done),
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
  },
];
