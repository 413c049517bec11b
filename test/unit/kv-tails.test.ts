/** Which partial block of a packed KV pool lies in which tail. */
import { expect, test } from "vitest";
import { KvTails } from "../../src/gpu/tails.ts";

const BLOCK = 4;

function open(slots: number) {
  const copies: [from: number, to: number][] = [];
  const written: number[] = [];
  const pool = {
    ...{ options: { blockTokens: BLOCK }, slots },
    readSlots: (wanted: readonly number[]) => Promise.resolve(wanted.map((slot) => Uint8Array.of(slot))),
    writeSlot: (slot: number) => Promise.resolve(void written.push(slot)),
    copySlot: (from: number, to: number) => void copies.push([from, to]),
  };
  return { tails: new KvTails(pool), copies, written };
}

/** Writes rows of a block as one step; the tail that it lies in. */
function step({ tails }: ReturnType<typeof open>, slot: number, from: number, to: number): number {
  const places = Array.from({ length: to - from }, (_, row) => tails.placeOf(slot, from + row));
  tails.endStep();
  const [first = 0] = places;
  expect(places).toEqual(places.map((_, row) => first + row));
  expect(first % BLOCK).toBe(from);
  return Math.floor(first / BLOCK);
}

test("a block stays in its tail over steps, and gives it away when it is packed and others need it", () => {
  const bench = open(2);
  const tail = step(bench, 10, 0, 2);
  const other = step(bench, 11, 0, 1);
  expect(other).not.toBe(tail);
  expect(step(bench, 10, 2, 4)).toBe(tail);
  expect(step(bench, 12, 0, 1)).toBe(tail);
  expect(step(bench, 11, 1, 2)).toBe(other);
});

test("a packed block keeps its tail while there are others: its last step may be taken back", async () => {
  const bench = open(3);
  const tail = step(bench, 10, 0, 4);
  step(bench, 11, 0, 1);
  expect(await bench.tails.read(10)).toEqual(Uint8Array.of(tail));
  expect(step(bench, 10, 3, 4)).toBe(tail);
});

test("a block that a snapshot wants partial keeps its tail although it was packed", () => {
  const bench = open(2);
  step(bench, 10, 0, 4);
  bench.tails.keep(10);
  const other = step(bench, 11, 0, 4);
  expect(step(bench, 12, 0, 1)).toBe(other);
  expect(() => step(bench, 13, 0, 1)).toThrow("all 2 tails hold partial blocks");
});

test("blocks that nobody holds any more give their tails away, and those that are held do not", () => {
  const bench = open(2);
  step(bench, 10, 0, 1);
  const left = step(bench, 11, 0, 1);
  bench.tails.isHeld = (slot) => slot === 10;
  expect(step(bench, 12, 0, 1)).toBe(left);
  bench.tails.isHeld = () => true;
  expect(() => step(bench, 13, 0, 1)).toThrow("all 2 tails hold partial blocks");
});

test("a slot that is filled from a lower tier, or begun anew, has no partial block from before", async () => {
  const bench = open(1);
  step(bench, 10, 0, 2);
  bench.tails.filled(10);
  await expect(bench.tails.read(10)).rejects.toThrow("slot 10 holds no partial block");
  expect(() => bench.tails.placeOf(10, 2)).toThrow("slot 10 holds no partial block");
  expect(step(bench, 11, 0, 1)).toBe(0);
});

test("a copy of a partial block has a tail of its own, and never the one that it is copied from", () => {
  const bench = open(2);
  const tail = step(bench, 10, 0, 4);
  step(bench, 11, 0, 1);
  bench.tails.isHeld = (slot) => slot !== 11;
  bench.tails.copy(10, 12);
  expect(bench.copies).toEqual([[tail, 1 - tail]]);
});
