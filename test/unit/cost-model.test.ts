import { describe, expect, it } from "vitest";
import { CostModel } from "../../src/schedule/cost-model.ts";

const BLOCK = 32;
const tiers = [
  { name: "ram", isInMemory: true },
  { name: "disk", isInMemory: false },
];
const facts = { blockTokens: BLOCK, bytesPerBlock: 1e5, flopsPerToken: 2e6, isSoftware: true, tiers };

describe("the rate of computing", () => {
  it("is assumed until a chunk of a block or more is measured, and then is that chunk's", () => {
    const costs = new CostModel(facts);
    const assumed = costs.computeMs();
    costs.computed(BLOCK - 1, 1000, 1000);
    expect(costs.computeMs()).toBe(assumed);
    costs.computed(8 * BLOCK, 800, 5000);
    expect(costs.computeMs()).toBeCloseTo(100);
  });

  it("follows long chunks at once, and hardly a short one that is slow", () => {
    const costs = new CostModel(facts);
    costs.computed(8 * BLOCK, 800, 1000);
    costs.computed(BLOCK, 400, 3000);
    expect(costs.computeMs()).toBeCloseTo(100 * 4 ** (1 / 16));
    const long = new CostModel(facts);
    long.computed(8 * BLOCK, 800, 1000);
    long.computed(8 * BLOCK, 3200, 9000);
    expect(long.computeMs()).toBeCloseTo(200);
  });

  it("counts chunks that were submitted together one after the other", () => {
    const costs = new CostModel(facts);
    costs.computed(8 * BLOCK, 800, 1000);
    costs.computed(8 * BLOCK, 1600, 1800); // submitted with the first: it ran for the second half
    expect(costs.computeMs()).toBeCloseTo(100);
  });

  it("tells the time that was saved, also before it was known", () => {
    const costs = new CostModel(facts);
    costs.credit({ gpu: 0, ram: 64, disk: 320 });
    costs.computed(20, 500, 500);
    expect(costs.timeSavedMs).toEqual({ gpu: 0, ram: 0, disk: 0 });
    costs.computed(8 * BLOCK, 800, 2000);
    expect(costs.timeSavedMs.ram).toBeCloseTo(200);
    expect(costs.timeSavedMs.disk).toBeCloseTo(1000);
    costs.credit({ gpu: 32, ram: 0, disk: 0 });
    expect(costs.timeSavedMs.gpu).toBeCloseTo(100);
    expect(costs.timeSavedMs.disk).toBeCloseTo(1000);
  });
});
