/**
 * The engine's side of the text worker. A chat template and a tokenizer's regular expressions are programs that came with
 * the model's file: they run in a worker of their own, one question at a time, each with a deadline. What is late is ended
 * with its worker, the question fails with `timed_out`, and the next question gets a new worker.
 * Where no worker can be had it works in this thread, without that protection, and `unprotected` says why.
 */
import { assert, background, onAbort, systemClock } from "../../base.ts";
import { fromWire, TidepoolError, toWire } from "../../errors.ts";
import type { EncodedPrompt, FromText, TextFacts, TextParts, TextQuestion, ToText } from "./messages.ts";
import { contentChars } from "../request/fit-prompt.ts";
import { TextService } from "./service.ts";

/** A worker that runs text-worker.ts. */
export interface TextPort {
  post(message: ToText): void;
  /** Says who hears; replaces the listeners before. */
  listen(onMessage: (message: FromText) => void, onDeath: (why: string) => void): void;
  terminate(): void;
}

export interface TextLimits {
  /** The longest that one text may take to become ids. */
  timeoutMs: number;
  /** The longest that building tokenizer and template may take. Default: OPEN_TIMEOUT_MS. */
  openTimeoutMs?: number;
}

export const DEFAULT_TEXT_TIMEOUT_MS = 10_000;

/** A vocabulary of 256,000 tokens takes 2.4 s on a fast machine. */
const OPEN_TIMEOUT_MS = 60_000;

/** A worker that says nothing for so long after its start cannot be had. */
const READY_TIMEOUT_MS = 30_000;

/** Questions that may wait; more are refused. */
const MAX_WAITING = 1024;

/**
 * Characters that make up for a millisecond of waiting, about what a tokenizer does in it: short texts are answered first, and a
 * long one waits no longer for those that came after it than it takes itself.
 */
const CHARS_PER_MS = 1000;

interface Job {
  question: TextQuestion;
  /** The lowest is next. */
  rank: number;
  resolve(prompt: EncodedPrompt): void;
  reject(error: unknown): void;
}

/** A worker that could not be started, as against one that a file has stopped. */
class NoWorker extends Error {}

export class TextClient {
  readonly facts: TextFacts;
  /** Why there is no worker; undefined: there is one. */
  readonly unprotected: string | undefined;
  private readonly parts: TextParts;
  private readonly limits: TextLimits;
  private readonly start: () => TextPort;
  private readonly local: TextService | undefined;
  private port: TextPort | undefined;
  private readonly waiting: Job[] = [];
  private isWorking = false;
  private readonly closing = new AbortController();

  private constructor(
    parts: TextParts,
    limits: TextLimits,
    start: () => TextPort,
    made: { facts: TextFacts; port?: TextPort; local?: TextService; unprotected?: string },
  ) {
    this.parts = parts;
    this.limits = limits;
    this.start = start;
    this.facts = made.facts;
    this.port = made.port;
    this.local = made.local;
    this.unprotected = made.unprotected;
    this.watch();
  }

  /**
   * Builds a model's tokenizer and template in a worker. Never rejects: what is wrong with the file stands in the facts.
   * @param start starts the worker, or throws where there can be none: then this thread does the work
   */
  static async open(parts: TextParts, limits: TextLimits, start: () => TextPort): Promise<TextClient> {
    try {
      const { port, facts } = await openPort(parts, limits, start);
      return new TextClient(parts, limits, start, { port, facts });
    } catch (error) {
      if (error instanceof NoWorker) return TextClient.inThisThread(parts, error.message);
      return new TextClient(parts, limits, start, { facts: { tokenizer: { problem: toWire(error) } } });
    }
  }

  /** Works in this thread. @param why there is no worker */
  static inThisThread(parts: TextParts, why: string): TextClient {
    const start = (): TextPort => {
      throw new Error(why);
    };
    const limits = { timeoutMs: DEFAULT_TEXT_TIMEOUT_MS };
    try {
      const local = new TextService(parts);
      return new TextClient(parts, limits, start, { local, facts: local.facts, unprotected: why });
    } catch (error) {
      const facts: TextFacts = { tokenizer: { problem: toWire(error) } };
      return new TextClient(parts, limits, start, { facts, unprotected: why });
    }
  }

  /** @throws TidepoolError `timed_out`, `rejected`, `aborted`, or what the text or the file is refused for. */
  ask(question: TextQuestion, signal?: AbortSignal): Promise<EncodedPrompt> {
    if (this.closing.signal.aborted) return Promise.reject(closedError());
    if (this.waiting.length >= MAX_WAITING) {
      const why = `${MAX_WAITING} texts are waiting to be tokenised already`;
      return Promise.reject(new TidepoolError("rejected", why));
    }
    let stopListening: () => void = () => {};
    const answer = new Promise<EncodedPrompt>((resolve, reject) => {
      const rank = systemClock.nowMs() * CHARS_PER_MS + charsOf(question);
      const job: Job = { question, rank, resolve, reject };
      this.waiting.push(job);
      stopListening = onAbort(signal, () => this.drop(job));
      if (!this.isWorking) background(this.work(), "text");
    });
    return answer.finally(stopListening);
  }

  close(): void {
    this.closing.abort();
    for (const job of this.waiting.splice(0)) job.reject(closedError());
    this.endPort();
  }

  private drop(job: Job): void {
    const at = this.waiting.indexOf(job);
    if (at >= 0) this.waiting.splice(at, 1);
    job.reject(new TidepoolError("aborted", "the request was aborted"));
  }

  private async work(): Promise<void> {
    this.isWorking = true;
    for (let job = this.next(); job !== undefined; job = this.next()) {
      try {
        job.resolve(this.local ? this.local.answer(job.question) : await this.askWorker(job.question));
      } catch (error) {
        job.reject(error);
      }
    }
    this.isWorking = false;
  }

  /** Takes out the job of the lowest rank; of equal ones the first. */
  private next(): Job | undefined {
    const { waiting } = this;
    let best = 0;
    for (const [at, { rank }] of waiting.entries()) if (rank < (waiting[best] as Job).rank) best = at;
    return waiting.splice(best, 1)[0];
  }

  private async askWorker(question: TextQuestion): Promise<EncodedPrompt> {
    this.port ??= await this.reopen();
    const { timeoutMs } = this.limits;
    const wait: Wait = {
      file: this.parts.file,
      timeoutMs,
      late: `${whatRuns(question)} of ${this.parts.file} did not finish within ${timeoutMs} ms`,
      signal: this.closing.signal,
    };
    try {
      const answer = await exchange(this.port, { type: "ask", question }, wait);
      this.watch();
      if (answer.type === "refused") throw fromWire(answer.error);
      assert(answer.type === "answer", `the text worker answered a question with "${answer.type}"`);
      return answer.prompt;
    } catch (error) {
      if (error instanceof StoppedError) this.endPort();
      throw error;
    }
  }

  /** A worker may die between two questions: the next one gets a new worker. */
  private watch(): void {
    const { port } = this;
    const ended = (): void => {
      if (this.port === port) this.endPort();
    };
    port?.listen(() => {}, ended);
  }

  private async reopen(): Promise<TextPort> {
    const { signal } = this.closing;
    const { port } = await openPort(this.parts, this.limits, this.start, signal).catch((error: unknown) => {
      if (!(error instanceof NoWorker)) throw error;
      throw new TidepoolError("unsupported", `the text worker could not be started again: ${error.message}`);
    });
    return port;
  }

  private endPort(): void {
    this.port?.terminate();
    this.port = undefined;
  }
}

/** The worker is of no more use: it was ended, or ended itself. */
class StoppedError extends TidepoolError {}

/** How long to wait for an answer, and what to say when there is none. */
interface Wait {
  file: string;
  timeoutMs: number;
  late: string;
  signal?: AbortSignal | undefined;
}

async function openPort(
  parts: TextParts,
  limits: TextLimits,
  start: () => TextPort,
  signal?: AbortSignal,
): Promise<{ port: TextPort; facts: TextFacts }> {
  const { openTimeoutMs: timeoutMs = OPEN_TIMEOUT_MS } = limits;
  const { file } = parts;
  const port = await startPort(start, signal);
  try {
    const late = `building the tokenizer and chat template of ${file} did not finish within ${timeoutMs} ms`;
    const answer = await exchange(port, { type: "open", parts }, { file, timeoutMs, late, signal });
    if (answer.type === "refused") throw fromWire(answer.error);
    assert(answer.type === "opened", `the text worker opened a file with "${answer.type}"`);
    return { port, facts: answer.facts };
  } catch (error) {
    port.terminate();
    throw error;
  }
}

/** Starts the worker and waits until it listens. @throws NoWorker */
async function startPort(start: () => TextPort, signal: AbortSignal | undefined): Promise<TextPort> {
  let port: TextPort | undefined;
  try {
    port = start();
    const late = `it did not start within ${READY_TIMEOUT_MS} ms`;
    await exchange(port, undefined, { file: "", timeoutMs: READY_TIMEOUT_MS, late, signal });
    return port;
  } catch (error) {
    port?.terminate();
    throw new NoWorker(error instanceof Error ? error.message : String(error));
  }
}

/** Posts a message, if any, and waits for the one answer. @throws StoppedError */
function exchange(port: TextPort, message: ToText | undefined, wait: Wait): Promise<FromText> {
  const { file, timeoutMs, late, signal } = wait;
  return new Promise((resolve, reject) => {
    let stopListening: () => void = () => {};
    const end = (): void => {
      clearTimeout(timer);
      stopListening();
    };
    const fail = (error: TidepoolError): void => {
      end();
      reject(error);
    };
    const timer = setTimeout(() => fail(new StoppedError("timed_out", late, { file, timeoutMs })), timeoutMs);
    stopListening = onAbort(signal, () => fail(closedError()));
    port.listen(
      (answer) => {
        end();
        resolve(answer);
      },
      (why) => {
        const what = file === "" ? why : `the tokenizer or chat template of ${file} ended its worker: ${why}`;
        fail(new StoppedError("invalid_file", what, { file }));
      },
    );
    if (message) port.post(message);
  });
}

/** Characters of what is to be encoded. */
function charsOf(question: TextQuestion): number {
  if (question.kind !== "chat") return question.text.length;
  return question.messages.reduce((sum, message) => sum + contentChars(message), 0);
}

function whatRuns(question: TextQuestion): string {
  return question.kind === "chat" ? "the chat template or tokenizer" : "the tokenizer";
}

function closedError(): TidepoolError {
  return new TidepoolError("closed", "the engine is closed");
}
