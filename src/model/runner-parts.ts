/**
 * What a runner is made of: weights, pools, a step's data and programs, made in this order when a model is loaded. It runs
 * nothing (runner.ts does).
 */
import { TidepoolError } from "../errors.ts";
import type { Gpu } from "../gpu/device.ts";
import { Kernels } from "../gpu/kernel.ts";
import type { KvDtype } from "../gpu/packed.ts";
import { KvPool } from "../gpu/pool.ts";
import { StatePool } from "../gpu/state-pool.ts";
import { KvTails } from "../gpu/tails.ts";
import type { ModelFile } from "../load/model-file.ts";
import type { ModelShape } from "../shape/shape.ts";
import { ExpertArena } from "./experts/arena.ts";
import { ExpertCopies } from "./experts/copies.ts";
import type { ExpertPlan } from "./experts/plan.ts";
import { EXPERT_RAM_BYTES, ExpertStore } from "./experts/store.ts";
import {
  contextOf,
  deviceFull,
  exactDtype,
  logitRows,
  stepRows,
  type MemoryOptions,
  type MemoryPlan,
} from "./memory.ts";
import { kvLayers, stateLayers } from "./mixer/kinds.ts";
import { buildPrograms, type Programs } from "./program.ts";
import { StepData } from "./step.ts";
import type { OnPiece } from "./tensor-loader.ts";
import { destroyWeights, loadWeights, type Weights } from "./weights.ts";

export interface RunnerProgress {
  phase: "weights" | "pipelines";
  done: number;
  total: number;
}

export interface RunnerParts {
  weights: Weights;
  pool: KvPool;
  states: StatePool;
  step: StepData;
  programs: Programs;
  /** Present if not all experts are on the GPU. */
  experts: { arena: ExpertArena; store: ExpertStore } | undefined;
}

/** What is being loaded, and what is called on the way. */
export interface PartsInput {
  gpu: Gpu;
  file: ModelFile;
  shape: ModelShape;
  options: MemoryOptions;
  plan: MemoryPlan;
  onProgress: (progress: RunnerProgress) => void;
  onPiece: OnPiece | undefined;
}

/** @throws TidepoolError `out_of_memory` if the device's memory does not hold them, `gpu_failed`, or as `loadWeights`. */
export function makeRunnerParts(input: PartsInput): Promise<RunnerParts> {
  const { gpu, plan, options } = input;
  return reportOutOfMemory(
    gpu.device,
    () => makeParts(input),
    destroyParts,
    (why) => deviceFull(plan, options, why),
  );
}

/** Gives everything on the GPU back. */
export function destroyParts({ weights, pool, states, programs, step, experts }: RunnerParts): void {
  for (const part of [pool, states, programs, step]) part.destroy();
  experts?.store.close();
  experts?.arena.destroy();
  destroyWeights(weights);
}

async function makeParts({
  gpu,
  file,
  shape,
  options,
  plan,
  onProgress,
  onPiece,
}: PartsInput): Promise<RunnerParts> {
  const { device } = gpu;
  const { blockTokens, seats, dtype } = options;
  const onBytes = (done: number, total: number) => onProgress({ phase: "weights", done, total });
  const maxRows = stepRows(shape, options);
  const offGpu = plan.offGpuBytes > 0 ? { maxRows, seats } : undefined;
  const kernels = new Kernels(gpu);
  const arena = plan.experts && makeArena(kernels, plan.experts, options);
  const weights = await loadWeights(device, file, shape, onBytes, onPiece, offGpu, arena);
  await arena?.copies?.finish();
  const pool = makePool(device, shape, options, plan);
  const states = new StatePool(device, stateLayers(shape), plan.states.startSlots);
  const maxContext = contextOf(shape, options, plan.maxBlocks);
  const limits = { blockTokens, maxRows, seats, maxContext };
  const step = new StepData(device, shape, weights.ropeDivisors, limits, pool);
  const programs = await buildPrograms(
    {
      kernels,
      shape,
      weights,
      pool,
      tails: pool.tails?.pool,
      packedBits: pool.bits,
      states,
      step,
      limits,
      dtype,
      kvDtype: exactDtype(options),
      logitRows: logitRows(shape, options),
      experts: plan.experts,
    },
    (done, total) => onProgress({ phase: "pipelines", done, total }),
  );
  const { expertRamBytes = EXPERT_RAM_BYTES } = options;
  const experts = arena && { arena, store: new ExpertStore(file, arena.plan, expertRamBytes) };
  return { weights, pool, states, step, programs, experts };
}

/** The KV pool, with tails if its slots are packed. */
function makePool(device: GPUDevice, shape: ModelShape, options: MemoryOptions, plan: MemoryPlan): KvPool {
  const { blockTokens, kvDtype } = options;
  const layers = kvLayers(shape);
  const make = (slots: number, dtype: KvDtype, tails?: KvTails<KvPool>) =>
    new KvPool(device, { layers, blockTokens, slots, dtype }, tails);
  const tails = plan.startTails > 0 ? new KvTails(make(plan.startTails, exactDtype(options))) : undefined;
  return make(plan.startBlocks, kvDtype, tails);
}

function makeArena(kernels: Kernels, plan: ExpertPlan, { unimportantAbove }: MemoryOptions): ExpertArena {
  const copies = plan.copyBytes > 0 ? new ExpertCopies(kernels, plan, unimportantAbove) : undefined;
  return new ExpertArena(kernels.gpu.device, plan, copies);
}

/** Runs `make` and turns the device's errors into ours. */
async function reportOutOfMemory<T extends object>(
  device: GPUDevice,
  make: () => Promise<T>,
  destroy: (made: T) => void,
  report: (why: string) => TidepoolError,
): Promise<T> {
  device.pushErrorScope("validation");
  device.pushErrorScope("out-of-memory");
  let made: T | undefined;
  let failure: Error | undefined;
  try {
    made = await make();
  } catch (error) {
    failure = error instanceof Error ? error : new Error(String(error));
  }
  const [problem, refused] = await Promise.all([device.popErrorScope(), device.popErrorScope()]);
  if (made && !problem && !refused) return made;
  if (made) destroy(made);
  if (problem) throw report(problem.message);
  if (failure) throw failure;
  throw new TidepoolError("gpu_failed", `the GPU refused to load the model: ${refused?.message}`);
}
