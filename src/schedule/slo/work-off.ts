/**
 * Works an engine's queue off in advance: prompts by rank, a chunk and a decode step in turns, as the scheduler plans them, with seats
 * that become free when answers have come to their usual length. It tells when each prompt would have its first token, and how far
 * apart tokens would be. Who else will arrive is not guessed. Pure arithmetic on a snapshot of the load; it decides nothing.
 */
import type { StepCosts } from "../cost/model.ts";
import type { ChunkLimit } from "../queue/chunk.ts";
import { byRank, type Rank } from "../queue/order.ts";
import type { Objectives } from "./objectives.ts";
import type { PromptLoad, SchedulerLoad } from "./load.ts";

/** Chunks that are worked off one by one; what is left behind them is taken to go on at the rate so far. */
const MAX_CHUNKS = 2048;

export interface WorkTerms {
  /** What steps take in the mean, and slow ones: times are sums of the former, and gaps between tokens judged by the latter. */
  costs: StepCosts;
  slow: StepCosts;
  chunkLimit: ChunkLimit;
  /** Tokens that an answer still gets which has so many. */
  answerLeft(tokens: number): number;
  /** What steps that are submitted already still take. */
  busyMs?: number;
}

/** A prompt that would be computed. */
export interface First {
  id: number;
  /** When it would have its first token, from now on. */
  atMs: number;
  contextTokens: number;
  objectives: Objectives;
}

/** A gap between two tokens, and the objective that is tightest for it. */
export interface Strain {
  predictedMs: number;
  limitMs: number;
}

/** What one request's time to first token is made of. */
export interface OwnTimes {
  queueMs: number;
  loadMs: number;
  prefillMs: number;
  /** Decode steps of others between its chunks. */
  decodeMs: number;
  /** Prompts that are done before its own. */
  ahead: number;
  /** The longest gap between two of its own tokens, as slow steps go. */
  tbtMs: number;
}

export interface Outlook {
  /** In the order in which they would be done. */
  firsts: First[];
  /** Of the prompt that is asked about, if one is. */
  own: OwnTimes;
  /** Of others' gaps with a chunk of the prompt that is asked about, the one that is worst for its objective. */
  strain: Strain | undefined;
}

interface Row {
  id: number;
  computed: number;
  /** Tokens that are still to come. */
  left: number;
  objectives: Objectives;
}

/** As place.ts has it. */
class Prompt implements Rank {
  readonly load: PromptLoad;
  from: number;
  remainingTokens: number;
  isSeated: boolean;
  patience: number;

  constructor(load: PromptLoad, isSeated: boolean) {
    this.load = load;
    this.from = load.from;
    this.remainingTokens = load.remainingTokens;
    this.isSeated = isSeated;
    this.patience = load.patience;
  }

  get isDue(): boolean {
    return this.patience <= 0;
  }

  get priority(): Rank["priority"] {
    return this.load.priority;
  }

  get isResumed(): boolean {
    return this.load.isResumed;
  }

  get arrival(): number {
    return this.load.arrival;
  }
}

/** @param own one that is not submitted, and what loading its stored blocks takes */
export function workOff(
  load: SchedulerLoad,
  terms: WorkTerms,
  own?: { prompt: PromptLoad; loadMs: number },
): Outlook {
  const work = new Work(load, terms, own);
  work.run();
  return { firsts: work.firsts, own: work.own, strain: work.strain };
}

class Work {
  readonly firsts: First[] = [];
  readonly own: OwnTimes = { queueMs: 0, loadMs: 0, prefillMs: 0, decodeMs: 0, ahead: 0, tbtMs: 0 };
  strain: Strain | undefined;
  private readonly terms: WorkTerms;
  private readonly asked: { prompt: PromptLoad; loadMs: number } | undefined;
  private readonly prompts: Prompt[];
  private rows: Row[];
  private seats: number;
  private readonly promptsUnderWay: number;
  private readonly decodesNext: boolean;
  private nowMs: number;
  private hasBegun = false;
  /** A chunk of its own was computed since the last decode step. */
  private isOwnChunk = false;
  /** Chunks since the last decode step, as slow steps go, and those of them since its own first token. */
  private chunkMs = 0;
  private ownChunkMs = 0;

  constructor(load: SchedulerLoad, terms: WorkTerms, asked: Work["asked"]) {
    this.terms = terms;
    this.asked = asked;
    this.seats = load.seats;
    this.nowMs = terms.busyMs ?? 0;
    this.rows = load.running.map(({ id, contextTokens, generatedTokens, leftTokens, objectives }) => {
      const left = Math.min(leftTokens, Math.max(1, Math.round(terms.answerLeft(generatedTokens))));
      return { id, computed: contextTokens, left, objectives };
    });
    this.prompts = [
      ...load.prefilling.map((each) => new Prompt(each, true)),
      ...load.waiting.map((each) => new Prompt(each, false)),
      ...(asked ? [new Prompt(asked.prompt, false)] : []),
    ];
    this.promptsUnderWay = load.promptsUnderWay;
    this.decodesNext = load.decodesNext;
  }

  run(): void {
    if (this.decodesNext && this.rows.length > 0) this.decode(true);
    for (let chunks = 0; this.prompts.length > 0 && chunks < MAX_CHUNKS;) {
      const prompt = this.next();
      if (prompt) {
        this.computeChunk(prompt);
        chunks++;
      }
      if (this.rows.length > 0) this.decode(prompt !== undefined);
      else if (!prompt) return;
    }
    this.extrapolate();
    if (this.rows.some((row) => this.isOwn(row)) && this.own.tbtMs === 0) this.decode(true);
  }

  /** The first that has a seat, or finds one. */
  private next(): Prompt | undefined {
    const seated = this.prompts.filter(({ isSeated }) => isSeated).length;
    const isFree = seated < this.promptsUnderWay && this.rows.length + seated < this.seats;
    let first: Prompt | undefined;
    for (const prompt of this.prompts)
      if ((isFree || prompt.isSeated) && (!first || byRank(prompt, first) < 0)) first = prompt;
    if (first) first.isSeated = true;
    return first;
  }

  private computeChunk(prompt: Prompt): void {
    const { chunkLimit, costs, slow } = this.terms;
    const { from, remainingTokens, load } = prompt;
    const tokens = Math.min(remainingTokens, Math.max(1, chunkLimit(from, this.rows)));
    if (this.isOwn(load)) {
      this.begin();
      this.isOwnChunk = true;
    }
    const ms = costs.prefillMs(tokens, from);
    this.nowMs += ms;
    this.chunkMs += slow.prefillMs(tokens, from);
    this.ownChunkMs += slow.prefillMs(tokens, from);
    if (this.isOwn(load)) this.own.prefillMs += ms;
    prompt.from += tokens;
    prompt.remainingTokens -= tokens;
    prompt.patience += tokens;
    for (const other of this.prompts) if (other.arrival < prompt.arrival) other.patience -= tokens;
    if (prompt.remainingTokens === 0) this.finish(prompt);
  }

  /** What is loaded of it is loaded while others run. */
  private begin(): void {
    if (this.hasBegun) return;
    this.hasBegun = true;
    this.own.loadMs = Math.max(0, (this.asked?.loadMs ?? 0) - this.nowMs);
    this.nowMs += this.own.loadMs;
  }

  private finish(prompt: Prompt): void {
    const { load, from } = prompt;
    const { id, objectives, leftTokens } = load;
    if (this.isOwn(load)) this.ownIsDone();
    this.firsts.push({ id, atMs: this.nowMs, contextTokens: from, objectives });
    this.prompts.splice(this.prompts.indexOf(prompt), 1);
    const left = Math.min(leftTokens, Math.round(this.terms.answerLeft(0))) - 1; // one has come
    if (left > 0) this.rows.push({ id, computed: from, left, objectives });
  }

  /** Where another came between its chunks, it waited for that. */
  private ownIsDone(): void {
    const { own, nowMs } = this;
    this.ownChunkMs = 0;
    own.ahead = this.firsts.length;
    own.queueMs = nowMs - own.loadMs - own.prefillMs - own.decodeMs;
  }

  /** One step; where no prompt can go on, all steps until a seat is free. */
  private decode(isOne: boolean): void {
    const { costs, slow } = this.terms;
    const { rows } = this;
    const untilEnd = rows.reduce((least, { left }) => Math.min(least, left), Infinity);
    if (!isOne && untilEnd === Infinity) this.seats = Infinity; // nobody knows when one ends
    const steps = isOne || untilEnd === Infinity ? 1 : untilEnd;
    const context = rows.reduce((sum, { computed }) => sum + computed, 0);
    const ms = steps * costs.decodeMs(rows.length, context + (rows.length * (steps - 1)) / 2);
    this.nowMs += ms;
    if (this.hasBegun && this.prompts.some(({ load }) => this.isOwn(load))) this.own.decodeMs += ms;
    this.gap(slow.decodeMs(rows.length, context));
    this.chunkMs = this.ownChunkMs = 0;
    for (const row of rows) {
      row.computed += steps;
      row.left -= steps;
    }
    this.rows = rows.filter(({ left }) => left > 0);
  }

  /** Those that decode have waited for chunks and a step. */
  private gap(stepMs: number): void {
    const others = this.rows.filter((row) => !this.isOwn(row));
    if (others.length < this.rows.length) this.own.tbtMs = Math.max(this.own.tbtMs, this.ownChunkMs + stepMs);
    if (!this.isOwnChunk) return;
    this.isOwnChunk = false;
    const limitMs = others.reduce(
      (least, { objectives: { tbtMs = Infinity } }) => Math.min(least, tbtMs),
      Infinity,
    );
    const predictedMs = this.chunkMs + stepMs;
    if (predictedMs / limitMs > (this.strain ? this.strain.predictedMs / this.strain.limitMs : 0))
      this.strain = { predictedMs, limitMs };
  }

  /** Prompts that are left go on as slowly as those before them. */
  private extrapolate(): void {
    const done = this.nowMs / this.firsts.reduce((sum, { contextTokens }) => sum + contextTokens, 1);
    for (const prompt of this.prompts.toSorted(byRank)) {
      if (this.isOwn(prompt.load)) this.begin();
      this.nowMs += prompt.remainingTokens * done;
      if (this.isOwn(prompt.load)) this.own.prefillMs += prompt.remainingTokens * done;
      prompt.from += prompt.remainingTokens;
      this.finish(prompt);
    }
  }

  private isOwn({ id }: { id: number }): boolean {
    return id === this.asked?.prompt.id;
  }
}
