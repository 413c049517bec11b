/**
 * Predicts which experts the next layers will choose: their norms and routers are applied to the residual stream in front of an
 * earlier layer's experts, on the GPU, and what they choose is read back with that layer's own choices. It decides nothing about
 * what is fetched.
 */
import type { ExpertGuess } from "../../cache/experts/entry.ts";
import { USAGE_COPY_DST, USAGE_COPY_SRC, USAGE_STORAGE, type Op } from "../../gpu/op.ts";
import type { Source } from "../../gpu/recorder.ts";
import type { ModelShape } from "../../shape/shape.ts";

/** Layers ahead that are predicted. */
export const LAYERS_AHEAD = 2;

/** Guesses for each expert that a row will have. */
const GUESSES_A_CHOSEN = 2;

/** What the ops of a prediction read and write, for steps of as many rows as there are seats. */
export interface GuessBuffers {
  /** elem [rows, hidden size]. */
  input: GPUBuffer;
  /** f32 [rows, experts]. */
  logits: GPUBuffer;
  /** u32 and f32 [rows, perRow]. */
  chosen: GPUBuffer;
  weights: GPUBuffer;
  perRow: number;
}

/** The ops that predict a layer's choices; undefined if they cannot be told from the stream alone. */
export type GuessOps = readonly Op[] | undefined;

/** Guesses of a row. */
export function guessesOf(experts: number, chosen: number): number {
  return Math.min(experts, GUESSES_A_CHOSEN * chosen);
}

interface Sizes {
  shape: Pick<ModelShape, "hiddenSize">;
  experts: number;
  chosen: number;
  seats: number;
}

function sizesOf({ shape, experts, chosen, seats }: Sizes): Record<string, number> {
  const guesses = 4 * seats * guessesOf(experts, chosen);
  const input = 4 * seats * shape.hiddenSize;
  return {
    input,
    logits: 4 * seats * experts,
    chosen: guesses,
    weights: guesses,
    kept: 2 * LAYERS_AHEAD * guesses,
  };
}

/** Bytes on the GPU. */
export function predictorBytes(sizes: Sizes): number {
  return Object.values(sizesOf(sizes)).reduce((sum, bytes) => sum + bytes, 0);
}

/** The buffers of a model's predictions, and the ops by layers with experts. */
export interface Guesses {
  buffers: GuessBuffers;
  /** The choices and weights of each predicted layer, one behind the other. */
  kept: GPUBuffer;
  layers: readonly GuessOps[];
  /** On the GPU. */
  bytes: number;
  destroy(): void;
}

export async function makeGuesses(
  device: GPUDevice,
  sizes: Sizes,
  opsOf: (buffers: GuessBuffers) => Promise<GuessOps[]>,
): Promise<Guesses> {
  const usage = USAGE_STORAGE | USAGE_COPY_SRC | USAGE_COPY_DST;
  const made = Object.entries(sizesOf(sizes)).map(([label, size]) =>
    device.createBuffer({ label: `guess ${label}`, size: Math.max(16, size), usage }),
  );
  const [input, logits, chosen, weights, kept] = made as [
    ...[GPUBuffer, GPUBuffer, GPUBuffer, GPUBuffer, GPUBuffer],
  ];
  const perRow = guessesOf(sizes.experts, sizes.chosen);
  const buffers = { input, logits, chosen, weights, perRow };
  const destroy = (): void => made.forEach((buffer) => buffer.destroy());
  const bytes = made.reduce((sum, { size }) => sum + size, 0);
  return { buffers, kept, layers: await opsOf(buffers), bytes, destroy };
}

/** Where the guesses for the layer `place` places ahead are, and what must be copied there. */
export function placeOfGuess({ buffers, kept }: Guesses, place: number, rows: number) {
  const bytes = 4 * rows * buffers.perRow;
  const offset = (kept.size / LAYERS_AHEAD) * place;
  const source: Source = { buffer: kept, offset, bytes: 2 * bytes };
  const copies = [
    { from: buffers.chosen, toAt: offset, bytes },
    { from: buffers.weights, toAt: offset + bytes, bytes },
  ];
  return { source, copies };
}

/** Each expert once, the best first. */
export function readGuesses(read: ArrayBuffer): ExpertGuess[] {
  const experts = new Uint32Array(read, 0, read.byteLength / 8);
  const weights = new Float32Array(read, read.byteLength / 2);
  const scores = new Map<number, number>();
  for (const [at, expert] of experts.entries())
    scores.set(expert, (scores.get(expert) ?? 0) + (weights[at] as number));
  return [...scores].map(([expert, score]) => ({ expert, score })).sort((a, b) => b.score - a.score);
}
