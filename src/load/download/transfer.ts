/**
 * Brings the files of one model over the network: a bounded number of connections, each with one stretch of one file at a
 * time; what a reader waits for goes first. Cuts, stalls and busy servers are answered by asking again for what is
 * missing; a server that knows no ranges is read from the start in one go. Where the bytes go is file-download.ts.
 */
import { background, onAbort } from "../../base.ts";
import { TidepoolError } from "../../errors.ts";
import type { ByteRange } from "./byte-ranges.ts";
import { pause, toldPauseMs, untilStalled, type DownloadWorld } from "./limits.ts";
import type { FileDownload } from "./file-download.ts";
import { release } from "../release.ts";
import {
  asSourceError,
  requestRange,
  RequestProblem,
  withLength,
  type RangeAnswer,
  type Remote,
} from "./http.ts";

/** Bytes kept and bytes in all, of the files known so far. */
export type OnTransfer = (done: number, total: number) => void;

/** A connection's task: `start` moves on as bytes arrive. */
interface Job extends ByteRange {
  file: FileDownload;
  controller: AbortController;
  /** The server sends the file whole. */
  isWhole: boolean;
}

/** An answer that came before its job. */
export interface Waiting {
  answer: RangeAnswer;
  controller: AbortController;
}

export class Transfer {
  private readonly world: DownloadWorld;
  private readonly files: FileDownload[] = [];
  private readonly jobs = new Set<Job>();
  private readonly running = new Set<Promise<void>>();
  private readonly onProgress: OnTransfer;
  private lastToldMs = -Infinity;
  private failure: Error | undefined;
  private isClosed = false;
  private wake: () => void = () => {};

  constructor(world: DownloadWorld, onProgress: OnTransfer = () => {}) {
    this.world = world;
    this.onProgress = onProgress;
  }

  /** Bytes that came over the network. */
  get receivedBytes(): number {
    return this.files.reduce((sum, { receivedBytes }) => sum + receivedBytes, 0);
  }

  get isWhole(): boolean {
    return this.files.every(({ have, sizeBytes }) => have.totalBytes === sizeBytes);
  }

  /** Takes a file on; the answer to its first request, where there was one, is read on. */
  add(file: FileDownload, first?: Waiting): void {
    this.files.push(file);
    file.onDemand = () => this.fill();
    const gap = first && file.nextGap(true);
    if (first && gap) this.begin(file, gap, first);
    else if (first) background(first.answer.body.cancel(), "an answer without bytes");
    this.tell(true);
    this.fill();
    if (file.have.totalBytes === file.sizeBytes) this.track(this.completed(file));
  }

  /** Waits until all files are there and are what they should be. @throws what went wrong */
  async finish(): Promise<void> {
    while (!this.files.every(({ isComplete }) => isComplete)) {
      if (this.failure) throw this.failure;
      if (this.isClosed) throw new TidepoolError("aborted", "the download was aborted");
      await new Promise<void>((resolve) => (this.wake = resolve));
    }
  }

  /** Ends what is under way and notes what is there. */
  async close(): Promise<void> {
    this.isClosed = true;
    this.stop(new TidepoolError("aborted", "the download was aborted"));
    while (this.running.size > 0) await Promise.all(this.running);
    this.wake();
    const ends = await Promise.allSettled(this.files.map((file) => file.close()));
    const failed = ends.find((end) => end.status === "rejected");
    if (failed && !this.failure) throw failed.reason;
  }

  /** Starts connections while there is something to bring and one is free. */
  private fill(): void {
    while (!this.failure && !this.isClosed && this.jobs.size < this.world.limits.connections) {
      const next = this.pick();
      if (!next) return;
      this.begin(next.file, next.gap);
    }
  }

  private pick(): { file: FileDownload; gap: ByteRange } | undefined {
    const open = this.files.filter((file) => ![...this.jobs].some((job) => job.file === file && job.isWhole));
    for (const all of [false, true]) {
      for (const file of open) {
        const gap = file.nextGap(all);
        if (gap) return { file, gap };
      }
    }
    return undefined;
  }

  private begin(file: FileDownload, gap: ByteRange, first?: Waiting): void {
    const controller = first?.controller ?? new AbortController();
    const job: Job = { ...gap, file, controller, isWhole: false };
    this.jobs.add(job);
    file.claims.add(job);
    this.track(this.run(job, first?.answer));
  }

  private track(work: Promise<void>): void {
    const tracked = work
      .catch((error: unknown) => this.fail(error as Error))
      .finally(() => {
        this.running.delete(tracked);
        this.fill();
      });
    this.running.add(tracked);
    background(tracked, "download");
  }

  private async run(job: Job, first?: RangeAnswer): Promise<void> {
    try {
      await this.bring(job, first);
    } finally {
      this.jobs.delete(job);
      job.file.claims.delete(job);
    }
    await this.completed(job.file);
  }

  private async completed(file: FileDownload): Promise<void> {
    if (file.have.totalBytes < file.sizeBytes || this.failure || this.isClosed) return;
    await file.finish();
    this.tell(true);
    this.wake();
  }

  /** Requests the job's range until all of it has arrived; fails after a bounded number of failures without a new byte. */
  private async bring(job: Job, first?: RangeAnswer): Promise<void> {
    let answer = first;
    let failures = 0;
    while (job.start < job.end && !job.controller.signal.aborted) {
      const before = job.file.have.totalBytes;
      const startedAt = job.start;
      try {
        answer ??= await this.ask(job);
        if (job.controller.signal.aborted) return void answer.body.cancel().catch(() => undefined);
        await this.receive(job, answer);
        if (job.start === startedAt) throw new RequestProblem("sent nothing", true);
        failures = 0;
      } catch (error) {
        if (job.controller.signal.aborted && !(error instanceof RequestProblem)) return;
        const problem = temporary(job.file.remote, error);
        failures = job.file.have.totalBytes > before ? 1 : failures + 1;
        if (failures >= this.world.limits.attempts) throw gaveUp(job.file.remote, failures, problem);
        job.controller = new AbortController();
        await this.rest(job, toldPauseMs(this.world, job.file.remote.url, failures, problem));
      }
      answer = undefined;
    }
  }

  /** A pause that ends with the job. */
  private async rest(job: Job, ms: number): Promise<void> {
    if (this.isClosed || this.failure) return job.controller.abort();
    await pause(this.world.timer, ms, job.controller.signal).catch(() => undefined);
  }

  private async ask(job: Job): Promise<RangeAnswer> {
    const { file, controller } = job;
    const asked = requestRange(file.remote, job.start, job.end, controller.signal);
    const answer = await untilStalled(this.world, controller, asked);
    try {
      file.check(answer, job.start);
      return answer;
    } catch (error) {
      answer.body.cancel().catch(() => undefined); // the first failure is the one to tell
      throw error;
    }
  }

  /** Reads an answer to its end, or to the job's. */
  private async receive(job: Job, answer: RangeAnswer): Promise<void> {
    if (answer.isWhole) this.takeWhole(job);
    const stage = new Stage(job.file, this.world.limits.stageBytes, answer.isWhole ? 0 : job.start);
    const reader = answer.body.getReader();
    try {
      while (stage.at < job.end) {
        const { done, value } = await untilStalled(this.world, job.controller, reader.read());
        if (done) break;
        job.file.receivedBytes += value.length;
        await stage.put(value.subarray(0, job.end - stage.at));
        release(value);
        job.start = Math.max(job.start, stage.storedTo);
        this.tell();
      }
      if (stage.at < Math.min(answer.end ?? job.end, job.end)) throw cut(stage.at, answer);
    } catch (error) {
      throw job.controller.signal.aborted || error instanceof RequestProblem || error instanceof TidepoolError
        ? error
        : cut(stage.at, answer, error);
    } finally {
      reader.cancel().catch(() => undefined); // not waited for: an aborted body may never say
      await stage.flush();
      job.start = Math.max(job.start, stage.storedTo);
      this.tell();
    }
  }

  /** The server sends all of the file: this connection takes it, the file's others end. */
  private takeWhole(job: Job): void {
    job.isWhole = true;
    for (const other of this.jobs) if (other.file === job.file && other !== job) other.controller.abort();
    job.end = job.file.sizeBytes;
    job.start = job.file.have.firstGap(0, job.end)?.start ?? job.end;
  }

  private fail(error: Error): void {
    if (this.isClosed && !this.failure) return;
    this.failure ??= error;
    this.stop(this.failure);
    this.wake();
  }

  private stop(error: Error): void {
    for (const job of this.jobs) job.controller.abort();
    for (const file of this.files) file.fail(error);
  }

  private tell(always = false): void {
    const nowMs = this.world.clock.nowMs();
    if (!always && nowMs - this.lastToldMs < this.world.limits.progressEveryMs) return;
    this.lastToldMs = nowMs;
    const sum = (of: (file: FileDownload) => number) => this.files.reduce((all, file) => all + of(file), 0);
    this.onProgress(
      sum((file) => file.have.totalBytes),
      sum((file) => file.sizeBytes),
    );
  }
}

/** Gathers small chunks into larger writes, and leaves out what is there already. */
class Stage {
  /** Where the next byte belongs. */
  at: number;
  /** All before this is with the file. */
  storedTo: number;
  private readonly file: FileDownload;
  private readonly bytes: Uint8Array;
  private filled = 0;

  constructor(file: FileDownload, stageBytes: number, at: number) {
    this.file = file;
    this.bytes = new Uint8Array(stageBytes);
    this.at = at;
    this.storedTo = at;
  }

  async put(chunk: Uint8Array): Promise<void> {
    for (let from = 0; from < chunk.length;) {
      const end = this.at + chunk.length - from;
      const gap = this.file.have.firstGap(this.at, end);
      if (gap?.start !== this.at) {
        await this.flush();
        from += (gap?.start ?? end) - this.at;
        this.at = this.storedTo = gap?.start ?? end;
        continue;
      }
      const count = Math.min(gap.end - this.at, this.bytes.length - this.filled);
      this.bytes.set(chunk.subarray(from, from + count), this.filled);
      this.filled += count;
      this.at += count;
      from += count;
      if (this.filled === this.bytes.length) await this.flush();
    }
  }

  async flush(): Promise<void> {
    const count = this.filled;
    this.filled = 0;
    if (count > 0) await this.file.write(this.at - count, this.bytes.subarray(0, count));
    this.storedTo = this.at;
  }
}

/** The first answer for a file of which nothing is known. @throws TidepoolError */
export async function firstAnswer(
  remote: Remote,
  world: DownloadWorld,
  signal: AbortSignal,
  bytes = world.limits.segmentBytes,
): Promise<Waiting> {
  const { stallMs } = world.limits;
  let controller = new AbortController();
  const follow = (): void => controller.abort();
  const stopListening = onAbort(signal, follow);
  const ask = async (): Promise<Waiting> => {
    controller = new AbortController();
    const cancel = world.timer.after(stallMs, follow);
    try {
      const answer = await requestRange(remote, 0, bytes, controller.signal);
      return { answer: await withLength(remote, answer, controller.signal), controller };
    } catch (error) {
      if (signal.aborted || error instanceof RequestProblem) throw error;
      throw new RequestProblem(`did not answer for ${stallMs} ms`, true);
    } finally {
      cancel();
    }
  };
  try {
    return await retrying(remote, world, signal, ask);
  } finally {
    stopListening();
  }
}

/**
 * Does something again until it succeeds, or fails for good.
 * @param hasGained whether the attempt that failed brought something: then its failure counts as the first
 * @throws TidepoolError naming the address
 */
export async function retrying<T>(
  remote: Remote,
  world: DownloadWorld,
  signal: AbortSignal,
  attempt: () => Promise<T>,
  hasGained: () => boolean = () => false,
): Promise<T> {
  for (let failures = 1; ; failures++) {
    try {
      if (signal.aborted) throw new TidepoolError("aborted", `reading ${remote.url} was aborted`);
      return await attempt();
    } catch (error) {
      if (signal.aborted) throw new TidepoolError("aborted", `reading ${remote.url} was aborted`);
      const problem = temporary(remote, error);
      if (hasGained()) failures = 1;
      if (failures >= world.limits.attempts) throw gaveUp(remote, failures, problem);
      const waitMs = toldPauseMs(world, remote.url, failures, problem);
      await pause(world.timer, waitMs, signal).catch(() => undefined);
    }
  }
}

/** The problem, if asking again may help. @throws TidepoolError otherwise */
function temporary(remote: Remote, error: unknown): RequestProblem {
  if (error instanceof RequestProblem && error.isTemporary) return error;
  throw asSourceError(remote.url, error);
}

function gaveUp(remote: Remote, failures: number, problem: RequestProblem): TidepoolError {
  return asSourceError(remote.url, problem, `gave nothing in ${failures} attempts; the last one `);
}

/** An answer that ended before its end, by itself or by an error. */
export function cut(at: number, answer: RangeAnswer, error?: unknown): RequestProblem {
  const why = error === undefined ? "" : `: ${error instanceof Error ? error.message : String(error)}`;
  return new RequestProblem(`was cut at byte ${at} of ${answer.totalBytes ?? "?"}${why}`, true);
}
