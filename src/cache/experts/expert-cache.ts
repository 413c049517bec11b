/**
 * The expert cache: which experts of a mixture of experts are in the slots of the GPU, what is fetched next, and what is evicted
 * for it. Synchronous and pure: it is told the router's choices and predictions, hands out fetches one matrix at a time, and is
 * told how they ended. It reads no bytes, waits for nothing and has no clock.
 *
 *     absent --nextFetch--> arriving (1..n matrices) --arrived--> whole --evicted--> absent
 *                               |  ^
 *              its guess dropped v  | chosen, or guessed again
 *                            partial, evicted like a whole one
 */
import { assert } from "../../base.ts";
import { createExpertPolicy } from "./create.ts";
import type {
  ExpertCacheShape,
  ExpertEntry,
  ExpertGuess,
  ExpertId,
  ExpertPhase,
  ExpertUse,
  Fetch,
  FetchCause,
  GuessOrigin,
} from "./entry.ts";
import { newEntry } from "./entry.ts";
import { GuessChances } from "./guess-chances.ts";
import type { ExpertPolicy, ExpertPolicyName } from "./policy.ts";
import { FetchQueue, type QueuedExpert } from "./queue.ts";
import { ExpertSlots } from "./slots.ts";
import { countGuess, newExpertStats, type ExpertStats } from "./stats.ts";

/** Guesses for one layer, at most, for each expert that a token uses. */
const MAX_GUESSES_A_CHOSEN = 4;

/** What is less probable than this is not fetched: the slot that it would take is worth as much to who has it. */
const LEAST_CHANCE = 0.25;

/** Steps over which a use's weight in `needed` falls to half. */
const HEAT_HALF_LIFE_STEPS = 256;

/** Uses are weighted by ever greater numbers instead of ageing all others; beyond this all are scaled down. */
const MAX_HEAT_WEIGHT = 2 ** 64;

export interface ExpertCacheOptions extends ExpertAblation {
  policy: ExpertPolicyName;
}

/** Parts of the cache that can be switched off, to measure what each is worth. */
export interface ExpertAblation {
  /** Whether anything is fetched because it was predicted. Default: true. */
  predicts?: boolean;
  /** Whether another expert's matrix may be fetched between two of one expert. Default: true. */
  chunked?: boolean;
  /** Whether demand overtakes speculation, and a layer's choice drops what was guessed for it. Default: true. */
  preempts?: boolean;
  /** Whether resident experts run first, and are kept until they have. Default: true; otherwise experts run by number. */
  reorders?: boolean;
}

/** What was guessed for a layer from one point, until the layer answers. */
interface Prediction {
  origin: GuessOrigin;
  distance: number;
  /** The best first. */
  all: readonly ExpertEntry[];
  /** Those that are worth a fetch. */
  kept: readonly ExpertEntry[];
}

export class ExpertCache {
  readonly stats: ExpertStats;
  private readonly shape: ExpertCacheShape;
  private readonly options: Required<ExpertCacheOptions>;
  private readonly policy: ExpertPolicy;
  private readonly entries: readonly ExpertEntry[];
  private readonly slots: readonly ExpertSlots[];
  private readonly queue: FetchQueue;
  /** Predictions by layer; of this step, and of the next one. */
  private predictions: [Map<number, Prediction[]>, Map<number, Prediction[]>] = [new Map(), new Map()];
  /** All bits of an expert's matrices. */
  private readonly wholeMask: number;
  private readonly guessesKept: number;
  private readonly guessChances = new GuessChances();
  private phase: ExpertPhase = "decode";
  private step = 0;
  private now = 0;
  private heatWeight = 1;
  /** Without chunks: the expert of which the rest must be fetched before anything else. */
  private begun: QueuedExpert | undefined;

  constructor(shape: ExpertCacheShape, options: ExpertCacheOptions) {
    const classOf = classesOf(shape);
    this.shape = shape;
    this.options = { predicts: true, chunked: true, preempts: true, reorders: true, ...options };
    this.policy = createExpertPolicy(options.policy, shape, this.options.reorders);
    this.entries = Array.from({ length: shape.layers * shape.experts }, (_, i) => {
      const layer = Math.floor(i / shape.experts);
      return newEntry({ layer, expert: i % shape.experts }, classOf[layer]!);
    });
    this.slots = shape.classes.map(({ slots }) => new ExpertSlots(slots));
    this.queue = new FetchQueue(this.options.preempts);
    this.wholeMask = 2 ** shape.matrices - 1;
    this.guessesKept = MAX_GUESSES_A_CHOSEN * shape.chosen;
    this.stats = newExpertStats(shape.layers);
  }

  /** Whether predictions count. */
  get predicts(): boolean {
    return this.options.predicts;
  }

  /** Whether what a layer waits for overtakes what none does. */
  get preempts(): boolean {
    return this.options.preempts;
  }

  /** The slot of an expert all of whose matrices are there. */
  slotOf(layer: number, expert: number): number | undefined {
    const entry = this.entryOf(layer, expert);
    return this.isWhole(entry) ? entry.slot : undefined;
  }

  /** Whether all experts of a layer are there. */
  hasAll(layer: number): boolean {
    return this.expertsOf(layer).every((entry) => this.isWhole(entry));
  }

  /** Experts in slots: whole, and arriving or partial. */
  counts(): { whole: number; partial: number; free: number } {
    const counts = {
      whole: 0,
      partial: 0,
      free: this.slots.reduce((sum, { freeCount }) => sum + freeCount, 0),
    };
    for (const entry of this.entries)
      if (entry.slot >= 0) counts[this.isWhole(entry) ? "whole" : "partial"]++;
    return counts;
  }

  beginStep(phase: ExpertPhase): void {
    this.phase = phase;
    this.step++;
    this.stats.steps[phase]++;
    this.ageHeat();
    this.policy.begin?.(phase);
  }

  /** Guesses for this step that nobody has used are given up. */
  endStep(): void {
    const next = (this.step + 1) * this.shape.layers;
    this.queue.dropGuesses(({ need }) => need < next);
    this.predictions = [this.predictions[1], new Map()];
  }

  /**
   * The router has chosen. What is missing is queued, before all speculation, and what is there is pinned until it has run. The
   * result is the order in which the experts should run: those that are there, then the others in the order in which they are
   * fetched. (Without `reorders`: by number, and `resident` ends with the first that is missing.)
   */
  choose(
    layer: number,
    uses: readonly ExpertUse[],
    phase: ExpertPhase,
  ): { resident: number[]; missing: number[] } {
    this.phase = phase;
    const chosen = uses.map((use) => ({ use, entry: this.entryOf(layer, use.expert) }));
    this.judge(layer, new Set(chosen.map(({ entry }) => entry)));
    for (const { use, entry } of chosen) this.use(entry, use);
    if (this.options.preempts) this.dropGuessesOf(layer);
    const order = this.options.reorders
      ? chosen.sort(
          (a, b) => this.urgency(b.entry) - this.urgency(a.entry) || compareUses(a.use, b.use, phase),
        )
      : chosen.sort((a, b) => a.use.expert - b.use.expert);
    const entries = order.map(({ entry }) => entry);
    const firstMissing = entries.findIndex((entry) => !this.isWhole(entry));
    const resident = firstMissing < 0 ? entries : entries.slice(0, firstMissing);
    const missing = entries.slice(resident.length);
    for (const entry of resident) entry.isPinned = true;
    for (const entry of missing) this.demand(entry);
    for (const made of this.policy.chose?.(layer, uses) ?? [])
      this.predict(made.layer, made.guesses, layer, "policy");
    return { resident: resident.map(({ expert }) => expert), missing: missing.map(({ expert }) => expert) };
  }

  /**
   * Experts that a layer will probably choose, the best first, predicted from the output of the layer `madeBehind`. They are kept
   * or fetched until the layer has chosen; a later prediction for the layer replaces an earlier one. A prediction for a layer at
   * or above `madeBehind` is one for the next step. In a prefill nothing is predicted: it needs nearly all experts.
   */
  predict(
    layer: number,
    guesses: readonly ExpertGuess[],
    madeBehind: number,
    origin: GuessOrigin = "router",
  ): void {
    if (!this.options.predicts) return;
    const { layers } = this.shape;
    const isNext = layer <= madeBehind;
    if (this.phase === "prefill" && !isNext) return;
    const need = (this.step + (isNext ? 1 : 0)) * layers + layer;
    const distance = isNext ? layer - madeBehind + layers : layer - madeBehind;
    const made = guesses.slice(0, this.guessesKept);
    const all = made.map(({ expert }) => this.entryOf(layer, expert));
    const kept = all.filter(
      (_, place) => this.guessChances.of(origin, distance, place, all.length) >= LEAST_CHANCE,
    );
    this.queue.dropGuesses((guess) => guess.need === need);
    for (const [place, entry] of all.entries())
      if (kept.includes(entry) && !entry.isGuessed) this.queue.addGuess(entry, need, made[place]!.score);
    const predictions = this.predictions[isNext ? 1 : 0];
    const others = (predictions.get(layer) ?? []).filter(
      (one) => one.distance !== distance || one.origin !== origin,
    );
    predictions.set(layer, [...others, { origin, distance, all, kept }]);
  }

  /** Whether the best `most` of a layer's last prediction are there; undefined: nothing is predicted for it. */
  expects(layer: number, most: number): boolean | undefined {
    const made = this.predictions[0].get(layer)?.at(-1);
    return made?.all.slice(0, most).every((entry) => this.isWhole(entry));
  }

  /** Queues experts, the most needed first, for slots that are free; behind everything else. */
  warm(experts: readonly ExpertId[]): void {
    const free = this.slots.reduce((sum, { freeCount }) => sum + freeCount, 0);
    for (const { layer, expert } of experts.slice(0, free)) {
      const entry = this.entryOf(layer, expert);
      if (!this.isWhole(entry)) this.queue.addWarm(entry);
    }
  }

  /**
   * The next matrix to fetch; undefined if there is nothing to fetch, or no slot can be had now.
   * @param speculates whether it may be one that no layer waits for
   */
  nextFetch(speculates = true): Fetch | undefined {
    if (this.begun) {
      const fetch = this.fetchOf(this.begun);
      if (fetch) return fetch;
      this.begun = undefined;
    }
    for (const queued of this.queue.order()) {
      if (!speculates && !queued.entry.isWanted) continue;
      const fetch = this.fetchOf(queued);
      if (!fetch) continue;
      if (!this.options.chunked) this.begun = queued;
      return fetch;
    }
    return undefined;
  }

  /** A matrix is in its slot; whether its expert is whole now. */
  arrived(fetch: Fetch): boolean {
    const entry = this.ended(fetch);
    const bytes = this.shape.classes[entry.classIndex]!.matrixBytes[fetch.matrix]!;
    this.stats.fetches[fetch.cause]++;
    entry.arrived |= 2 ** fetch.matrix;
    if (fetch.cause === "demand") this.stats.bytesDemand += bytes;
    else {
      this.stats.bytesWaiting += bytes;
      entry.unusedBytes += bytes;
      if (entry.isWanted) this.creditBytes(entry);
    }
    if (entry.isLost) this.settleLost(entry);
    const isWhole = this.isWhole(entry);
    if (isWhole) this.queue.dropWarm((queued) => queued === entry);
    return isWhole;
  }

  /** A fetch has failed for good. The expert is not asked for again until it is chosen or guessed anew. */
  failed(fetch: Fetch): void {
    const entry = this.ended(fetch);
    this.stats.failures++;
    entry.isLost = true;
    this.queue.dropDemand((queued) => queued === entry);
    this.queue.dropGuesses((guess) => guess.entry === entry);
    this.queue.dropWarm((queued) => queued === entry);
    this.settleLost(entry);
  }

  /** These have run, or their passes are submitted: their slots may be taken. */
  ran(layer: number, experts: readonly number[]): void {
    const entries = new Set(experts.map((expert) => this.entryOf(layer, expert)));
    for (const entry of entries) {
      assert(this.isWhole(entry), `expert ${entry.expert} of layer ${layer} ran, but is not there`);
      entry.isPinned = false;
    }
    this.queue.dropDemand((entry) => entries.has(entry));
  }

  /** The layer waits for nothing more: it has run, or its step was given up. */
  release(layer: number): void {
    this.queue.dropDemand((entry) => entry.layer === layer);
    for (const entry of this.expertsOf(layer)) entry.isPinned = false;
  }

  /** The experts that were used most, old uses counting less, as many as there are slots: for a warm start. */
  needed(): ExpertId[] {
    const slots = this.slots.reduce((sum, { slotCount }) => sum + slotCount, 0);
    const used = this.entries.filter(({ heat }) => heat > 0).sort((a, b) => b.heat - a.heat);
    return used.slice(0, slots).map(({ layer, expert }) => ({ layer, expert }));
  }

  /** The conservation check: each slot is free, that of one whole expert, or that of one that arrives or is partial. */
  check(): void {
    for (const slots of this.slots) slots.check();
    const queued = this.queue.order();
    const inQueue = (cause: FetchCause): Set<ExpertEntry> =>
      new Set(queued.filter((each) => each.cause === cause).map(({ entry }) => entry));
    const [wanted, guessed] = [inQueue("demand"), inQueue("predicted")];
    let waiting = 0;
    for (const entry of this.entries) {
      const name = `expert ${entry.expert} of layer ${entry.layer}`;
      assert(entry.slot >= 0 || (entry.arrived | entry.moving) === 0, `${name} has matrices but no slot`);
      assert(entry.slot < 0 || (entry.arrived | entry.moving) !== 0, `${name} has a slot but no matrices`);
      assert((entry.arrived & entry.moving) === 0, `${name}: a matrix that is there is fetched`);
      assert(entry.isWanted === wanted.has(entry), `${name} is wanted, but not queued, or the reverse`);
      assert(entry.isGuessed === guessed.has(entry), `${name} is guessed, but not queued, or the reverse`);
      waiting += entry.unusedBytes;
    }
    assert(waiting === this.stats.bytesWaiting, `${waiting} bytes wait, ${this.stats.bytesWaiting} counted`);
  }

  private entryOf(layer: number, expert: number): ExpertEntry {
    const { layers, experts } = this.shape;
    const isKnown = layer >= 0 && layer < layers && expert >= 0 && expert < experts;
    assert(isKnown, `expert ${expert} of layer ${layer}: there are ${experts} in each of ${layers}`);
    return this.entries[layer * experts + expert]!;
  }

  private expertsOf(layer: number): readonly ExpertEntry[] {
    const { experts } = this.shape;
    return this.entries.slice(layer * experts, (layer + 1) * experts);
  }

  private isWhole(entry: ExpertEntry): boolean {
    return entry.arrived === this.wholeMask && !entry.isLost;
  }

  /** Greater for those that are nearer to running: whole ones, then those of which more is there or on its way. */
  private urgency(entry: ExpertEntry): number {
    return this.isWhole(entry) ? Infinity : bitCount(entry.arrived) * 64 + bitCount(entry.moving);
  }

  private demand(entry: ExpertEntry): void {
    // Without reordering, one that is there may be evicted before its turn: it is not pinned.
    if (!this.isWhole(entry)) entry.isPinned = entry.slot >= 0;
    if (!entry.isWanted) this.queue.addDemand(entry);
  }

  private use(entry: ExpertEntry, use: ExpertUse): void {
    const counts = this.stats.layers[entry.layer]!;
    counts.uses++;
    if (this.isWhole(entry)) counts.hits++;
    else if (entry.slot >= 0) counts.late++;
    else counts.missing++;
    entry.heat += this.heatWeight * use.tokens;
    this.creditBytes(entry);
    this.policy.touch(entry, ++this.now, "match");
  }

  /** What was fetched before it was asked for has been of use. */
  private creditBytes(entry: ExpertEntry): void {
    this.stats.bytesUsed += entry.unusedBytes;
    this.stats.bytesWaiting -= entry.unusedBytes;
    entry.unusedBytes = 0;
  }

  /** Compares what was guessed for a layer with what its router chose. */
  private judge(layer: number, chosen: ReadonlySet<ExpertEntry>): void {
    for (const { origin, distance, all, kept } of this.predictions[0].get(layer) ?? []) {
      for (const [place, entry] of all.entries())
        this.guessChances.note(origin, distance, place, all.length, chosen.has(entry));
      for (const entry of kept) {
        const [isUsed, isReady] = [chosen.has(entry), this.isWhole(entry)];
        countGuess(this.stats.guessesByLayer[layer]!, isUsed, isReady);
        countGuess(this.stats.guessesByDistance[distance]!, isUsed, isReady);
      }
    }
    this.predictions[0].delete(layer);
  }

  private dropGuessesOf(layer: number): void {
    const need = this.step * this.shape.layers + layer;
    this.queue.dropGuesses((guess) => guess.need === need);
  }

  /** The next matrix of a queued expert; undefined if none is left to fetch, or it has no slot and can have none. */
  private fetchOf({ entry, cause: queuedFor }: QueuedExpert): Fetch | undefined {
    const rest = this.wholeMask & ~(entry.arrived | entry.moving);
    if (rest === 0 || entry.isLost) return undefined;
    const cause = entry.isWanted ? "demand" : queuedFor;
    const isFirst = entry.slot < 0;
    const victim = isFirst ? this.takeSlot(entry, cause) : undefined;
    if (entry.slot < 0) return undefined;
    if (cause === "demand") entry.isPinned = true;
    const matrix = Math.log2(rest & -rest);
    entry.moving |= 2 ** matrix;
    const { layer, expert, slot } = entry;
    return { layer, expert, matrix, slot, cause, ...(victim ? { evicted: victim } : {}) };
  }

  /** Gives an entry a slot if one can be had; returns whom it was taken from. */
  private takeSlot(entry: ExpertEntry, cause: FetchCause): ExpertId | undefined {
    const slots = this.slots[entry.classIndex]!;
    let victim: ExpertEntry | undefined;
    if (slots.freeCount === 0) {
      victim = cause === "warm" ? this.stopWarming(entry.classIndex) : this.victimFor(entry, cause);
      if (!victim) return undefined;
      this.stats.evictions++;
      this.leaveSlot(victim);
    }
    slots.take(entry);
    entry.insertedAt = ++this.now;
    this.policy.changed(entry);
    if (cause !== "demand") this.policy.touch(entry, this.now, "insert");
    return victim && { layer: victim.layer, expert: victim.expert };
  }

  /** A warm start evicts nothing: it ends when no slot is free. */
  private stopWarming(classIndex: number): undefined {
    this.queue.dropWarm((entry) => entry.classIndex === classIndex && entry.slot < 0);
  }

  /** Whose slot an entry may have: one that nobody is about to run; a guessed one only if a layer waits. */
  private victimFor(entry: ExpertEntry, cause: FetchCause): ExpertEntry | undefined {
    const isFree = (other: ExpertEntry): boolean =>
      other.classIndex === entry.classIndex && other.moving === 0 && !other.isPinned;
    const unguessed = (other: ExpertEntry): boolean => isFree(other) && !other.isGuessed;
    const victim = this.policy.victim(this.now, unguessed, entry.layer);
    if (victim || cause !== "demand") return victim;
    return this.policy.victim(this.now, isFree, entry.layer);
  }

  private leaveSlot(entry: ExpertEntry): void {
    this.stats.bytesWasted += entry.unusedBytes;
    this.stats.bytesWaiting -= entry.unusedBytes;
    entry.unusedBytes = 0;
    this.slots[entry.classIndex]!.give(entry);
    this.policy.removed(entry);
  }

  private ended({ layer, expert, matrix, slot }: Fetch): ExpertEntry {
    const entry = this.entryOf(layer, expert);
    const bit = 2 ** matrix;
    assert(
      entry.slot === slot && (entry.moving & bit) !== 0,
      `matrix ${matrix} of expert ${expert} of layer ${layer} is not on its way to slot ${slot}`,
    );
    entry.moving &= ~bit;
    return entry;
  }

  private settleLost(entry: ExpertEntry): void {
    if (entry.moving !== 0) return;
    entry.isLost = false;
    entry.isPinned = false;
    this.leaveSlot(entry);
  }

  private ageHeat(): void {
    this.heatWeight *= 2 ** (1 / HEAT_HALF_LIFE_STEPS);
    if (this.heatWeight < MAX_HEAT_WEIGHT) return;
    for (const entry of this.entries) entry.heat /= this.heatWeight;
    this.heatWeight = 1;
  }
}

/** The class of each layer. */
function classesOf({ layers, chosen, matrices, classes }: ExpertCacheShape): number[] {
  const classOf = new Array<number>(layers).fill(-1);
  classes.forEach((each, index) => {
    assert(each.slots >= chosen, `${each.slots} slots: a token needs ${chosen} experts of a layer at once`);
    assert(
      each.matrixBytes.length === matrices,
      `sizes of ${each.matrixBytes.length} of ${matrices} matrices`,
    );
    for (const layer of each.layers) {
      assert(classOf[layer] === -1, `layer ${layer} is in two classes, or there are only ${layers}`);
      classOf[layer] = index;
    }
  });
  assert(!classOf.includes(-1), `layer ${classOf.indexOf(-1)} is in no class`);
  return classOf;
}

/** In a prefill, those of more tokens first, since more can be computed meanwhile; in a decode step, those of more weight. */
function compareUses(a: ExpertUse, b: ExpertUse, phase: ExpertPhase): number {
  return phase === "prefill"
    ? b.tokens - a.tokens || a.expert - b.expert
    : b.weight - a.weight || a.expert - b.expert;
}

function bitCount(bits: number): number {
  let count = 0;
  for (let rest = bits; rest !== 0; rest &= rest - 1) count++;
  return count;
}
