/**
 * MoE-Infinity's policy. A request is the matrix of how many of its tokens went to each expert of each layer. The matrices of
 * former requests are kept; the one most like the running request's says which experts it will need, nearer layers first. What
 * has the least part in the running request is evicted first, later layers before earlier ones.
 *
 * A request begins with a prefill behind decode steps. Requests that run together are one. The nearest matrix is searched once
 * a step, not once a layer as in the paper: it takes a product with each kept matrix.
 */
import type { ExpertCacheShape, ExpertEntry, ExpertPhase, ExpertUse } from "./entry.ts";
import { firstOf, type ExpertPolicy, type LayerGuesses } from "./policy.ts";

/** Matrices of former requests; the paper finds no gain beyond this. */
const MAX_MATRICES = 120;

/** Layers that are predicted behind a layer's choice. */
const LAYERS_AHEAD = 4;

/** What the score of an expert that the matrix does not know is, as a share of its row. */
const UNSEEN = 1e-4;

export class MoeInfinityExperts implements ExpertPolicy {
  readonly name = "moe-infinity";
  private readonly shape: ExpertCacheShape;
  private readonly inSlots = new Set<ExpertEntry>();
  private readonly past: Float32Array[] = [];
  private current: Float32Array;
  /** The running request's shares, rows summing to 1; and each layer's best guesses. */
  private scores: Float32Array;
  private best: LayerGuesses[] = [];
  private hasDecoded = false;

  constructor(shape: ExpertCacheShape) {
    this.shape = shape;
    this.current = new Float32Array(shape.layers * shape.experts);
    this.scores = new Float32Array(shape.layers * shape.experts);
  }

  begin(phase: ExpertPhase): void {
    if (phase === "prefill" && this.hasDecoded) {
      this.remember(this.current);
      this.current = new Float32Array(this.current.length);
    }
    this.hasDecoded = phase === "decode";
    this.scores = this.normalised(this.current);
    const nearest = this.nearestTo(this.current);
    const foreseen = nearest ? this.normalised(nearest.matrix) : this.scores;
    this.best = Array.from({ length: this.shape.layers }, (_, layer) => this.bestOf(foreseen, layer));
  }

  chose(layer: number, uses: readonly ExpertUse[]): LayerGuesses[] {
    const row = layer * this.shape.experts;
    for (const { expert, tokens } of uses) this.current[row + expert]! += tokens;
    return this.best.slice(layer + 1, layer + 1 + LAYERS_AHEAD);
  }

  touch(entry: ExpertEntry, now: number): void {
    entry.lastAccess = now;
  }

  changed(entry: ExpertEntry): void {
    this.inSlots.add(entry);
  }

  removed(entry: ExpertEntry): void {
    this.inSlots.delete(entry);
  }

  victim(_now: number, fits: (entry: ExpertEntry) => boolean): ExpertEntry | undefined {
    return firstOf(
      this.inSlots,
      fits,
      (a, b) => this.priority(a) - this.priority(b) || a.lastAccess - b.lastAccess,
    );
  }

  private priority({ layer, expert }: ExpertEntry): number {
    const { layers, experts } = this.shape;
    return (this.scores[layer * experts + expert]! + UNSEEN) * (1 - layer / layers);
  }

  /** The kept matrix that is most like another. */
  private nearestTo(matrix: Float32Array): { matrix: Float32Array; index: number } | undefined {
    let found: { matrix: Float32Array; index: number } | undefined;
    let most = 0;
    this.past.forEach((other, index) => {
      const likeness = cosine(matrix, other);
      if (likeness > most) found = { matrix: other, index };
      most = Math.max(most, likeness);
    });
    return found;
  }

  /** Keeps a matrix; beyond the bound it replaces the one most like it, which keeps variety. */
  private remember(matrix: Float32Array): void {
    if (this.past.length < MAX_MATRICES) this.past.push(matrix);
    else this.past[this.nearestTo(matrix)?.index ?? 0] = matrix;
  }

  private normalised(matrix: Float32Array): Float32Array {
    const { experts } = this.shape;
    const scores = matrix.slice();
    for (let row = 0; row < scores.length; row += experts) {
      let sum = 0;
      for (let i = row; i < row + experts; i++) sum += scores[i]!;
      if (sum > 0) for (let i = row; i < row + experts; i++) scores[i]! /= sum;
    }
    return scores;
  }

  private bestOf(scores: Float32Array, layer: number): LayerGuesses {
    const { experts, chosen } = this.shape;
    const row = scores.subarray(layer * experts, (layer + 1) * experts);
    const guesses = Array.from(row, (score, expert) => ({ expert, score })).filter(({ score }) => score > 0);
    return { layer, guesses: guesses.sort((a, b) => b.score - a.score).slice(0, chosen) };
  }
}

function cosine(a: Float32Array, b: Float32Array): number {
  let [product, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    const [x, y] = [a[i]!, b[i]!];
    product += x * y;
    aa += x * x;
    bb += y * y;
  }
  return product === 0 ? 0 : product / Math.sqrt(aa * bb);
}
