/**
 * Loads a runner with what needs the fingerprint of its weights: a learned predictor of its experts, which must have been trained
 * for them. And what a runner on a new device takes over from the one whose device was lost.
 */
import { LearnedPredictor } from "../cache/experts/predictor.ts";
import { TidepoolError } from "../errors.ts";
import type { Gpu } from "../gpu/device.ts";
import type { ModelFile } from "../load/model-file.ts";
import { namesIn } from "../model/arch/tensor-names.ts";
import { shapeOf } from "../model/arch/rows.ts";
import { expertsOf } from "../model/experts/plan.ts";
import { planMemory } from "../model/memory.ts";
import { Runner, type RunnerOptions } from "../model/runner.ts";
import type { RunnerProgress } from "../model/runner-parts.ts";
import type { WeightsFingerprint } from "./fingerprint.ts";

/**
 * Loads a model; if the device's memory is too small for it and nothing was said of its experts, again with half as many of them on
 * the GPU, down to those that a step needs at once.
 * @throws TidepoolError as `Runner.load`
 */
export async function loadFitting(
  gpu: Gpu,
  file: ModelFile,
  options: RunnerOptions,
  onProgress: (progress: RunnerProgress) => void,
  weights?: WeightsFingerprint,
): Promise<Runner> {
  let { expertMemory } = options;
  for (;;) {
    try {
      const chosen = { ...options, ...(expertMemory !== undefined && { expertMemory }) };
      return await Runner.load(gpu, file, chosen, onProgress, weights?.onPiece);
    } catch (error) {
      const isFull = error instanceof TidepoolError && error.details["isDeviceFull"] === true;
      const less =
        isFull && options.expertMemory === undefined ? fewerBytes(file, options, expertMemory) : undefined;
      if (less === undefined) throw error;
      expertMemory = less;
      weights?.restart();
    }
  }
}

/** Half of the bytes that experts had on the GPU; undefined if fewer are not enough. */
function fewerBytes(
  file: ModelFile,
  options: RunnerOptions,
  expertMemory: number | undefined,
): number | undefined {
  const shape = shapeOf(file);
  const all = expertsOf(namesIn(file, shape), shape);
  if (!all) return undefined;
  const copyBytes = options.experts === "bounded" ? all.copyBytes : 0;
  const before = expertMemory ?? planMemory(file, shape, options).experts?.bytes ?? all.bytes;
  const least = all.leastBytes + copyBytes;
  return before > least ? Math.max(least, Math.floor(before / 2)) : undefined;
}

export interface LoadRunnerInput {
  gpu: Gpu;
  file: ModelFile;
  options: RunnerOptions;
  onProgress(progress: RunnerProgress): void;
  /** Gathers the weights as they pass. */
  weights: WeightsFingerprint;
  /** Whether something is stored under the fingerprint. */
  isStored: boolean;
  /** The file of a learned predictor. */
  expertPredictor: Uint8Array | undefined;
}

/** @throws TidepoolError what loading throws, and `invalid_file` or `unsupported` for a predictor that does not fit */
export async function loadRunner(input: LoadRunnerInput): Promise<Runner> {
  const { gpu, file, options, onProgress, weights, isStored, expertPredictor } = input;
  const isSummed = isStored || expertPredictor !== undefined;
  const runner = await loadFitting(gpu, file, options, onProgress, isSummed ? weights : undefined);
  try {
    if (expertPredictor) usePredictor(runner, expertPredictor, weights.ofWeights());
    return runner;
  } catch (error) {
    runner.destroy();
    throw error;
  }
}

function usePredictor({ experts, shape }: Runner, bytes: Uint8Array, fingerprint: string): void {
  if (!experts) return;
  const model = { ...experts.shape, hiddenSize: shape.hiddenSize, fingerprint };
  experts.use(LearnedPredictor.read("expertPredictor", bytes, model));
}

/** A runner on a new device predicts as the old one did, and begins with the experts that were needed there. */
export function takeExperts({ experts }: Runner, { experts: old }: Runner): void {
  if (!experts || !old) return;
  if (old.predictor) experts.use(old.predictor);
  experts.warm(old.needed());
}
