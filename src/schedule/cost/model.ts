/**
 * What work costs on this machine, as far as it is known: assumed before anything is measured, fitted as steps, loads and
 * transfers end (fit.ts), and kept by whoever owns it across sessions (`state`). Pure: time is handed in, and choosing by the
 * predictions is for others (restore/, slo/, queue/).
 *
 *     prefill   a0 + a1 * tokens + a2 * tokens * (from + tokens / 2)    a chunk behind `from` tokens
 *     decode    b0 + b1 * rows   + b2 * tokens of context, all rows together
 *     transfer  c0 + c1 * bytes                                         over a link to another machine
 */
import type { GiveWayCosts } from "../queue/pre-emption.ts";
import type { LowerTier } from "../request.ts";
import { MAX_LOADS } from "../restore/restore.ts";
import { PredictionErrors, type ErrorFigures, type PredictedKind } from "./errors.ts";
import { Fit } from "./fit.ts";
import { LoadRate } from "./load-rate.ts";

/** Blocks of the chunk by which computing a block is priced: its share of what each step costs anyway is small. */
const PRICED_BLOCKS = 8;

/** Rates that are assumed until they are measured: a restore finds out soon, but must begin somehow. */
const ASSUMED_BYTES_PER_SECOND = { memory: 4e9, medium: 5e8, link: 1e7, weights: 5e10 };
const ASSUMED_FLOPS_PER_SECOND = { gpu: 5e11, software: 1e9 };
/** The same of what a step, or a transfer, takes beside its work. */
const ASSUMED_STEP_MS = { gpu: 2, software: 5 };
const ASSUMED_LINK_MS = 5;
/** Tokens of context behind which a token is assumed to cost twice what the first does. */
const ASSUMED_DOUBLING_TOKENS = 16_384;

const STATE_VERSION = 1;

/** What is assumed follows from these, before anything is measured. */
export interface CostFacts {
  blockTokens: number;
  bytesPerBlock: number;
  flopsPerToken: number;
  isSoftware: boolean;
  /** The tiers below the GPU. */
  tiers: readonly { name: LowerTier; isInMemory: boolean }[];
}

/** What steps are expected to take: all that predictions need to know of a machine, simulated or not. */
export interface StepCosts {
  /** A chunk of `tokens` behind `from` tokens. */
  prefillMs(tokens: number, from: number): number;
  /** A step of `rows` rows with `contextTokens` tokens of context, all of them together. */
  decodeMs(rows: number, contextTokens: number): number;
}

/** A step that has run: submitted `ms` ago, now at its end. */
export interface StepTime {
  ms: number;
  nowMs: number;
}

/** What was learned, as plain numbers. */
export interface CostState {
  version: number;
  /** Features and milliseconds of measurements that stand for many. */
  prefill: number[][];
  decode: number[][];
  transfer: number[][];
  /** Tokens per second by tier. */
  loads: Record<LowerTier, number>;
}

export class CostModel implements StepCosts, GiveWayCosts {
  /** What cached tokens would have taken to compute. */
  readonly timeSavedMs: Record<LowerTier | "gpu", number>;
  /** Cached tokens whose worth is not known yet. */
  private uncounted: Readonly<Record<LowerTier | "gpu", number>> = {};
  private facts: CostFacts;
  private prefill: Fit;
  private decode: Fit;
  private readonly transfer = new Fit([ASSUMED_LINK_MS, 1000 / ASSUMED_BYTES_PER_SECOND.link]);
  private readonly loads = new Map<LowerTier, LoadRate>();
  private lastStepAtMs = -Infinity;
  private readonly off = {
    prefill: new PredictionErrors(),
    decode: new PredictionErrors(),
    move: new PredictionErrors(),
    ttft: new PredictionErrors(),
  } satisfies Record<PredictedKind, PredictionErrors>;

  constructor(facts: CostFacts) {
    this.facts = facts;
    this.prefill = prefillFit(facts);
    this.decode = decodeFit(facts);
    this.timeSavedMs = Object.fromEntries(
      ["gpu", ...facts.tiers.map(({ name }) => name)].map((name) => [name, 0]),
    );
  }

  /** Another device computes from now on. */
  moveTo(facts: CostFacts): void {
    this.facts = facts;
    this.prefill = prefillFit(facts);
    this.decode = decodeFit(facts);
  }

  /** Whether a prefill step has been measured, here or in an earlier session. */
  get isMeasured(): boolean {
    return this.prefill.isMeasured;
  }

  prefillMs(tokens: number, from: number): number {
    return this.prefill.predict(prefillFeatures(tokens, from));
  }

  decodeMs(rows: number, contextTokens: number): number {
    return this.decode.predict([1, rows, contextTokens]);
  }

  /** What sending `bytes` to another machine, or getting them, is expected to take; undefined until it was measured once. */
  transferMs(bytes: number): number | undefined {
    return this.transfer.isMeasured ? this.transfer.predict([1, bytes]) : undefined;
  }

  /** The loads of one tier, to be told when one begins and ends. */
  loadsOf(tier: LowerTier): LoadRate {
    const known = this.loads.get(tier);
    if (known) return known;
    const { blockTokens } = this.facts;
    const rate = new LoadRate(MAX_LOADS * blockTokens, (tokens, ms) =>
      this.off.move.add((this.loadMs(tier) * tokens) / blockTokens, ms),
    );
    this.loads.set(tier, rate);
    return rate;
  }

  /** What loading one block is expected to take. */
  loadMs(tier: LowerTier): number {
    const { blockTokens, bytesPerBlock, tiers } = this.facts;
    const isInMemory = tiers.some((each) => each.name === tier && each.isInMemory);
    const assumed =
      (blockTokens * ASSUMED_BYTES_PER_SECOND[isInMemory ? "memory" : "medium"]) / bytesPerBlock;
    return (1000 * blockTokens) / (this.loadsOf(tier).perSecond || assumed);
  }

  /** What computing one block is expected to take. */
  computeMs(): number {
    return this.prefillMs(PRICED_BLOCKS * this.facts.blockTokens, 0) / PRICED_BLOCKS;
  }

  recomputeMs(tokens: number): number {
    return this.prefillMs(tokens, 0);
  }

  /** From the tier that loads fastest; Infinity: there is none. */
  reloadMs(blocks: number): number {
    return blocks * Math.min(...this.facts.tiers.map(({ name }) => this.loadMs(name)), Infinity);
  }

  /** A prefill chunk of `tokens` behind `from` tokens has run. */
  prefilled(tokens: number, from: number, time: StepTime): void {
    const tookMs = this.tookMs(time);
    this.off.prefill.add(this.prefillMs(tokens, from), tookMs);
    this.prefill.measured(prefillFeatures(tokens, from), tookMs);
    this.count();
  }

  /** A decode step has run. */
  decoded(rows: number, contextTokens: number, time: StepTime): void {
    const tookMs = this.tookMs(time);
    this.off.decode.add(this.decodeMs(rows, contextTokens), tookMs);
    this.decode.measured([1, rows, contextTokens], tookMs);
  }

  /** So many bytes have come, or gone, over the link in `ms`. */
  transferred(bytes: number, ms: number): void {
    this.transfer.measured([1, bytes], ms);
  }

  /** The first token of a request for which it was predicted has come. */
  firstToken(predictedMs: number, measuredMs: number): void {
    this.off.ttft.add(predictedMs, measuredMs);
  }

  /** How far predictions were off that were made before the measurement. */
  errors(): Record<PredictedKind, ErrorFigures> {
    const { prefill, decode, move, ttft } = this.off;
    return { prefill: prefill.figures, decode: decode.figures, move: move.figures, ttft: ttft.figures };
  }

  state(): CostState {
    return {
      version: STATE_VERSION,
      prefill: this.prefill.state(),
      decode: this.decode.state(),
      transfer: this.transfer.state(),
      loads: Object.fromEntries([...this.loads].map(([tier, { perSecond }]) => [tier, perSecond])),
    };
  }

  /** Takes over what was learned before, by the same adapter with the same model; what cannot be read is left out. */
  restore(state: Partial<Record<keyof CostState, unknown>>): void {
    if (state.version !== STATE_VERSION) return;
    this.prefill.restore(state.prefill);
    this.decode.restore(state.decode);
    this.transfer.restore(state.transfer);
    for (const [tier, rate] of Object.entries(state.loads ?? {}))
      if (typeof rate === "number" && rate > 0 && Number.isFinite(rate)) this.loadsOf(tier).perSecond = rate;
  }

  /** Counts a request's cached tokens as time saved, as soon as a rate of computing is known. */
  credit(cachedTokens: Readonly<Record<LowerTier | "gpu", number>>): void {
    this.uncounted = added(this.uncounted, cachedTokens);
    this.count();
  }

  /** Steps are submitted while others run: each began when the one before it had ended. */
  private tookMs({ ms, nowMs }: StepTime): number {
    const tookMs = Math.max(0.01, Math.min(ms, nowMs - this.lastStepAtMs));
    this.lastStepAtMs = nowMs;
    return tookMs;
  }

  private count(): void {
    if (!this.prefill.isMeasured) return;
    const tokenMs = this.computeMs() / this.facts.blockTokens;
    for (const [tier, tokens] of Object.entries(this.uncounted))
      this.timeSavedMs[tier] = (this.timeSavedMs[tier] ?? 0) + tokens * tokenMs;
    this.uncounted = {};
  }
}

function prefillFeatures(tokens: number, from: number): number[] {
  return [1, tokens, tokens * (from + tokens / 2)];
}

function prefillFit(facts: CostFacts): Fit {
  const tokenMs = assumedTokenMs(facts);
  return new Fit([assumedStepMs(facts), tokenMs, tokenMs / ASSUMED_DOUBLING_TOKENS]);
}

/** A GPU reads all weights for a step, whatever the rows; a processor computes each row. */
function decodeFit(facts: CostFacts): Fit {
  const tokenMs = assumedTokenMs(facts);
  const weightBytes = facts.isSoftware ? 0 : facts.flopsPerToken / 2;
  const weightsMs = (1000 * weightBytes) / ASSUMED_BYTES_PER_SECOND.weights;
  return new Fit([assumedStepMs(facts) + weightsMs, tokenMs, tokenMs / ASSUMED_DOUBLING_TOKENS]);
}

function assumedTokenMs({ flopsPerToken, isSoftware }: CostFacts): number {
  return (1000 * flopsPerToken) / ASSUMED_FLOPS_PER_SECOND[isSoftware ? "software" : "gpu"];
}

function assumedStepMs({ isSoftware }: CostFacts): number {
  return ASSUMED_STEP_MS[isSoftware ? "software" : "gpu"];
}

/** Sums by name. */
function added(
  a: Readonly<Record<string, number>>,
  b: Readonly<Record<string, number>>,
): Record<string, number> {
  const names = new Set([...Object.keys(a), ...Object.keys(b)]);
  return Object.fromEntries([...names].map((name) => [name, (a[name] ?? 0) + (b[name] ?? 0)]));
}
