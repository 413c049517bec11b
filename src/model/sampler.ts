/**
 * The sampler's host side: what a seat remembers, what a step writes, what comes back. A seat is the persistent GPU
 * state of one running request (parameters, token counts, the place where its sampled token is read by the next step).
 * The mathematics is in shaders/sample.wgsl and shaders/logprobs.wgsl; it is f32 in every setting, because logits are.
 * It draws no random numbers and waits for nothing: the runner submits the ops and reads `results` back.
 */
import logprobsCode from "../../shaders/logprobs.wgsl";
import sampleCode from "../../shaders/sample.wgsl";
import bounded from "../../shaders/lib/bounded.wgsl";
import seatLib from "../../shaders/lib/seat.wgsl";
import selectLib from "../../shaders/lib/select.wgsl";
import { assert } from "../base.ts";
import type { Kernels, KernelTypes, Pipeline } from "../gpu/kernel.ts";
import { uniformBuffer, USAGE_COPY_DST, USAGE_COPY_SRC, USAGE_STORAGE, type Op } from "../gpu/op.ts";
import { reduceFragment } from "./op/kernel-parts.ts";
import { MAX_LOGIT_BIAS, MAX_LOGPROBS, type SamplingParams } from "./sampling.ts";

export { samplingParams, type SamplingParams } from "./sampling.ts";

/** The token of a row whose logits hold a NaN or +inf, or nothing finite. The seat's token is 0 then. */
export const INVALID_TOKEN = 0xffffffff;

export interface SamplerInput {
  vocab: number;
  /** How many requests can hold a seat at once. */
  seats: number;
  /** The most rows of one step. */
  maxRows: number;
  /** f32 [maxRows, vocab]. The sampler leaves it as it is. */
  logits: GPUBuffer;
  /** u32 [seats]: where the sampled tokens go. */
  tokens: GPUBuffer;
}

/** One logits row of a step. Rows of one step have different seats. */
export interface SampleRow {
  seat: number;
  /** Position of the token to be sampled: that of the row's own token + 1. */
  position: number;
}

export interface SampledRow {
  /** Or INVALID_TOKEN. */
  token: number;
  /** How many tokens the filters left to choose from; 1 where greedy. */
  kept: number;
  /** Natural log of the token's probability before bias, penalties, filters and temperature, where asked for. */
  logprob: number | undefined;
  /** The likeliest tokens, likeliest first. */
  top: { token: number; logprob: number }[];
}

export interface Sampler {
  /** To be run in this order after the logits are there: what the rows of the last `writeStep` ask for. */
  readonly ops: readonly Op[];
  /** To be copied into a staging buffer after the ops: `resultBytes(rows)` bytes from the start. */
  readonly results: GPUBuffer;
  resultBytes(rows: number): number;
  /** Gives a seat to a request. `generated`: tokens that it has already produced (after a pre-emption). */
  resetSeat(
    seat: number,
    promptTokens: ArrayLike<number>,
    params: SamplingParams,
    generated?: ArrayLike<number>,
  ): void;
  /** Compiles the kernel of log-probabilities; undefined if it is there. To be awaited before the first step that asks for some. */
  prepareLogprobs(): Promise<void> | undefined;
  /** Says which seat and position each logits row of the next step has. Call before the step is encoded. */
  writeStep(rows: readonly SampleRow[]): void;
  /** Reads the first `rows` records of `results`. */
  parse(bytes: ArrayBuffer, rows: number): SampledRow[];
  /** Frees the sampler's buffers. */
  destroy(): void;
}

const SEAT_WORDS = 12;
const RESULT_WORDS = 4 + 2 * MAX_LOGPROBS;
const BIAS_BYTES = MAX_LOGIT_BIAS * 8;
const ROW_WORDS = 2;

const GREEDY = 1;
const ADJUSTED = 2;
const MIN_P = 4;
const LOGPROBS = 8;

const IN_PROMPT = 0x80000000;
const BIASED = 0x40000000;
const MOST_GENERATED = 0xffff;

/** Temperatures below are treated as this one: already greedy but for equal logits. */
const LOWEST_TEMPERATURE = 1e-6;

/** The nucleus counts as full this much before topP, so that rounding adds no token. In units of 2^-31: 2^-20. */
const TOP_P_SLACK = 2048;

/**
 * Compiles the sampling kernel and makes the seats' buffers: 4 bytes for each seat and token id, mostly.
 * @param later compile the kernel of log-probabilities, when a seat first asks for them
 */
export async function createSampler(
  kernels: Kernels,
  input: SamplerInput,
  later: Kernels = kernels,
): Promise<Sampler> {
  const { vocab, seats, maxRows } = input;
  assert(vocab > 0 && seats > 0 && maxRows > 0, `sampler: vocab ${vocab}, seats ${seats}, rows ${maxRows}`);
  return new SeatedSampler(kernels, input, await compile(kernels, "sample", sampleCode, vocab), later);
}

function compile(kernels: Kernels, name: string, code: string, vocab: number): Promise<Pipeline> {
  const { lib, subgroups } = reduceFragment(kernels);
  const types: KernelTypes = { elem: "f32", kv: "f32", out: "f32" };
  return kernels.pipeline({ name, code, libs: [lib, bounded, seatLib, selectLib], subgroups }, types, {
    WG: vocab <= 1024 ? 64 : 256,
  });
}

class SeatedSampler implements Sampler {
  readonly results: GPUBuffer;
  private readonly sample: Op;
  private logprobs: Op | undefined;
  private compiling: Promise<void> | undefined;
  private readonly later: Kernels;
  private readonly queue: GPUQueue;
  private readonly input: SamplerInput;
  private readonly op: GPUBuffer;
  private readonly rows: GPUBuffer;
  private readonly seats: GPUBuffer;
  private readonly bias: GPUBuffer;
  private readonly counts: GPUBuffer;
  /** One seat's counts, made when the first request needs them. */
  private countWords: Uint32Array<ArrayBuffer> | undefined;
  /** Which seats want log-probabilities, and whether a row of the step to come has one of them. */
  private readonly asks: boolean[] = [];
  private stepAsks = false;

  constructor(kernels: Kernels, input: SamplerInput, sample: Pipeline, later: Kernels) {
    const { device } = kernels.gpu;
    const { vocab, seats, maxRows, logits, tokens } = input;
    this.input = input;
    this.later = later;
    this.queue = device.queue;
    const buffer = (label: string, size: number, usage = USAGE_STORAGE | USAGE_COPY_DST) =>
      device.createBuffer({ label: `sampler ${label}`, size, usage });
    this.op = uniformBuffer(device, new Uint32Array([vocab, MAX_LOGIT_BIAS]), "sampler op");
    this.rows = buffer("rows", maxRows * ROW_WORDS * 4);
    this.seats = buffer("seats", seats * SEAT_WORDS * 4);
    this.bias = buffer("bias", seats * BIAS_BYTES);
    this.counts = buffer("counts", seats * vocab * 4);
    this.results = buffer("results", maxRows * RESULT_WORDS * 4, USAGE_STORAGE | USAGE_COPY_SRC);
    const { op, rows, bias, counts, results } = this;
    const all = [op, logits, rows, this.seats, bias, counts, tokens, results];
    this.sample = {
      label: "sample",
      pipeline: sample,
      group: kernels.bind(sample, 0, all),
      grid: (step) => [this.checkedRows(step.logitRows), 1, 1],
    };
  }

  get ops(): readonly Op[] {
    if (!this.stepAsks) return [this.sample];
    assert(this.logprobs, "sampler: log-probabilities asked for before prepareLogprobs()");
    return [this.sample, this.logprobs];
  }

  prepareLogprobs(): Promise<void> | undefined {
    if (this.logprobs) return undefined;
    return (this.compiling ??= this.compileLogprobs().finally(() => void (this.compiling = undefined)));
  }

  private async compileLogprobs(): Promise<void> {
    const { op, rows, seats, results } = this;
    const pipeline = await compile(this.later, "logprobs", logprobsCode, this.input.vocab);
    this.logprobs = {
      label: "logprobs",
      pipeline,
      group: this.later.bind(pipeline, 0, [op, this.input.logits, rows, seats, results]),
      grid: (step) => [step.logitRows, 1, 1],
    };
  }

  resultBytes(rows: number): number {
    return this.checkedRows(rows) * RESULT_WORDS * 4;
  }

  resetSeat(
    seat: number,
    promptTokens: ArrayLike<number>,
    params: SamplingParams,
    generated: ArrayLike<number> = [],
  ): void {
    assert(seat >= 0 && seat < this.input.seats, `sampler: seat ${seat} of ${this.input.seats}`);
    const bias = biasList(params);
    this.asks[seat] = params.logprobs !== undefined;
    this.queue.writeBuffer(
      this.seats,
      seat * SEAT_WORDS * 4,
      seatWords(params, bias.length, this.input.vocab),
    );
    if (!isAdjusted(params)) return;
    // Deno panics on an empty write.
    if (bias.length > 0) this.queue.writeBuffer(this.bias, seat * BIAS_BYTES, biasWords(bias));
    this.writeCounts(seat, promptTokens, generated, bias);
  }

  writeStep(rows: readonly SampleRow[]): void {
    const words = new Uint32Array(this.checkedRows(rows.length) * ROW_WORDS);
    const taken = new Set<number>();
    this.stepAsks = false;
    rows.forEach(({ seat, position }, row) => {
      assert(this.asks[seat] !== undefined, `sampler: seat ${seat} was never reset`);
      assert(!taken.has(seat), `sampler: two rows of a step have seat ${seat}`);
      taken.add(seat);
      words.set([seat, position], row * ROW_WORDS);
      this.stepAsks ||= this.asks[seat];
    });
    if (rows.length > 0) this.queue.writeBuffer(this.rows, 0, words);
  }

  parse(bytes: ArrayBuffer, rows: number): SampledRow[] {
    assert(bytes.byteLength >= this.resultBytes(rows), `sampler: ${bytes.byteLength} bytes for ${rows} rows`);
    return Array.from({ length: rows }, (_, row) => parseRow(bytes, row));
  }

  destroy(): void {
    for (const buffer of [this.op, this.rows, this.seats, this.bias, this.counts, this.results])
      buffer.destroy();
  }

  private checkedRows(rows: number): number {
    assert(rows <= this.input.maxRows, `sampler: ${rows} rows, made for ${this.input.maxRows}`);
    return rows;
  }

  private writeCounts(
    seat: number,
    promptTokens: ArrayLike<number>,
    generated: ArrayLike<number>,
    bias: readonly (readonly [number, number])[],
  ): void {
    const { vocab } = this.input;
    const words = (this.countWords ??= new Uint32Array(vocab)).fill(0);
    const add = (id: number, change: (word: number) => number): void => {
      assert(id >= 0 && id < vocab, `sampler: token ${id} of a vocabulary of ${vocab}`);
      words[id] = change(words[id] as number);
    };
    for (let i = 0; i < promptTokens.length; i++) add(promptTokens[i] as number, (word) => word | IN_PROMPT);
    for (const [id] of bias) add(id, (word) => word | BIASED);
    for (let i = 0; i < generated.length; i++) add(generated[i] as number, countOnce);
    this.queue.writeBuffer(this.counts, seat * vocab * 4, words);
  }
}

function countOnce(word: number): number {
  return (word & MOST_GENERATED) === MOST_GENERATED ? word : word + 1;
}

/** Whether the logits are changed before they are compared, so that the seat's counts are needed. */
function isAdjusted(params: SamplingParams): boolean {
  const { repetitionPenalty, presencePenalty, frequencyPenalty } = params;
  const penalised = repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0;
  return penalised || biasList(params).length > 0;
}

/** The ids with a bias other than 0, ascending: the kernel searches them by halving. */
function biasList(params: SamplingParams): (readonly [number, number])[] {
  const list = Object.entries(params.logitBias).map(([id, value]) => [Number(id), value] as const);
  return list.filter(([, value]) => value !== 0).sort((a, b) => a[0] - b[0]);
}

function biasWords(list: readonly (readonly [number, number])[]): ArrayBuffer {
  const view = new DataView(new ArrayBuffer(list.length * 8));
  list.forEach(([id, value], index) => {
    view.setUint32(index * 8, id, true);
    view.setFloat32(index * 8 + 4, value, true);
  });
  return view.buffer;
}

/** The Seat of shaders/lib/seat.wgsl. One token left by top-k is the arg-max, so it takes the greedy path. */
function seatWords(params: SamplingParams, biasCount: number, vocab: number): ArrayBuffer {
  const { temperature, topK, topP, minP, seed, logprobs } = params;
  const greedy = temperature === 0 || topK === 1;
  const flags =
    (greedy ? GREEDY : 0) |
    (isAdjusted(params) ? ADJUSTED : 0) |
    (minP > 0 ? MIN_P : 0) |
    (logprobs !== undefined ? LOGPROBS : 0);
  const topPTarget = topP < 1 ? Math.max(1, Math.floor(topP * 2 ** 31) - TOP_P_SLACK) : 0;
  const view = new DataView(new ArrayBuffer(SEAT_WORDS * 4));
  const integers = [flags, seed, topK < vocab ? topK : 0, biasCount];
  const floats = [
    Math.log1p(-Math.min(topP, 1 - 2 ** -31)) - Math.log(vocab),
    minP > 0 ? Math.log(minP) : 0,
    params.repetitionPenalty,
    params.presencePenalty,
    params.frequencyPenalty,
  ];
  integers.forEach((word, index) => view.setUint32(index * 4, word, true));
  view.setFloat32(16, 1 / Math.max(temperature, LOWEST_TEMPERATURE), true);
  view.setUint32(20, topPTarget, true);
  floats.forEach((value, index) => view.setFloat32(24 + index * 4, value, true));
  view.setUint32(44, logprobs ?? 0, true);
  return view.buffer;
}

function parseRow(bytes: ArrayBuffer, row: number): SampledRow {
  const view = new DataView(bytes, row * RESULT_WORDS * 4, RESULT_WORDS * 4);
  const asked = view.getUint32(8, true);
  const top = Array.from({ length: Math.max(asked, 1) - 1 }, (_, index) => ({
    token: view.getUint32(16 + index * 8, true),
    logprob: view.getFloat32(20 + index * 8, true),
  }));
  return {
    token: view.getUint32(0, true),
    kept: view.getUint32(4, true),
    logprob: asked === 0 ? undefined : view.getFloat32(12, true),
    top,
  };
}
