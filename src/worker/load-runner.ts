/**
 * Loads a runner with what needs the fingerprint of its weights: a learned predictor of its experts, which must have been trained
 * for them. And what a runner on a new device takes over from the one whose device was lost.
 */
import { LearnedPredictor } from "../cache/experts/predictor.ts";
import type { Gpu } from "../gpu/device.ts";
import type { ModelFile } from "../load/model-file.ts";
import { Runner, type RunnerOptions } from "../model/runner.ts";
import type { RunnerProgress } from "../model/runner-parts.ts";
import type { WeightsFingerprint } from "./fingerprint.ts";

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
  const runner = await Runner.load(gpu, file, options, onProgress, isSummed ? weights.onPiece : undefined);
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
