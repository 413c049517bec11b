import { describe, expect, it } from "vitest";
import { RestoreRates } from "../../src/worker/cache/restore-rates.ts";

const BLOCK = 32;
const facts = { blockTokens: BLOCK, bytesPerBlock: 1e5, flopsPerToken: 2e6, isSoftware: true };

describe("the rate of computing", () => {
  it("is assumed until a chunk of a block or more is measured, and then is that chunk's", () => {
    const rates = new RestoreRates(facts);
    const assumed = rates.computeMs();
    rates.computed(BLOCK - 1, 1000, 1000);
    expect(rates.computeMs()).toBe(assumed);
    rates.computed(8 * BLOCK, 800, 5000);
    expect(rates.computeMs()).toBeCloseTo(100);
  });

  it("follows long chunks at once, and hardly a short one that is slow", () => {
    const rates = new RestoreRates(facts);
    rates.computed(8 * BLOCK, 800, 1000);
    rates.computed(BLOCK, 400, 3000);
    expect(rates.computeMs()).toBeCloseTo(100 * 4 ** (1 / 16));
    const long = new RestoreRates(facts);
    long.computed(8 * BLOCK, 800, 1000);
    long.computed(8 * BLOCK, 3200, 9000);
    expect(long.computeMs()).toBeCloseTo(200);
  });

  it("counts chunks that were submitted together one after the other", () => {
    const rates = new RestoreRates(facts);
    rates.computed(8 * BLOCK, 800, 1000);
    rates.computed(8 * BLOCK, 1600, 1800); // submitted with the first: it ran for the second half
    expect(rates.computeMs()).toBeCloseTo(100);
  });

  it("tells the time that was saved, also before it was known", () => {
    const rates = new RestoreRates(facts);
    rates.credit({ gpu: 0, ram: 64, disk: 320 });
    rates.computed(20, 500, 500);
    expect(rates.timeSavedMs).toEqual({ gpu: 0, ram: 0, disk: 0 });
    rates.computed(8 * BLOCK, 800, 2000);
    expect(rates.timeSavedMs.ram).toBeCloseTo(200);
    expect(rates.timeSavedMs.disk).toBeCloseTo(1000);
    rates.credit({ gpu: 32, ram: 0, disk: 0 });
    expect(rates.timeSavedMs.gpu).toBeCloseTo(100);
    expect(rates.timeSavedMs.disk).toBeCloseTo(1000);
  });
});
