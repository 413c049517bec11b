/**
 * Steps -> logits -> sampled tokens. Two programs (prefill, decode) are lists of segments built once at load from the layer
 * table; a step writes its rows, block tables and rotation angles, dispatches a program, and reads back one small buffer.
 * It decides nothing: which requests, blocks and positions make a step is the scheduler's business.
 */
import { assert, background } from "../base.ts";
import { inFile, TidepoolError } from "../errors.ts";
import { adapterLine, type Gpu } from "../gpu/device.ts";
import { guarded } from "../gpu/guard.ts";
import type { StepShape } from "../gpu/op.ts";
import type { KvPool, KvPoolBuffers } from "../gpu/pool.ts";
import { CommandRecorder } from "../gpu/recorder.ts";
import type { StatePool } from "../gpu/state-pool.ts";
import type { ModelFile } from "../load/model-file.ts";
import type { ModelShape } from "../shape/shape.ts";
import { shapeOf } from "./arch/rows.ts";
import { f32Reason } from "./arch/sizes.ts";
import { checkTensors } from "./arch/tensor-names.ts";
import { firstBroken } from "./op/check.ts";
import {
  contextOf,
  exactDtype,
  logitRows,
  planMemory,
  tailsFor,
  type MemoryOptions,
  type MemoryPlan,
} from "./memory.ts";
import { withRopeChoice } from "./op/rope.ts";
import type { Programs } from "./program.ts";
import { destroyParts, makeRunnerParts, type RunnerParts, type RunnerProgress } from "./runner-parts.ts";
import { Experts } from "./experts/experts.ts";
import type { Phase } from "./op/op-context.ts";
import { RowTable, type FetchedRows } from "./matrix/row-table.ts";
import { INVALID_TOKEN, type SampledRow, type Sampler } from "./sampler.ts";
import type { SamplingParams } from "./sampling.ts";
import { SegmentRunner, type StopWork } from "../gpu/segments.ts";
import type { StateSlots, StepRow } from "./step.ts";
import type { OnPiece } from "./tensor-loader.ts";

export type RunnerOptions = MemoryOptions;

/** A running request's part of a step. */
export interface RunnerRow {
  seat: number;
  /** Position of its first token in this step. */
  position: number;
  /** Its block table; covers every position of the step. */
  slots: readonly number[];
  /** Where its recurrent state is read and written, in models that have one. */
  state?: StateSlots;
  /** The token that its seat holds; models with a table off the GPU (`fetchRows`) need it in decode. */
  token?: number | undefined;
}

/** A row of a step from which nothing can be sampled: NaN or infinity came up in it. */
export interface BrokenRow {
  /** Index of the request in the step. */
  index: number;
  /** The first position where it is seen. Attention looks at some rows together: it may lie a few before the cause. */
  position: number;
}

export interface StepResult {
  /** One for each row that is sampled. */
  samples: SampledRow[];
  broken: BrokenRow[];
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

/** One given token of a sequence. */
export interface ScoreDecodeStep extends Pick<ScoreStep, "position" | "slots" | "state"> {
  token: number;
}

export class Runner {
  readonly gpu: Gpu;
  readonly shape: ModelShape;
  readonly options: RunnerOptions;
  /** What was known of its memory beforehand. */
  readonly plan: MemoryPlan;
  readonly pool: KvPool;
  readonly states: StatePool;
  readonly recorder: CommandRecorder;
  private readonly parts: RunnerParts;
  private readonly segments: SegmentRunner;
  /** Present if not all experts are on the GPU. */
  readonly experts: Experts | undefined;
  /** The end of the last work of `alone`. */
  private lastTurn: Promise<unknown> = Promise.resolve();

  private constructor(
    gpu: Gpu,
    shape: ModelShape,
    options: RunnerOptions,
    plan: MemoryPlan,
    parts: RunnerParts,
  ) {
    this.plan = plan;
    this.gpu = gpu;
    this.shape = shape;
    this.options = options;
    this.pool = parts.pool;
    this.states = parts.states;
    this.parts = parts;
    this.recorder = new CommandRecorder(gpu, gpu.features.timestamps);
    const { hidden, delta, between, stepGroup, kept, guesses } = parts.programs;
    const { recorder } = this;
    const rowBytes = 4 * shape.hiddenSize;
    this.segments = new SegmentRunner({ recorder, stepGroup, hidden, delta, between, rowBytes });
    if (parts.experts && kept) {
      const { seats, readBackMs, expertPolicy: policy = "promoe", expertAblation: ablation } = options;
      this.experts = new Experts({
        ...{ ...parts.experts, device: gpu.device, recorder, stepGroup, kept, seats, policy, ablation },
        readBackMs,
        ...{ guesses: ablation?.predicts === false ? undefined : guesses, hiddenSize: shape.hiddenSize },
      });
    }
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
    const read = shapeOf(file);
    checkTensors(file, read);
    checkTypes(gpu, read, options);
    const plan = planMemory(file, read, options);
    const context = contextOf(read, options, plan.maxBlocks);
    const shape = withRopeChoice(read, Math.min(context, read.contextTokens));
    const chosen = { ...options, poolTokens: plan.maxBlocks * options.blockTokens };
    const input = { gpu, file, shape, options: chosen, plan, onProgress, onPiece };
    const parts = await makeRunnerParts(input).catch((error: unknown) => {
      throw inFile(file.name, error);
    });
    return new Runner(gpu, shape, chosen, plan, parts);
  }

  /** Blocks that the KV pool may grow to. */
  get maxBlocks(): number {
    return this.plan.maxBlocks;
  }

  /**
   * Makes the KV pool larger; what it holds stays. Steps submitted before go on undisturbed.
   * @returns undefined if the device's memory is short; the pool is as it was. `moved` rejects if the GPU refused to copy
   * what the pool holds: it has grown all the same
   */
  grow(blocks: number): Promise<{ moved: Promise<void> } | undefined> {
    return this.alone(() => this.growNow(blocks));
  }

  private async growNow(blocks: number): Promise<{ moved: Promise<void> } | undefined> {
    const { pool, programs } = this.parts;
    const larger = await pool.allocate(blocks);
    if (!larger) return undefined;
    const bodies = await programs.rebuild({ pool: larger });
    // At once from here: no step may come between the copy and the ops that are bound to it.
    const moved = guarded(this.gpu.device, "to copy the KV pool", () => pool.adopt(larger));
    Object.assign(programs, bodies);
    return { moved };
  }

  /** Makes the state pool larger, as `grow` does with the KV pool. */
  growStates(slots: number): Promise<{ moved: Promise<void> } | undefined> {
    return this.alone(() => this.growStatesNow(slots));
  }

  private async growStatesNow(slots: number): Promise<{ moved: Promise<void> } | undefined> {
    const { states, programs } = this.parts;
    const larger = await states.allocate(slots);
    if (!larger) return undefined;
    const tails = await this.moreTails(slots);
    if (tails === "none") {
      for (const buffer of larger.buffers) buffer.destroy();
      return undefined;
    }
    const bodies = await programs.rebuild({ states: larger, ...(tails && { tails: tails.larger }) });
    const moved = guarded(this.gpu.device, "to copy the state pool", () => {
      states.adopt(larger);
      tails?.adopt();
    });
    Object.assign(programs, bodies);
    return { moved };
  }

  /** Tails of packed blocks for as many snapshots as a larger state pool holds; undefined if the pool is exact, "none" if memory is short. */
  private async moreTails(
    stateSlots: number,
  ): Promise<{ larger: KvPoolBuffers; adopt(): void } | "none" | undefined> {
    const { tails } = this.pool;
    if (!tails) return undefined;
    const before = tails.pool.slots;
    const larger = await tails.pool.allocate(tailsFor(this.shape, this.options, stateSlots));
    if (!larger) return "none";
    const adopt = (): void => {
      tails.pool.adopt(larger);
      tails.addFree(before);
    };
    return { larger, adopt };
  }

  /** Copies a block that is not complete, behind the steps that were asked for before. */
  copyBlock({ from, to }: { from: number; to: number }): void {
    if (!this.experts) return this.pool.copyPartial(from, to);
    const copying = this.alone(() => Promise.resolve(this.pool.copyPartial(from, to)));
    background(copying, "copy of a block");
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
    stateMaxBytes: number;
    workspaceBytes: number;
    kvTailBytes?: number;
    expertBytes?: number;
  } {
    const { weights, pool, states, programs, step } = this.parts;
    return {
      weightBytes: weights.bytes,
      kvPoolBytes: pool.bytes,
      statePoolBytes: states.bytes,
      stateMaxBytes: this.plan.statePoolBytes,
      workspaceBytes: programs.workspaceBytes + step.bytes + (this.experts?.workspaceBytes ?? 0),
      ...(pool.tails && { kvTailBytes: pool.tails.pool.bytes }),
      ...(this.plan.experts && { expertBytes: this.plan.experts.bytes + this.plan.experts.copyBytes }),
    };
  }

  /**
   * Every step that begins from now on stops behind a layer (-1: behind the embedding) and goes on when `work` is done;
   * undefined: none does any more. While a step stands there no other may begin, so steps are then to be run one by one.
   */
  stopBehind(layer: number, work: StopWork | undefined): void {
    const { length } = this.shape.layers;
    assert(layer >= -1 && layer < length, `no layer ${layer} of ${length} to stop behind`);
    assert(!this.experts, "steps of a model with experts off the GPU stop behind routers alone");
    this.segments.stopBehind(layer, work);
  }

  /** Before the first step whose requests ask for log-probabilities: compiles what those need; undefined if it is there. */
  prepareLogprobs(): Promise<void> | undefined {
    return this.sampler.prepareLogprobs();
  }

  /** Gives a seat to a request before it is sampled from. `tokens`: its prompt, then what it has generated. */
  takeSeat(seat: number, tokens: readonly number[], promptLength: number, params: SamplingParams): void {
    this.sampler.resetSeat(seat, tokens.slice(0, promptLength), params, tokens.slice(promptLength));
  }

  /** Whether the model's file must stay open. */
  get readsFile(): boolean {
    return this.experts !== undefined || (this.table?.readsFile ?? false);
  }

  /**
   * What must be read of a table off the GPU before a step of these tokens; undefined: there is none, and steps may be submitted
   * before their tokens are known.
   */
  fetchRows(tokens: readonly number[]): Promise<FetchedRows> | undefined {
    return this.table?.fetch(tokens);
  }

  /** Whether steps need `fetchRows`. */
  get needsRows(): boolean {
    return this.table !== undefined;
  }

  private get table(): RowTable | undefined {
    const table = this.parts.weights.perLayer?.table;
    return table instanceof RowTable ? table : undefined;
  }

  /** Runs one chunk of one prompt; resolves when the GPU has, with a sample if the step asks for one. */
  prefill(input: PrefillStep, fetched?: FetchedRows): Promise<StepResult> {
    return this.alone(() => this.prefillNow(input, fetched));
  }

  private async prefillNow(input: PrefillStep, fetched?: FetchedRows): Promise<StepResult> {
    const { tokens, position, sample, seat } = input;
    const shape = this.writeGiven(input, sample ? tokens.length - 1 : tokens.length, fetched);
    const running = this.runBody("prefill", shape);
    if (running) await running;
    const rows = sample ? [{ seat, position: position + tokens.length }] : [];
    const { samples, status } = await this.finish(rows, shape);
    const row = firstBroken(status) ?? (samples.some(isInvalid) ? tokens.length - 1 : undefined);
    return { samples, broken: row === undefined ? [] : [{ index: 0, position: position + row }] };
  }

  /** Feeds each request the token that its seat holds, and samples the next. */
  decode(inputs: readonly RunnerRow[], fetched?: FetchedRows): Promise<StepResult> {
    return this.alone(() => this.decodeNow(inputs, fetched));
  }

  private async decodeNow(inputs: readonly RunnerRow[], fetched?: FetchedRows): Promise<StepResult> {
    const rows = inputs.map(({ seat, position }, sequence): StepRow => ({ token: seat, position, sequence }));
    const tables = inputs.map(({ slots }) => slots);
    this.segments.checkFree();
    this.writeTable(
      rows,
      inputs.map(({ token = NaN }) => token),
      fetched,
    );
    const shape = this.parts.step.write(rows, tables, [...rows.keys()], [], statesOf(inputs));
    const running = this.runBody("decode", shape);
    if (running) await running;
    const asked = inputs.map(({ seat, position }) => ({ seat, position: position + 1 }));
    const { samples, status } = await this.finish(asked, shape);
    const words = new Uint32Array(status);
    const broken = inputs.flatMap(({ position }, index) =>
      words[index] !== 0 || isInvalid(samples[index] as SampledRow) ? [{ index, position }] : [],
    );
    return { samples, broken };
  }

  /** Logits of given tokens from row `firstRow` on, [rows, vocabulary], through the prefill kernels. */
  score(input: ScoreStep): Promise<Float32Array<ArrayBuffer>> {
    return this.alone(() => this.scoreNow(input));
  }

  private async scoreNow(input: ScoreStep): Promise<Float32Array<ArrayBuffer>> {
    assert(
      input.tokens.length <= this.scoreRows,
      `${input.tokens.length} tokens to score, at most ${this.scoreRows}`,
    );
    const { programs } = this.parts;
    const manyHead = await programs.manyHead();
    const fetched = this.table && (await this.table.fetch(input.tokens));
    const shape = this.writeGiven(input, input.firstRow, fetched);
    const running = this.runBody("prefill", shape);
    if (running) await running;
    return this.logits(manyHead, shape, input.position);
  }

  /** Logits of one given token through the decode kernels: what generation computes step by step. */
  scoreDecode(input: ScoreDecodeStep): Promise<Float32Array<ArrayBuffer>> {
    return this.alone(() => this.scoreDecodeNow(input));
  }

  private async scoreDecodeNow(input: ScoreDecodeStep): Promise<Float32Array<ArrayBuffer>> {
    const { programs } = this.parts;
    const fetched = this.table && (await this.table.fetch([input.token]));
    const shape = this.writeGiven({ ...input, tokens: [input.token] }, 0, fetched);
    const running = this.runBody("decode", shape);
    if (running) await running;
    return this.logits(programs.head, shape, input.position);
  }

  /** Numbers of a vector that stands for a text. */
  get dimensions(): number {
    const { embedding, hiddenSize } = this.shape;
    return embedding?.dense.at(-1) ?? hiddenSize;
  }

  /** The vectors of whole texts, or the first row of a text that is not finite. Encoders only. */
  embed(texts: readonly (readonly number[])[]): Promise<(Float32Array<ArrayBuffer> | BrokenRow)[]> {
    return this.alone(() => this.embedNow(texts));
  }

  private async embedNow(
    texts: readonly (readonly number[])[],
  ): Promise<(Float32Array<ArrayBuffer> | BrokenRow)[]> {
    this.segments.checkFree();
    const shape = this.parts.step.writeTexts(texts);
    const { status, pooled } = await this.pooled(shape);
    const { dimensions } = this;
    let row = 0;
    return texts.map(({ length }, index) => {
      const position = firstBroken(status.slice(4 * row, 4 * (row += length)));
      if (position !== undefined) return { index, position };
      return pooled.slice(index * dimensions, (index + 1) * dimensions);
    });
  }

  /** What a part of a text pools to, in models that keep its tokens. @throws TidepoolError `not_finite` */
  embedChunk(input: Omit<ScoreStep, "firstRow">): Promise<Float32Array<ArrayBuffer>> {
    return this.alone(() => this.embedChunkNow(input));
  }

  private async embedChunkNow(input: Omit<ScoreStep, "firstRow">): Promise<Float32Array<ArrayBuffer>> {
    const fetched = this.table && (await this.table.fetch(input.tokens));
    const { status, pooled } = await this.pooled(this.writeGiven(input, input.tokens.length - 1, fetched));
    const row = firstBroken(status);
    if (row !== undefined) throw notFinite(input.position + row);
    return pooled;
  }

  destroy(): void {
    this.recorder.destroy();
    this.experts?.destroy();
    destroyParts(this.parts);
  }

  /** Writes a step of given tokens of one sequence; logits are wanted from row `firstLogitRow` on. */
  private writeGiven(
    input: { position: number; slots: readonly number[]; tokens: readonly number[]; state?: StateSlots },
    firstLogitRow: number,
    fetched: FetchedRows | undefined,
  ): StepShape {
    this.segments.checkFree();
    const { tokens, position, slots } = input;
    const { seats } = this.options;
    const rows = tokens.map((_, row): StepRow => ({
      token: seats + row,
      position: position + row,
      sequence: 0,
    }));
    const logitRows = [...rows.keys()].slice(firstLogitRow);
    this.writeTable(rows, tokens, fetched);
    return this.parts.step.write(rows, [slots], logitRows, tokens, statesOf([input]));
  }

  private get sampler(): Sampler {
    const { sampler } = this.parts.programs;
    assert(sampler, `${this.shape.architecture} generates nothing`);
    return sampler;
  }

  private writeTable(
    rows: readonly StepRow[],
    tokens: readonly number[],
    fetched: FetchedRows | undefined,
  ): void {
    const { table } = this;
    assert(!table || fetched, "a step of a model with a table off the GPU without the table's rows");
    if (table && fetched) table.write(rows, tokens, fetched);
  }

  /** The embedding and all layers; undefined if they are recorded at once. */
  private runBody(phase: Phase, shape: StepShape): Promise<void> | undefined {
    const program = this.parts.programs[phase];
    return this.experts?.run(program, shape, phase) ?? this.segments.run(program, shape);
  }

  /** Steps that wait in their middle share buffers with all others: then one begins when the one before it has ended. */
  private alone<T>(work: () => Promise<T>): Promise<T> {
    if (!this.experts) return work();
    const turn = this.lastTurn.then(work);
    this.lastTurn = turn.catch(() => {}); // reported to its caller
    return turn;
  }

  private dispatch(ops: Programs["head"], shape: StepShape): void {
    this.recorder.run(ops, this.parts.programs.stepGroup, shape);
  }

  /** Checks the step's rows, samples from `rows` behind them, and reads both. */
  private async finish(
    rows: readonly { seat: number; position: number }[],
    shape: StepShape,
  ): Promise<{ samples: SampledRow[]; status: ArrayBuffer }> {
    const { sampler } = this;
    const { head, check } = this.parts.programs;
    this.dispatch(check, shape);
    sampler.writeStep(rows);
    if (rows.length > 0) {
      this.dispatch(head, shape);
      this.dispatch(sampler.ops, shape);
    }
    const results = { buffer: sampler.results, bytes: sampler.resultBytes(rows.length) };
    const [status, sampled] = await this.recorder.read([this.statusOf(shape), results]);
    return { samples: sampler.parse(sampled as ArrayBuffer, rows.length), status: status as ArrayBuffer };
  }

  private async logits(
    head: Programs["head"],
    shape: StepShape,
    position: number,
  ): Promise<Float32Array<ArrayBuffer>> {
    const { programs } = this.parts;
    this.dispatch(programs.check, shape);
    if (shape.logitRows > 0) this.dispatch(head, shape);
    const logits = { buffer: programs.logits, bytes: shape.logitRows * this.shape.vocabSize * 4 };
    const [status, values] = await this.recorder.read([this.statusOf(shape), logits]);
    const row = firstBroken(status as ArrayBuffer);
    if (row !== undefined) throw notFinite(position + row);
    return new Float32Array(values as ArrayBuffer);
  }

  /** Runs a step of texts, and pools each. */
  private async pooled(
    shape: StepShape,
  ): Promise<{ status: ArrayBuffer; pooled: Float32Array<ArrayBuffer> }> {
    const { programs } = this.parts;
    const { embedding } = programs;
    assert(embedding, `${this.shape.architecture} makes no vectors of texts`);
    const running = this.runBody("prefill", shape);
    if (running) await running;
    this.dispatch(programs.check, shape);
    this.dispatch(embedding.ops, shape);
    const pooled = { buffer: embedding.pooled, bytes: 4 * shape.logitRows * this.dimensions };
    const [status, values] = await this.recorder.read([this.statusOf(shape), pooled]);
    return { status: status as ArrayBuffer, pooled: new Float32Array(values as ArrayBuffer) };
  }

  private statusOf({ rows }: StepShape): { buffer: GPUBuffer; bytes: number } {
    return { buffer: this.parts.programs.status, bytes: 4 * rows };
  }
}

/** @param position where NaN or infinity was first seen */
export function notFinite(position: number, details: Record<string, unknown> = {}): TidepoolError {
  const message = `the model computed a number that is not finite at token position ${position}: the model's weights may be damaged`;
  return new TidepoolError("not_finite", message, { position, ...details });
}

function isInvalid({ token }: SampledRow): boolean {
  return token === INVALID_TOKEN;
}

function statesOf(inputs: readonly { state?: StateSlots }[]): StateSlots[] {
  return inputs.flatMap(({ state }) => (state ? [state] : []));
}

function checkTypes(gpu: Gpu, shape: ModelShape, options: RunnerOptions): void {
  const { dtype } = options;
  const why = f32Reason(shape);
  if (dtype === "f16" && why) {
    const message = `"${shape.architecture}" does not run in f16: ${why}; use f32, or leave the choice to "auto"`;
    throw new TidepoolError("unsupported", message, { architecture: shape.architecture });
  }
  if ((dtype === "f16" || exactDtype(options) === "f16") && !gpu.features.f16) {
    const message = `f16 was asked for, and the adapter "${adapterLine(gpu.adapter)}" has no shader-f16; use f32`;
    throw new TidepoolError("unsupported", message);
  }
}
