/**
 * The experts of a model of which not all are on the GPU, put together: the cache that decides, the slots, the store behind them,
 * and what runs steps. It computes nothing itself.
 */
import { ExpertCache, type ExpertAblation } from "../../cache/experts/expert-cache.ts";
import type { ExpertPredictor } from "../../cache/experts/predictor.ts";
import type { ExpertPolicyName } from "../../cache/experts/policy.ts";
import type { ExpertId, ExpertPhase } from "../../cache/experts/entry.ts";
import { ratesOf } from "../../cache/experts/stats.ts";
import type { Op, StepShape } from "../../gpu/op.ts";
import type { CommandRecorder } from "../../gpu/recorder.ts";
import type { Program } from "../../gpu/segments.ts";
import type { ExpertArena } from "./arena.ts";
import type { KeptBuffers } from "./checkpoint.ts";
import { ExactExperts } from "./exact.ts";
import { ExpertFetcher } from "./fetcher.ts";
import type { ExpertFigures } from "./figures.ts";
import { ExpertLog } from "./log.ts";
import { LearnedLookAhead, RouterLookAhead } from "./look-ahead.ts";
import type { Guesses } from "./predictor.ts";
import type { ExpertStore } from "./store.ts";

export interface ExpertsParts {
  device: GPUDevice;
  arena: ExpertArena;
  store: ExpertStore;
  recorder: CommandRecorder;
  stepGroup: GPUBindGroup;
  kept: KeptBuffers;
  /** Rows of a decode step at most. */
  seats: number;
  policy: ExpertPolicyName;
  ablation: ExpertAblation | undefined;
  readBackMs: number | undefined;
  /** The next routers; absent: their choices are not predicted unless a predictor is loaded. */
  guesses: Guesses | undefined;
  hiddenSize: number;
}

export class Experts {
  readonly cache: ExpertCache;
  readonly log = new ExpertLog();
  /** The learned predictor in use. */
  predictor: ExpertPredictor | undefined;
  private readonly parts: ExpertsParts;
  private readonly fetcher: ExpertFetcher;
  private readonly exact: ExactExperts;

  constructor(parts: ExpertsParts) {
    const { arena, policy, ablation } = parts;
    const { layers, experts, chosen, classes } = arena.plan;
    const matrices = layers[0]?.matrices.length ?? 0;
    this.parts = parts;
    const shape = { layers: layers.length, experts, chosen, matrices, classes };
    this.cache = new ExpertCache(shape, { policy, ...ablation });
    const own = { ...parts, cache: this.cache, log: this.log };
    this.fetcher = new ExpertFetcher(own);
    this.exact = new ExactExperts({ ...own, fetcher: this.fetcher });
    const { recorder, stepGroup, guesses } = parts;
    const record = (ops: readonly Op[], step: StepShape): void => recorder.run(ops, stepGroup, step);
    if (guesses) this.exact.lookAhead = new RouterLookAhead(guesses, this.cache, recorder, record);
  }

  /** Predictions come from a learned predictor from now on. */
  use(predictor: ExpertPredictor): void {
    const { kept, hiddenSize, arena } = this.parts;
    const { layers, experts, chosen } = arena.plan;
    const sizes = { layers: layers.length, experts, chosen, hiddenSize };
    this.predictor = predictor;
    this.exact.lookAhead = new LearnedLookAhead(predictor, this.cache, kept.seen, sizes);
  }

  /** Runs a program's layers; what stands behind the last experts runs with the next read. */
  run(program: Program, step: StepShape, phase: ExpertPhase): Promise<void> {
    return this.exact.run(program, step, phase);
  }

  get figures(): ExpertFigures {
    const { arena, store, policy } = this.parts;
    const { layers, experts, chosen, classes, bytes } = arena.plan;
    const { copies } = arena;
    const residents = layers.map((_, layer) =>
      Array.from({ length: experts }, (_, expert) => expert).filter(
        (expert) => this.cache.slotOf(layer, expert) !== undefined,
      ),
    );
    return {
      ...{ policy, layers: layers.length, experts, chosen, slotBytes: bytes },
      slots: classes.reduce((sum, { slots }) => sum + slots, 0),
      ...{ resident: residents.flat().length, residents },
      ...{ ramBytes: store.keptBytes, maxRamBytes: store.mostBytes, read: { ...store.stats } },
      ...{
        cache: structuredClone(this.cache.stats),
        rates: ratesOf(this.cache.stats),
        waits: { ...this.log.waits },
      },
      ...(copies && { copies: { bytes: copies.bytes, error: copies.error, ...this.log.copied } }),
    };
  }

  /** On the GPU, beside slots and copies. */
  get workspaceBytes(): number {
    return this.exact.bytes;
  }

  get shape(): { layers: number; experts: number } {
    const { layers, experts } = this.parts.arena.plan;
    return { layers: layers.length, experts };
  }

  /** The experts that were needed, the most needed first. */
  needed(): ExpertId[] {
    return this.cache.needed();
  }

  /** Fetches experts into slots that are free, while nothing else is to be fetched. */
  warm(experts: readonly ExpertId[]): void {
    this.cache.warm(experts);
    this.fetcher.pump();
  }

  destroy(): void {
    this.fetcher.close();
    this.exact.destroy();
  }
}
