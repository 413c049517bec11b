/**
 * Replays an activation trace against the very expert cache of the engine, in simulated time: how fast a model would run whose
 * experts do not all fit on the GPU. Steps run as the engine's do: a group of layers is submitted without a stop; then what its
 * routers chose is read back; if a layer missed an expert, the group runs again from there. It computes no tokens.
 */
import {
  guessesOf,
  usesOf,
  type ActivationStep,
  type ActivationTrace,
} from "../../cache/experts/activations.ts";
import type { ExpertId, GuessOrigin } from "../../cache/experts/entry.ts";
import { ExpertCache } from "../../cache/experts/expert-cache.ts";
import type { ExpertStats, GuessCounts } from "../../cache/experts/stats.ts";
import { FetchClock, type ExpertMachine } from "./machine.ts";
import type { ExpertStrategy } from "./strategies.ts";

export interface ExpertReplayOptions {
  strategy: ExpertStrategy;
  /** Share of all experts that the GPU has slots for. */
  rate: number;
  machine: ExpertMachine;
  /** Layers that are submitted together in a decode step. */
  groupLayers: number;
}

export interface ExpertReplayRow {
  strategy: string;
  rate: number;
  /** Experts that were there when they were chosen, in decode steps; and those that came before they were waited for. */
  hitRate: number;
  prefillTokensPerSecond: number;
  decodeTokensPerSecond: number;
  /** Share of the time of decode steps in which they waited for experts. */
  stallShare: number;
  /** Of guesses; null if nothing was guessed. */
  accuracy: number | null;
  fetchRate: number | null;
  goodPred: number | null;
  /** Accuracy times fetch rate by distance, from 1; null where nothing was guessed. */
  goodPredByDistance: (number | null)[];
  /** Megabytes for each token of a decode step: fetched because a layer waited; ahead and used; ahead and in vain. */
  demandMb: number;
  usedMb: number;
  wastedMb: number;
}

/** How much of a layer's time its experts take: what a second run from the router on repeats. */
const EXPERT_SHARE = 0.6;

/** Replays the whole trace; if it has several requests, the first fills the caches and is not counted. */
export function replayExperts(trace: ActivationTrace, options: ExpertReplayOptions): ExpertReplayRow {
  const replay = new Replay(trace, options);
  const second = secondRequest(trace);
  trace.steps.forEach((step, i) => {
    if (i === second) replay.reset();
    replay.run(step);
  });
  return replay.row();
}

/** The index of the first step of the second request; undefined if there is only one. */
function secondRequest({ steps }: ActivationTrace): number | undefined {
  const at = steps.findIndex(({ phase }, i) => phase === "prefill" && steps[i - 1]?.phase === "decode");
  return at < 0 ? undefined : at;
}

interface Sums {
  prefillTokens: number;
  prefillMs: number;
  decodeTokens: number;
  decodeMs: number;
  decodeStallMs: number;
  uses: number;
  hits: number;
}

const NO_SUMS: Sums = {
  ...{ prefillTokens: 0, prefillMs: 0, decodeTokens: 0, decodeMs: 0, decodeStallMs: 0, uses: 0, hits: 0 },
};

type ByteCounts = Pick<ExpertStats, "bytesDemand" | "bytesUsed" | "bytesWasted">;

class Replay {
  private readonly trace: ActivationTrace;
  private readonly options: ExpertReplayOptions;
  private readonly cache: ExpertCache;
  private readonly clock: FetchClock;
  private readonly layers: number;
  private sums = { ...NO_SUMS };
  private bytes: ByteCounts = { bytesDemand: 0, bytesUsed: 0, bytesWasted: 0 };

  constructor(trace: ActivationTrace, options: ExpertReplayOptions) {
    const { header } = trace;
    const { strategy, machine, rate } = options;
    const layers = header.layers.map((_, layer) => layer);
    const all = layers.length * header.experts;
    const slots = strategy.isResident ? all : Math.max(header.chosen, Math.round(rate * all));
    this.trace = trace;
    this.options = options;
    this.layers = layers.length;
    const { experts, chosen, matrixBytes } = header;
    const shape = { layers: layers.length, experts, chosen, matrices: matrixBytes.length };
    this.cache = new ExpertCache({ ...shape, classes: [{ layers, slots, matrixBytes }] }, strategy.cache);
    this.clock = new FetchClock(this.cache, machine, matrixBytes);
    if (strategy.isResident) this.fill(everyExpert(layers.length, experts));
    if (strategy.cache.policy === "static") this.fill(this.mostUsed());
  }

  run(step: ActivationStep): void {
    const { clock, sums } = this;
    const [fromMs, stalledMs] = [clock.nowMs, clock.stallMs];
    this.cache.beginStep(step.phase);
    if (step.phase === "prefill") this.prefill(step);
    else this.decode(step);
    this.cache.endStep();
    const tookMs = clock.nowMs - fromMs;
    if (step.phase === "prefill") {
      sums.prefillTokens += step.tokens;
      sums.prefillMs += tookMs;
    } else {
      sums.decodeTokens += step.tokens;
      sums.decodeMs += tookMs;
      sums.decodeStallMs += clock.stallMs - stalledMs;
    }
  }

  /** Counts from here. */
  reset(): void {
    this.sums = { ...NO_SUMS };
    const { stats } = this.cache;
    for (const counts of [...stats.guessesByLayer, ...stats.guessesByDistance])
      Object.assign(counts, { guessed: 0, used: 0, ready: 0, good: 0 });
    Object.assign(this.bytes, { bytesDemand: 0, bytesUsed: 0, bytesWasted: 0 });
  }

  row(): ExpertReplayRow {
    const { sums, bytes } = this;
    const { strategy, rate } = this.options;
    const { guessesByDistance } = this.cache.stats;
    const all = guessesByDistance.reduce(
      (sum, { guessed, used, ready }) => ({
        ...{ guessed: sum.guessed + guessed, used: sum.used + used, ready: sum.ready + ready },
      }),
      { guessed: 0, used: 0, ready: 0 },
    );
    const mb = (count: number): number => count / 1e6 / Math.max(1, sums.decodeTokens);
    const { distances } = this.trace.header;
    return {
      ...{ strategy: strategy.name, rate: strategy.isResident ? 1 : rate },
      hitRate: sums.uses === 0 ? 1 : sums.hits / sums.uses,
      prefillTokensPerSecond: (1000 * sums.prefillTokens) / sums.prefillMs,
      decodeTokensPerSecond: (1000 * sums.decodeTokens) / sums.decodeMs,
      stallShare: sums.decodeStallMs / sums.decodeMs,
      accuracy: share(all.used, all.guessed),
      fetchRate: share(all.ready, all.guessed),
      goodPred: goodPred(all),
      goodPredByDistance: distances.map((distance) => goodPred(guessesByDistance[distance])),
      ...{ demandMb: mb(bytes.bytesDemand), usedMb: mb(bytes.bytesUsed), wastedMb: mb(bytes.bytesWasted) },
    };
  }

  /** Resident experts first, the others as they arrive; each once for all tokens. */
  private prefill(step: ActivationStep): void {
    const { machine } = this.options;
    for (let layer = 0; layer < this.layers; layer++) {
      const uses = usesOf(this.trace.header, step, layer);
      const total = uses.reduce((sum, { tokens }) => sum + tokens, 0);
      const layerMs = machine.promptTokenMs * step.tokens;
      const tokensOf = new Map(uses.map(({ expert, tokens }) => [expert, tokens]));
      this.clock.pass(layerMs * (1 - EXPERT_SHARE) + machine.readBackMs);
      const { resident, missing } = this.cache.choose(layer, uses, "prefill");
      const compute = (experts: readonly number[]): void => {
        const tokens = experts.reduce((sum, expert) => sum + tokensOf.get(expert)!, 0);
        // Their pass is submitted, and reads its slots before anything that is written behind it.
        this.cache.ran(layer, experts);
        this.clock.pass(machine.passMs + (layerMs * EXPERT_SHARE * tokens) / total);
      };
      if (resident.length > 0) compute(resident);
      this.inWaves(layer, missing, compute);
      this.cache.release(layer);
    }
  }

  /** Runs what is missing as it arrives; without reordering strictly one after the other. */
  private inWaves(
    layer: number,
    missing: readonly number[],
    run: (experts: readonly number[]) => void,
  ): void {
    const isOrdered = this.options.strategy.cache.reorders === false;
    const left = new Set(missing);
    const ready = (): number[] => {
      const experts = isOrdered ? [...left].slice(0, 1) : [...left];
      return experts.filter((expert) => this.cache.slotOf(layer, expert) !== undefined);
    };
    while (left.size > 0) {
      this.clock.waitFor(() => ready().length > 0);
      const wave = ready();
      for (const expert of wave) left.delete(expert);
      run(wave);
    }
  }

  private decode(step: ActivationStep): void {
    const { machine, groupLayers } = this.options;
    const before = { ...this.byteCounts() };
    for (let first = 0; first < this.layers; first += groupLayers) {
      const last = Math.min(first + groupLayers, this.layers) - 1;
      this.clock.pass((last - first + 1) * machine.layerMs);
      if (!this.hasAll(first, last)) this.clock.pass(machine.readBackMs);
      this.guess(step, last, last + 1, this.layers - 1);
      for (let layer = first; layer <= last; layer++) this.decodeLayer(step, layer, last);
    }
    const after = this.byteCounts();
    for (const name of ["bytesDemand", "bytesUsed", "bytesWasted"] as const)
      this.bytes[name] += after[name] - before[name];
  }

  /** Whether nothing needs to be known of a group's routers. */
  private hasAll(first: number, last: number): boolean {
    for (let layer = first; layer <= last; layer++) if (!this.cache.hasAll(layer)) return false;
    return true;
  }

  /** If something is missing, the group runs again from here when it is there. */
  private decodeLayer(step: ActivationStep, layer: number, last: number): void {
    const { machine } = this.options;
    const uses = usesOf(this.trace.header, step, layer);
    const { resident, missing } = this.cache.choose(layer, uses, "decode");
    const isThere = uses.filter(({ expert }) => this.cache.slotOf(layer, expert) !== undefined).length;
    this.sums.uses += uses.length;
    this.sums.hits += isThere;
    this.cache.ran(layer, resident);
    if (missing.length > 0) {
      // What the later layers of the failed run chose is a guess.
      this.guess(step, layer, layer + 1, last, "run");
      this.inWaves(layer, missing, (experts) => this.cache.ran(layer, experts));
      const rest = last - layer + EXPERT_SHARE;
      this.clock.pass(rest * machine.layerMs + machine.readBackMs);
    }
    this.cache.release(layer);
  }

  private guess(
    step: ActivationStep,
    behind: number,
    from: number,
    to: number,
    origin: GuessOrigin = "router",
  ): void {
    const { guesses: kept } = this.options.strategy;
    if (kept === 0) return;
    const { header } = this.trace;
    for (let layer = from; layer <= to; layer++) {
      const guesses = guessesOf(header, step, layer, layer - behind);
      if (guesses)
        this.cache.predict(layer, guesses.slice(0, Math.round(kept * header.chosen)), behind, origin);
    }
  }

  private byteCounts(): ByteCounts {
    const { bytesDemand, bytesUsed, bytesWasted } = this.cache.stats;
    return { bytesDemand, bytesUsed, bytesWasted };
  }

  /** Takes no time. */
  private fill(experts: readonly ExpertId[]): void {
    this.cache.warm(experts);
    for (let fetch = this.cache.nextFetch(); fetch; fetch = this.cache.nextFetch()) this.cache.arrived(fetch);
  }

  /** By the first request: what a static cache would have been told. */
  private mostUsed(): ExpertId[] {
    const { header, steps } = this.trace;
    const counts = new Float64Array(this.layers * header.experts);
    for (const step of steps.slice(0, secondRequest(this.trace)))
      for (let layer = 0; layer < this.layers; layer++)
        for (const { expert, tokens } of usesOf(header, step, layer))
          counts[layer * header.experts + expert]! += tokens;
    return everyExpert(this.layers, header.experts).sort(
      (a, b) => counts[b.layer * header.experts + b.expert]! - counts[a.layer * header.experts + a.expert]!,
    );
  }
}

function everyExpert(layers: number, experts: number): ExpertId[] {
  return Array.from({ length: layers * experts }, (_, i) => ({
    ...{ layer: Math.floor(i / experts), expert: i % experts },
  }));
}

function share(part: number, whole: number): number | null {
  return whole === 0 ? null : part / whole;
}

function goodPred(counts: Omit<GuessCounts, "good"> | undefined): number | null {
  if (!counts || counts.guessed === 0) return null;
  return (counts.used / counts.guessed) * (counts.ready / counts.guessed);
}
