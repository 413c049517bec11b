/**
 * Steps -> logits -> sampled tokens. Two programs (prefill, decode) are lists of ops built once at load from the layer
 * table; a step writes its rows, block tables and rotation angles, dispatches a program, and reads back one small buffer.
 * It decides nothing: which requests, blocks and positions make a step is the scheduler's business.
 */
import { assert } from "../base.ts";
import { inFile, TidepoolError } from "../errors.ts";
import { adapterLine, type Gpu } from "../gpu/device.ts";
import { Kernels, type Elem } from "../gpu/kernel.ts";
import { blockBytes, KvPool, maxSlots } from "../gpu/pool.ts";
import { maxStateSlots, stateBytes, StatePool } from "../gpu/state-pool.ts";
import { Recorder } from "../gpu/recorder.ts";
import type { StepShape } from "../gpu/op.ts";
import type { ModelFile } from "../load/model-file.ts";
import { shapeOf } from "./arch.ts";
import { buildPrograms, type Programs } from "./program.ts";
import { INVALID_TOKEN, type SampledRow } from "./sampler.ts";
import type { SamplingParams } from "./sampling.ts";
import { kvLayers, stateLayers, type ModelShape } from "./shape.ts";
import { StepData, type StateSlots, type StepRow } from "./step.ts";
import { destroyWeights, loadWeights, type OnPiece, type Weights } from "./weights.ts";

export interface RunnerOptions {
  /** Arithmetic and activations. */
  dtype: Elem;
  kvDtype: Elem;
  /** 16, 32 or 64. */
  blockTokens: number;
  /** Rows of a prefill step at most. */
  chunkTokens: number;
  /** Requests that run at once. */
  seats: number;
  /** KV positions in the pool; rounded up to whole blocks. */
  poolTokens: number;
  /** Bytes of the pool; goes before `poolTokens`. */
  poolBytes?: number;
  /** Snapshots of recurrent state that the GPU holds at most, beside two states a seat. Default: what 128 MiB hold. */
  snapshots?: number;
}

/** Slots of the state pool: two for each seat, used in turns, and two more for scoring; then the snapshots. */
export function firstSnapshotSlot(seats: number): number {
  return 2 * (seats + 1);
}

/** A running request's part of a step. */
export interface RunnerRow {
  seat: number;
  /** Position of its first token in this step. */
  position: number;
  /** Its block table; covers every position of the step. */
  slots: readonly number[];
  /** Where its recurrent state is read and written, in models that have one. */
  state?: StateSlots;
}

export interface PrefillStep extends RunnerRow {
  tokens: readonly number[];
  /** Sample after the last token. */
  sample: boolean;
}

export interface ScoreStep {
  position: number;
  slots: readonly number[];
  tokens: readonly number[];
  /** Logits are read from this row of the step on. */
  firstRow: number;
  state?: StateSlots;
}

export interface RunnerProgress {
  phase: "weights" | "pipelines";
  done: number;
  total: number;
}

/** Logits computed in one step stay below this, unless the seats alone need more. */
const LOGITS_BYTES = 32 * 1024 * 1024;

interface Parts {
  weights: Weights;
  pool: KvPool;
  states: StatePool;
  step: StepData;
  programs: Programs;
}

export class Runner {
  readonly gpu: Gpu;
  readonly shape: ModelShape;
  readonly options: RunnerOptions;
  readonly pool: KvPool;
  readonly states: StatePool;
  readonly recorder: Recorder;
  private readonly parts: Parts;

  private constructor(gpu: Gpu, shape: ModelShape, options: RunnerOptions, parts: Parts) {
    this.gpu = gpu;
    this.shape = shape;
    this.options = options;
    this.pool = parts.pool;
    this.states = parts.states;
    this.parts = parts;
    this.recorder = new Recorder(gpu, gpu.features.timestamps);
  }

  /**
   * Loads a model's weights and compiles what it needs.
   * @throws TidepoolError `unsupported`, `invalid_file`, `invalid_argument`, `out_of_memory`.
   */
  static async load(
    gpu: Gpu,
    file: ModelFile,
    options: RunnerOptions,
    onProgress: (progress: RunnerProgress) => void = () => {},
    onPiece?: OnPiece,
  ): Promise<Runner> {
    const shape = shapeOf(file);
    checkTypes(gpu, options);
    const slots = slotsFor(shape, options);
    const chosen = { ...options, poolTokens: slots * options.blockTokens };
    const parts = await reportOutOfMemory(gpu.device, () =>
      makeParts(gpu, file, shape, chosen, onProgress, onPiece),
    ).catch((error: unknown) => {
      throw inFile(file.name, error);
    });
    return new Runner(gpu, shape, chosen, parts);
  }

  /** Tokens of a scoring step at most. */
  get scoreRows(): number {
    return Math.min(logitRows(this.shape, this.options), this.options.chunkTokens);
  }

  /** Elements of all tensors. */
  get parameters(): number {
    return this.parts.weights.parameters;
  }

  get adapterName(): string {
    return adapterLine(this.gpu.adapter);
  }

  /** Bytes on the GPU. */
  get memory(): {
    weightBytes: number;
    kvPoolBytes: number;
    statePoolBytes: number;
    workspaceBytes: number;
  } {
    const { weights, pool, states, programs, step } = this.parts;
    return {
      weightBytes: weights.bytes,
      kvPoolBytes: pool.bytes,
      statePoolBytes: states.bytes,
      workspaceBytes: programs.workspaceBytes + step.bytes,
    };
  }

  /** Gives a seat to a request before it is sampled from. `tokens`: its prompt, then what it has generated. */
  takeSeat(seat: number, tokens: readonly number[], promptLength: number, params: SamplingParams): void {
    const { sampler } = this.parts.programs;
    sampler.resetSeat(seat, tokens.slice(0, promptLength), params, tokens.slice(promptLength));
  }

  /** Runs one chunk of one prompt; resolves when the GPU has, with a sample where the step asks for one. */
  async prefill(input: PrefillStep): Promise<SampledRow[]> {
    const { tokens, position, sample, seat } = input;
    const { programs } = this.parts;
    const shape = this.writeGiven(input, sample ? tokens.length - 1 : tokens.length);
    this.dispatch(programs.prefill, shape);
    if (sample) return this.sample([{ seat, position: position + tokens.length }], shape);
    this.recorder.submit();
    await this.gpu.device.queue.onSubmittedWorkDone();
    return [];
  }

  /** Feeds each request the token that its seat holds, and samples the next. */
  decode(inputs: readonly RunnerRow[]): Promise<SampledRow[]> {
    const rows = inputs.map(({ seat, position }, sequence): StepRow => ({ token: seat, position, sequence }));
    const tables = inputs.map(({ slots }) => slots);
    const shape = this.parts.step.write(rows, tables, [...rows.keys()], [], statesOf(inputs));
    this.dispatch(this.parts.programs.decode, shape);
    return this.sample(
      inputs.map(({ seat, position }) => ({ seat, position: position + 1 })),
      shape,
    );
  }

  /** Logits of given tokens from row `firstRow` on, [rows, vocabulary], through the prefill kernels. */
  score(input: ScoreStep): Promise<Float32Array<ArrayBuffer>> {
    assert(
      input.tokens.length <= this.scoreRows,
      `${input.tokens.length} tokens to score, at most ${this.scoreRows}`,
    );
    const { programs } = this.parts;
    const shape = this.writeGiven(input, input.firstRow);
    this.dispatch(programs.prefill, shape);
    return this.logits(programs.manyHead, shape);
  }

  /** Logits of one given token through the decode kernels: what generation computes step by step. */
  scoreDecode(input: {
    position: number;
    slots: readonly number[];
    token: number;
    state?: StateSlots;
  }): Promise<Float32Array<ArrayBuffer>> {
    const { programs } = this.parts;
    const shape = this.writeGiven({ ...input, tokens: [input.token] }, 0);
    this.dispatch(programs.decode, shape);
    return this.logits(programs.head, shape);
  }

  destroy(): void {
    const { weights, pool, states, programs, step } = this.parts;
    pool.destroy();
    states.destroy();
    programs.destroy();
    step.destroy();
    this.recorder.destroy();
    destroyWeights(weights);
  }

  /** Writes a step of given tokens of one sequence; logits are wanted from row `firstLogitRow` on. */
  private writeGiven(
    input: { position: number; slots: readonly number[]; tokens: readonly number[]; state?: StateSlots },
    firstLogitRow: number,
  ): StepShape {
    const { tokens, position, slots } = input;
    const { seats } = this.options;
    const rows = tokens.map((_, row): StepRow => ({
      token: seats + row,
      position: position + row,
      sequence: 0,
    }));
    const logitRows = [...rows.keys()].slice(firstLogitRow);
    return this.parts.step.write(rows, [slots], logitRows, tokens, statesOf([input]));
  }

  private dispatch(ops: Programs["prefill"], shape: StepShape): void {
    this.recorder.run(ops, this.parts.programs.stepGroup, shape);
  }

  private async sample(
    rows: readonly { seat: number; position: number }[],
    shape: StepShape,
  ): Promise<SampledRow[]> {
    const { head, sampler } = this.parts.programs;
    sampler.writeStep(rows);
    this.dispatch(head, shape);
    this.dispatch(sampler.ops, shape);
    const bytes = await this.recorder.read(sampler.results, sampler.resultBytes(rows.length));
    const sampled = sampler.parse(bytes, rows.length);
    if (sampled.some(({ token }) => token === INVALID_TOKEN)) {
      throw new TidepoolError(
        "internal",
        "the model's logits are not finite: nothing can be sampled from them",
      );
    }
    return sampled;
  }

  private async logits(head: Programs["head"], shape: StepShape): Promise<Float32Array<ArrayBuffer>> {
    const { programs } = this.parts;
    if (shape.logitRows === 0) {
      this.recorder.submit();
      await this.gpu.device.queue.onSubmittedWorkDone();
      return new Float32Array(0);
    }
    this.dispatch(head, shape);
    const bytes = shape.logitRows * this.shape.vocabSize * 4;
    return new Float32Array(await this.recorder.read(programs.logits, bytes));
  }
}

async function makeParts(
  gpu: Gpu,
  file: ModelFile,
  shape: ModelShape,
  options: RunnerOptions,
  onProgress: (progress: RunnerProgress) => void,
  onPiece: OnPiece | undefined,
): Promise<Parts> {
  const { device } = gpu;
  const { blockTokens, chunkTokens, seats, poolTokens, dtype, kvDtype } = options;
  const onBytes = (done: number, total: number) => onProgress({ phase: "weights", done, total });
  const weights = await loadWeights(device, file, shape, onBytes, onPiece);
  const pool = new KvPool(device, {
    layers: kvLayers(shape),
    blockTokens,
    slots: poolTokens / blockTokens,
    dtype: kvDtype,
  });
  const stateSlots = firstSnapshotSlot(seats) + snapshotSlots(shape, options);
  const states = new StatePool(device, stateLayers(shape), stateSlots);
  const maxContext = Math.min(Math.ceil(shape.contextTokens / blockTokens) * blockTokens, poolTokens);
  const limits = { blockTokens, maxRows: Math.max(chunkTokens, seats), seats, maxContext };
  const step = new StepData(device, shape, weights.ropeDivisors, limits);
  const programs = await buildPrograms(
    {
      kernels: new Kernels(gpu),
      shape,
      weights,
      pool,
      states,
      step,
      dtype,
      kvDtype,
      logitRows: logitRows(shape, options),
    },
    (done, total) => onProgress({ phase: "pipelines", done, total }),
  );
  return { weights, pool, states, step, programs };
}

/** Bytes of snapshots on the GPU where nothing else is asked for, and how many they are at least and at most. */
const SNAPSHOT_BYTES = 128 * 1024 * 1024;
const MIN_SNAPSHOTS = 4;
const MAX_SNAPSHOTS = 256;

/** Snapshots that fit: as asked, or as many as the default's bytes hold. 0 in models without recurrent layers. */
export function snapshotSlots(
  shape: ModelShape,
  { seats, snapshots }: Pick<RunnerOptions, "seats" | "snapshots">,
): number {
  const layers = stateLayers(shape);
  if (layers.length === 0) return 0;
  const room = maxStateSlots(layers) - firstSnapshotSlot(seats);
  const wanted = snapshots ?? Math.floor(SNAPSHOT_BYTES / stateBytes(layers));
  return Math.max(0, Math.min(room, MAX_SNAPSHOTS, Math.max(wanted, snapshots ?? MIN_SNAPSHOTS)));
}

function statesOf(inputs: readonly { state?: StateSlots }[]): StateSlots[] {
  return inputs.flatMap(({ state }) => (state ? [state] : []));
}

/** Rows that the logits buffer holds: one a seat at least. */
function logitRows(shape: ModelShape, { seats, chunkTokens }: RunnerOptions): number {
  const fit = Math.floor(LOGITS_BYTES / (4 * shape.vocabSize));
  return Math.max(seats, Math.min(chunkTokens, fit));
}

/** @throws TidepoolError `out_of_memory` where `poolBytes` holds no block. */
function slotsFor(shape: ModelShape, options: RunnerOptions): number {
  const { blockTokens, poolTokens, poolBytes, kvDtype } = options;
  const layers = kvLayers(shape);
  const perBlock = blockBytes(layers, blockTokens, kvDtype);
  const byTokens = poolBytes === undefined || perBlock === 0; // pure recurrent models keep no KV
  const wanted = byTokens ? Math.ceil(poolTokens / blockTokens) : Math.floor(poolBytes / perBlock);
  if (wanted > 0) return Math.min(wanted, maxSlots(layers, blockTokens, kvDtype));
  const message = `a KV pool of ${poolBytes} bytes holds no block: one of ${blockTokens} tokens has ${perBlock} bytes`;
  throw new TidepoolError("out_of_memory", message, { poolBytes, blockBytes: perBlock });
}

function checkTypes(gpu: Gpu, { dtype, kvDtype }: RunnerOptions): void {
  if ((dtype === "f16" || kvDtype === "f16") && !gpu.features.f16) {
    const message = `f16 was asked for, and the adapter "${adapterLine(gpu.adapter)}" has no shader-f16; use f32`;
    throw new TidepoolError("unsupported", message);
  }
}

/** Runs `make` and turns the device's out-of-memory error into ours. */
async function reportOutOfMemory<T>(device: GPUDevice, make: () => Promise<T>): Promise<T> {
  device.pushErrorScope("out-of-memory");
  let made: T;
  try {
    made = await make();
  } catch (error) {
    await device.popErrorScope();
    throw error;
  }
  const problem = await device.popErrorScope();
  if (problem)
    throw new TidepoolError("out_of_memory", `GPU memory is not enough for the model: ${problem.message}`);
  return made;
}
