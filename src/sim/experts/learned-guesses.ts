/** A recorded trace with the guesses of a learned predictor in place of its own. */
import type { ActivationStep, ActivationTrace } from "../../cache/experts/activations.ts";
import { noGuess } from "../../cache/experts/activations.ts";
import { LearnedPredictor } from "../../cache/experts/predictor.ts";
import { TidepoolError } from "../../errors.ts";
import { bestOf } from "./generate.ts";

/** Guesses a layer, for each expert that is chosen. */
const GUESSES_A_CHOSEN = 2;

/** Throws `invalid_argument` if the trace has no inputs, and what reading the predictor's file throws. */
export function withPredictor(trace: ActivationTrace, file: string, bytes: Uint8Array): ActivationTrace {
  const { header } = trace;
  const { fingerprint, experts, chosen, hiddenSize } = header;
  if (hiddenSize === 0) {
    throw new TidepoolError(
      "invalid_argument",
      `the trace of ${header.model} has no inputs of routers, expected one that was recorded`,
    );
  }
  const model = { fingerprint, layers: header.layers.length, experts, hiddenSize };
  const predictor = LearnedPredictor.read(file, bytes, model);
  const { distances } = predictor;
  const guesses = Math.min(experts, GUESSES_A_CHOSEN * chosen);
  const guess = (step: ActivationStep): ActivationStep =>
    step.phase === "prefill" ? step : { ...step, guesses: guessesFor(step, predictor, model, guesses) };
  return { header: { ...header, distances, guesses }, steps: trace.steps.map(guess) };
}

function guessesFor(
  step: ActivationStep,
  predictor: LearnedPredictor,
  { layers, hiddenSize }: { layers: number; hiddenSize: number },
  count: number,
): Uint16Array {
  const { distances } = predictor;
  const all = new Uint16Array(layers * step.tokens * distances.length * count).fill(noGuess);
  for (let layer = 0; layer < layers; layer++)
    for (let token = 0; token < step.tokens; token++)
      distances.forEach((distance, place) => {
        const from = ((layer - distance) * step.tokens + token) * hiddenSize;
        if (from < 0) return;
        const input = Float32Array.from(step.inputs!.subarray(from, from + hiddenSize), halfToFloat);
        const scores = predictor.predict(layer - distance, distance, input);
        const row = (layer * step.tokens + token) * distances.length + place;
        if (scores) all.set(bestOf(scores, count), row * count);
      });
  return all;
}

/** IEEE binary16 -> number, for finite values. */
function halfToFloat(bits: number): number {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const size = exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
  return bits & 0x8000 ? -size : size;
}
