/**
 * The texts that are to become vectors: tokens of all calls wait in one queue, are computed several at a time, and each call
 * ends by its vectors or by an error that is its alone. It computes nothing itself and knows no GPU (session.ts hands it in).
 */
import { assert, background } from "../../base.ts";
import { TidepoolError } from "../../errors.ts";
import type { EmbedInput, EmbedParams, EmbeddingInfo } from "../../wire/protocol.ts";
import type { EncodedPrompt } from "../text/messages.ts";

/** Texts of all calls that may wait; a call that would make it more is refused. */
const MAX_WAITING_TEXTS = 65_536;

/** What one text becomes: numbers, or why there are none. */
export type Embedded = Float32Array<ArrayBuffer> | TidepoolError;

export interface EmbedRooms {
  info: EmbeddingInfo;
  /** What is put before a text, by the name of the task. */
  tasks: Readonly<Record<string, string>>;
  /** Tokens and texts that are computed at once, at most. */
  stepTokens: number;
  stepTexts: number;
  encode(text: string, signal: AbortSignal): Promise<EncodedPrompt>;
  checkTokens(tokens: readonly number[]): void;
  /** Computes texts, all at once; one result a text. Rejects if none of it came to anything. */
  compute(texts: readonly (readonly number[])[]): Promise<readonly Embedded[]>;
}

/** A call under way. */
interface EmbedCall {
  readonly params: EmbedParams;
  readonly vectors: Float32Array<ArrayBuffer>[];
  /** Texts without a vector. */
  left: number;
  isOver: boolean;
  resolve(vectors: Float32Array<ArrayBuffer>[]): void;
  reject(error: unknown): void;
}

/** A text that waits. */
interface Job {
  call: EmbedCall;
  index: number;
  tokens: readonly number[];
}

export class Embeds {
  private readonly rooms: EmbedRooms;
  private readonly calls = new Map<number, { stop: AbortController; call: EmbedCall | undefined }>();
  private queue: Job[] = [];
  private isWorking = false;

  constructor(rooms: EmbedRooms) {
    this.rooms = rooms;
  }

  /** Calls under way. */
  get count(): number {
    return this.calls.size;
  }

  /**
   * The vectors of texts, in their order.
   * @throws TidepoolError `invalid_argument`, `too_long`, `rejected`, `aborted`, or what the computation failed with.
   */
  async embed(
    id: number,
    inputs: readonly EmbedInput[],
    params: EmbedParams,
  ): Promise<Float32Array<ArrayBuffer>[]> {
    this.check(inputs, params);
    const stop = new AbortController();
    const entry: { stop: AbortController; call: EmbedCall | undefined } = { stop, call: undefined };
    this.calls.set(id, entry);
    try {
      const tokens = await this.tokensOf(inputs, params, stop.signal);
      if (stop.signal.aborted) throw aborted();
      return await new Promise((resolve, reject) => {
        const call = { params, vectors: [], left: tokens.length, isOver: false, resolve, reject };
        entry.call = call;
        this.enqueue(call, tokens);
      });
    } finally {
      this.calls.delete(id);
    }
  }

  abort(id: number): void {
    const entry = this.calls.get(id);
    if (!entry) return;
    entry.stop.abort();
    if (entry.call) end(entry.call, aborted());
  }

  /** Ends all calls as aborted. */
  close(): void {
    for (const id of [...this.calls.keys()]) this.abort(id);
  }

  private check(inputs: readonly EmbedInput[], { dimensions, task }: EmbedParams): void {
    const { info, tasks } = this.rooms;
    if (dimensions !== undefined && dimensions > info.dimensions)
      throw invalid("dimensions", dimensions, `1 to ${info.dimensions}`);
    if (task !== undefined && !Object.hasOwn(tasks, task)) {
      const known = Object.keys(tasks).join(", ");
      throw invalid("task", JSON.stringify(task), known === "" ? "none: the model names no tasks" : known);
    }
    const waiting = this.queue.length;
    if (waiting + inputs.length > MAX_WAITING_TEXTS) {
      const message = `${waiting} texts wait to be embedded, and with ${inputs.length} more they would be over ${MAX_WAITING_TEXTS}`;
      throw new TidepoolError("rejected", message, { waiting });
    }
  }

  private async tokensOf(
    inputs: readonly EmbedInput[],
    params: EmbedParams,
    signal: AbortSignal,
  ): Promise<(readonly number[])[]> {
    const all: (readonly number[])[] = [];
    for (const [index, input] of inputs.entries()) {
      try {
        all.push(this.fit(await this.encoded(input, params, signal), params));
      } catch (error) {
        throw signal.aborted ? aborted() : atIndex(index, error);
      }
    }
    return all;
  }

  private async encoded(
    input: EmbedInput,
    { task }: EmbedParams,
    signal: AbortSignal,
  ): Promise<EncodedPrompt> {
    const { tasks, encode, checkTokens } = this.rooms;
    if (typeof input === "string") return encode((task === undefined ? "" : tasks[task]) + input, signal);
    checkTokens(input);
    return { tokens: [...input], protectedTokens: 0 };
  }

  /** Tokens that the model takes: all, or as many from the start as it may be, with what stands at the end. */
  private fit({ tokens, trailingTokens = 0 }: EncodedPrompt, { truncate }: EmbedParams): readonly number[] {
    const { maxTokens: limit } = this.rooms.info;
    if (tokens.length === 0) throw new TidepoolError("invalid_argument", "no tokens, expected at least one");
    if (tokens.length <= limit) return tokens;
    if (truncate)
      return [...tokens.slice(0, limit - trailingTokens), ...tokens.slice(tokens.length - trailingTokens)];
    const message = `${tokens.length} tokens are over the limit of ${limit}: use a shorter text, or the option truncate`;
    throw new TidepoolError("too_long", message, { tokens: tokens.length, limit });
  }

  /** Long texts first: those of one step are then about equally long. */
  private enqueue(call: EmbedCall, tokens: readonly (readonly number[])[]): void {
    if (tokens.length === 0) return end(call, undefined);
    const jobs = tokens.map((each, index): Job => ({ call, index, tokens: each }));
    this.queue.push(...jobs.sort((a, b) => b.tokens.length - a.tokens.length));
    if (!this.isWorking) background(this.work(), "embed");
  }

  private async work(): Promise<void> {
    this.isWorking = true;
    try {
      for (let batch = this.take(); batch.length > 0; batch = this.take()) await this.run(batch);
    } finally {
      this.isWorking = false;
    }
  }

  /** The texts at the front of the queue that a step has room for. */
  private take(): Job[] {
    this.queue = this.queue.filter(({ call }) => !call.isOver);
    const { stepTokens, stepTexts } = this.rooms;
    let [count, tokens] = [0, 0];
    for (const job of this.queue) {
      tokens += job.tokens.length;
      if (count >= stepTexts || (count > 0 && tokens > stepTokens)) break;
      count++;
    }
    return this.queue.splice(0, count);
  }

  /** What fails together is tried one by one, so that a failure is that of one text. */
  private async run(batch: readonly Job[]): Promise<void> {
    try {
      const results = await this.rooms.compute(batch.map(({ tokens }) => tokens));
      batch.forEach((job, index) => settle(job, results[index]));
    } catch (error) {
      if (batch.length === 1) return settle(batch[0] as Job, error);
      for (const job of batch) if (!job.call.isOver) await this.run([job]);
    }
  }
}

/** A text has its vector, or its call ends by an error. */
function settle({ call, index }: Job, result: unknown): void {
  if (call.isOver) return;
  if (!(result instanceof Float32Array)) return end(call, atIndex(index, result));
  call.vectors[index] = finished(result as Float32Array<ArrayBuffer>, call.params);
  if (--call.left === 0) end(call, undefined);
}

function end(call: EmbedCall, error: unknown): void {
  if (call.isOver) return;
  call.isOver = true;
  if (error !== undefined) return call.reject(error);
  assert(call.left === 0, `${call.left} texts of a call have no vector`);
  call.resolve(call.vectors);
}

/** The leading numbers, divided by their Euclidean length. Zeros stay zeros. */
function finished(
  vector: Float32Array<ArrayBuffer>,
  { dimensions = vector.length, normalise = true }: EmbedParams,
): Float32Array<ArrayBuffer> {
  const cut = vector.slice(0, dimensions);
  if (!normalise) return cut;
  const length = Math.sqrt(cut.reduce((sum, value) => sum + value * value, 0));
  return length > 0 ? cut.map((value) => value / length) : cut;
}

/** The same error, naming the text. */
function atIndex(index: number, error: unknown): unknown {
  if (!(error instanceof TidepoolError)) return error;
  return new TidepoolError(error.code, `text ${index}: ${error.message}`, { ...error.details, index });
}

function invalid(option: string, value: unknown, expected: string): TidepoolError {
  const message = `${option} is ${String(value)}, expected ${expected}`;
  return new TidepoolError("invalid_argument", message, { option, value });
}

function aborted(): TidepoolError {
  return new TidepoolError("aborted", "the call was aborted");
}
