/**
 * The time that fetches take on a machine: one disk, one way to the GPU, and the experts that RAM keeps within a budget, the
 * least recently used going first. It moves no bytes; what is fetched next is the expert cache's choice.
 */
import { assert } from "../../base.ts";
import type { Fetch } from "../../cache/experts/entry.ts";
import type { ExpertCache } from "../../cache/experts/expert-cache.ts";

export interface ExpertMachine {
  /** From RAM to the GPU, and from disk to RAM. */
  linkBytesPerSecond: number;
  diskBytesPerSecond: number;
  /** For experts that are not on the GPU. */
  ramBytes: number;
  /** A decode step in one layer, with its experts. */
  layerMs: number;
  /** A token of a prompt in one layer, with its experts. */
  promptTokenMs: number;
  /** Between the end of a submission and the host's knowledge of what the routers chose. */
  readBackMs: number;
  /** A further pass over a layer, for experts that came later. */
  passMs: number;
}

/** A laptop whose GPU decodes 80 tokens a second if it has all experts. */
export const laptop: ExpertMachine = {
  linkBytesPerSecond: 6e9,
  diskBytesPerSecond: 2e9,
  ramBytes: 16e9,
  layerMs: 0.25,
  promptTokenMs: 0.025,
  readBackMs: 1,
  passMs: 0.1,
};

/** Fetches under way at once: while one is copied to the GPU, the next is read. */
const MAX_UNDER_WAY = 2;

interface UnderWay {
  fetch: Fetch;
  endsMs: number;
}

export class FetchClock {
  nowMs = 0;
  /** Time in which something waited for fetches. */
  stallMs = 0;
  private readonly cache: ExpertCache;
  private readonly machine: ExpertMachine;
  private readonly matrixBytes: readonly number[];
  private readonly ram: RamExperts;
  private underWay: UnderWay[] = [];
  private diskFreeMs = 0;
  private linkFreeMs = 0;

  constructor(cache: ExpertCache, machine: ExpertMachine, matrixBytes: readonly number[]) {
    this.cache = cache;
    this.machine = machine;
    this.matrixBytes = matrixBytes;
    this.ram = new RamExperts(machine.ramBytes);
  }

  /** Something else takes this long; fetches go on meanwhile. */
  pass(ms: number): void {
    const untilMs = this.nowMs + ms;
    for (;;) {
      this.begin();
      const next = this.nextEnd();
      if (!next || next.endsMs > untilMs) break;
      this.end(next);
    }
    this.nowMs = untilMs;
  }

  /** Waits until something has arrived. */
  waitFor(isThere: () => boolean): void {
    const fromMs = this.nowMs;
    for (;;) {
      this.begin();
      if (isThere()) break;
      const next = this.nextEnd();
      assert(next, "a layer waits for experts that nothing fetches");
      this.end(next);
    }
    this.stallMs += this.nowMs - fromMs;
  }

  private begin(): void {
    while (this.underWay.length < MAX_UNDER_WAY) {
      const fetch = this.cache.nextFetch();
      if (!fetch) return;
      const bytes = this.matrixBytes[fetch.matrix]!;
      let readyMs = this.nowMs;
      if (!this.ram.use(fetch, bytes)) {
        readyMs = Math.max(readyMs, this.diskFreeMs) + (1000 * bytes) / this.machine.diskBytesPerSecond;
        this.diskFreeMs = readyMs;
      }
      const endsMs = Math.max(readyMs, this.linkFreeMs) + (1000 * bytes) / this.machine.linkBytesPerSecond;
      this.linkFreeMs = endsMs;
      this.underWay.push({ fetch, endsMs });
    }
  }

  private nextEnd(): UnderWay | undefined {
    return this.underWay.reduce<UnderWay | undefined>(
      (first, each) => (first === undefined || each.endsMs < first.endsMs ? each : first),
      undefined,
    );
  }

  private end(done: UnderWay): void {
    this.underWay = this.underWay.filter((each) => each !== done);
    this.nowMs = Math.max(this.nowMs, done.endsMs);
    this.cache.arrived(done.fetch);
  }
}

/** Matrices in RAM. */
class RamExperts {
  private readonly kept = new Map<string, number>();
  private readonly budget: number;
  private bytes = 0;

  constructor(budget: number) {
    this.budget = budget;
  }

  /** Whether a matrix is there; it is from now on. */
  use({ layer, expert, matrix }: Fetch, bytes: number): boolean {
    const name = `${layer} ${expert} ${matrix}`;
    const isThere = this.kept.delete(name);
    this.kept.set(name, bytes);
    if (!isThere) this.bytes += bytes;
    for (const [oldest, size] of this.kept) {
      if (this.bytes <= this.budget) break;
      this.kept.delete(oldest);
      this.bytes -= size;
    }
    return isThere;
  }
}
