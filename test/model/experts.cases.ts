/**
 * Models of which only some experts are on the GPU: the logits are those of all, for one prefill, chunks of 7 and one by one.
 */
import { openModel } from "../../src/load/model-file.ts";
import { openBytes, type Source } from "../../src/load/source.ts";
import { TidepoolError } from "../../src/errors.ts";
import { planMemory, type MemoryPlan } from "../../src/model/memory.ts";
import { runnerOptions } from "../../src/worker/options.ts";
import { namesIn } from "../../src/model/arch/tensor-names.ts";
import { shapeOf } from "../../src/model/arch/rows.ts";
import { expertsOf, type ModelExperts } from "../../src/model/experts/plan.ts";
import type { GuessCounts } from "../../src/cache/experts/stats.ts";
import type { Experts } from "../../src/model/experts/experts.ts";
import type { Runner, RunnerOptions } from "../../src/model/runner.ts";
import type { ActivationHeader, ActivationStep } from "../../src/cache/experts/activations.ts";
import { recordExperts } from "../bench/record-experts.ts";
import { trainPredictor } from "../bench/train-predictor.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { equal } from "../support/equal.ts";
import { TestSession } from "../support/session.ts";
import type { EngineOptions, EngineStats, ExpertFigures, ScoreResult } from "../../src/wire/protocol.ts";
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

interface LogitsOptions {
  /** Of the experts. */
  share?: number;
  dtype?: "f16" | "f32";
  lookFurther?: (experts: Experts) => void;
  more?: Partial<RunnerOptions>;
}

async function checkLogits(
  env: CaseEnv,
  variant: string,
  feed: Feed,
  { share = 1 / 4, dtype = "f32", lookFurther, more }: LogitsOptions = {},
): Promise<void> {
  const isExact = EXACT.includes(variant);
  const { golden, expected, model } = await loadGolden(env, `goldens/models/${variant}`, isExact);
  const setting: Setting = { dtype, kvDtype: dtype, blockTokens: 16, feed };
  const expertMemory = await shareOfExperts(model, share);
  const look = (runner: Runner): void => {
    const { experts } = runner.plan;
    equal(experts !== undefined && experts.bytes <= expertMemory, true, "slots within the setting");
    const { cache } = runner.experts as Experts;
    cache.check();
    const missed = cache.stats.layers.filter(({ missing, late }) => missing + late > 0);
    equal(missed.length, experts?.layers.length, "layers that lacked experts");
    lookFurther?.(runner.experts as Experts);
  };
  const options = { expertMemory, ...more };
  const actual = await runTokens(env.gpu, model, golden.tokens, setting, { options, look });
  const [error, gate] = [nmse(actual, expected), gateOf(variant, dtype)];
  if (!(error < gate)) throw new Error(`NMSE ${error.toExponential(2)}, gate ${gate}`);
  if (dtype === "f32")
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

/** Batches of four, prompts in chunks of 7, a score beside them, by every policy: the same tokens as with all experts. */
async function checkPolicies(env: CaseEnv): Promise<void> {
  const model = await env.shared("goldens/models/qwen3moe/model.gguf");
  const options = { dtype: "f32", blockTokens: 16, chunkTokens: 7, maxRequests: 4 } as const;
  const expertMemory = await shareOfExperts(model, 1 / 4);
  const results: unknown[] = [];
  for (const more of [{}, ...POLICIES.map((expertPolicy) => ({ expertMemory, expertPolicy }))]) {
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
  for (const [i, policy] of POLICIES.entries())
    equal(results[i + 1], results[0], `what is generated and scored under ${policy}`);
}

const POLICIES = ["lru", "lfu", "static", "moe-infinity", "promoe"] as const;

const goldenCases = WITH_EXPERTS.flatMap((variant, index) =>
  FEEDS.map((feed) => ({
    name: `model/experts/${variant} with a quarter of the experts, ${feed}`,
    full: index > 0,
    run: (env: CaseEnv) => checkLogits(env, variant, feed),
  })),
);

/** In f16, of the forms that keep its gate with all experts. */
const f16Cases = ["qwen3moe", "olmoe", "mixtral", "lfm2moe"].map((variant, index) => ({
  ...{ name: `model/experts/${variant} with a quarter of the experts, f16`, full: index > 0 },
  needs: { f16: true },
  run: (env: CaseEnv) => checkLogits(env, variant, "one by one", { dtype: "f16" }),
}));

const MODEL = "goldens/models/qwen3moe/model.gguf";
const OPTIONS = { dtype: "f32", blockTokens: 16, chunkTokens: 16, maxRequests: 2 } as const;

interface Disk {
  source: Source;
  /** What each read from now on does first. */
  before(work: (() => Promise<void>) | undefined): void;
  reads: number;
}

/** A file whose reads can fail, or be slow. */
function disk(bytes: Uint8Array): Disk {
  const atHand = openBytes(bytes, "model.gguf");
  let work: (() => Promise<void>) | undefined;
  const made: Disk = {
    reads: 0,
    before: (next) => (work = next),
    source: {
      ...atHand,
      async read(offset, length, signal) {
        made.reads++;
        await work?.();
        return atHand.read(offset, length, signal);
      },
    },
  };
  return made;
}

const prompt = (length: number, by: number) => ({
  kind: "tokens" as const,
  tokens: Array.from({ length }, (_, i) => (i * 31 + by * 17) % 90),
});

/** A session with a quarter of the experts, nothing of which is kept in RAM. */
async function onDisk(
  env: CaseEnv,
  use: (session: TestSession, file: Disk) => Promise<void>,
  expertRamBytes = 0,
): Promise<void> {
  const model = await env.shared(MODEL);
  const file = disk(model);
  const expertMemory = await shareOfExperts(model, 1 / 4);
  const options = { ...OPTIONS, expertMemory, expertRamBytes };
  const session = await TestSession.open(env.gpu, await openModel([file.source]), options);
  try {
    await use(session, file);
    session.checkIdle();
    session.session.runner.experts?.cache.check();
  } finally {
    await session.close();
  }
}

const fails = (times: number): (() => Promise<void>) => {
  let left = times;
  return async () => {
    if (left-- > 0) throw new TidepoolError("source", "the disk does not answer");
    await Promise.resolve();
  };
};

/** In the middle of decoding reads fail and are tried again, are slow, and then fail for good: an error, and no wrong token. */
async function checkFaults(env: CaseEnv): Promise<void> {
  await onDisk(env, async (session, file) => {
    const params = { maxTokens: 12 };
    const expected = await session.generate(prompt(20, 1), params).done;
    const meddle = (work: () => Promise<void>) => {
      let isSet = false;
      return ({ tokens }: { tokens: readonly number[] }) => {
        if (tokens.length > 0 && !isSet) file.before(work);
        isSet = true;
      };
    };
    for (const work of [fails(2), () => new Promise<void>((resolve) => setTimeout(resolve, 20))]) {
      const { tokens } = await session.generate(prompt(20, 1), params, meddle(work)).done;
      equal(tokens, expected.tokens, "tokens over a disk that fails and is slow");
    }
    const { read } = (session.session.runner.experts as Experts).figures;
    equal(read.retries >= 2, true, "reads were tried again");
    const steps: number[] = [];
    const failing = session.generate(prompt(20, 1), params, (output) => {
      steps.push(...output.tokens);
      meddle(fails(Infinity))(output);
    });
    const error = await failing.done.catch((each: unknown) => each);
    equal(error instanceof TidepoolError && error.code, "source", "code of the error");
    equal(expected.tokens.slice(0, steps.length), steps, "tokens before the error");
    file.before(undefined);
    const again = await session.generate(prompt(20, 1), params).done;
    equal(again.tokens, expected.tokens, "tokens when the disk is back");
  });
}

/** Experts of twice the RAM that they may take: no more is kept, and the figures tell it. */
async function checkRam(env: CaseEnv): Promise<void> {
  const file = await openModel([openBytes(await env.shared(MODEL), "model.gguf")]);
  const shape = shapeOf(file);
  const budget = Math.floor((expertsOf(namesIn(file, shape), shape) as ModelExperts).bytes / 2);
  await onDisk(
    env,
    async (session) => {
      await session.session.call({ method: "stats", eventsAfter: 0 });
      await session.generate(prompt(30, 3), { maxTokens: 8 }).done;
      const stats = (await session.session.call({ method: "stats", eventsAfter: 0 })) as EngineStats;
      const { ramBytes, maxRamBytes, read, resident, slots, waits } = stats.experts as ExpertFigures;
      equal([maxRamBytes, ramBytes <= budget, ramBytes > budget / 2], [budget, true, true], "bytes in RAM");
      equal([read.ramBytes > 0, read.fileBytes > 0], [true, true], "read from RAM and from the file");
      equal(resident <= slots && resident > 0 && waits.stalls > 0, true, "figures");
      const kinds = new Set(stats.expertEvents?.events.map(({ kind }) => kind));
      equal(
        ["step", "chose", "fetched", "stalled"].every((kind) => kinds.has(kind as "step")),
        true,
        "kinds of events",
      );
    },
    budget,
  );
}

/** Too little memory for all experts keeps some off the GPU, unasked; far too little is an error that names the least. */
async function checkMemory(env: CaseEnv): Promise<void> {
  const model = await env.shared(MODEL);
  const planOf = async (more: EngineOptions): Promise<MemoryPlan> => {
    const file = await openModel([openBytes(model, "model.gguf")]);
    return planMemory(file, shapeOf(file), runnerOptions(env.gpu, { ...OPTIONS, poolTokens: 64, ...more }));
  };
  const whole = await planOf({});
  equal(whole.experts, undefined, "with memory enough all experts are on the GPU");
  const memoryBytes = whole.maxBytes - 50_000;
  const less = await planOf({ memoryBytes });
  equal(less.experts !== undefined && less.maxBytes <= memoryBytes, true, "experts make room");
  const error = await planOf({ expertMemory: 1 }).catch((each: unknown) => each);
  const least = await shareOfExperts(model, 0);
  equal(error instanceof TidepoolError && error.details["leastBytes"], least, "the least that is needed");
}

/** With most of the experts, and slow read-backs, steps go on behind routers by guess, and some guesses are wrong. */
function checkGuesses(env: CaseEnv): Promise<void> {
  return checkLogits(env, "qwen3moe", "one by one", {
    share: 3 / 4,
    more: { readBackMs: 1000 },
    lookFurther({ log, cache, figures }) {
      const { guessedRight, guessedWrong } = log.waits;
      equal([guessedRight > 0, guessedWrong > 0], [true, true], "guesses that were right, and wrong");
      const blind = figures.chosen / figures.experts;
      const { guessed, used } = cache.stats.guessesByDistance[1] as GuessCounts;
      equal(
        guessed > 0 && used / guessed > 1.2 * blind,
        true,
        `${used} of ${guessed} predicted experts were chosen`,
      );
    },
  });
}

/** A predictor that was trained for the model takes the place of its routers; one that was not is an error. */
async function checkPredictor(env: CaseEnv): Promise<void> {
  const model = await env.shared(MODEL);
  const expertMemory = await shareOfExperts(model, 1 / 4);
  const { bytes, layers } = await trainedFor(env, model);
  const params = { maxTokens: 16 };
  const run = async (more: {
    expertPredictor?: Uint8Array;
  }): Promise<[tokens: unknown, figures: ExpertFigures]> => {
    const file = await openModel([openBytes(model, "model.gguf")]);
    const options = { ...OPTIONS, expertMemory };
    const session = await TestSession.open(env.gpu, file, options, undefined, more);
    try {
      const { tokens } = await session.generate(prompt(25, 2), params).done;
      const experts = session.session.runner.experts as Experts;
      equal(experts.predictor !== undefined, "expertPredictor" in more, "whether a predictor is in use");
      return [tokens, experts.figures];
    } finally {
      await session.close();
    }
  };
  const [expected] = await run({});
  const [tokens, { cache }] = await run({ expertPredictor: bytes });
  equal(tokens, expected, "tokens with a learned predictor");
  // The routers look 2 layers ahead, the predictor was trained for 1 alone.
  const guessed = cache.guessesByDistance.map((counts) => counts.guessed > 0);
  equal(guessed.slice(0, 3), [false, true, false], `distances of guesses in ${layers} layers`);
  const error = await run({ expertPredictor: bytes.slice(0, 99) }).catch((each: unknown) => each);
  equal(error instanceof TidepoolError && error.code, "invalid_file", "a file that is cut off");
  const text = new TextDecoder("latin1").decode(bytes).replace(/"fingerprint":"./, '"fingerprint":"-');
  const other = Uint8Array.from(text, (char) => char.charCodeAt(0));
  const refused = await run({ expertPredictor: other }).catch((each: unknown) => each);
  equal(refused instanceof TidepoolError && refused.code, "unsupported", "one of another model");
}

/** A small predictor for the next layer, trained on what the model chooses for two prompts. */
async function trainedFor(env: CaseEnv, model: Uint8Array): Promise<{ bytes: Uint8Array; layers: number }> {
  const steps: ActivationStep[] = [];
  let header: ActivationHeader | undefined;
  const prompts = [prompt(12, 1).tokens, prompt(9, 4).tokens];
  await recordExperts(
    env.gpu,
    await openModel([openBytes(model, "model.gguf")]),
    { prompts, newTokens: 6, seed: 1 },
    (made) => (header = made),
    (step) => void steps.push(step),
  );
  const trace = { header: header as ActivationHeader, steps };
  const options = { distances: [1], width: 8, epochs: 1, batch: 8, learningRate: 0.01, seed: 1 };
  return { bytes: trainPredictor(trace, options).predictor.write(), layers: trace.header.layers.length };
}

export const cases: Case[] = [
  ...goldenCases,
  ...f16Cases,
  { name: "model/experts/guesses in decode", run: checkGuesses },
  { name: "model/experts/a learned predictor", run: checkPredictor },
  { name: "model/experts/a disk that fails in the middle of decoding", run: checkFaults },
  { name: "model/experts/a budget of RAM", run: checkRam },
  { name: "model/experts/as many as memory allows", run: checkMemory },
  { name: "model/experts/every policy, with four requests at once and a score", run: checkPolicies },
];
