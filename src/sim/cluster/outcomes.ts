/** What a simulated cluster's requests came to: how each ended, its times, and the load over time; the row that follows. */
import { assert } from "../../base.ts";
import { keeps, LONGEST_SHARE } from "../../schedule/slo/goodput.ts";
import type { RejectionReason } from "../../schedule/slo/objectives.ts";
import { percentilesOf } from "../timing.ts";
import type { Job } from "./job.ts";
import type { ClusterRow, LoadSample, Prefilled, Spread } from "./report.ts";
import type { ClusterOptions } from "./settings.ts";

export class Outcomes {
  readonly loads: LoadSample[] = [];
  doneCount = 0;
  private readonly options: ClusterOptions;
  private readonly ttftMs: Float64Array;
  private readonly tbtMs: Float64Array;
  private readonly ends: Uint8Array;
  private readonly counts = { rejected: 0, wasted: 0, goodput: 0, goodputTokens: 0, finished: 0 };
  private readonly tokens = { input: 0, hit: 0 };

  constructor(requests: number, options: ClusterOptions) {
    this.options = options;
    this.ttftMs = new Float64Array(requests).fill(NaN);
    this.tbtMs = new Float64Array(requests).fill(NaN);
    this.ends = new Uint8Array(requests);
  }

  sample(sample: LoadSample): void {
    this.loads.push(sample);
    this.options.observe?.({ kind: "sample", sample });
  }

  accepted(id: number, atMs: number): void {
    this.options.observe?.({ kind: "accepted", id, atMs });
  }

  rejected(id: number, atMs: number, reason: RejectionReason, isWasted: boolean): void {
    this.end(id);
    this.counts.rejected++;
    if (isWasted) this.counts.wasted++;
    this.options.observe?.({ kind: "rejected", id, atMs, reason, isWasted });
  }

  prefilled(prefilled: Prefilled): void {
    const { id, ttftMs, inputTokens, hitTokens } = prefilled;
    assert(this.ends[id] === 0 && Number.isNaN(this.ttftMs[id]), `the prompt of ${id} is computed once`);
    this.ttftMs[id] = ttftMs;
    this.tokens.input += inputTokens;
    this.tokens.hit += hitTokens;
    this.options.observe?.({ kind: "prefilled", prefilled });
  }

  /** @param gapsMs between its tokens; sorted here */
  finished({ id, inputTokens, outputTokens }: Job, atMs: number, gapsMs: Float64Array): void {
    this.end(id);
    const ttftMs = this.ttftMs[id]!;
    assert(!Number.isNaN(ttftMs), `request ${id} decodes without its prompt`);
    const tbtMs = meanOfLongest(gapsMs);
    this.tbtMs[id] = tbtMs ?? 0;
    const times = { ttftMs, tbtMs, tbtP99Ms: undefined, totalMs: undefined };
    const isKept = keeps(times, this.options);
    this.counts.finished++;
    if (isKept) {
      this.counts.goodput++;
      this.counts.goodputTokens += inputTokens + outputTokens;
    }
    this.options.observe?.({ kind: "finished", id, atMs, isKept });
  }

  row(): ClusterRow {
    const { scheduler, selection, speed, instances } = this.options;
    const requests = this.ends.length;
    const { rejected, finished } = this.counts;
    assert(rejected + finished === requests, `${rejected} rejected, ${finished} finished of ${requests}`);
    const { input, hit } = this.tokens;
    return {
      ...{ scheduler, selection, instances: instancesText(instances), speed },
      ...{ requests, ...this.counts },
      ttftMs: spreadOf(this.ttftMs.filter((_, id) => !Number.isNaN(this.tbtMs[id]!))),
      tbtMs: spreadOf(this.tbtMs.filter((ms) => !Number.isNaN(ms))),
      tokenHitRate: input === 0 ? 0 : hit / input,
      loadDeviation: deviationOf(this.loads.map(({ prefillLoad }) => prefillLoad)),
      decodeLoadDeviation: deviationOf(this.loads.map(({ decodeLoad }) => decodeLoad)),
    };
  }

  private end(id: number): void {
    assert(this.ends[id] === 0, `request ${id} ends twice`);
    this.ends[id] = 1;
    this.doneCount++;
  }
}

function instancesText({ prefill, decode }: ClusterOptions["instances"]): string {
  return `${prefill}p${decode}d`;
}

function meanOfLongest(gapsMs: Float64Array): number | undefined {
  if (gapsMs.length === 0) return undefined;
  const count = Math.ceil(LONGEST_SHARE * gapsMs.length);
  return meanOf(gapsMs.sort().subarray(-count));
}

function spreadOf(values: Float64Array): Spread {
  return { mean: meanOf(values), ...percentilesOf(values) };
}

function meanOf(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]!;
  return sum / values.length;
}

function deviationOf(values: readonly number[]): number {
  const mean = meanOf(values);
  return Math.sqrt(meanOf(values.map((value) => (value - mean) ** 2)));
}
