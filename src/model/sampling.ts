/**
 * What a caller may say about sampling: parameters, defaults, and the check of their ranges. It touches no device;
 * the drawing is in sampler.ts and shaders/sample.wgsl.
 */
import { TidepoolError } from "../errors.ts";

/**
 * How the next token is drawn. The order: logit bias, repetition penalty, frequency and presence penalties, top-k,
 * top-p, min-p, temperature, draw (the default chain of llama.cpp).
 */
export interface SamplingParams {
  /** 0 is greedy: the likeliest token after bias and penalties, the lowest id among equals. 0 .. 100. */
  temperature: number;
  /** Only the k likeliest tokens stay; 0 is off. */
  topK: number;
  /** The shortest run of likeliest tokens with at least this mass stays; 1 is off. (0, 1]. */
  topP: number;
  /** Tokens less than this many times as likely as the likeliest go; 0 is off. [0, 1). */
  minP: number;
  /** Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 is off. [0.01, 100]. */
  repetitionPenalty: number;
  /** Subtracted from the logit of every token generated so far; 0 is off. [-100, 100]. */
  presencePenalty: number;
  /** Subtracted once for each time that the token was generated so far; 0 is off. [-100, 100]. */
  frequencyPenalty: number;
  /** Token id -> number added to its logit, [-100, 100]; at most MAX_LOGIT_BIAS ids. */
  logitBias: Readonly<Record<string, number>>;
  /** 32-bit. The same seed, logits and positions give the same tokens. */
  seed: number;
  /** How many of the likeliest tokens to report with log-probabilities, 0 .. 20; undefined: no log-probabilities. */
  logprobs: number | undefined;
}

/** The longest logit bias, in token ids. */
export const MAX_LOGIT_BIAS = 1024;

/** The most log-probabilities reported beside that of the sampled token. */
export const MAX_LOGPROBS = 20;

/** Greedy, without filters and penalties. */
const samplingDefaults: SamplingParams = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  logitBias: {},
  seed: 0,
  logprobs: undefined,
};

/**
 * Fills `given` up with the defaults and checks every field. `vocab` bounds the ids of the logit bias.
 * @throws TidepoolError `invalid_argument` naming the field, its value and its range.
 */
export function samplingParams(given: Partial<SamplingParams>, vocab: number): SamplingParams {
  const set = Object.entries(given).filter(([, value]) => value !== undefined);
  const params: SamplingParams = { ...samplingDefaults, ...Object.fromEntries(set) };
  checkNumber("temperature", params.temperature, "from 0 to 100", (t) => t >= 0 && t <= 100);
  checkNumber("topK", params.topK, "a whole number, 0 or more", (k) => Number.isSafeInteger(k) && k >= 0);
  checkNumber("topP", params.topP, "above 0 and at most 1", (p) => p > 0 && p <= 1);
  checkNumber("minP", params.minP, "0 or more and below 1", (p) => p >= 0 && p < 1);
  checkNumber(
    "repetitionPenalty",
    params.repetitionPenalty,
    "from 0.01 to 100",
    (p) => p >= 0.01 && p <= 100,
  );
  checkNumber("presencePenalty", params.presencePenalty, "from -100 to 100", (p) => Math.abs(p) <= 100);
  checkNumber("frequencyPenalty", params.frequencyPenalty, "from -100 to 100", (p) => Math.abs(p) <= 100);
  checkNumber("seed", params.seed, "a whole number from 0 to 4294967295", (s) => s >>> 0 === s);
  checkNumber("logprobs", params.logprobs ?? 0, `a whole number from 0 to ${MAX_LOGPROBS}`, isTopCount);
  checkBias(params.logitBias, vocab);
  return params;
}

function isTopCount(count: number): boolean {
  return Number.isInteger(count) && count >= 0 && count <= MAX_LOGPROBS;
}

function checkNumber(field: string, value: unknown, range: string, ok: (value: number) => boolean): void {
  if (typeof value === "number" && ok(value)) return;
  throw new TidepoolError("invalid_argument", `${field} is ${String(value)}, expected ${range}`, {
    field,
    value,
  });
}

function checkBias(bias: unknown, vocab: number): void {
  if (typeof bias !== "object" || bias === null || Array.isArray(bias)) {
    throw new TidepoolError("invalid_argument", "logitBias is not an object from token ids to numbers", {
      field: "logitBias",
    });
  }
  const entries = Object.entries(bias as Record<string, unknown>);
  checkNumber("logitBias length", entries.length, `at most ${MAX_LOGIT_BIAS}`, (n) => n <= MAX_LOGIT_BIAS);
  for (const [key, value] of entries) {
    const id = /^\d+$/.test(key) ? Number(key) : key;
    checkNumber("logitBias token id", id, `a whole number from 0 to ${vocab - 1}`, (n) => n < vocab);
    checkNumber(`logitBias[${key}]`, value, "from -100 to 100", (b) => Math.abs(b) <= 100);
  }
}
