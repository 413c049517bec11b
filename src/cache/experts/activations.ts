/**
 * Activation traces: which experts a model's routers chose, step by step, and optionally what the routers saw and what was
 * guessed for them. Recorded from an engine or generated; replays and the predictor's training read them. This file holds the
 * form in memory and the file format; it runs no model.
 *
 *     "TIDEEXP1", u32 bytes of the header, the header as JSON, then the steps:
 *     u8 phase (0 prefill, 1 decode), 3 bytes 0, u32 tokens, then arrays layer by layer, token by token:
 *     u16 experts [layers, tokens, chosen], f32 weights of the same shape,
 *     f16 inputs [layers, tokens, hiddenSize] if the header has `hiddenSize`,
 *     u16 guesses [layers, tokens, distances, guesses] if the header has `guesses` and the step is one of decode
 *
 * Little-endian, each array padded to 4 bytes. A guess that cannot be made (no layer is so far before) is 0xffff.
 */
import { integer, list, object, text, type Fields } from "../../check.ts";
import { TidepoolError } from "../../errors.ts";
import { insteadOf } from "../../file-kind.ts";
import type { ExpertGuess, ExpertPhase, ExpertUse } from "./entry.ts";

const MAGIC = "TIDEEXP1";
const MAX_HEADER_BYTES = 2 ** 16;
const MAX_LAYERS = 1024;
const MAX_EXPERTS = 4096;
const MAX_MATRICES = 8;
const MAX_HIDDEN = 2 ** 16;
const MAX_STEP_TOKENS = 2 ** 16;
const MAX_TEXT = 256;
const NO_GUESS = 0xffff;
const STEP_HEAD_BYTES = 8;

export interface ActivationHeader {
  /** The model's name, and the fingerprint of its weights; empty if the trace is generated. */
  model: string;
  fingerprint: string;
  /** The layers of the model that have experts. Everything else counts only these. */
  layers: readonly number[];
  experts: number;
  chosen: number;
  /** Bytes of each matrix of one expert. */
  matrixBytes: readonly number[];
  /** Width of the routers' inputs; 0 if they are not recorded. */
  hiddenSize: number;
  /** Distances in layers from which each layer's experts were guessed, and how many; 0 if there are none. */
  distances: readonly number[];
  guesses: number;
}

export interface ActivationStep {
  phase: ExpertPhase;
  tokens: number;
  experts: Uint16Array;
  weights: Float32Array;
  /** Bits of f16. */
  inputs?: Uint16Array;
  guesses?: Uint16Array;
}

export interface ActivationTrace {
  header: ActivationHeader;
  steps: readonly ActivationStep[];
}

const headerFields: Fields<ActivationHeader> = {
  model: text(0, MAX_TEXT),
  fingerprint: text(0, MAX_TEXT),
  layers: list("layers", integer(0, MAX_LAYERS - 1), 1, MAX_LAYERS),
  experts: integer(1, MAX_EXPERTS),
  chosen: integer(1, MAX_EXPERTS),
  matrixBytes: list("sizes", integer(1, 2 ** 40), 1, MAX_MATRICES),
  hiddenSize: integer(0, MAX_HIDDEN),
  distances: list("distances", integer(1, MAX_LAYERS), 0, MAX_LAYERS),
  guesses: integer(0, MAX_EXPERTS),
};

const headerRule = object<ActivationHeader>("an activation trace's header", headerFields, {
  ...{ model: true, fingerprint: true, layers: true, experts: true, chosen: true, matrixBytes: true },
  ...{ hiddenSize: true, distances: true, guesses: true },
});

/** The first bytes of a file. */
export function writeActivationHeader(header: ActivationHeader): Uint8Array<ArrayBuffer> {
  const json = new TextEncoder().encode(JSON.stringify(headerRule.read(header, "header")));
  const bytes = new Uint8Array(padded(MAGIC.length + 4 + json.length)).fill(0x20);
  bytes.set(new TextEncoder().encode(MAGIC));
  new DataView(bytes.buffer).setUint32(MAGIC.length, bytes.length - MAGIC.length - 4, true);
  bytes.set(json, MAGIC.length + 4);
  return bytes;
}

/** The bytes of one step, which follow those of the steps before. */
export function writeActivationStep(header: ActivationHeader, step: ActivationStep): Uint8Array<ArrayBuffer> {
  const sizes = sizesOf(header, step.phase, step.tokens);
  const bytes = new Uint8Array(STEP_HEAD_BYTES + bytesOfStep(sizes));
  bytes[0] = step.phase === "prefill" ? 0 : 1;
  new DataView(bytes.buffer).setUint32(4, step.tokens, true);
  let at = STEP_HEAD_BYTES;
  for (const [name, { length, bytesEach }] of Object.entries(sizes)) {
    const array = step[name as keyof typeof sizes];
    if (length === 0) continue;
    if (array?.length !== length) {
      throw new TidepoolError(
        "invalid_argument",
        `step.${name} has ${array?.length ?? 0} elements; expected ${length}`,
      );
    }
    bytes.set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), at);
    at += padded(length * bytesEach);
  }
  return bytes;
}

/** Reads a whole file. Throws `invalid_file` with the file's name, the step and the field. */
export function readActivations(name: string, bytes: Uint8Array): ActivationTrace {
  const fail = (problem: string): never => {
    throw new TidepoolError("invalid_file", `${name}: ${problem}`, { file: name });
  };
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const magic = new TextDecoder().decode(bytes.subarray(0, MAGIC.length));
  if (magic !== MAGIC) {
    const problem = insteadOf(`an activation trace, which begins with ${MAGIC}`, bytes);
    throw new TidepoolError("invalid_file", `${name} ${problem}`, { file: name });
  }
  const first = MAGIC.length + 4;
  const headerBytes = bytes.length < first ? 0 : view.getUint32(MAGIC.length, true);
  if (headerBytes === 0 || headerBytes > MAX_HEADER_BYTES || first + headerBytes > bytes.length)
    fail(`the header has ${headerBytes} bytes of ${bytes.length - first}; expected 1 to ${MAX_HEADER_BYTES}`);
  const header = readHeader(bytes.subarray(first, first + headerBytes), fail);
  const steps: ActivationStep[] = [];
  for (let at = first + headerBytes; at < bytes.length;) {
    const where = `step ${steps.length}`;
    if (at + STEP_HEAD_BYTES > bytes.length) fail(`${where}: the file ends within the step's head`);
    const [phase, tokens] = [bytes[at]!, view.getUint32(at + 4, true)];
    if (phase > 1) fail(`${where}: phase is ${phase}; expected 0 or 1`);
    if (tokens === 0 || tokens > MAX_STEP_TOKENS)
      fail(`${where}: ${tokens} tokens; expected 1 to ${MAX_STEP_TOKENS}`);
    const sizes = sizesOf(header, phase === 0 ? "prefill" : "decode", tokens);
    at += STEP_HEAD_BYTES;
    const end = at + bytesOfStep(sizes);
    if (end > bytes.length) fail(`${where}: needs ${end - at} bytes, but ${bytes.length - at} are left`);
    const step = readStep(bytes, at, sizes, { phase: phase === 0 ? "prefill" : "decode", tokens });
    checkStep(header, step, (problem) => fail(`${where}: ${problem}`));
    steps.push(step);
    at = end;
  }
  return { header, steps };
}

function readHeader(bytes: Uint8Array, fail: (problem: string) => never): ActivationHeader {
  let header: ActivationHeader;
  try {
    header = headerRule.read(JSON.parse(new TextDecoder().decode(bytes)), "header");
  } catch (error) {
    return fail(error instanceof Error ? error.message : "the header is not JSON");
  }
  if (header.chosen > header.experts)
    fail(`header: ${header.chosen} of ${header.experts} experts are chosen`);
  if (header.guesses > header.experts)
    fail(`header: ${header.guesses} of ${header.experts} experts are guessed`);
  return header;
}

type Sizes = Record<"experts" | "weights" | "inputs" | "guesses", { length: number; bytesEach: number }>;

function sizesOf(header: ActivationHeader, phase: ExpertPhase, tokens: number): Sizes {
  const rows = header.layers.length * tokens;
  const guesses = phase === "decode" ? header.distances.length * header.guesses : 0;
  return {
    experts: { length: rows * header.chosen, bytesEach: 2 },
    weights: { length: rows * header.chosen, bytesEach: 4 },
    inputs: { length: rows * header.hiddenSize, bytesEach: 2 },
    guesses: { length: rows * guesses, bytesEach: 2 },
  };
}

function bytesOfStep(sizes: Sizes): number {
  return Object.values(sizes).reduce((sum, { length, bytesEach }) => sum + padded(length * bytesEach), 0);
}

function padded(bytes: number): number {
  return Math.ceil(bytes / 4) * 4;
}

function readStep(
  bytes: Uint8Array,
  from: number,
  sizes: Sizes,
  head: Pick<ActivationStep, "phase" | "tokens">,
): ActivationStep {
  let at = from;
  const take = ({ length, bytesEach }: Sizes["experts"]): ArrayBuffer => {
    // A copy; `slice` of Node's Buffer would be a view.
    const part = new Uint8Array(bytes.subarray(at, at + length * bytesEach)).buffer;
    at += padded(length * bytesEach);
    return part;
  };
  const step: ActivationStep = {
    ...head,
    experts: new Uint16Array(take(sizes.experts)),
    weights: new Float32Array(take(sizes.weights)),
  };
  if (sizes.inputs.length > 0) step.inputs = new Uint16Array(take(sizes.inputs));
  if (sizes.guesses.length > 0) step.guesses = new Uint16Array(take(sizes.guesses));
  return step;
}

function checkStep(
  { experts }: ActivationHeader,
  step: ActivationStep,
  fail: (problem: string) => never,
): void {
  const bad = step.experts.find((expert) => expert >= experts);
  if (bad !== undefined) fail(`expert ${bad} of ${experts}`);
  const wrong = step.weights.find((weight) => !Number.isFinite(weight));
  if (wrong !== undefined) fail(`a weight is ${wrong}; expected a finite number`);
  const guess = step.guesses?.find((expert) => expert >= experts && expert !== NO_GUESS);
  if (guess !== undefined) fail(`guess ${guess} of ${experts} experts`);
}

/** What a layer's router chose for all tokens of a step. */
export function usesOf({ chosen }: ActivationHeader, step: ActivationStep, layer: number): ExpertUse[] {
  const uses = new Map<number, ExpertUse>();
  const first = layer * step.tokens * chosen;
  for (let i = first; i < first + step.tokens * chosen; i++) {
    const expert = step.experts[i]!;
    const use = uses.get(expert) ?? { expert, tokens: 0, weight: 0 };
    use.tokens++;
    use.weight += step.weights[i]!;
    uses.set(expert, use);
  }
  return [...uses.values()];
}

/** What was guessed for a layer from a distance, for all tokens, the best first; undefined if nothing was. */
export function guessesOf(
  { distances, guesses: count }: ActivationHeader,
  step: ActivationStep,
  layer: number,
  distance: number,
): ExpertGuess[] | undefined {
  const place = distances.indexOf(distance);
  if (place < 0 || layer < distance || !step.guesses) return undefined;
  const best = new Map<number, number>();
  for (let token = 0; token < step.tokens; token++) {
    const row = ((layer * step.tokens + token) * distances.length + place) * count;
    for (let rank = 0; rank < count; rank++) {
      const expert = step.guesses[row + rank]!;
      if (expert !== NO_GUESS) best.set(expert, Math.max(best.get(expert) ?? 0, count - rank));
    }
  }
  const guesses = [...best].map(([expert, score]) => ({ expert, score }));
  return guesses.length === 0 ? undefined : guesses.sort((a, b) => b.score - a.score);
}

/** The guesses of a trace are padded with this. */
export const noGuess = NO_GUESS;
