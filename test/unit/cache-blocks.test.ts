import { expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { BlockPool } from "../../src/cache/blocks.ts";
import { testSeed } from "../support/seed.ts";

test("a slot goes from free to in use to cached to free", () => {
  const pool = new BlockPool(4);
  const [slot] = pool.allocate(1) as [number];
  expect(pool.counts()).toEqual({ total: 4, free: 3, cached: 0, inUse: 1 });
  pool.keep(slot);
  pool.release(slot);
  expect(pool.counts()).toEqual({ total: 4, free: 3, cached: 1, inUse: 0 });
  pool.retain(slot);
  expect(pool.counts()).toEqual({ total: 4, free: 3, cached: 0, inUse: 1 });
  pool.forget(slot);
  expect(pool.usersOf(slot)).toBe(1);
  pool.release(slot);
  expect(pool.counts()).toEqual({ total: 4, free: 4, cached: 0, inUse: 0 });
  pool.check();
});

test("allocate takes all or nothing", () => {
  const pool = new BlockPool(4);
  expect(pool.allocate(5)).toBeUndefined();
  expect(pool.freeCount).toBe(4);
  expect(new Set(pool.allocate(4)).size).toBe(4);
  expect(pool.allocateOne()).toBeUndefined();
});

test("grow adds free slots and leaves the others as they are", () => {
  const pool = new BlockPool(2);
  const slots = pool.allocate(2) as number[];
  pool.grow(3);
  expect(pool.counts()).toEqual({ total: 5, free: 3, cached: 0, inUse: 2 });
  expect(slots).not.toContain(pool.allocateOne());
  pool.check();
});

test("misuse is refused: double release, free retain, double keep, foreign slots", () => {
  const pool = new BlockPool(2);
  const slot = pool.allocateOne() as number;
  pool.keep(slot);
  expect(() => pool.keep(slot)).toThrow(/kept twice/);
  pool.release(slot);
  expect(() => pool.release(slot)).toThrow(/no request uses/);
  expect(() => pool.retain(1 - slot)).toThrow(/free slot/);
  expect(() => pool.forget(1 - slot)).toThrow(/does not keep/);
  expect(() => pool.retain(2)).toThrow(/no slot 2/);
});

test("the conservation check finds a broken book", () => {
  const pool = new BlockPool(2);
  pool.allocateOne();
  (pool as unknown as { users: Int32Array }).users.fill(0);
  expect(() => pool.check()).toThrow(/free list/);
});

test("random life agrees with a naive model", () => {
  const random = new Random(testSeed("cache-blocks"));
  const pool = new BlockPool(8);
  const users = new Array<number>(8).fill(0);
  const kept = new Array<boolean>(8).fill(false);
  for (let i = 0; i < 20_000; i++) {
    const slot = random.below(8);
    const action = random.below(5);
    if (action === 0) {
      const got = pool.allocateOne();
      expect(got === undefined).toBe(users.every((n, s) => n > 0 || kept[s]));
      if (got !== undefined) {
        expect(users[got] === 0 && !kept[got]).toBe(true);
        users[got] = 1;
      }
    } else if (action === 1 && (users[slot]! > 0 || kept[slot])) {
      pool.retain(slot);
      users[slot]!++;
    } else if (action === 2 && users[slot]! > 0) {
      pool.release(slot);
      users[slot]!--;
    } else if (action === 3 && users[slot]! > 0 && !kept[slot]) {
      pool.keep(slot);
      kept[slot] = true;
    } else if (action === 4 && kept[slot]) {
      pool.forget(slot);
      kept[slot] = false;
    }
    const inUse = users.filter((n) => n > 0).length;
    const cached = users.filter((n, s) => n === 0 && kept[s]).length;
    expect(pool.counts()).toEqual({ total: 8, free: 8 - inUse - cached, cached, inUse });
    if (i % 100 === 0) pool.check();
  }
});
