/**
 * The sampling chain in float64, by sorting, as a judge of the GPU's. The noise is the kernel's own hash, so that a
 * draw can be compared token by token; where rounding may decide, the judge gives bounds and not one answer.
 */
import type { SamplingParams } from "../../src/model/sampling.ts";

/** What a request has seen: the prompt's ids, and how often each id was generated. */
export interface SeatHistory {
  prompt: ReadonlySet<number>;
  generated: Map<number, number>;
}

export interface Judgement {
  /** Logits after bias and penalties. */
  adjusted: Float64Array;
  /** Finite tokens, likeliest first, equal ones by lowest id. */
  order: number[];
  /** How many of `order` stay after the filters: between these two, by rounding. */
  fewest: number;
  most: number;
  /** adjusted / temperature + noise. */
  score(id: number): number;
}

/** Relative error allowed to a probability mass of the GPU: sums of f32 and exp of WGSL, with room. */
const MASS_ERROR = 1e-5;

export function judge(
  logits: ArrayLike<number>,
  history: SeatHistory,
  params: SamplingParams,
  position: number,
): Judgement {
  const adjusted = adjust(logits, history, params);
  const order = [...adjusted.keys()].filter((id) => adjusted[id] !== -Infinity);
  order.sort((a, b) => at(adjusted, b) - at(adjusted, a) || a - b);
  const best = at(adjusted, order[0] as number);
  return {
    adjusted,
    order,
    fewest: countKept(adjusted, order, params, -MASS_ERROR),
    most: countKept(adjusted, order, params, MASS_ERROR),
    score: (id) => (at(adjusted, id) - best) / params.temperature + noise(params.seed, position, id),
  };
}

/** log-softmax of the logits as they came. */
export function logSoftmax(logits: ArrayLike<number>): Float64Array {
  const values = Float64Array.from(logits);
  const best = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const sum = values.reduce((total, value) => total + Math.exp(value - best), 0);
  return values.map((value) => value - best - Math.log(sum));
}

function adjust(logits: ArrayLike<number>, history: SeatHistory, params: SamplingParams): Float64Array {
  return Float64Array.from(logits, (logit, id) => {
    const generated = history.generated.get(id) ?? 0;
    let value = logit + (params.logitBias[id] ?? 0);
    if (generated > 0 || history.prompt.has(id)) {
      value = value > 0 ? value / params.repetitionPenalty : value * params.repetitionPenalty;
    }
    if (generated > 0) value -= generated * params.frequencyPenalty + params.presencePenalty;
    return value;
  });
}

/** The filters with every mass limit moved by `slack` in the direction that keeps more (positive) or fewer. */
function countKept(adjusted: Float64Array, order: number[], params: SamplingParams, slack: number): number {
  const { topK, topP, minP } = params;
  const left = topK > 0 ? Math.min(topK, order.length) : order.length;
  const best = at(adjusted, order[0] as number);
  const masses = order.slice(0, left).map((id) => Math.exp(at(adjusted, id) - best));
  const total = masses.reduce((a, b) => a + b, 0);
  let nucleus = 0;
  for (let sum = 0; nucleus < left && (nucleus === 0 || (topP < 1 ? sum < topP + slack : true)); nucleus++) {
    sum += (masses[nucleus] as number) / total;
  }
  const likely = masses.filter((mass) => mass >= minP * (1 - slack)).length;
  return Math.min(nucleus, likely);
}

/** The kernel's Gumbel noise: the same hash and the same f32 rounding of the uniform number, then float64. */
export function noise(seed: number, position: number, id: number): number {
  const first = mix32(seed ^ 0x9e3779b9);
  const second = mix32(mix32(position + 0x7f4a7c15) ^ seed);
  const hash = mix32(mix32(Math.imul(id, 0x9e3779b1) ^ first) ^ second) >>> 0;
  const v = Math.fround(Math.fround(Math.fround(hash) + 0.5) * 2 ** -32);
  return -Math.log(-Math.log1p(-Math.min(v, 1 - 2 ** -24)));
}

function mix32(value: number): number {
  let z = value;
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
  return z ^ (z >>> 15);
}

function at(values: Float64Array, index: number): number {
  return values[index] as number;
}
