/** Every number that bounds a download, by name. Tests hand in smaller ones. */
import { Random, systemClock, systemTimer, unlessAborted, type Clock, type Timer } from "../../base.ts";
import { RequestProblem } from "./http.ts";

export interface DownloadLimits {
  /** Requests under way at once, for all files of a model together. */
  connections: number;
  /** Bytes that one request asks for. */
  segmentBytes: number;
  /** Bytes that a connection gathers before they are written. */
  stageBytes: number;
  /** Received bytes between two notes of what is kept, as a share of the file, and its bounds; and the least time. */
  journalShare: number;
  minJournalBytes: number;
  maxJournalBytes: number;
  journalEveryMs: number;
  /** Failures in a row of one connection without a single new byte. */
  attempts: number;
  /** The same for a look at a header, while somebody waits: less than ten seconds of pauses. */
  headerAttempts: number;
  /** Pause after the first failure; it doubles, up to the last, and is shortened at random by up to a half. */
  firstPauseMs: number;
  lastPauseMs: number;
  /** How long a connection may deliver no byte before it is closed and retried. */
  stallMs: number;
  /** The shortest time between two progress reports. */
  progressEveryMs: number;
  /** A lock that takes longer than this is held by another tab or process, which is then reported. */
  waitSilentMs: number;
}

export const DOWNLOAD_LIMITS: DownloadLimits = {
  connections: 4,
  segmentBytes: 8 * 1024 * 1024,
  stageBytes: 128 * 1024,
  journalShare: 1 / 1000,
  minJournalBytes: 512 * 1024,
  maxJournalBytes: 8 * 1024 * 1024,
  journalEveryMs: 50,
  attempts: 10,
  headerAttempts: 5,
  firstPauseMs: 500,
  lastPauseMs: 30_000,
  stallMs: 20_000,
  progressEveryMs: 100,
  waitSilentMs: 300,
};

/** The outside world of a download, as far as tests replace it. */
export interface DownloadWorld {
  limits: DownloadLimits;
  timer: Timer;
  clock: Clock;
  /** Spreads retries. */
  random: Random;
  /** Told of each failure after which a request is made again. */
  onRetry: (retry: Retry) => void;
}

/** A request failed for now, and is made again after a pause. */
export interface Retry {
  url: string;
  /** What happened, as the end of a sentence that begins with the address. */
  reason: string;
  /** Failures in a row, and after how many it is given up. */
  failures: number;
  attempts: number;
  waitMs: number;
}

export function downloadWorld(given: Partial<DownloadWorld> = {}): DownloadWorld {
  const seed = Math.floor(performance.timeOrigin + performance.now());
  return {
    limits: DOWNLOAD_LIMITS,
    timer: systemTimer,
    clock: systemClock,
    random: new Random(seed),
    onRetry: () => {},
    ...given,
  };
}

/** How long to wait after the `failures`th failure in a row; never less than the server asks for. */
export function pauseMs({ limits, random }: DownloadWorld, failures: number, retryAfterMs = 0): number {
  const doubled = Math.min(limits.lastPauseMs, limits.firstPauseMs * 2 ** (failures - 1));
  return Math.max(retryAfterMs, doubled * (1 - random.next() / 2));
}

/** Tells of a failure, and how long to wait before the next attempt. */
export function toldPauseMs(
  world: DownloadWorld,
  url: string,
  failures: number,
  { message, retryAfterMs }: { message: string; retryAfterMs?: number | undefined },
): number {
  const waitMs = pauseMs(world, failures, retryAfterMs);
  world.onRetry({ url, reason: message, failures, attempts: world.limits.attempts, waitMs });
  return waitMs;
}

/**
 * A wait for the network, which ends with a RequestProblem if nothing comes for too long, and with the signal: seen in Node,
 * the read of an aborted body may neither give nor fail.
 */
export async function untilStalled<T>(
  { limits: { stallMs }, timer }: DownloadWorld,
  controller: AbortController,
  waiting: Promise<T>,
): Promise<T> {
  const { signal } = controller;
  let stalled: RequestProblem | undefined;
  const cancel = timer.after(stallMs, () => {
    stalled = new RequestProblem(`sent nothing for ${stallMs} ms`, true);
    controller.abort(stalled);
  });
  try {
    return await unlessAborted(waiting, signal, () => signal.reason as Error);
  } catch (error) {
    throw stalled ?? error;
  } finally {
    cancel();
  }
}

/** Waits, or throws the signal's reason. */
export function pause(timer: Timer, ms: number, signal: AbortSignal): Promise<void> {
  let cancel: () => void = () => {};
  const over = new Promise<void>((resolve) => (cancel = timer.after(ms, resolve)));
  return unlessAborted(over, signal, () => {
    cancel();
    return signal.reason as Error;
  });
}
