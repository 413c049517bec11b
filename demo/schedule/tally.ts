/** What the lab draws of a replay on a cluster, gathered from its events: requests by outcome over time, loads, and prompts. Pure. */
import type { ClusterEvent, LoadSample, Prefilled } from "../../src/sim/cluster/index.ts";

/** Stretches of time that requests are counted in; so many bars fit on a phone. */
export const BINS = 48;

/** Requests that arrived in a stretch of time, by what became of them, and the load then. */
export interface Bin {
  phase: "decode";
  kept: number;
  late: number;
  rejected: number;
  /** Rejected after their prompts had been computed. */
  wasted: number;
  /** Means, as shares of the objectives. */
  prefillLoad: number;
  decodeLoad: number;
}

export interface Tally {
  binMs: number;
  bins: Bin[];
  samples: LoadSample[];
  prompts: Prefilled[];
}

export class TallyMaker {
  readonly tally: Tally;
  private readonly arrivalsMs: readonly number[];

  /** @param arrivalsMs of all requests, in simulated time from 0 on */
  constructor(arrivalsMs: readonly number[]) {
    this.arrivalsMs = arrivalsMs;
    const binMs = Math.max(1, ((arrivalsMs.at(-1) ?? 0) + 1) / BINS);
    this.tally = { binMs, bins: Array.from({ length: BINS }, newBin), samples: [], prompts: [] };
  }

  readonly take = (event: ClusterEvent): void => {
    const { samples, prompts } = this.tally;
    if (event.kind === "sample") samples.push(event.sample);
    if (event.kind === "prefilled") prompts.push(event.prefilled);
    if (event.kind === "finished") this.binOf(event.id)[event.isKept ? "kept" : "late"]++;
    if (event.kind === "rejected") this.binOf(event.id)[event.isWasted ? "wasted" : "rejected"]++;
  };

  end(): Tally {
    const { bins, binMs, samples } = this.tally;
    bins.forEach((bin, i) => {
      const of = samples.filter(({ atMs }) => Math.floor(atMs / binMs) === i);
      const mean = (name: "prefillLoad" | "decodeLoad"): number =>
        of.reduce((sum, sample) => sum + sample[name], 0) / Math.max(1, of.length);
      const before = of.length === 0 ? bins[i - 1] : undefined; // stretches may be shorter than the samples' distance
      bin.prefillLoad = before?.prefillLoad ?? mean("prefillLoad");
      bin.decodeLoad = before?.decodeLoad ?? mean("decodeLoad");
    });
    return this.tally;
  }

  private binOf(id: number): Bin {
    const at = Math.floor((this.arrivalsMs[id] ?? 0) / this.tally.binMs);
    return this.tally.bins[Math.min(BINS - 1, at)] as Bin;
  }
}

function newBin(): Bin {
  return { phase: "decode", kept: 0, late: 0, rejected: 0, wasted: 0, prefillLoad: 0, decodeLoad: 0 };
}

/** How far predictions of the time to first token were off: the median, as a share of what was measured. */
export function medianError(prompts: readonly Prefilled[]): number | undefined {
  const errors = prompts.map(({ predictedTtftMs, ttftMs }) => Math.abs(predictedTtftMs - ttftMs) / ttftMs);
  return errors.sort((a, b) => a - b)[errors.length >> 1];
}
