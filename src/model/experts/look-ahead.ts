/**
 * Guesses of what the next layers' routers will choose, made behind a router of a decode step: by those routers themselves, on the
 * GPU (predictor.ts), or by a learned predictor, on the CPU, from what the router has seen. It says what must be read back for
 * that; what is fetched then is the cache's business.
 */
import type { ExpertCache } from "../../cache/experts/expert-cache.ts";
import type { ExpertGuess } from "../../cache/experts/entry.ts";
import type { ExpertPredictor } from "../../cache/experts/predictor.ts";
import type { Op, StepShape } from "../../gpu/op.ts";
import type { CommandRecorder, Source } from "../../gpu/recorder.ts";
import { halfToFloat } from "../floats.ts";
import type { KeptBuffer } from "./checkpoint.ts";
import { guessesOf, LAYERS_AHEAD, placeOfGuess, readGuesses, type Guesses } from "./predictor.ts";

/** Something that is to be read back, and the guesses that are made of it, the best first. */
export interface Question {
  source: Source;
  answer(read: ArrayBuffer): readonly LayerGuess[];
}

export interface LayerGuess {
  layer: number;
  guesses: readonly ExpertGuess[];
}

export interface LookAhead {
  /** Behind the router of layer `last`, whose experts have not run. */
  behind(last: number, step: StepShape): Question[];
}

/** The next routers, applied to the residual stream. */
export class RouterLookAhead implements LookAhead {
  private readonly guesses: Guesses;
  private readonly cache: ExpertCache;
  private readonly recorder: CommandRecorder;
  private readonly run: (ops: readonly Op[], step: StepShape) => void;

  /** @param run records ops */
  constructor(
    guesses: Guesses,
    cache: ExpertCache,
    recorder: CommandRecorder,
    run: (ops: readonly Op[], step: StepShape) => void,
  ) {
    this.guesses = guesses;
    this.cache = cache;
    this.recorder = recorder;
    this.run = run;
  }

  behind(last: number, step: StepShape): Question[] {
    const { guesses, cache, recorder } = this;
    const questions: Question[] = [];
    for (let place = 0; place < LAYERS_AHEAD; place++) {
      const layer = last + 1 + place;
      const ops = guesses.layers[layer];
      if (!ops || cache.hasAll(layer)) continue;
      this.run(ops, step);
      const { source, copies } = placeOfGuess(guesses, place, step.rows);
      for (const { from, toAt, bytes } of copies) recorder.copy(from, 0, guesses.kept, toAt, bytes);
      questions.push({ source, answer: (read) => [{ layer, guesses: readGuesses(read) }] });
    }
    return questions;
  }
}

/** A predictor that was trained for the model. */
export class LearnedLookAhead implements LookAhead {
  private readonly predictor: ExpertPredictor;
  private readonly cache: ExpertCache;
  private readonly seen: KeptBuffer;
  private readonly sizes: { layers: number; experts: number; chosen: number; hiddenSize: number };

  /** @param seen what a router sees: elem [rows, hiddenSize] */
  constructor(
    predictor: ExpertPredictor,
    cache: ExpertCache,
    seen: KeptBuffer,
    sizes: { layers: number; experts: number; chosen: number; hiddenSize: number },
  ) {
    this.predictor = predictor;
    this.cache = cache;
    this.seen = seen;
    this.sizes = sizes;
  }

  behind(last: number, { rows }: StepShape): Question[] {
    const { buffer, rowBytes } = this.seen;
    const wanted = this.predictor.distances.filter(
      (distance) => last + distance < this.sizes.layers && !this.cache.hasAll(last + distance),
    );
    if (wanted.length === 0) return [];
    const answer = (read: ArrayBuffer): LayerGuess[] => {
      const inputs = this.inputsOf(read);
      return wanted.flatMap((distance) => this.guessesFor(last, distance, inputs));
    };
    return [{ source: { buffer, bytes: rows * rowBytes }, answer }];
  }

  private guessesFor(last: number, distance: number, inputs: readonly Float32Array[]): LayerGuess[] {
    const shares = new Map<number, number>();
    for (const input of inputs) {
      const scores = this.predictor.predict(last, distance, input);
      if (!scores) return [];
      for (const { expert, score } of this.bestOf(scores))
        shares.set(expert, (shares.get(expert) ?? 0) + score);
    }
    const guesses = [...shares].map(([expert, score]) => ({ expert, score }));
    return [{ layer: last + distance, guesses: guesses.sort((a, b) => b.score - a.score) }];
  }

  /** As many experts of a row as are guessed, with their shares among them, as the routers would weigh them. */
  private bestOf(scores: Float32Array): ExpertGuess[] {
    const { experts, chosen } = this.sizes;
    const order = Array.from(scores, (score, expert) => ({ expert, score })).sort(
      (a, b) => b.score - a.score,
    );
    const best = order.slice(0, guessesOf(experts, chosen));
    const most = best[0]?.score ?? 0;
    const sum = best.reduce((total, { score }) => total + Math.exp(score - most), 0);
    return best.map(({ expert, score }) => ({ expert, score: Math.exp(score - most) / sum }));
  }

  private inputsOf(read: ArrayBuffer): Float32Array[] {
    const { hiddenSize } = this.sizes;
    const isHalf = this.seen.rowBytes === 2 * hiddenSize;
    const all = isHalf ? Float32Array.from(new Uint16Array(read), halfToFloat) : new Float32Array(read);
    return Array.from({ length: all.length / hiddenSize }, (_, row) =>
      all.subarray(row * hiddenSize, (row + 1) * hiddenSize),
    );
  }
}
