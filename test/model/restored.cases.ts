/**
 * Every golden variant through the disk tier: what a first session computes and writes, a second one reads back, and the
 * logits behind it are still the reference's. How blocks and states are restored, and from where, is in tiers.cases.ts and
 * snapshots.cases.ts.
 */
import { expertPolicyNames, type ExpertPolicyName } from "../../src/cache/experts/policy.ts";
import type { EngineOptions, ScoreResult } from "../../src/wire/protocol.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { KeptBackend } from "../support/kept-backend.ts";
import { TestSession } from "../support/session.ts";
import { shareOfExperts } from "./experts.cases.ts";
import { gateOf } from "./golden.cases.ts";
import { argmaxMisses, loadGolden, nmse } from "./golden.ts";
import { EXACT, OF_EACH_KIND, VARIANTS } from "./variants.ts";

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
  { disk, options }: { disk: KeptBackend; options: EngineOptions },
) {
  const session = await TestSession.load(env.gpu, model, options, await disk.openStore());
  try {
    const { tokens, ...asked } = prompt;
    await session.generate({ kind: "tokens", tokens }, { maxTokens: 1, ...asked }).done;
    await session.session.mover?.drain(5000);
  } finally {
    await session.close();
  }
}

interface Restored {
  variant: string;
  /** What its name ends with. */
  with?: string;
  full: boolean;
  /** That the request which is stored asks for, as the first of its engine: their kernel compiles meanwhile. */
  logprobs?: number;
  /** Of both engines, beside the usual ones. */
  optionsOf?(model: Uint8Array): Promise<EngineOptions>;
}

function restoredCase({ variant, with: end = "", full, logprobs, optionsOf }: Restored): Case {
  return {
    ...{ name: `model/restored/${variant} from the disk${end}`, full },
    async run(env) {
      const { golden, expected, model } = await loadGolden(
        env,
        `goldens/models/${variant}`,
        EXACT.includes(variant),
      );
      const { tokens, vocabSize } = golden;
      const options = { ...OPTIONS, ...(await optionsOf?.(model)) };
      const disk = new KeptBackend();
      const asked = { tokens, ...(logprobs !== undefined && { logprobs }) };
      await store(env, model, asked, { disk, options });
      const session = await TestSession.load(env.gpu, model, options, await disk.openStore());
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
        equal(
          session.session.runner.experts !== undefined,
          options.expertMemory !== undefined,
          "whether experts are off the GPU",
        );
        session.session.runner.experts?.cache.check();
        session.checkIdle();
      } finally {
        await session.close();
      }
    },
  };
}

/** Keys and values that come back beside experts that come and go. */
const beside = (variant: string, expertPolicy: ExpertPolicyName): Restored => ({
  ...{ variant, full: variant !== "qwen3moe" || expertPolicy !== "promoe" },
  with: `, with a quarter of the experts, ${expertPolicy}`,
  optionsOf: async (model) => ({ expertMemory: await shareOfExperts(model, 1 / 4), expertPolicy }),
});

export const cases: Case[] = [
  ...VARIANTS.map((variant) => restoredCase({ variant, full: !OF_EACH_KIND.includes(variant) })),
  restoredCase({ variant: "llama", with: ", with log-probabilities", full: false, logprobs: 1 }),
  ...expertPolicyNames.map((policy) => restoredCase(beside("qwen3moe", policy))),
  ...["lfm2moe", "deepseek2"].map((variant) => restoredCase(beside(variant, "promoe"))),
];
