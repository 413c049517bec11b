/**
 * Keeps which experts of a model were needed, as one small record in the store, and has them fetched first the next time. One
 * that is damaged or another model's is none. It is written when a request ends, at most once in a while, and at the end.
 */
import { background } from "../../base.ts";
import type { ExpertId, ExpertCacheShape } from "../../cache/experts/entry.ts";
import { readWarmStart, writeWarmStart } from "../../cache/experts/warm-start.ts";
import type { Key } from "../../tier/record/keys.ts";
import type { TierStore } from "../../tier/store/store.ts";
import { KeptRecord } from "./kept-record.ts";

/** Where the experts are: another object after the device was lost. */
export interface WarmTarget {
  readonly shape: Pick<ExpertCacheShape, "layers" | "experts">;
  needed(): ExpertId[];
  warm(experts: readonly ExpertId[]): void;
}

export class WarmExperts {
  private readonly record: KeptRecord;
  private readonly target: () => WarmTarget | undefined;

  /** @param weights the fingerprint of the model's weights */
  constructor(
    store: TierStore,
    weights: Key,
    namespace: string,
    target: () => WarmTarget | undefined,
    nowMs: number,
  ) {
    this.record = new KeptRecord(store, namespace, { neededExpertsOf: weights }, nowMs);
    this.target = target;
  }

  /** Queues what was needed the last time; how many experts that is. */
  async start(): Promise<number> {
    const target = this.target();
    const payload = target && (await this.record.read(numbersOf(target)));
    const needed = payload && readWarmStart(target.shape, payload);
    if (needed) target.warm(needed);
    return needed?.length ?? 0;
  }

  /** A request has ended. */
  ended(nowMs: number): void {
    if (this.record.isDue(nowMs)) background(this.write(), "list of needed experts");
  }

  /** Writes what is needed now in place of what was written before. */
  async write(): Promise<void> {
    const target = this.target();
    const needed = target?.needed() ?? [];
    if (target && needed.length > 0)
      await this.record.replace(numbersOf(target), writeWarmStart(target.shape, needed));
  }
}

/** What the list must fit. */
function numbersOf({ shape }: WarmTarget): number[] {
  return [shape.layers, shape.experts];
}
