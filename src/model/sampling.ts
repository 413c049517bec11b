/**
 * What a caller may say about sampling: parameters, defaults, and the check of their ranges. It touches no device;
 * the drawing is in sampler.ts and shaders/sample.wgsl.
 */
import { integer, map, number, refuseValue, type Fields } from "../check.ts";

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
  logitBias: Readonly<Record<number, number>>;
  /** 32-bit. The same seed, logits and positions give the same tokens. */
  seed: number;
  /** How many of the likeliest tokens to report with log-probabilities, 0 .. 20; undefined: no log-probabilities. */
  logprobs: number | undefined;
}

/** The longest logit bias, in token ids. */
export const MAX_LOGIT_BIAS = 1024;

/** The most log-probabilities reported beside that of the sampled token. */
export const MAX_LOGPROBS = 20;

const bias = number("from -100 to 100", (value) => Math.abs(value) <= 100);

/** Greedy, without filters and penalties. */
const SAMPLING_DEFAULTS: SamplingParams = {
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

/** What each parameter may be; the ids of a logit bias are compared with the vocabulary later. */
export const SAMPLING_FIELDS: Fields<Partial<SamplingParams>> = {
  temperature: number("from 0 to 100", (t) => t >= 0 && t <= 100),
  topK: integer(0, Number.MAX_SAFE_INTEGER),
  topP: number("above 0 and at most 1", (p) => p > 0 && p <= 1),
  minP: number("of 0 or more and below 1", (p) => p >= 0 && p < 1),
  repetitionPenalty: number("from 0.01 to 100", (p) => p >= 0.01 && p <= 100),
  presencePenalty: number("from -100 to 100", (p) => Math.abs(p) <= 100),
  frequencyPenalty: number("from -100 to 100", (p) => Math.abs(p) <= 100),
  logitBias: map(`at most ${MAX_LOGIT_BIAS} token ids with numbers`, MAX_LOGIT_BIAS, /^\d{1,10}$/, bias),
  seed: integer(0, 2 ** 32 - 1),
  logprobs: integer(0, MAX_LOGPROBS),
};

/**
 * Fills `given` up with the defaults and checks the ids of the logit bias against the vocabulary.
 * @param given what `SAMPLING_FIELDS` has let pass
 * @throws TidepoolError `invalid_argument`
 */
export function samplingParams(given: Partial<SamplingParams>, vocab: number): SamplingParams {
  const set = Object.entries(given).filter(([, value]) => value !== undefined);
  const params: SamplingParams = { ...SAMPLING_DEFAULTS, ...Object.fromEntries(set) };
  const bad = Object.keys(params.logitBias).find((id) => Number(id) >= vocab);
  if (bad === undefined) return params;
  return refuseValue("logitBias", `token ${bad}`, `ids from 0 to ${vocab - 1}`);
}
