/** Residency by layer: a block's slots in several groups of layers against a naive model, and through the scheduler. */
import { describe, expect, it } from "vitest";
import { Random } from "../../src/base.ts";
import { BlockPool } from "../../src/cache/blocks.ts";
import { createPrefixCache } from "../../src/cache/policy/create.ts";
import { ABSENT, Residency } from "../../src/cache/residency.ts";
import { Scheduler, type Plan } from "../../src/schedule/scheduler.ts";
import { testSeed } from "../support/seed.ts";

describe("residency", () => {
  it("of all layers together is the block table itself", () => {
    const residency = new Residency();
    const table = [7, 2, 9];
    const tables = residency.tablesOf(table);
    expect(tables).toHaveLength(1);
    expect(tables[0]).toBe(table);
    expect([residency.isWhole, residency.groupOf(3)]).toEqual([true, 0]);
    expect(residency.absentIn(0, table)).toEqual([]);
    expect(residency.place(0, 9)).toBe(9);
    expect(() => residency.evict(0, 9)).toThrow(/keeps all its blocks/);
  });

  it("by group agrees with a naive model", () => {
    const random = new Random(testSeed("residency"));
    for (let round = 0; round < 100; round++) {
      const slots = [1 + random.below(6), 1 + random.below(6)];
      const residency = new Residency([
        { layers: [0, 3] },
        { layers: [1], slots: slots[0]! },
        { layers: [2, 4], slots: slots[1]! },
      ]);
      expect([0, 1, 2, 3, 4].map((layer) => residency.groupOf(layer))).toEqual([0, 1, 2, 0, 2]);
      const model = [new Map<number, number>(), new Map<number, number>()];
      for (let turn = 0; turn < 200; turn++) {
        const which = random.below(2);
        const [group, block] = [1 + which, random.below(10)];
        const held = model[which]!;
        const action = random.below(3);
        if (action === 0) {
          const slot = residency.place(group, block);
          expect(slot === undefined).toBe(!held.has(block) && held.size === slots[which]);
          if (slot !== undefined && held.has(block)) expect(slot).toBe(held.get(block));
          if (slot !== undefined) held.set(block, slot);
        } else if (action === 1 && held.has(block)) {
          residency.evict(group, block);
          held.delete(block);
        } else if (action === 2 && random.below(4) === 0) {
          residency.release(block);
          for (const each of model) each.delete(block);
        }
        const blocks = [0, 5, 9, 3];
        const tables = residency.tablesOf(blocks);
        const wanted = model.map((each) => blocks.map((id) => each.get(id) ?? ABSENT));
        expect(tables).toEqual([blocks, ...wanted]);
        expect(residency.absentIn(group, blocks)).toEqual(blocks.filter((id) => !held.has(id)));
        expect(residency.freeCount(group)).toBe(slots[which]! - held.size);
        expect(new Set(held.values()).size).toBe(held.size);
        residency.check();
      }
    }
  });

  it("gives the slots of a block back in every group when the block is free", () => {
    const pool = new BlockPool(6);
    const cost = { flopsLinear: 1, flopsQuadratic: 0, bytesPerToken: 4, bytesPerSnapshot: 0 };
    const { cache } = createPrefixCache({ policy: "lru", blockTokens: 4, cost, pool });
    const residency = new Residency([{ layers: [0] }, { layers: [1], slots: 2 }]);
    const scheduler = new Scheduler(cache, pool, { blockTokens: 4, chunkTokens: 16, seats: 1, residency });
    const prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    const request = scheduler.submit({ id: 1, prompt, maxNewTokens: 1, stopIds: new Set() });
    const plan = scheduler.next() as Plan;
    const [first, second, third] = request.slots as [number, number, number];
    for (const block of [first, third]) expect(residency.place(1, block)).toBeDefined();
    expect(residency.place(1, second)).toBeUndefined();
    expect(residency.tablesOf(request.slots)).toEqual([
      [first, second, third],
      [0, ABSENT, 1],
    ]);
    scheduler.commit(plan, [[7]]);
    expect(residency.freeCount(1)).toBe(1); // the last block was never full, and is free
    scheduler.forget();
    expect(residency.freeCount(1)).toBe(2);
    scheduler.check();
  });

  it("refuses a layer in two groups", () => {
    expect(() => new Residency([{ layers: [0, 1] }, { layers: [1], slots: 3 }])).toThrow(/in two groups/);
    expect(() => new Residency([{ layers: [0] }, { layers: [1] }]).groupOf(5)).toThrow(/layer 5 is in none/);
  });
});
