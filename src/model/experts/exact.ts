/**
 * Runs steps of a model of which not all experts are on the GPU, with the results that all would give, but for what copies may
 * stand for (bounded.ts). A step stops behind a router, reads the choices, and runs the layer's experts in waves: those that are there, then the others as they arrive.
 *
 * In decode a step goes on behind routers as if the experts that are there were those that were chosen, and looks later:
 *
 *     ... router 3 | experts 3, layer 4 to its router | experts 4, layer 5 to its router | read the choices of 4 and 5
 *                    known to be there                  a guess
 *
 * If the guess was wrong, the step is put back to what it was behind router 4 (checkpoint.ts), the missing experts are brought,
 * and it runs from there again. What the wrong run chose behind that is a prediction of what will be needed.
 * It decides neither what is fetched nor what is evicted (cache/experts).
 */
import { assert, systemClock } from "../../base.ts";
import type { ExpertCache } from "../../cache/experts/expert-cache.ts";
import type { ExpertGuess, ExpertPhase, ExpertUse, GuessOrigin } from "../../cache/experts/entry.ts";
import { TidepoolError } from "../../errors.ts";
import { guarded } from "../../gpu/guard.ts";
import type { Op, StepShape } from "../../gpu/op.ts";
import type { CommandRecorder, Source } from "../../gpu/recorder.ts";
import type { Program } from "../../gpu/segments.ts";
import type { ExpertArena, Resident } from "./arena.ts";
import { countUses, splitUses, usesOf, type LayerChoices, type SplitUses } from "./bounded.ts";
import { Chances, type Outlook } from "./chances.ts";
import { Checkpoints, type KeptBuffers } from "./checkpoint.ts";
import type { ExpertFetcher } from "./fetcher.ts";
import type { ExpertLog } from "./log.ts";
import type { LookAhead } from "./look-ahead.ts";
import { ReadPace } from "./read-pace.ts";

/** Experts that a prefill waits for before it runs them, while others are still on their way. */
const WAVE = 8;

/** The ops of a program: before the experts of each layer, and the experts themselves. The last entry of `before` ends the step. */
interface Stages {
  before: readonly (readonly Op[])[];
  experts: readonly (readonly Op[])[];
}

export interface ExactParts {
  device: GPUDevice;
  recorder: CommandRecorder;
  stepGroup: GPUBindGroup;
  arena: ExpertArena;
  cache: ExpertCache;
  fetcher: ExpertFetcher;
  log: ExpertLog;
  kept: KeptBuffers;
  /** Rows of a decode step at most. */
  seats: number;
  /** What a read-back takes by itself, in tests. */
  readBackMs: number | undefined;
}

export class ExactExperts {
  /** Absent: the next layers' choices are not predicted. */
  lookAhead: LookAhead | undefined;
  private readonly parts: ExactParts;
  private readonly checkpoints: Checkpoints;
  private readonly stagesOf = new WeakMap<Program, Stages>();
  private readonly chances: Chances;
  private readonly pace: ReadPace;
  /** Submissions that nothing was read behind. */
  private unchecked: Promise<void>[] = [];
  /** Layers whose experts are recorded and not submitted: their slots are theirs until then. */
  private recorded: number[] = [];

  constructor(parts: ExactParts) {
    const { device, recorder, kept, arena, seats } = parts;
    this.parts = parts;
    this.checkpoints = new Checkpoints(device, recorder, kept, arena.plan.layers.length, seats);
    this.chances = new Chances(arena.plan.layers.length);
    this.pace = new ReadPace(parts.readBackMs);
  }

  /** Records a program and runs it up to the last experts; what stands behind them runs with the next read. */
  async run(program: Program, step: StepShape, phase: ExpertPhase): Promise<void> {
    const { cache, recorder, log } = this.parts;
    const started = systemClock.nowMs();
    if (phase === "decode") await this.pace.probe(recorder);
    cache.beginStep(phase);
    try {
      await this.runLayers(this.stages(program), step, phase);
      if (this.recorded.length > 0) this.submit();
      await Promise.all(this.unchecked);
    } catch (error) {
      recorder.discard();
      throw error;
    } finally {
      await Promise.allSettled(this.unchecked);
      this.unchecked = [];
      this.giveBack();
      cache.endStep();
      log.note({ kind: "step", phase, rows: step.rows, ms: systemClock.nowMs() - started });
    }
  }

  /** On the GPU, beside the slots. */
  get bytes(): number {
    return this.checkpoints.bytes;
  }

  destroy(): void {
    this.checkpoints.destroy();
  }

  private async runLayers(stages: Stages, step: StepShape, phase: ExpertPhase): Promise<void> {
    const { length } = stages.experts;
    this.record(stages.before[0], step);
    for (let first = 0; first < length;) {
      const last = phase === "decode" ? this.lastOfGuess(first, step) : first;
      const { choices, shown } = await this.guess(stages, step, first, last, phase);
      const splits = choices.map((each, i) => splitUses(each, (expert) => shown[i]?.has(expert) ?? false));
      const wrong = splits.findIndex(({ uses }, i) => first + i < last && !isShown(uses, shown[i]));
      const stop = wrong < 0 ? last : first + wrong;
      for (let layer = first; layer < stop; layer++)
        this.passed(layer, splits[layer - first] as SplitUses, phase);
      this.predict(choices, first, stop);
      if (stop < last) {
        this.parts.log.waits.guessedWrong++;
        this.checkpoints.putBack(stop, step.rows);
      }
      await this.runExperts(stages, step, stop, choices[stop - first] as LayerChoices, phase);
      this.record(stages.before[stop + 1], step);
      first = stop + 1;
    }
  }

  /** Runs layers `first` to before `last` with the experts that are there, and the router of `last`. */
  private async guess(
    stages: Stages,
    step: StepShape,
    first: number,
    last: number,
    phase: ExpertPhase,
  ): Promise<{ choices: LayerChoices[]; shown: ReadonlyMap<number, number>[] }> {
    const { rows } = step;
    const shown: ReadonlyMap<number, number>[] = [];
    const sources: Source[] = [];
    for (let layer = first; layer <= last; layer++) {
      if (phase === "decode") this.checkpoints.keep(layer, rows);
      sources.push(...this.choiceSources(layer, rows, phase));
      if (layer === last) break;
      const residents = this.residents(layer);
      shown.push(new Map(residents));
      const { arena } = this.parts;
      arena.show(layer, residents, arena.copies && absent(residents, arena.plan.experts));
      this.record(stages.experts[layer], step);
      this.record(stages.before[layer + 1], step);
    }
    const questions = (phase === "decode" && this.lookAhead?.behind(last, step)) || [];
    const all = [...sources, ...questions.map(({ source }) => source)];
    const { device, recorder, log } = this.parts;
    const started = systemClock.nowMs();
    const reading = guarded(device, "a step with experts", () => recorder.read(all));
    this.giveBack();
    const read = await log.readBack(reading);
    if (phase === "decode") this.pace.note(last - first + 1, systemClock.nowMs() - started);
    for (const [i, { answer }] of questions.entries())
      for (const { layer, guesses } of answer(read[sources.length + i] as ArrayBuffer))
        this.guessLayer(layer, guesses, last);
    return { choices: this.choicesOf(read.slice(0, sources.length), last - first + 1), shown };
  }

  private choiceSources(layer: number, rows: number, phase: ExpertPhase): Source[] {
    if (phase === "decode") return [this.checkpoints.choices(layer, rows)];
    const { choices, weights } = this.parts.kept;
    return [choices, weights].map(({ buffer, rowBytes }) => ({ buffer, bytes: rows * rowBytes }));
  }

  private choicesOf(read: readonly ArrayBuffer[], layers: number): LayerChoices[] {
    const each = read.length / layers;
    return Array.from({ length: layers }, (_, i): LayerChoices => {
      const [first, second] = read.slice(i * each, (i + 1) * each) as [ArrayBuffer, ArrayBuffer?];
      if (second)
        return { experts: new Uint32Array(first), weights: new Float32Array(second), unimportant: undefined };
      const part = first.byteLength / 3;
      const unimportant = this.parts.arena.copies && new Uint32Array(first, 2 * part);
      return {
        ...{ experts: new Uint32Array(first, 0, part / 4), weights: new Float32Array(first, part, part / 4) },
        unimportant,
      };
    });
  }

  /** The layer behind whose router the step stops next. */
  private lastOfGuess(first: number, { rows }: StepShape): number {
    const { cache, arena } = this.parts;
    const most = rows * arena.plan.chosen;
    const outlookOf = (layer: number): Outlook => {
      const isThere = cache.expects(layer, most);
      return isThere === undefined ? "unknown" : isThere ? "good" : "bad";
    };
    return this.chances.lastOfGuess(first, outlookOf, (layers) => this.pace.ms(layers));
  }

  /** A layer that ran as it should have, by guess. */
  private passed(layer: number, split: SplitUses, phase: ExpertPhase): void {
    const { cache, log } = this.parts;
    const { resident, missing } = cache.choose(layer, split.uses, phase);
    cache.ran(layer, resident);
    cache.release(layer);
    log.waits.guessedRight++;
    const low = this.noteLow(layer, split, phase);
    log.note({ kind: "chose", layer, resident: [...resident, ...missing], missing: [], low, guessed: true });
    if (phase === "decode") this.chances.note(layer, true);
  }

  /** What a run with experts missing chose behind them will be chosen again, for the most part. */
  private predict(choices: readonly LayerChoices[], first: number, stop: number): void {
    for (const [i, { experts, weights }] of choices.entries())
      if (first + i > stop) this.guessLayer(first + i, guessesOf(usesOf(experts, weights)), stop, "run");
  }

  /** What copies stood for is counted, and brought for the tokens to come if there is time. */
  private noteLow(layer: number, split: SplitUses, phase: ExpertPhase): number[] {
    if (phase === "decode") countUses(this.parts.log.copied, split);
    if (split.low.length > 0) this.guessLayer(layer, guessesOf(split.low), layer, "run");
    return split.low.map(({ expert }) => expert);
  }

  private guessLayer(
    layer: number,
    guesses: readonly ExpertGuess[],
    madeBehind: number,
    origin?: GuessOrigin,
  ): void {
    const { cache, log } = this.parts;
    if (!cache.predicts) return;
    cache.predict(layer, guesses, madeBehind, origin);
    log.note({ kind: "predicted", layer, madeBehind, experts: guesses.map(({ expert }) => expert) });
  }

  private async runExperts(
    stages: Stages,
    step: StepShape,
    layer: number,
    choices: LayerChoices,
    phase: ExpertPhase,
  ): Promise<void> {
    const { arena, cache, fetcher, log } = this.parts;
    const split = splitUses(choices, (expert) => cache.slotOf(layer, expert) !== undefined);
    const { resident, missing } = cache.choose(layer, split.uses, phase);
    const low = this.noteLow(layer, split, phase);
    log.note({ kind: "chose", layer, resident, missing, low, guessed: false });
    if (phase === "decode") this.chances.note(layer, missing.length === 0);
    this.recorded.push(layer);
    for (const expert of missing) fetcher.takeFailure(layer, expert); // of an earlier attempt
    fetcher.pump();
    const inOne = phase === "decode" && split.uses.length <= arena.slotsOf(layer);
    let left: readonly number[] = missing;
    let [ready, copied]: [readonly number[], readonly number[]] = [resident, low];
    if (left.length > 0 && !inOne && ready.length + copied.length > 0) {
      this.runWave(stages, step, layer, ready, copied);
      [ready, copied] = [[], []];
    }
    while (left.length > 0) {
      // Those that wait to run hold slots, which a policy may not be able to spare.
      const isHolding = ready.length > 0;
      const arrived = await this.nextReady(layer, left, phase, isHolding);
      left = left.filter((expert) => !arrived.includes(expert));
      ready = [...ready, ...arrived];
      if (left.length === 0) break;
      this.runWave(stages, step, layer, ready, copied);
      [ready, copied] = [[], []];
    }
    if (ready.length + copied.length > 0) this.recordWave(stages, step, layer, ready, copied);
  }

  /** Waits until enough of the missing experts are there; none if others must run first. @throws what a fetch failed with */
  private async nextReady(
    layer: number,
    left: readonly number[],
    phase: ExpertPhase,
    isHolding: boolean,
  ): Promise<number[]> {
    const { cache, fetcher, log } = this.parts;
    const enough = phase === "prefill" ? Math.min(WAVE, left.length) : left.length;
    for (;;) {
      for (const expert of left) {
        const failure = fetcher.takeFailure(layer, expert);
        if (failure) throw failure;
      }
      const ready = left.filter((expert) => cache.slotOf(layer, expert) !== undefined);
      if (ready.length >= enough) return ready;
      const { progress } = fetcher;
      fetcher.pump();
      if (fetcher.isBusy) await log.stall(layer, progress);
      else if (ready.length > 0 || isHolding) return ready;
      else throw new TidepoolError("internal", `nothing brings experts ${left.join(", ")} of layer ${layer}`);
    }
  }

  /** Runs some of a layer's experts now, and gives their slots back. */
  private runWave(
    stages: Stages,
    step: StepShape,
    layer: number,
    experts: readonly number[],
    low: readonly number[],
  ): void {
    const { cache, fetcher } = this.parts;
    this.recordWave(stages, step, layer, experts, low);
    this.submit();
    cache.ran(layer, experts);
    fetcher.pump();
  }

  private recordWave(
    stages: Stages,
    step: StepShape,
    layer: number,
    experts: readonly number[],
    low: readonly number[],
  ): void {
    const residents = experts.map((expert): Resident => [expert, this.slotOf(layer, expert)]);
    this.parts.arena.show(layer, residents, low);
    this.record(stages.experts[layer], step);
  }

  /** What was recorded is submitted, or dropped: the slots of its experts may be taken. */
  private giveBack(): void {
    const { cache, fetcher } = this.parts;
    for (const layer of this.recorded.splice(0)) cache.release(layer);
    fetcher.pump();
  }

  private slotOf(layer: number, expert: number): number {
    const slot = this.parts.cache.slotOf(layer, expert);
    assert(slot !== undefined, `expert ${expert} of layer ${layer} has left before it ran`);
    return slot;
  }

  private residents(layer: number): Resident[] {
    const { cache, arena } = this.parts;
    return Array.from({ length: arena.plan.experts }, (_, expert) => expert).flatMap((expert): Resident[] => {
      const slot = cache.slotOf(layer, expert);
      return slot === undefined ? [] : [[expert, slot]];
    });
  }

  private record(ops: readonly Op[] | undefined, step: StepShape): void {
    const { recorder, stepGroup } = this.parts;
    if (ops) recorder.run(ops, stepGroup, step);
  }

  private submit(): void {
    const { device, recorder } = this.parts;
    const checked = guarded(device, "a pass over experts", () => recorder.submit());
    checked.catch(() => {}); // awaited at the step's end
    this.unchecked.push(checked);
  }

  private stages(program: Program): Stages {
    const known = this.stagesOf.get(program);
    if (known) return known;
    const made = cut(program.ops);
    assert(
      made.experts.length === this.parts.arena.plan.layers.length,
      "a program with other layers of experts",
    );
    this.stagesOf.set(program, made);
    return made;
  }
}

function cut(ops: readonly Op[]): Stages {
  const before: Op[][] = [[]];
  const experts: Op[][] = [];
  let wasOfExperts = false;
  for (const op of ops) {
    const isOfExperts = op.ofExperts === true;
    if (isOfExperts && !wasOfExperts) experts.push([]);
    if (!isOfExperts && wasOfExperts) before.push([]);
    (isOfExperts ? experts : before).at(-1)?.push(op);
    wasOfExperts = isOfExperts;
  }
  return { before, experts };
}

function isShown(uses: readonly ExpertUse[], shown: ReadonlyMap<number, number> | undefined): boolean {
  return uses.every(({ expert }) => shown?.has(expert));
}

/** Experts that are not there. */
function absent(residents: readonly Resident[], experts: number): number[] {
  const there = new Set(residents.map(([expert]) => expert));
  return Array.from({ length: experts }, (_, expert) => expert).filter((expert) => !there.has(expert));
}

function guessesOf(uses: readonly ExpertUse[]): ExpertGuess[] {
  return uses.map(({ expert, weight }) => ({ expert, score: weight })).sort((a, b) => b.score - a.score);
}
