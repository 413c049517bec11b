/**
 * What a soak does, drawn from a seed: engines with small budgets, each setting opened several times in a row, prompts that
 * share their beginnings and come again, requests of every kind, and mistakes. It starts nothing.
 */
import type { Random } from "../../src/base.ts";
import type { CacheOptions, ChatMessage, EngineOptions, GenerateParams } from "../../src/index.ts";

/** The call that makes a request. */
export type Ask =
  | { kind: "generate"; prompt: string | readonly number[] }
  | { kind: "chat"; messages: readonly ChatMessage[] };

/** How the caller takes what comes: to the end, in a loop that it leaves, or until its signal fires after some chunks. */
export type Reading = { way: "result" | "loop" } | { way: "break" | "abort" | "signal"; after: number };

/** A request of a soak. */
export interface PlannedRequest {
  ask: Ask;
  /** What decides over the answer. */
  params: GenerateParams;
  /** What must not. */
  storage: Pick<GenerateParams, "cache" | "cacheMaxAgeMs">;
  reading: Reading;
}

const WORDS =
  "the harbour tide was low and a boat lay quiet under grey clouds while keepers of light told stories about knots nets gulls rope storm calm".split(
    " ",
  );

/** Texts and lists of tokens that prompts begin with, and the words of the longest prompt. */
const BEGINNINGS = 4;
const MOST_WORDS = 100;

/** Holds the longest prompt with its answer, and little more. */
const LEAST_POOL_TOKENS = 224;

/** Wrong options, each with the name that the error must tell. */
export const MISTAKES: readonly [object, string][] = [
  [{ max_tokens: 3 }, "max_tokens"],
  [{ cache: false }, "cache"],
  [{ stop: [""] }, "stop[0]"],
  [{ stop: Array<string>(65).fill("x") }, "stop"],
  [{ temperature: "hot" }, "temperature"],
  [{ maxTokens: 0 }, "maxTokens"],
  [{ topP: 2 }, "topP"],
  [{ logitBias: { 5_000_000: 1 } }, "logitBias"],
  [{ seed: -1 }, "seed"],
];

/** Engines in a row with one setting: what one of them stores is there for the next. */
const LEAST_IN_A_ROW = 3;
const MOST_IN_A_ROW = 5;

/** Questions that are asked again and again; at times a new one takes the place of one of them. */
const QUESTIONS = 8;

type Question = Pick<PlannedRequest, "ask" | "params">;

export class SoakPlan {
  private readonly random: Random;
  private readonly directory: string;
  private setting: EngineOptions | undefined;
  private left = 0;
  private readonly questions: (Question | undefined)[] = [];
  /** What this engine was asked, and what of that of the engine before it is to be asked again. */
  private asked: Question[] = [];
  private again: Question[] = [];

  constructor(random: Random, directory: string) {
    this.random = random;
    this.directory = directory;
  }

  /** The next engine's options. */
  nextEngine(): EngineOptions {
    if (!this.setting || this.left === 0) {
      const isFirst = this.setting === undefined;
      this.setting = isFirst ? this.firstEngine() : plannedEngine(this.random, this.storage());
      this.left = LEAST_IN_A_ROW + this.random.below(MOST_IN_A_ROW - LEAST_IN_A_ROW + 1);
    }
    this.left--;
    [this.again, this.asked] = [this.asked, []];
    return this.setting;
  }

  /** A request: mostly a question that was asked before, by an earlier engine too, stored and read in another way. */
  nextRequest(): PlannedRequest {
    const { random } = this;
    const isAgain = random.below(3) > 0;
    const question = (isAgain ? this.again.shift() : undefined) ?? this.question();
    this.asked.push(question);
    return {
      ...question,
      storage: {
        cache: random.pick(["off", "memory", "disk", "disk", "disk", "disk"] as const),
        ...(random.below(12) === 0 && { cacheMaxAgeMs: 1 + random.below(500) }),
      },
      reading: plannedReading(random),
    };
  }

  private question(): Question {
    const { random, questions } = this;
    const place = random.below(QUESTIONS);
    if (random.below(6) === 0) questions[place] = undefined;
    return (questions[place] ??= { ask: plannedAsk(random), params: plannedParams(random) });
  }

  /**
   * An engine that holds little on the GPU, all of a soak in RAM and on the disk, and brings it back from there, so that a
   * short run does so, too.
   */
  private firstEngine(): EngineOptions {
    const storage = { ramBytes: 16_000_000, diskBytes: 32_000_000, restore: "load" } as const;
    const planned = plannedEngine(this.random, { directory: this.directory, ...storage });
    return { ...planned, poolTokens: LEAST_POOL_TOKENS };
  }

  private storage(): CacheOptions {
    const { random } = this;
    return {
      ...(random.below(8) > 0 && { directory: this.directory }),
      ramBytes: random.pick([0, 300_000, 4_000_000, 4_000_000]),
      diskBytes: random.pick([200_000, 2_000_000, 8_000_000, 8_000_000, 8_000_000]),
      restore: random.pick(["auto", "load", "load", "compute", "both"] as const),
      namespace: random.pick(["", "", "", "one"]),
      ...(random.below(8) === 0 && { maxAgeMs: 1 + random.below(3000) }),
    };
  }
}

/** An engine whose pool holds little, so that blocks are evicted and requests pre-empted. */
function plannedEngine(random: Random, storage: CacheOptions): EngineOptions {
  return {
    dtype: "f32",
    blockTokens: random.pick([16, 16, 32]),
    chunkTokens: random.pick([8, 48, 256]),
    maxRequests: 1 + random.below(4),
    poolTokens: random.pick([LEAST_POOL_TOKENS, 256, 384, 1280]),
    ...(random.below(2) === 0 && { poolStartTokens: 128 }),
    cache: {
      ...storage,
      policy: random.pick(["marconi", "marconi", "lru", "lfu", "length-aware", "vllm", "sglang"] as const),
    },
  };
}

function plannedAsk(random: Random): Ask {
  const which = random.below(8);
  const words = someWords(random);
  if (which === 0) return { kind: "generate", prompt: tokenPrompt(random) };
  if (which > 2) return { kind: "generate", prompt: words };
  const system = { role: "system", content: `You are keeper ${random.below(2)} of the light.` };
  return { kind: "chat", messages: [system, { role: "user", content: words }] as ChatMessage[] };
}

/** A beginning of one of few long texts. */
function someWords(random: Random): string {
  const beginning = random.below(BEGINNINGS);
  const count = 1 + random.below(random.pick([12, 60, MOST_WORDS, MOST_WORDS]));
  return Array.from(
    { length: count },
    (_, i) => WORDS[(beginning * 7 + i * (beginning + 3)) % WORDS.length],
  ).join(" ");
}

function tokenPrompt(random: Random): number[] {
  const beginning = random.below(BEGINNINGS);
  return Array.from({ length: 1 + random.below(120) }, (_, i) => 100 + ((beginning * 37 + i * 11) % 300));
}

function plannedParams(random: Random): GenerateParams {
  const sampled = { temperature: 0.8, topP: 0.95, seed: random.below(3) };
  return {
    maxTokens: random.pick([1, 5, 17, 40]),
    ...(random.below(2) === 0 && sampled),
    ...(random.below(4) === 0 && { stop: random.pick(["the", [" a", "boat"], [". "]]) }),
    ...(random.below(6) === 0 && { repetitionPenalty: 1.2 }),
    ...(random.below(8) === 0 && { logitBias: { 100: -5 } }),
    ...(random.below(6) === 0 && { overflow: "stop" as const }),
  };
}

function plannedReading(random: Random): Reading {
  const after = random.below(12);
  return random.pick<Reading>([
    { way: "result" },
    { way: "result" },
    { way: "loop" },
    { way: "loop" },
    { way: "break", after },
    { way: "abort", after },
    { way: "signal", after },
  ]);
}
