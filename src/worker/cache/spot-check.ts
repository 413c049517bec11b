/**
 * Whether an archive holds what the model computes: its prompt is computed again from the first token, beside the
 * requests' loop, and a few blocks chosen at random, and every recurrent state, are compared. Nothing that was computed
 * here stays in the cache, so that a refused archive leaves nothing behind.
 *
 * What is compared was computed from the prompt's tokens alone, never on top of the archive's own blocks, which might be
 * forged to fit each other. The time goes into computing; to compare all blocks costs little more than to compare one. Of
 * N blocks, one forged among them, n compared find it with probability n / N.
 */
import type { Lease } from "../../cache/prefix.ts";
import { TidepoolError } from "../../errors.ts";
import { guarded } from "../../gpu/guard.ts";
import { partBytes, unpacked } from "../../gpu/packed.ts";
import type { KvPool } from "../../gpu/pool.ts";
import type { KvLayer } from "../../shape/shape.ts";
import type { Runner } from "../../model/runner.ts";
import type { Scheduler } from "../../schedule/scheduler.ts";
import type { ArchiveContent } from "../../tier/record/archive.ts";
import { halfToFloat } from "../../tier/record/kv-quant.ts";
import type { Encoding } from "../../tier/record/record.ts";

/**
 * How far a vector (a head of one token, a row of a state) may be from what is computed here, relative to its length or
 * the usual length in its head or layer, whichever is more: what other GPUs and sizes of chunks make of it, in f32 and in f16; or
 * what 8 and 4 bits at rest do to it and to all that is computed from it.
 */
const TOLERANCE = {
  ...{ f32: 0.01, f16: 0.15, half: 0.15, kivi8: 0.25, kivi4: 0.75 },
  ...{ q8: 0.25, q4: 0.75, q2: 1 },
} as const;

/** Numbers of a recurrent state that are compared as one vector. */
const STATE_VECTOR = 32;

export interface CheckRooms {
  runner: Runner;
  scheduler: Scheduler;
  /** Lets the KV pool grow where it may. */
  makeRoom(missingBlocks: number): Promise<void>;
  /** @throws TidepoolError where nothing is to be computed any more. */
  checkOpen(): void;
}

/** Vectors of one length, one after the other, that are measured together. */
interface Plane {
  values: Float32Array;
  vector: number;
}

/** @throws TidepoolError `untrusted` naming what differs, `too_long` or `out_of_memory` if the prompt does not fit. */
export async function spotCheck(
  rooms: CheckRooms,
  content: ArchiveContent,
  count: number,
  random: (below: number) => number = secureBelow,
): Promise<void> {
  const { blockTokens, blocks, states } = content;
  const chosen = choose(blocks.length, count, random);
  const ends = [
    ...chosen.map((block) => (block + 1) * blockTokens),
    ...states.map(({ blockIndex, tokenCount }) => blockIndex * blockTokens + tokenCount),
  ];
  const end = Math.max(0, ...ends);
  if (end === 0) return;
  const tokens = Array.from(content.tokens.subarray(0, end));
  checkFits(rooms, end);
  await rooms.makeRoom(rooms.scheduler.missingToLend(tokens, 0));
  const lease = rooms.scheduler.borrow(tokens, 0, "off");
  try {
    await computeAndCompare(rooms, content, { lease, tokens, chosen });
  } finally {
    rooms.scheduler.giveBack(lease, 0);
  }
}

function checkFits({ runner, scheduler }: CheckRooms, tokens: number): void {
  const limit = Math.min(runner.shape.contextTokens, scheduler.capacityTokens);
  if (tokens <= limit) return;
  const message = `the archive's prompt cannot be verified: ${tokens} tokens are over the limit of ${limit}`;
  throw new TidepoolError("too_long", message, { limit });
}

/** `count` different numbers below `from`, or all of them, in order. */
function choose(from: number, count: number, random: (below: number) => number): number[] {
  const left = Array.from({ length: from }, (_, index) => index);
  const chosen: number[] = [];
  while (left.length > 0 && chosen.length < count) chosen.push(...left.splice(random(left.length), 1));
  return chosen.sort((a, b) => a - b);
}

/** A number that whoever made the archive cannot foresee. */
function secureBelow(below: number): number {
  const [word = 0] = crypto.getRandomValues(new Uint32Array(1));
  return Math.floor((word / 2 ** 32) * below);
}

interface Work {
  lease: Lease;
  tokens: readonly number[];
  chosen: readonly number[];
}

async function computeAndCompare(rooms: CheckRooms, content: ArchiveContent, work: Work): Promise<void> {
  const { runner } = rooms;
  const { blockTokens, blocks, states } = content;
  const { lease, tokens, chosen } = work;
  const stops = new Map(states.map((state) => [state.blockIndex * blockTokens + state.tokenCount, state]));
  const seatState = rooms.scheduler.loanState(lease)?.state;
  for (let start = 0, stop: number; start < tokens.length; start = stop) {
    rooms.checkOpen();
    if (lease.released) throw voided();
    const next = [...stops.keys()].filter((at) => at > start);
    stop = Math.min(start + runner.scoreRows, tokens.length, ...next);
    const state = seatState?.step(stop);
    const part = tokens.slice(start, stop);
    const step = { slots: lease.table, position: start, tokens: part, firstRow: part.length };
    await guarded(runner.gpu.device, "to verify", () => runner.score({ ...step, ...(state && { state }) }));
    const wanted = stops.get(stop);
    if (wanted && state) {
      const tail = stop % blockTokens;
      const slot = lease.table[wanted.blockIndex] as number;
      const [computed, begun] = await Promise.all([
        runner.states.readSlot(state.write),
        tail === 0 ? undefined : runner.pool.readPartial(slot),
      ]);
      const tolerance = toleranceOf(runner, wanted.coarsest);
      const what = `the state at ${stop} tokens`;
      compare(statePlanes(runner, wanted.payload), statePlanes(runner, computed), tolerance, what);
      const given = wanted.payload.subarray(runner.states.slotBytes);
      if (begun)
        compare(
          kvPlanes(runner.pool.partial, given, tail),
          kvPlanes(runner.pool.partial, begun, tail),
          tolerance,
          what,
        );
    }
  }
  if (lease.released) throw voided();
  const slots = chosen.map((block) => lease.table[block] as number);
  const computed = await runner.pool.readSlots(slots);
  chosen.forEach((block, index) => {
    const { payload, coarsest } = blocks[block] as (typeof blocks)[0];
    const found = kvPlanes(runner.pool, computed[index] as Uint8Array);
    compare(kvPlanes(runner.pool, payload), found, toleranceOf(runner, coarsest), `block ${block}`);
  });
}

/** Its blocks were taken back under it: it is tried again. */
function voided(): TidepoolError {
  return new TidepoolError("gpu_failed", "a step that computed a part of the archive's prompt failed");
}

function toleranceOf({ options }: Runner, coarsest: Encoding): number {
  const { dtype, kvDtype } = options;
  const type = dtype === "f16" ? "f16" : "f32";
  return Math.max(TOLERANCE[type], TOLERANCE[kvDtype], coarsest === "raw" ? 0 : TOLERANCE[coarsest]);
}

function compare(given: readonly Plane[], computed: readonly Plane[], tolerance: number, what: string): void {
  given.forEach((plane, index) => {
    const difference = worstDifference(plane, computed[index] as Plane);
    if (difference <= tolerance) return; // false for NaN
    throw new TidepoolError(
      "untrusted",
      `the archive is refused: ${what} is not what the model computes for its prompt (relative difference ${difference.toPrecision(3)}, at most ${tolerance})`,
      { difference, tolerance },
    );
  });
}

/** The most that a vector differs, relative to its own length or the usual one; NaN or Infinity if a number is not finite. */
function worstDifference({ values: given, vector }: Plane, { values: computed }: Plane): number {
  const usual = Math.sqrt(squares(computed, 0, computed.length) / Math.max(1, computed.length / vector));
  let worst = 0;
  for (let at = 0; at < given.length; at += vector) {
    const end = Math.min(at + vector, given.length);
    let sum = 0;
    for (let i = at; i < end; i++) sum += ((given[i] as number) - (computed[i] as number)) ** 2;
    const length = Math.max(Math.sqrt(squares(computed, at, end)), usual);
    const difference = sum === 0 ? 0 : Math.sqrt(sum) / length;
    if (!(difference <= worst)) worst = difference;
    if (Number.isNaN(worst)) return worst;
  }
  return worst;
}

function squares(values: Float32Array, from: number, to: number): number {
  let sum = 0;
  for (let i = from; i < to; i++) sum += (values[i] as number) ** 2;
  return sum;
}

/** The first `rows` tokens of a block's payload, by layer and head, keys and values apart. */
function kvPlanes(pool: KvPool, payload: Uint8Array, rows = pool.options.blockTokens): Plane[] {
  const { layers, blockTokens } = pool.options;
  let at = 0;
  return layers.flatMap((layer) => {
    const { keys, values } = partBytes(layer, blockTokens, pool.options.dtype);
    const part = payload.subarray(at, (at += keys + values));
    const { headDim } = layer;
    return numbersOf(pool, layer, part).map((plane) => ({
      values: plane.subarray(0, rows * headDim),
      vector: headDim,
    }));
  });
}

/** A layer's part of a payload, head by head. */
function numbersOf({ options, bits }: KvPool, layer: KvLayer, part: Uint8Array): Float32Array[] {
  const { blockTokens, dtype } = options;
  const all = bits
    ? unpacked(new Uint32Array(part.slice().buffer), layer, blockTokens, bits)
    : [floatsOf(part, dtype === "f16" ? "f16" : "f32")];
  const size = blockTokens * layer.headDim;
  return all.flatMap((numbers) =>
    Array.from({ length: numbers.length / size }, (_, head) =>
      numbers.subarray(head * size, (head + 1) * size),
    ),
  );
}

/** A state's payload by layer; what stands behind it belongs to a block that has only begun. */
function statePlanes({ states }: Runner, payload: Uint8Array): Plane[] {
  const values = floatsOf(payload.subarray(0, states.slotBytes), "f32");
  let at = 0;
  return states.layers.map(({ floats }) => {
    at += floats;
    return { values: values.subarray(at - floats, at), vector: STATE_VECTOR };
  });
}

function floatsOf(bytes: Uint8Array, dtype: "f32" | "f16"): Float32Array {
  const { buffer } = bytes.slice();
  return dtype === "f32" ? new Float32Array(buffer) : Float32Array.from(new Uint16Array(buffer), halfToFloat);
}
