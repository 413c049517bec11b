/**
 * Brings experts to the GPU in the order that the cache asks for: reads a matrix from the store, writes it to its slot, and says so,
 * a few matrices at once. It does not know why one is wanted.
 */
import { background, systemClock } from "../../base.ts";
import type { ExpertCache } from "../../cache/experts/expert-cache.ts";
import type { Fetch } from "../../cache/experts/entry.ts";
import { guarded } from "../../gpu/guard.ts";
import type { ExpertArena } from "./arena.ts";
import type { ExpertLog } from "./log.ts";
import type { ExpertStore } from "./store.ts";

/**
 * Matrices under way at most, and while something is that no layer waits for: enough for reads to wait side by side for a disk's
 * answer, few enough for demand, which cannot overtake what is under way, to come soon.
 */
const MAX_FETCHES = 8;
const MAX_GUESSED = 4;

export interface FetcherParts {
  device: GPUDevice;
  cache: ExpertCache;
  arena: ExpertArena;
  store: ExpertStore;
  log: ExpertLog;
}

export class ExpertFetcher {
  private readonly parts: FetcherParts;
  private readonly underWay = new Set<Promise<void>>();
  private readonly failures = new Map<string, Error>();
  private isClosed = false;
  private wake: () => void = () => {};
  private next = this.nextEvent();

  constructor(parts: FetcherParts) {
    this.parts = parts;
  }

  /** Starts what may be started. */
  pump(): void {
    while (!this.isClosed && this.underWay.size < MAX_FETCHES) {
      const fetch = this.parts.cache.nextFetch(
        !this.parts.cache.preempts || this.underWay.size < MAX_GUESSED,
      );
      if (!fetch) return;
      const bringing = this.bring(fetch).finally(() => this.ended(bringing));
      this.underWay.add(bringing);
      background(bringing, "fetch of an expert");
    }
  }

  /** Whether something is under way. */
  get isBusy(): boolean {
    return this.underWay.size > 0;
  }

  /** Resolves when the next fetch has ended. */
  get progress(): Promise<void> {
    return this.next;
  }

  /** Why an expert could not be brought since this was last asked. */
  takeFailure(layer: number, expert: number): Error | undefined {
    const key = `${layer} ${expert}`;
    const failure = this.failures.get(key);
    this.failures.delete(key);
    return failure;
  }

  /** Ends what is under way; nothing begins any more. */
  close(): void {
    this.isClosed = true;
    this.parts.store.close();
  }

  private async bring(fetch: Fetch): Promise<void> {
    const { device, cache, arena, store, log } = this.parts;
    const { layer, expert, matrix, slot } = fetch;
    const started = systemClock.nowMs();
    const from = store.has(layer, expert, matrix) ? "ram" : "file";
    try {
      const words = await store.words(layer, expert, matrix);
      await guarded(device, "a write of an expert", () => arena.write(layer, matrix, slot, words));
      const isWhole = cache.arrived(fetch);
      log.note({ kind: "fetched", ...fetch, isWhole, from, ms: systemClock.nowMs() - started });
    } catch (error) {
      const failure = error instanceof Error ? error : new Error(String(error));
      this.failures.set(`${layer} ${expert}`, failure);
      cache.failed(fetch);
    }
  }

  private ended(bringing: Promise<void>): void {
    this.underWay.delete(bringing);
    const { wake } = this;
    this.next = this.nextEvent();
    this.pump();
    wake();
  }

  private nextEvent(): Promise<void> {
    return new Promise((resolve) => (this.wake = resolve));
  }
}
