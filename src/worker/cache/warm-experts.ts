/**
 * Keeps which experts of a model were needed, as one small record in the store beside its keys and values, and has them fetched
 * first the next time. The record is checked as all are; one that is damaged or another model's is none. It is written when a
 * request ends, at most once in a while, and at the end.
 */
import { background } from "../../base.ts";
import type { ExpertId, ExpertCacheShape } from "../../cache/experts/entry.ts";
import { readWarmStart, writeWarmStart } from "../../cache/experts/warm-start.ts";
import { fingerprintOf, recordKey, rootKey, type Key } from "../../tier/record/keys.ts";
import type { TierStore } from "../../tier/store/store.ts";

/** Between two writes, at least. */
const WRITE_EVERY_MS = 60_000;

/** Where the experts are: another object after the device was lost. */
export interface WarmTarget {
  readonly shape: Pick<ExpertCacheShape, "layers" | "experts">;
  needed(): ExpertId[];
  warm(experts: readonly ExpertId[]): void;
}

export class WarmExperts {
  private readonly store: TierStore;
  private readonly namespace: string;
  private readonly fingerprint: Key;
  private readonly target: () => WarmTarget | undefined;
  private writtenMs: number;
  private writing: Promise<void> = Promise.resolve();

  /** @param weights the fingerprint of the model's weights */
  constructor(
    store: TierStore,
    weights: Key,
    namespace: string,
    target: () => WarmTarget | undefined,
    nowMs: number,
  ) {
    this.store = store;
    this.namespace = namespace;
    this.fingerprint = fingerprintOf({ neededExpertsOf: weights });
    this.target = target;
    this.writtenMs = nowMs;
  }

  /** Queues what was needed the last time; how many experts that is. */
  async start(): Promise<number> {
    const target = this.target();
    if (!target) return 0;
    const got = await this.store.get(this.key(target), { fingerprint: this.fingerprint });
    const needed = got.hit ? readWarmStart(target.shape, got.record.payload) : undefined;
    if (needed) target.warm(needed);
    return needed?.length ?? 0;
  }

  /** A request has ended. */
  ended(nowMs: number): void {
    if (nowMs < this.writtenMs + WRITE_EVERY_MS) return;
    this.writtenMs = nowMs;
    background(this.write(), "list of needed experts");
  }

  /** Writes what is needed now in place of what was written before. */
  write(): Promise<void> {
    this.writing = this.writing.then(() => this.replace());
    return this.writing;
  }

  private async replace(): Promise<void> {
    const target = this.target();
    const needed = target?.needed() ?? [];
    if (!target || needed.length === 0) return;
    await this.store.drop([this.key(target)]);
    this.store.put({
      ...{ kind: "snapshot", parentKey: this.root, fingerprint: this.fingerprint, namespace: this.namespace },
      ...{ blockIndex: 0, tokens: tokensOf(target), payload: writeWarmStart(target.shape, needed) },
      ...{ rebuildCost: 0 },
    });
  }

  private get root(): Key {
    return rootKey(this.fingerprint, this.namespace);
  }

  private key(target: WarmTarget): Key {
    return recordKey("snapshot", this.root, tokensOf(target));
  }
}

/** A record has tokens; these are the numbers that the list must fit. */
function tokensOf({ shape }: WarmTarget): number[] {
  return [shape.layers, shape.experts];
}
