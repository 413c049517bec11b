/**
 * Models of which only some experts are on the GPU: the logits are those of all, for one prefill, chunks of 7 and one by one.
 */
import { openModel } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import { namesIn } from "../../src/model/arch/tensor-names.ts";
import { shapeOf } from "../../src/model/arch/rows.ts";
import { expertsOf } from "../../src/model/experts/plan.ts";
import type { Experts } from "../../src/model/experts/experts.ts";
import type { Runner } from "../../src/model/runner.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { TestSession } from "../support/session.ts";
import type { ScoreResult } from "../../src/wire/protocol.ts";
import { gateOf } from "./golden.cases.ts";
import { argmaxMisses, loadGolden, nmse, runTokens, type Feed, type Setting } from "./golden.ts";
import { EXACT } from "./variants.ts";

const FEEDS: Feed[] = ["once", "chunks of 7", "one by one"];

/** Bytes of a share of a model's experts, but no fewer than it can run with. */
export async function shareOfExperts(model: Uint8Array, share: number): Promise<number> {
  const file = await openModel([openBytes(model, "model.gguf")]);
  const shape = shapeOf(file);
  const all = expertsOf(namesIn(file, shape), shape);
  if (!all) throw new Error("the model has no experts");
  return Math.max(all.leastBytes, Math.ceil(all.bytes * share));
}

async function checkLogits(env: CaseEnv, variant: string, feed: Feed): Promise<void> {
  const isExact = EXACT.includes(variant);
  const { golden, expected, model } = await loadGolden(env, `goldens/models/${variant}`, isExact);
  const setting: Setting = { dtype: "f32", kvDtype: "f32", blockTokens: 16, feed };
  const expertMemory = await shareOfExperts(model, 1 / 4);
  const look = (runner: Runner): void => {
    const { experts } = runner.plan;
    equal(experts !== undefined && experts.bytes <= expertMemory, true, "slots within the setting");
    const { cache } = runner.experts as Experts;
    cache.check();
    const missed = cache.stats.layers.filter(({ missing, late }) => missing + late > 0);
    equal(missed.length, experts?.layers.length, "layers that lacked experts");
  };
  const actual = await runTokens(env.gpu, model, golden.tokens, setting, { options: { expertMemory }, look });
  const [error, gate] = [nmse(actual, expected), gateOf(variant, "f32")];
  if (!(error < gate)) throw new Error(`NMSE ${error.toExponential(2)}, gate ${gate}`);
  equal(argmaxMisses(actual, expected, golden.vocabSize), [], "rows whose arg-max differs");
}

/** Every form of the expert layers; the first is in the normal run. */
const WITH_EXPERTS = [
  "qwen3moe",
  ...["olmoe", "lfm2moe", "granitemoe", "mixtral", "qwen35moe", "qwen2moe", "granitehybridmoe", "qwen3next"],
  ...["ernie45moe", "glm4moe", "nemotronhmoe", "gptoss", "gemma4moe", "deepseek2"],
];

/** Requests that overlap, drawn and greedy: what each generates, and what is scored meanwhile. */
async function generateAll(session: TestSession): Promise<unknown> {
  const check = () => session.session.scheduler.check();
  const prompt = (length: number, by: number) => ({
    kind: "tokens" as const,
    tokens: Array.from({ length }, (_, i) => (i * 31 + by * 17) % 90),
  });
  const requests = [40, 7, 33, 18].map((length, index) => {
    const params = { maxTokens: 10, temperature: index % 2, seed: index };
    return session.generate(prompt(length, index), params, check).done;
  });
  const scored = session.session.call({
    ...{ method: "score", tokens: prompt(21, 5).tokens, from: 0, logits: false, cache: "off" },
  });
  const texts = (await Promise.all(requests)).map(({ tokens }) => tokens);
  const { logprobs } = (await scored) as ScoreResult;
  session.checkIdle();
  return [texts, logprobs.map((value) => value.toFixed(3))];
}

/** Batches of four, prompts in chunks, a score beside them: the same tokens as with all experts. */
async function checkSession(env: CaseEnv): Promise<void> {
  const model = await env.shared("goldens/models/qwen3moe/model.gguf");
  const options = { dtype: "f32", blockTokens: 16, chunkTokens: 16, maxRequests: 4 } as const;
  const expertMemory = await shareOfExperts(model, 1 / 4);
  const results: unknown[] = [];
  for (const more of [{}, { expertMemory }]) {
    const session = await TestSession.load(env.gpu, model, { ...options, ...more });
    try {
      results.push(await generateAll(session));
      const { info, runner } = session.session;
      equal(runner.experts !== undefined, "expertMemory" in more, "whether experts are off the GPU");
      equal((info.memory.expertBytes ?? 0) <= expertMemory, true, "bytes of experts within the setting");
      runner.experts?.cache.check();
    } finally {
      await session.close();
    }
  }
  equal(results[1], results[0], "what is generated and scored");
}

const goldenCases = WITH_EXPERTS.flatMap((variant, index) =>
  FEEDS.map((feed) => ({
    name: `model/experts/${variant} with a quarter of the experts, ${feed}`,
    full: index > 0,
    run: (env: CaseEnv) => checkLogits(env, variant, feed),
  })),
);

export const cases: Case[] = [
  ...goldenCases,
  {
    name: "model/experts/four requests at once, and a score, with a quarter of the experts",
    run: checkSession,
  },
];
