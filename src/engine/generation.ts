/**
 * A request under way, as its caller holds it: a stream of chunks and a result. The engine fills it through a
 * `GenerationFeed` and never holds the `Generation` itself, so that one that nobody holds any more can be noticed and its
 * request aborted. Nothing here knows of workers or of what a request asks.
 */
import { onAbort } from "../base.ts";
import { TidepoolError } from "../errors.ts";
import type { GenerationResult, StepOutput } from "../wire/protocol.ts";

/**
 * The text and tokens that one step added to an answer.
 *
 * @example
 * ```ts
 * let answer = "";
 * const add = (chunk: GenerationChunk) => void (answer += chunk.text);
 * for await (const chunk of engine.generate("The tide was low and", { maxTokens: 8 })) add(chunk);
 * ```
 */
export type GenerationChunk = Omit<StepOutput, "id">;

/** How a request ended. */
export type GenerationOutcome = { result: GenerationResult } | { error: TidepoolError };

/** Chunks that wait for a reader, at most; what comes beyond is added to the last one. */
export const MAX_UNREAD_CHUNKS = 1024;

/** Aborts requests whose `Generation` was collected as garbage. */
const abandoned = new FinalizationRegistry<GenerationFeed>((feed) => feed.abandon());

/**
 * A request under way: iterate over it for chunks, or await `result()`. Leaving a `for await` loop early (`break`, `return`, an
 * exception) aborts the request; so does `abort()`, and so does dropping the last reference to a generation whose result nobody
 * awaits. If nobody reads, at most 1,024 chunks are kept separately and later ones are merged into the last; no text is lost.
 *
 * @example
 * ```ts
 * let answer = "";
 * for await (const { text } of engine.generate("The tide was low and")) {
 *   answer += text;
 *   if (answer.length > 20) break; // ends the request
 * }
 * ```
 *
 * @example In a page
 * ```ts
 * const output = document.querySelector("output")!;
 * for await (const { text } of engine.generate("The tide was low and")) output.append(text);
 * ```
 */
export class Generation implements AsyncIterable<GenerationChunk> {
  private readonly feed: GenerationFeed;

  /** @internal For the engine only. */
  constructor(feed: GenerationFeed) {
    this.feed = feed;
    if (!feed.hasEnded) abandoned.register(this, feed, feed);
  }

  /**
   * Waits for the end of the request and resolves to its whole result.
   * @throws TidepoolError if the request was refused or failed.
   *
   * @example
   * ```ts
   * const { text, usage } = await engine.generate("The tide was low and", { maxTokens: 8 }).result();
   * console.log(usage.completionTokens); // 8
   * ```
   */
  async result(): Promise<GenerationResult> {
    const outcome = await this.feed.outcome();
    if ("error" in outcome) throw outcome.error;
    return outcome.result;
  }

  /**
   * Ends the request, even while its prompt is being computed; the result's `finishReason` is then `aborted`.
   *
   * @example
   * ```ts
   * const generation = engine.generate("The tide was low and");
   * generation.abort();
   * console.log((await generation.result()).finishReason); // aborted
   * ```
   */
  abort(): void {
    this.feed.abort();
  }

  /**
   * Yields each step's chunk as it arrives, then ends or throws as `result()` does. Each chunk is read once, so a generation has
   * one iterator.
   * @throws TidepoolError `invalid_argument` if there is an iterator already.
   *
   * @example
   * ```ts
   * let tokens = 0;
   * for await (const chunk of engine.generate("The tide was low and", { maxTokens: 8 })) tokens += chunk.tokens.length;
   * console.log(tokens); // 8
   * ```
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<GenerationChunk> {
    if (!this.feed.startReading()) {
      const message =
        "generation is iterated a second time: expected one reader; result() has the whole text";
      throw new TidepoolError("invalid_argument", message);
    }
    return new Chunks(this, this.feed);
  }
}

/** The one reader of a generation, which it keeps from being collected. */
class Chunks implements AsyncIterableIterator<GenerationChunk> {
  private readonly generation: Generation;
  private readonly feed: GenerationFeed;
  private isOver = false;

  constructor(generation: Generation, feed: GenerationFeed) {
    this.generation = generation;
    this.feed = feed;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<GenerationChunk, undefined>> {
    const chunk = this.isOver ? undefined : await this.feed.take();
    if (chunk) return { done: false, value: chunk };
    if (!this.isOver) {
      this.isOver = true;
      await this.generation.result();
    }
    return { done: true, value: undefined };
  }

  /** Called when a loop is left early. */
  return(): Promise<IteratorResult<GenerationChunk, undefined>> {
    this.isOver = true;
    this.feed.abort();
    this.feed.stopReading();
    return Promise.resolve({ done: true, value: undefined });
  }
}

/** The engine's end of a generation: chunks and the outcome go in here. */
export class GenerationFeed {
  private readonly abortRequest: () => void;
  private readonly unread: GenerationChunk[] = [];
  /** Readers' calls that wait for a chunk, oldest first. */
  private readonly readers: ((chunk: GenerationChunk | undefined) => void)[] = [];
  private readonly ended: Promise<GenerationOutcome>;
  private resolveEnded: (outcome: GenerationOutcome) => void = () => {};
  private stopFollowing = (): void => {};
  /** Whether the request is to run on even if its generation was collected: its result is awaited. */
  private isAwaited = false;
  private isRead = false;
  private isAborted = false;
  hasEnded = false;

  /** @param abortRequest asks for the end of the request, at most once */
  constructor(abortRequest: () => void) {
    this.abortRequest = abortRequest;
    this.ended = new Promise((resolve) => (this.resolveEnded = resolve));
  }

  /** Aborts the request when the signal fires; the signal is let go when the request has ended. */
  follow(signal: AbortSignal | undefined): void {
    this.stopFollowing = onAbort(signal, () => this.abort());
  }

  push(chunk: GenerationChunk): void {
    const reader = this.readers.shift();
    const last = this.unread.at(-1);
    if (reader) reader(chunk);
    else if (last && this.unread.length >= MAX_UNREAD_CHUNKS) addTo(last, chunk);
    else this.unread.push(chunk);
  }

  end(outcome: GenerationOutcome): void {
    if (this.hasEnded) return;
    this.hasEnded = true;
    this.stopFollowing();
    abandoned.unregister(this);
    this.resolveEnded(outcome);
    this.stopReading();
  }

  outcome(): Promise<GenerationOutcome> {
    this.isAwaited = true;
    return this.ended;
  }

  abort(): void {
    if (this.hasEnded || this.isAborted) return;
    this.isAborted = true;
    this.abortRequest();
  }

  /** Nobody holds the generation any more. */
  abandon(): void {
    if (!this.isAwaited) this.abort();
  }

  /** Whether the caller is the first reader. */
  startReading(): boolean {
    const isFirst = !this.isRead;
    this.isRead = true;
    return isFirst;
  }

  /** The next chunk; undefined after the last one. */
  take(): Promise<GenerationChunk | undefined> {
    const chunk = this.unread.shift();
    if (chunk || this.hasEnded) return Promise.resolve(chunk);
    return new Promise((resolve) => this.readers.push(resolve));
  }

  /** Tells those who wait for a chunk that there will be none. */
  stopReading(): void {
    for (const reader of this.readers.splice(0)) reader(undefined);
  }
}

function addTo(last: GenerationChunk, { text, tokens, logprobs }: GenerationChunk): void {
  last.text += text;
  for (const token of tokens) last.tokens.push(token);
  if (!logprobs) return;
  last.logprobs ??= [];
  for (const logprob of logprobs) last.logprobs.push(logprob);
}
