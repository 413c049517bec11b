/**
 * Models of which low-bit copies stand for experts that are not on the GPU and matter little: prompts are computed exactly, decode
 * within a bound, nothing is waited for that matters little, and the shares are told.
 */
import { openModel } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import { namesIn } from "../../src/model/arch/tensor-names.ts";
import { shapeOf } from "../../src/model/arch/rows.ts";
import type { Experts } from "../../src/model/experts/experts.ts";
import type { CopyFigures } from "../../src/model/experts/figures.ts";
import { expertsOf, type ModelExperts } from "../../src/model/experts/plan.ts";
import { planMemory } from "../../src/model/memory.ts";
import type { Runner, RunnerOptions } from "../../src/model/runner.ts";
import { TidepoolError } from "../../src/errors.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { TestSession } from "../support/session.ts";
import { gateOf } from "./golden.cases.ts";
import { argmaxMisses, loadGolden, nmse, runTokens, type Feed } from "./golden.ts";
import { EXACT } from "./variants.ts";

async function expertsIn(model: Uint8Array): Promise<ModelExperts> {
  const file = await openModel([openBytes(model, "model.gguf")]);
  const shape = shapeOf(file);
  const all = expertsOf(namesIn(file, shape), shape);
  if (!all) throw new Error("the model has no experts");
  return all;
}

interface Run {
  error: number;
  misses: unknown[];
  figures: Experts["figures"];
}

/** A quarter of the experts beside the copies. */
async function runBounded(
  env: CaseEnv,
  variant: string,
  feed: Feed,
  more: Partial<RunnerOptions> = {},
): Promise<Run> {
  const { golden, expected, model } = await loadGolden(
    env,
    `goldens/models/${variant}`,
    EXACT.includes(variant),
  );
  const all = await expertsIn(model);
  const expertMemory = all.copyBytes + Math.max(all.leastBytes, Math.ceil(all.bytes / 4));
  const figures: Experts["figures"][] = [];
  const look = (runner: Runner): void => {
    const { plan, experts } = runner;
    const bytes = (plan.experts?.bytes ?? 0) + (plan.experts?.copyBytes ?? 0);
    equal(bytes > 0 && bytes <= expertMemory, true, "slots and copies within the setting");
    experts?.cache.check();
    if (experts) figures.push(experts.figures);
  };
  const setting = { dtype: "f32", kvDtype: "f32", blockTokens: 16, feed } as const;
  const options = { expertMemory, experts: "bounded", ...more } as const;
  const actual = await runTokens(env.gpu, model, golden.tokens, setting, { options, look });
  const [found] = figures;
  if (!found) throw new Error("all experts are on the GPU");
  return {
    error: nmse(actual, expected),
    misses: argmaxMisses(actual, expected, golden.vocabSize),
    figures: found,
  };
}

function copiesOf({ figures: { copies } }: Run): CopyFigures {
  if (!copies) throw new Error("no copies");
  return copies;
}

/** Squared error of the logits of these small random models, in which one other choice of a router changes much: 0.02 to 0.11. */
const MOST_ERROR = 0.15;

async function checkDecode(env: CaseEnv, variant: string): Promise<void> {
  const run = await runBounded(env, variant, "one by one");
  const { choices, choicesLow, weight, weightLow, error } = copiesOf(run);
  equal(choicesLow > 0 && choicesLow < choices, true, "some choices were computed with copies");
  equal(weightLow > 0 && weightLow < 0.4 * weight, true, "unimportant choices have the least weight");
  equal(error > 0.005 && error < 0.14, true, "error of the copies");
  if (!(run.error < MOST_ERROR)) throw new Error(`NMSE ${run.error}, at most ${MOST_ERROR}`);
}

/** Prompts, and a threshold that nothing is beyond, are computed exactly. */
async function checkExact(env: CaseEnv, variant: string): Promise<void> {
  for (const [feed, more] of [
    ["once", {}],
    ["chunks of 7", {}],
    ["one by one", { unimportantAbove: 1 }],
  ] as const) {
    const run = await runBounded(env, variant, feed, more);
    const gate = gateOf(variant, "f32");
    if (!(run.error < gate)) throw new Error(`${feed}: NMSE ${run.error}, gate ${gate}`);
    equal(run.misses, [], `${feed}: rows whose arg-max differs`);
    equal(copiesOf(run).choicesLow, 0, "choices computed with copies");
  }
}

/** Four requests at once, and in f16: some choices are computed with copies, all requests end, nothing is left behind. */
async function checkBatch(env: CaseEnv, dtype: "f32" | "f16"): Promise<void> {
  const model = await env.shared("goldens/models/qwen3moe/model.gguf");
  const all = await expertsIn(model);
  const expertMemory = all.copyBytes + Math.max(all.leastBytes, Math.ceil(all.bytes / 4));
  const options = { dtype, kvDtype: dtype, blockTokens: 16, chunkTokens: 16, maxRequests: 4 } as const;
  const texts: string[][] = [];
  // With a threshold that nothing is beyond, the tokens are those of all experts.
  for (const more of [
    {},
    { expertMemory, unimportantAbove: 1 },
    { expertMemory, experts: "bounded" },
  ] as const) {
    const bounded = { experts: "bounded", ...more } as const;
    const session = await TestSession.load(env.gpu, model, { ...options, ...bounded });
    try {
      const prompts = [20, 7, 33, 12].map((length, by) =>
        Array.from({ length }, (_, i) => (i * 31 + by * 17) % 90),
      );
      const done = prompts.map(
        (tokens) => session.generate({ kind: "tokens", tokens }, { maxTokens: 8, cache: "off" }).done,
      );
      texts.push((await Promise.all(done)).map(({ tokens }) => tokens.join()));
      session.checkIdle();
      const { experts } = session.session.runner;
      experts?.cache.check();
      const { choices = 0, choicesLow = 0 } = experts?.figures.copies ?? {};
      const isLow = "experts" in more;
      equal([choicesLow > 0, choicesLow < choices], [isLow, experts !== undefined], "choices by copies");
    } finally {
      await session.close();
    }
  }
  if (dtype === "f32") equal(texts[1], texts[0], "tokens when nothing matters little");
  equal(
    texts[2]?.every((text) => text.split(",").length === 8),
    true,
    "tokens of four requests",
  );
}

/** If all choices but the first matter little, a step waits for first ones alone. */
async function checkWaits(env: CaseEnv): Promise<void> {
  const exact = await runBounded(env, "qwen3moe", "one by one", { unimportantAbove: 1 });
  const bounded = await runBounded(env, "qwen3moe", "one by one", { unimportantAbove: 0 });
  const missing = ({ figures }: Run) =>
    figures.cache.layers.reduce((sum, layer) => sum + layer.missing + layer.late, 0);
  const { choices, choicesLow } = copiesOf(bounded);
  equal(missing(bounded) <= choices / 2, true, "a token of two experts waits for one in a layer at most");
  equal(missing(bounded) + choicesLow > 0 && missing(bounded) < missing(exact), true, "fewer waits");
}

/** All experts fit: nothing is copied. Copies that do not fit: an error with the numbers. */
async function checkPlan({ shared }: CaseEnv): Promise<void> {
  const model = await shared("goldens/models/qwen3moe/model.gguf");
  const all = await expertsIn(model);
  const planOf = async (expertMemory: number) => {
    const file = await openModel([openBytes(model, "model.gguf")]);
    const options = { dtype: "f32", kvDtype: "f32", blockTokens: 16, chunkTokens: 16, seats: 2 } as const;
    return planMemory(file, shapeOf(file), { ...options, poolTokens: 64, experts: "bounded", expertMemory });
  };
  equal((await planOf(all.bytes)).experts, undefined, "a plan when all experts fit");
  const least = all.copyBytes + all.leastBytes;
  equal((await planOf(least)).experts?.copyBytes, all.copyBytes, "bytes of copies");
  const error = await planOf(least - 1).catch((each: unknown) => each);
  const { code, message } = error as TidepoolError;
  equal(code, "out_of_memory", "code");
  for (const part of [
    `expertMemory is ${least - 1} bytes`,
    `at least ${least}`,
    `${all.copyBytes} of them for the low-bit copies`,
  ])
    equal(message.includes(part), true, `"${part}" in "${message}"`);
}

/** Every form of the expert layers that has several pieces or biases; the first is in the normal run. */
const VARIANTS = ["qwen3moe", "gptoss", "gemma4moe", "deepseek2", "nemotronhmoe"];

export const cases: Case[] = [
  ...VARIANTS.flatMap((variant, index) => [
    {
      name: `model/bounded/${variant}, decode with copies`,
      full: index > 0,
      run: (env: CaseEnv) => checkDecode(env, variant),
    },
    {
      name: `model/bounded/${variant}, exact where nothing matters little`,
      full: index > 0,
      run: (env: CaseEnv) => checkExact(env, variant),
    },
  ]),
  { name: "model/bounded/four requests at once", run: (env) => checkBatch(env, "f32") },
  { name: "model/bounded/in f16", needs: { f16: true }, run: (env) => checkBatch(env, "f16") },
  { name: "model/bounded/waits for what matters alone", run: checkWaits },
  { name: "model/bounded/plan", run: checkPlan },
];
