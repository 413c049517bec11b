/**
 * Trains the learned predictor of experts on a recorded trace: for each layer and distance a network of its own, by Adam on the
 * cross-entropy with what the router gave (weights of the chosen, as soft labels). Nine tenths of the tokens train, in the order
 * of the trace; the last tenth is held out. Seeded; in plain TypeScript.
 */
import { Random } from "../../src/base.ts";
import type { ActivationTrace } from "../../src/cache/experts/activations.ts";
import { LearnedPredictor, networkName, type PredictorNetwork } from "../../src/cache/experts/predictor.ts";
import { bestOf } from "../../src/sim/experts/generate.ts";
import { halfToFloat } from "../../src/tier/record/kv-quant.ts";

export interface TrainOptions {
  distances: readonly number[];
  /** Hidden units of a network. */
  width: number;
  epochs: number;
  batch: number;
  learningRate: number;
  seed: number;
}

/** Shares of a layer's true experts among as many guesses, on held-out tokens; those with a guess of the skip gate if there are
 * some, so that all three are compared on the same. */
export interface Held {
  behind: number;
  distance: number;
  learned: number;
  /** The later layer's router on the earlier one's input; NaN if the trace has no guesses. */
  skipGate: number;
  /** The experts of the token before. */
  former: number;
}

const HELD_OUT = 0.1;
const [BETA1, BETA2, EPSILON] = [0.9, 0.999, 1e-8];

/** One token of one layer. */
interface Sample {
  input: Float32Array;
  experts: Uint16Array;
  weights: Float32Array;
  former: Uint16Array | undefined;
  guess: ArrayLike<number> | undefined;
}

export function trainPredictor(
  trace: ActivationTrace,
  options: TrainOptions,
  onLayer: (held: Held) => void = () => {},
): { predictor: LearnedPredictor; held: Held[] } {
  const { header } = trace;
  if (header.hiddenSize === 0) throw new Error(`the trace of ${header.model} has no inputs of routers`);
  const tokens = trace.steps.reduce((sum, step) => sum + step.tokens, 0);
  const trained = Math.floor(tokens * (1 - HELD_OUT));
  if (trained < 1 || trained === tokens) throw new Error(`${tokens} tokens are too few to train on`);
  const networks = new Map<string, PredictorNetwork>();
  const held: Held[] = [];
  const model = { ...header, layers: header.layers.length };
  const { fingerprint, layers, experts, hiddenSize } = model;
  const predictor = new LearnedPredictor({ fingerprint, layers, experts, hiddenSize }, networks);
  for (const distance of options.distances)
    for (let behind = 0; behind + distance < layers; behind++) {
      const samples = samplesOf(trace, behind, distance);
      const random = new Random(options.seed + 1000 * distance + behind);
      const network = train(samples.slice(0, trained), { hiddenSize, experts }, options, random);
      networks.set(networkName(behind, distance), network);
      const rest = samples.slice(trained);
      const guessed = rest.filter(({ guess }) => guess !== undefined);
      const found = compare(predictor, guessed.length > 0 ? guessed : rest, behind, distance);
      held.push(found);
      onLayer(found);
    }
  return { predictor: new LearnedPredictor({ fingerprint, layers, experts, hiddenSize }, networks), held };
}

function samplesOf({ header, steps }: ActivationTrace, behind: number, distance: number): Sample[] {
  const { chosen, hiddenSize, distances, guesses } = header;
  const layer = behind + distance;
  const place = distances.indexOf(distance);
  const samples: Sample[] = [];
  for (const step of steps)
    for (let token = 0; token < step.tokens; token++) {
      const from = (behind * step.tokens + token) * hiddenSize;
      const row = layer * step.tokens + token;
      const at = (row * distances.length + place) * guesses;
      samples.push({
        input: Float32Array.from((step.inputs as Uint16Array).subarray(from, from + hiddenSize), halfToFloat),
        experts: step.experts.subarray(row * chosen, (row + 1) * chosen),
        weights: step.weights.subarray(row * chosen, (row + 1) * chosen),
        former: step.phase === "decode" ? samples.at(-1)?.experts : undefined,
        guess: place < 0 ? undefined : step.guesses?.subarray(at, at + chosen),
      });
    }
  return samples;
}

function compare(
  predictor: LearnedPredictor,
  samples: readonly Sample[],
  behind: number,
  distance: number,
): Held {
  const shares = { learned: [] as number[], skipGate: [] as number[], former: [] as number[] };
  for (const { input, experts, former, guess } of samples) {
    const share = (guessed: ArrayLike<number>): number => {
      const set = new Set(Array.from(guessed));
      return experts.filter((expert) => set.has(expert)).length / experts.length;
    };
    const scores = predictor.predict(behind, distance, input) as Float32Array;
    shares.learned.push(share(bestOf(scores, experts.length)));
    if (guess) shares.skipGate.push(share(guess));
    if (former) shares.former.push(share(former));
  }
  const mean = (values: readonly number[]): number =>
    values.reduce((sum, each) => sum + each, 0) / values.length;
  return {
    ...{ behind, distance, learned: mean(shares.learned) },
    ...{ skipGate: mean(shares.skipGate), former: mean(shares.former) },
  };
}

/** A parameter with its gradient and Adam's two means. */
class Parameter {
  readonly value: Float32Array;
  readonly gradient: Float32Array;
  private readonly mean: Float32Array;
  private readonly square: Float32Array;

  constructor(value: Float32Array) {
    this.value = value;
    this.gradient = new Float32Array(value.length);
    this.mean = new Float32Array(value.length);
    this.square = new Float32Array(value.length);
  }

  /** @param t steps so far, this one included */
  step(rate: number, t: number): void {
    const { value, gradient, mean, square } = this;
    const [scaleMean, scaleSquare] = [1 / (1 - BETA1 ** t), 1 / (1 - BETA2 ** t)];
    for (let i = 0; i < value.length; i++) {
      const g = gradient[i] as number;
      mean[i] = BETA1 * (mean[i] as number) + (1 - BETA1) * g;
      square[i] = BETA2 * (square[i] as number) + (1 - BETA2) * g * g;
      const by =
        ((mean[i] as number) * scaleMean) / (Math.sqrt((square[i] as number) * scaleSquare) + EPSILON);
      value[i] = (value[i] as number) - rate * by;
    }
    gradient.fill(0);
  }
}

function train(
  samples: readonly Sample[],
  { hiddenSize, experts }: { hiddenSize: number; experts: number },
  { width, epochs, batch, learningRate, seed: _seed }: TrainOptions,
  random: Random,
): PredictorNetwork {
  const normals = (count: number, deviation: number): Float32Array =>
    Float32Array.from({ length: count }, () => deviation * random.normal());
  const network = {
    in: new Parameter(normals(width * hiddenSize, Math.sqrt(2 / hiddenSize))),
    inBias: new Parameter(new Float32Array(width)),
    out: new Parameter(normals(experts * width, Math.sqrt(1 / width))),
    outBias: new Parameter(new Float32Array(experts)),
  };
  const parameters = Object.values(network);
  const order = Array.from(samples.keys());
  const steps = epochs * Math.ceil(samples.length / batch);
  let t = 0;
  for (let epoch = 0; epoch < epochs; epoch++) {
    shuffle(order, random);
    for (let first = 0; first < order.length; first += batch) {
      const some = order.slice(first, first + batch);
      for (const i of some) backward(network, samples[i] as Sample, 1 / some.length);
      // The rate falls to nothing in a line.
      const rate = learningRate * (1 - t / steps);
      t++;
      for (const parameter of parameters) parameter.step(rate, t);
    }
  }
  return Object.fromEntries(
    Object.entries(network).map(([name, { value }]) => [name, value]),
  ) as unknown as PredictorNetwork;
}

/** Adds a sample's gradients. */
function backward(
  network: Record<"in" | "inBias" | "out" | "outBias", Parameter>,
  { input, experts: chosen, weights }: Sample,
  scale: number,
): void {
  const { in: win, inBias, out, outBias } = network;
  const [width, experts, columns] = [inBias.value.length, outBias.value.length, input.length];
  const hidden = new Float32Array(width);
  for (let row = 0; row < width; row++) {
    let sum = inBias.value[row] as number;
    for (let i = 0; i < columns; i++) sum += (win.value[row * columns + i] as number) * (input[i] as number);
    hidden[row] = Math.max(0, sum);
  }
  const delta = new Float32Array(experts);
  for (let row = 0; row < experts; row++) {
    let sum = outBias.value[row] as number;
    for (let i = 0; i < width; i++) sum += (out.value[row * width + i] as number) * (hidden[i] as number);
    delta[row] = sum;
  }
  softmax(delta);
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  for (const [i, expert] of chosen.entries())
    delta[expert] = (delta[expert] as number) - (weights[i] as number) / total;
  const back = new Float32Array(width);
  for (let row = 0; row < experts; row++) {
    const by = scale * (delta[row] as number);
    outBias.gradient[row] = (outBias.gradient[row] as number) + by;
    for (let i = 0; i < width; i++) {
      const at = row * width + i;
      back[i] = (back[i] as number) + by * (out.value[at] as number);
      out.gradient[at] = (out.gradient[at] as number) + by * (hidden[i] as number);
    }
  }
  for (let row = 0; row < width; row++) {
    if ((hidden[row] as number) === 0) continue;
    const by = back[row] as number;
    inBias.gradient[row] = (inBias.gradient[row] as number) + by;
    for (let i = 0; i < columns; i++) {
      const at = row * columns + i;
      win.gradient[at] = (win.gradient[at] as number) + by * (input[i] as number);
    }
  }
}

function softmax(values: Float32Array): void {
  const most = values.reduce((a, b) => Math.max(a, b), -Infinity);
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i] = Math.exp((values[i] as number) - most);
  for (let i = 0; i < values.length; i++) values[i] = (values[i] as number) / sum;
}

function shuffle(order: number[], random: Random): void {
  for (let i = order.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [order[i], order[j]] = [order[j] as number, order[i] as number];
  }
}
