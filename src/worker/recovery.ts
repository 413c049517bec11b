/**
 * A new device after the old one was lost: opens adapter, device and model again and loads the model there, once; a second
 * loss within a minute is an error. What becomes of the requests is the session's business.
 */
import { assert, unlessAborted } from "../base.ts";
import { TidepoolError } from "../errors.ts";
import { unlessLost, type Gpu } from "../gpu/device.ts";
import type { ModelFile } from "../load/model-file.ts";
import type { RunnerOptions } from "../model/runner.ts";
import type { Capability } from "../wire/protocol.ts";

/** A device and the model's file, opened anew. */
export interface Reopened {
  gpu: Gpu;
  file: ModelFile;
  /** What to load it with, from what it was loaded with before. Default: the same. @throws where the device cannot do that */
  again?(before: RunnerOptions): RunnerOptions;
  /** What the platform lacks now. Default: what it lacked before. */
  capabilities?: readonly Capability[];
  /** Ends what loading the file needed. */
  close(): Promise<void>;
}

/** Opens a device and the model that was loaded. */
export type Reopen = (signal: AbortSignal) => Promise<Reopened>;

/** A loss so soon after another is not tried to be mended. */
const LOSS_WINDOW_MS = 60_000;

/** Waits before each attempt to find an adapter: a browser's GPU process takes a moment to come back. */
const REOPEN_WAITS_MS = [0, 500, 2000];

export class Recovery {
  private readonly reopen: Reopen | undefined;
  private readonly nowMs: () => number;
  private readonly stop = new AbortController();
  private lastLossMs = -Infinity;

  /** @param reopen none: a loss is the end */
  constructor(reopen: Reopen | undefined, nowMs: () => number) {
    this.reopen = reopen;
    this.nowMs = nowMs;
  }

  /** Whether `close` was called. */
  get isClosed(): boolean {
    return this.stop.signal.aborted;
  }

  /**
   * @param load loads what was opened, and says whether it keeps its file open; it may be left alone where the new device is lost, too, or `close` is called
   * @throws TidepoolError `device_lost` with the reason, `aborted` after `close`.
   */
  async run<T extends { keeps: ModelFile | undefined }>(
    info: GPUDeviceLostInfo,
    load: (opened: Reopened) => Promise<T>,
  ): Promise<T> {
    const sinceMs = this.nowMs() - this.lastLossMs;
    this.lastLossMs = this.nowMs();
    if (sinceMs < LOSS_WINDOW_MS) {
      throw lost(
        info,
        `for the second time in ${Math.ceil(sinceMs / 1000)} s; it is not tried again within ${LOSS_WINDOW_MS / 1000} s`,
      );
    }
    if (!this.reopen) throw lost(info, "and the model cannot be opened again");
    let opened: Reopened | undefined;
    try {
      opened = await this.open();
      const loaded = await this.unlessClosed(unlessLost(opened.gpu.device, load(opened)));
      if (!loaded.keeps) await opened.close();
      return loaded;
    } catch (error) {
      await opened?.close().catch(() => {}); // the first failure is the one to tell
      opened?.gpu.device.destroy();
      if (this.isClosed) throw closedError();
      throw lost(
        info,
        `and could not be replaced: ${error instanceof Error ? error.message : String(error)}`,
      );
    }
  }

  /** Ends a recovery under way. */
  close(): void {
    this.stop.abort();
  }

  private async open(): Promise<Reopened> {
    assert(this.reopen, "nothing to reopen with");
    for (const [attempt, ms] of REOPEN_WAITS_MS.entries()) {
      await this.unlessClosed(new Promise<void>((resolve) => setTimeout(resolve, ms)));
      try {
        return await this.reopen(this.stop.signal);
      } catch (error) {
        const isAbsent = error instanceof TidepoolError && error.code === "no_adapter";
        if (!isAbsent || attempt === REOPEN_WAITS_MS.length - 1) throw error;
      }
    }
    throw new TidepoolError("no_adapter", "no adapter came back");
  }

  private unlessClosed<T>(work: Promise<T>): Promise<T> {
    return unlessAborted(work, this.stop.signal, closedError);
  }
}

function closedError(): TidepoolError {
  return new TidepoolError("aborted", "the engine was closed while it recovered");
}

function lost({ reason, message }: GPUDeviceLostInfo, what: string): TidepoolError {
  const why = message ? ` (${message})` : "";
  return new TidepoolError("device_lost", `the GPU device was lost${why} ${what}`, { reason });
}
