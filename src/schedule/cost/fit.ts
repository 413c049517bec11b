/**
 * Fits a time as a sum of features with coefficients of 0 or more, from measurements as they come. It starts from a prior,
 * keeps a few measurements of each kind of step, so that a thousand steps of one kind do not wipe out what is known of
 * others, and is robust: a step that took far longer (shaders compiled, the machine slept) hardly moves it. Pure.
 */

/** Features of a step (tokens, say), what each would take by the prior, and how long it took. */
interface Sample {
  features: readonly number[];
  byPrior: readonly number[];
  ms: number;
  /** Index among all measurements. */
  at: number;
}

/** Kinds of steps that are remembered, and measurements of each. */
const MAX_CELLS = 32;
const CELL_SAMPLES = 4;

/** Measurements after which an older one has half the weight, and the least that it keeps. */
const HALF_LIFE = 64;
const LEAST_WEIGHT = 0.1;

/** The newest measurements, whose median says how far the machine differs from the fit just now; less is noise. */
const NEWEST = 7;
const LEAST_DRIFT = 1.15;

/** Relative residual beyond which a measurement pulls no harder. */
const HUBER = 0.1;

/** Weight of the prior's shape against measurements, which have at most 1 each. */
const PRIOR_WEIGHT = 0.00003;

/** Each fit begins from the one before. */
const REWEIGHTINGS = 3;
const SWEEPS = 12;
const LEAST_MS = 0.001;

export class Fit {
  private readonly prior: readonly number[];
  private readonly cells = new Map<string, Sample[]>();
  private newest: Sample[] = [];
  private measurements = 0;
  /** The fit in units of the prior, and in milliseconds; undefined: something was measured since. */
  private units: readonly number[] | undefined;
  private coefficients: readonly number[] | undefined;

  /** @param prior milliseconds per unit of each feature, all above 0 */
  constructor(prior: readonly number[]) {
    this.prior = prior;
  }

  /** Whether anything has been measured, here or in the state that was restored. */
  get isMeasured(): boolean {
    return this.cells.size > 0;
  }

  predict(features: readonly number[]): number {
    this.coefficients ??= this.solve();
    return Math.max(LEAST_MS, dot(this.coefficients, features));
  }

  measured(features: readonly number[], ms: number): void {
    if (!(ms >= 0) || ms === Infinity || !features.every(Number.isFinite)) return;
    const byPrior = features.map((value, index) => value * (this.prior[index] ?? 0));
    const sample = { features, byPrior, ms: Math.max(ms, LEAST_MS), at: this.measurements++ };
    this.keep(sample);
    this.newest = [...this.newest.slice(1 - NEWEST), sample];
    this.coefficients = undefined;
  }

  /** Features and milliseconds of what is remembered, oldest first. */
  state(): number[][] {
    const samples = [...this.cells.values()].flat().sort((a, b) => a.at - b.at);
    return samples.map(({ features, ms }) => [...features, ms].map((value) => Number(value.toPrecision(6))));
  }

  /** Takes over what was measured before; false, and nothing is taken, where it is no state of such a fit. */
  restore(state: unknown): boolean {
    if (!isState(state, this.prior.length + 1)) return false;
    for (const row of state.slice(-MAX_CELLS * CELL_SAMPLES))
      this.measured(row.slice(0, -1), row.at(-1) as number);
    this.measurements += HALF_LIFE;
    this.newest = [];
    return true;
  }

  private keep(sample: Sample): void {
    const key = sample.features.map((value) => Math.round(Math.log2(1 + value))).join();
    const cell = this.cells.get(key) ?? [];
    this.cells.delete(key); // those measured last stand last
    this.cells.set(key, [...cell.slice(1 - CELL_SAMPLES), sample]);
    const [stalest] = this.cells.keys();
    if (this.cells.size > MAX_CELLS && stalest !== undefined) this.cells.delete(stalest);
  }

  /** In units of the prior, so that all unknowns are about 1 and the prior's shape holds where nothing was measured. */
  private solve(): readonly number[] {
    const samples = [...this.cells.values()].flat();
    if (samples.length === 0) return this.prior;
    const weights = samples.map(({ at }) => this.weightOf(at));
    const scale = lowerMedian(samples.map(({ byPrior, ms }) => ms / sum(byPrior)));
    let x = this.units ?? this.prior.map(() => scale);
    for (let round = 0; round < REWEIGHTINGS; round++) x = reweighted(samples, weights, x, scale);
    this.units = x;
    return this.drifted(x.map((value, index) => value * (this.prior[index] ?? 0)));
  }

  private weightOf(at: number): number {
    return Math.max(LEAST_WEIGHT, 0.5 ** ((this.measurements - 1 - at) / HALF_LIFE));
  }

  /** A machine that has become slower, or faster, has done so for all kinds of steps. */
  private drifted(coefficients: readonly number[]): readonly number[] {
    if (this.newest.length < NEWEST) return coefficients;
    const ratio = lowerMedian(
      this.newest.map(({ features, ms }) => ms / Math.max(LEAST_MS, dot(coefficients, features))),
    );
    const isNoise = Math.max(ratio, 1 / ratio) < LEAST_DRIFT;
    return isNoise ? coefficients : coefficients.map((value) => value * ratio);
  }
}

/** One round of least squares of relative residuals, those of outliers bounded. */
function reweighted(
  samples: readonly Sample[],
  weights: readonly number[],
  x: readonly number[],
  scale: number,
): number[] {
  const matrix = x.map((_, i) => x.map((__, j) => (i === j ? PRIOR_WEIGHT / scale ** 2 : 0)));
  const right = x.map(() => PRIOR_WEIGHT / scale);
  samples.forEach(({ byPrior, ms }, index) => {
    const predicted = Math.max(LEAST_MS, dot(byPrior, x));
    const residual = Math.abs(ms - predicted) / Math.sqrt(ms * predicted);
    const pull = ((weights[index] ?? 0) * Math.min(1, HUBER / residual)) / (ms * predicted);
    addTo(matrix, right, byPrior, { pull, ms });
  });
  return nonNegative(matrix, right, x);
}

function addTo(
  matrix: number[][],
  right: number[],
  byPrior: readonly number[],
  { pull, ms }: { pull: number; ms: number },
): void {
  for (let i = 0; i < byPrior.length; i++) {
    const left = pull * byPrior[i]!;
    right[i]! += left * ms;
    for (let j = 0; j < byPrior.length; j++) matrix[i]![j]! += left * byPrior[j]!;
  }
}

/** Solves by coordinate descent, no unknown below 0. */
function nonNegative(
  matrix: readonly (readonly number[])[],
  right: readonly number[],
  start: readonly number[],
): number[] {
  const x = [...start];
  for (let sweep = 0; sweep < SWEEPS; sweep++)
    for (let i = 0; i < x.length; i++) {
      const gap = right[i]! - dot(matrix[i]!, x);
      x[i] = Math.max(0, x[i]! + gap / matrix[i]![i]!);
    }
  return x;
}

/** The lower of two in the middle: what takes too long is more likely than what takes too little. */
function lowerMedian(values: readonly number[]): number {
  return Float64Array.from(values).sort()[(values.length - 1) >> 1] ?? 1;
}

function dot(a: readonly number[], b: readonly number[]): number {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += a[i]! * b[i]!;
  return total;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function isState(state: unknown, columns: number): state is number[][] {
  const isRow = (row: unknown): boolean =>
    Array.isArray(row) &&
    row.length === columns &&
    row.every((value) => Number.isFinite(value) && value >= 0);
  return Array.isArray(state) && state.every(isRow);
}
