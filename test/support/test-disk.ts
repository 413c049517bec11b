/**
 * A disk for tests and measurements, between a model's file and whoever reads it: as slow as is asked for, in real time, and
 * failing where that is asked for. What it gives is what the true source gives.
 */
import type { Source } from "../../src/load/source.ts";

/** What a disk can do. */
export interface DiskSpeed {
  /** Of all reads together; Infinity: as fast as the true source. */
  bytesPerSecond: number;
  /** From when a read begins until its first byte; reads wait for it side by side. */
  latencyMs: number;
}

/** "short": it gives fewer bytes than were asked for, against the rule of sources. "never": it does not answer until it is aborted. */
export type DiskFault = "error" | "short" | "never";

export class TestDisk {
  /** Waits until a time of `performance.now()`, with no use of a processor. */
  private readonly sleep: (untilMs: number) => Promise<void>;
  speed: DiskSpeed = { bytesPerSecond: Infinity, latencyMs: 0 };
  /** Reads and their bytes so far, those that failed included. */
  reads = 0;
  bytes = 0;
  private fault: DiskFault | undefined;
  private faultsLeft = 0;
  /** Until when what was asked for so far keeps the disk busy. */
  private busyUntilMs = 0;

  /** @param sleep default: timers, which are late by a millisecond or so */
  constructor(sleep = timer) {
    this.sleep = sleep;
  }

  /** The next `times` reads fail. */
  fail(fault: DiskFault, times = Infinity): void {
    this.fault = fault;
    this.faultsLeft = times;
  }

  heal(): void {
    this.faultsLeft = 0;
  }

  /** The source, as if it lay on this disk. */
  over(source: Source): Source {
    const read = async (offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array> => {
      const bytes = await source.read(offset, length, signal);
      const fault = this.count(length);
      await this.wait(length);
      if (fault === "never") await aborted(signal);
      if (fault === "error") throw new Error("input/output error");
      return fault === "short" ? bytes.subarray(0, length >> 1) : bytes;
    };
    const { name, sizeBytes, isAtHand = false } = source;
    return { name, sizeBytes, isAtHand, read, close: () => source.close() };
  }

  private count(length: number): DiskFault | undefined {
    this.reads++;
    this.bytes += length;
    if (this.faultsLeft <= 0) return undefined;
    this.faultsLeft--;
    return this.fault;
  }

  private async wait(length: number): Promise<void> {
    const { bytesPerSecond, latencyMs } = this.speed;
    if (bytesPerSecond === Infinity && latencyMs === 0) return;
    const now = performance.now();
    this.busyUntilMs = Math.max(now, this.busyUntilMs) + (1000 * length) / bytesPerSecond;
    await this.sleep(this.busyUntilMs + latencyMs);
  }
}

function timer(untilMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, untilMs - performance.now()));
}

/** Rejects when the signal fires; without one it never ends. */
function aborted(signal: AbortSignal | undefined): Promise<never> {
  return new Promise((_, reject) => {
    const stop = (): void => reject(new Error("aborted"));
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}
