/**
 * Generated activation traces with the locality that is measured on models with many small experts: which experts the token
 * before used, and how well a later layer's experts are guessed from an earlier one. It imitates no model's text, and has the
 * same locality in every layer, which real models do not.
 *
 * A router's logits are a sum of three normal parts: the request's topic (constant), what goes on from token to token (an
 * autoregressive process), and so on in every layer by itself. A guess from a distance is the logits with noise.
 */
import { Random } from "../../base.ts";
import { noGuess, type ActivationStep, type ActivationTrace } from "../../cache/experts/activations.ts";

export interface ActivityWorkload {
  seed: number;
  layers: number;
  experts: number;
  chosen: number;
  matrixBytes: readonly number[];
  requests: number;
  /** Requests take turns with this many topics. */
  topics: number;
  promptTokens: number;
  /** Tokens generated for each request. */
  newTokens: number;
  /** Share of the logits' variance that comes from a request's topic. */
  topicShare: number;
  /** Correlation of the rest from one token to the next. */
  carry: number;
  /** Standard deviation of the noise in a guess from 1, 2, ... layers before, where that of the logits is 1. */
  guessNoise: readonly number[];
  /** Share of the logits that a guess gets wholly wrong. */
  guessBlind: number;
}

/**
 * Qwen3-30B-A3B at 4.5 bits a weight: 48 layers of 128 experts, of which a token uses 8. The token before used 0.37 to 0.38 of
 * them; guessed from one layer before, 0.775 of them are among 8 guesses and 0.92 among 16; from two, three and four layers
 * before 0.66, 0.56 and 0.50 are among 8.
 */
export const qwenActivity: ActivityWorkload = {
  seed: 1,
  layers: 48,
  experts: 128,
  chosen: 8,
  matrixBytes: [884_736, 884_736, 884_736],
  requests: 3,
  topics: 2,
  promptTokens: 128,
  newTokens: 64,
  topicShare: 0.2,
  carry: 0.58,
  guessNoise: [0.19, 0.37, 0.55, 0.72],
  guessBlind: 0.07,
};

/** Guesses a layer, for each expert that is chosen. */
const GUESSES_A_CHOSEN = 2;

export function generateActivity(workload: ActivityWorkload): ActivationTrace {
  const { layers, experts, chosen, matrixBytes, guessNoise } = workload;
  const header = {
    ...{
      model: `generated (seed ${workload.seed})`,
      fingerprint: "",
      experts,
      chosen,
      matrixBytes,
      hiddenSize: 0,
    },
    layers: Array.from({ length: layers }, (_, layer) => layer),
    distances: guessNoise.map((_, i) => i + 1),
    guesses: Math.min(experts, GUESSES_A_CHOSEN * chosen),
  };
  const random = new Random(workload.seed);
  const size = layers * experts;
  const topics = Array.from({ length: workload.topics }, () =>
    normals(random, size, Math.sqrt(workload.topicShare)),
  );
  const steps: ActivationStep[] = [];
  for (let request = 0; request < workload.requests; request++) {
    const routers = new Routers(workload, random, topics[request % topics.length]!);
    steps.push(routers.step("prefill", workload.promptTokens));
    for (let token = 0; token < workload.newTokens; token++) steps.push(routers.step("decode", 1));
  }
  return { header, steps };
}

/** The routers of one request. */
class Routers {
  private readonly workload: ActivityWorkload;
  private readonly random: Random;
  private readonly topic: Float32Array;
  private readonly moving: Float32Array;

  constructor(workload: ActivityWorkload, random: Random, topic: Float32Array) {
    this.workload = workload;
    this.random = random;
    this.topic = topic;
    this.moving = normals(random, topic.length, Math.sqrt(1 - workload.topicShare));
  }

  step(phase: ActivationStep["phase"], tokens: number): ActivationStep {
    const { layers, chosen, guessNoise } = this.workload;
    const kept = GUESSES_A_CHOSEN * chosen;
    const rows = layers * tokens;
    const step: ActivationStep = {
      ...{ phase, tokens, experts: new Uint16Array(rows * chosen), weights: new Float32Array(rows * chosen) },
      ...(phase === "decode" && {
        guesses: new Uint16Array(rows * guessNoise.length * kept).fill(noGuess),
      }),
    };
    for (let token = 0; token < tokens; token++) {
      this.move();
      for (let layer = 0; layer < layers; layer++) this.route(step, layer, token);
    }
    return step;
  }

  private route(step: ActivationStep, layer: number, token: number): void {
    const { experts, chosen, guessNoise } = this.workload;
    const logits = new Float32Array(experts);
    for (let i = 0; i < experts; i++) {
      const at = layer * experts + i;
      logits[i] = this.topic[at]! + this.moving[at]!;
    }
    const best = bestOf(logits, chosen);
    const row = layer * step.tokens + token;
    step.experts.set(best, row * chosen);
    const total = best.reduce((sum, expert) => sum + Math.exp(logits[expert]!), 0);
    step.weights.set(
      best.map((expert) => Math.exp(logits[expert]!) / total),
      row * chosen,
    );
    guessNoise.forEach((noise, i) => {
      if (!step.guesses || layer < i + 1) return;
      const kept = GUESSES_A_CHOSEN * chosen;
      const guessed = bestOf(
        logits.map((logit) => this.guess(logit, noise)),
        kept,
      );
      step.guesses.set(guessed, (row * guessNoise.length + i) * kept);
    });
  }

  private guess(logit: number, noise: number): number {
    const isBlind = this.random.next() < this.workload.guessBlind;
    return (isBlind ? 0 : logit) + (isBlind ? 1 : noise) * this.random.normal();
  }

  private move(): void {
    const { carry, topicShare } = this.workload;
    const rest = Math.sqrt((1 - carry * carry) * (1 - topicShare));
    for (let i = 0; i < this.moving.length; i++)
      this.moving[i] = carry * this.moving[i]! + rest * this.random.normal();
  }
}

function normals(random: Random, count: number, deviation: number): Float32Array {
  return Float32Array.from({ length: count }, () => deviation * random.normal());
}

/** The indices of the greatest values, the greatest first. */
export function bestOf(values: ArrayLike<number>, count: number): number[] {
  const best: number[] = [];
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (best.length === count && values[best[count - 1]!]! >= value) continue;
    let at = best.length === count ? count - 1 : best.length;
    for (; at > 0 && values[best[at - 1]!]! < value; at--) best[at] = best[at - 1]!;
    best[at] = i;
  }
  return best;
}
