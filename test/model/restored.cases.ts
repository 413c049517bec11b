/**
 * Every golden variant through the disk tier: what a first session computes and writes, a second one reads back, and the
 * logits behind it are still the reference's. How blocks and states are restored, and from where, is in tiers.cases.ts and
 * snapshots.cases.ts.
 */
import type { EngineOptions, ScoreResult } from "../../src/wire/protocol.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { KeptBackend } from "../support/kept-backend.ts";
import { TestSession } from "../support/session.ts";
import { gateOf } from "./golden.cases.ts";
import { argmaxMisses, loadGolden, nmse } from "./golden.ts";
import { EXACT, IN_EVERY_RUNTIME, VARIANTS } from "./variants.ts";

const BLOCK = 16;

const OPTIONS: EngineOptions = {
  ...{ dtype: "f32", blockTokens: BLOCK, chunkTokens: 32, cache: { policy: "vllm", restore: "load" } },
};

async function scoreFrom(
  session: TestSession,
  tokens: readonly number[],
  from: number,
): Promise<ScoreResult> {
  const call = { method: "score", tokens, from, logits: true } as const;
  return (await session.session.call(call)) as ScoreResult;
}

/** Writes what a prompt's blocks and states are. */
async function store(
  env: CaseEnv,
  model: Uint8Array,
  prompt: { tokens: readonly number[]; logprobs?: number },
  disk: KeptBackend,
) {
  const session = await TestSession.load(env.gpu, model, OPTIONS, await disk.openStore());
  try {
    const { tokens, ...asked } = prompt;
    await session.generate({ kind: "tokens", tokens }, { maxTokens: 1, ...asked }).done;
    await session.session.mover?.drain(5000);
  } finally {
    await session.close();
  }
}

/** @param logprobs that the request which is stored asks for, as the first of its engine: their kernel compiles meanwhile */
function restoredCase(variant: string, logprobs?: number): Case {
  return {
    name: `model/restored/${variant} from the disk${logprobs === undefined ? "" : ", with log-probabilities"}`,
    full: !IN_EVERY_RUNTIME.includes(variant),
    async run(env) {
      const { golden, expected, model } = await loadGolden(
        env,
        `goldens/models/${variant}`,
        EXACT.includes(variant),
      );
      const { tokens, vocabSize } = golden;
      const disk = new KeptBackend();
      await store(env, model, { tokens, ...(logprobs !== undefined && { logprobs }) }, disk);
      const session = await TestSession.load(env.gpu, model, OPTIONS, await disk.openStore());
      try {
        const from = tokens.length - BLOCK / 2;
        const { usage, logits } = await scoreFrom(session, tokens, from);
        // What comes back is what a prompt of `from` tokens reuses: all blocks but that of its last token.
        equal(usage.cachedTokens.disk, BLOCK * Math.floor((from - 1) / BLOCK), "tokens from the disk");
        const wanted = expected.subarray(from * vocabSize);
        const error = nmse(logits as Float32Array, wanted);
        const gate = gateOf(variant, "f32");
        if (!(error < gate)) throw new Error(`NMSE ${error.toExponential(2)}, gate ${gate}`);
        equal(argmaxMisses(logits as Float32Array, wanted, vocabSize), [], "rows whose arg-max differs");
        session.checkIdle();
      } finally {
        await session.close();
      }
    },
  };
}

export const cases: Case[] = [...VARIANTS.map((variant) => restoredCase(variant)), restoredCase("llama", 1)];
