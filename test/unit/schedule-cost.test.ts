/** What work is expected to cost: the fit against machines whose times are known, through outliers, noise and changes. */
import { describe, expect, it } from "vitest";
import { Random } from "../../src/base.ts";
import { ERROR_WINDOW, PredictionErrors } from "../../src/schedule/cost/errors.ts";
import { CostModel } from "../../src/schedule/cost/model.ts";
import { testSeed } from "../support/seed.ts";

const BLOCK = 32;
const tiers = [
  { name: "ram", isInMemory: true },
  { name: "disk", isInMemory: false },
];
const facts = { blockTokens: BLOCK, bytesPerBlock: 1e5, flopsPerToken: 2e6, isSoftware: true, tiers };

/** A machine whose steps take known times, and a model that is told of them. */
class Machine {
  readonly costs = new CostModel(facts);
  private nowMs = 0;
  private readonly random: Random;
  private readonly a: number[];
  private readonly b: number[];
  /** How many times slower than it was. */
  slowness = 1;

  constructor(random: Random) {
    this.random = random;
    const magnitude = 10 ** (random.next() * 3 - 1.5);
    const about = (value: number): number => value * magnitude * (0.5 + random.next());
    this.a = [about(5), about(0.2), about(2e-5)];
    this.b = [about(4), about(1), about(1e-3)];
  }

  prefillMs(tokens: number, from: number): number {
    const [a0, a1, a2] = this.a as [number, number, number];
    return this.slowness * (a0 + a1 * tokens + a2 * tokens * (from + tokens / 2));
  }

  decodeMs(rows: number, context: number): number {
    const [b0, b1, b2] = this.b as [number, number, number];
    return this.slowness * (b0 + b1 * rows + b2 * context);
  }

  /** A random step, as a user brings it about, off by up to `noise`; one in `outliers` takes 5 to 50 times as long. */
  step(noise = 0.1, outliers = 20): void {
    const { random, costs } = this;
    const isOutlier = outliers > 0 && random.below(outliers) === 0;
    const factor = (1 + noise * (2 * random.next() - 1)) * (isOutlier ? 5 + random.below(45) : 1);
    if (random.below(3) === 0) {
      const [tokens, from] = [random.pick([512, 512, 512, 1 + random.below(512)]), 512 * random.below(8)];
      costs.prefilled(tokens, from, this.took(this.prefillMs(tokens, from) * factor));
    } else {
      const rows = 1 + random.below(6);
      const context = rows * (50 + random.below(2000));
      costs.decoded(rows, context, this.took(this.decodeMs(rows, context) * factor));
    }
  }

  /** The largest relative error over steps of all kinds. */
  worst(): number {
    const off = [
      ...[64, 256, 512].flatMap((tokens) =>
        [0, 512, 2048].map((from) => ratio(this.costs.prefillMs(tokens, from), this.prefillMs(tokens, from))),
      ),
      ...[1, 2, 4, 6].map((rows) =>
        ratio(this.costs.decodeMs(rows, rows * 800), this.decodeMs(rows, rows * 800)),
      ),
    ];
    return Math.max(...off);
  }

  private took(ms: number): { ms: number; nowMs: number } {
    this.nowMs += ms;
    return { ms, nowMs: this.nowMs };
  }
}

const ratio = (a: number, b: number): number => Math.max(a / b, b / a) - 1;

describe("the fit of steps", () => {
  it("comes within 8% of most machines after 100 steps, with noise and outliers among them", () => {
    const random = new Random(testSeed("cost fit"));
    const off = Array.from({ length: 40 }, () => {
      const machine = new Machine(random);
      for (let step = 0; step < 100; step++) machine.step();
      return machine.worst();
    }).sort((a, b) => a - b);
    console.log(`worst of 13 steps: median ${off[20]?.toFixed(3)}, 90% ${off[36]?.toFixed(3)}`);
    expect(off[20]).toBeLessThan(0.08);
    expect(off[36]).toBeLessThan(0.3);
  });

  it("is no worse for a first chunk that takes a hundred times as long, because shaders are compiled", () => {
    const random = new Random(testSeed("cost fit, first chunk"));
    for (let round = 0; round < 20; round++) {
      const machine = new Machine(random);
      machine.costs.prefilled(512, 0, { ms: 100 * machine.prefillMs(512, 0), nowMs: 0 });
      for (let step = 0; step < 60; step++) machine.step(0.02, 0);
      expect(ratio(machine.costs.prefillMs(512, 0), machine.prefillMs(512, 0))).toBeLessThan(0.15);
    }
  });

  it("follows a machine that becomes three times slower, and one that recovers, within 20 steps", () => {
    const random = new Random(testSeed("cost fit, slower"));
    for (let round = 0; round < 20; round++) {
      const machine = new Machine(random);
      for (const slowness of [1, 3, 1]) {
        machine.slowness = slowness;
        for (let step = 0; step < (slowness === 1 ? 60 : 20); step++) machine.step(0.02, 0);
        const [rows, context] = [3, 3000];
        const off = ratio(machine.costs.decodeMs(rows, context), machine.decodeMs(rows, context));
        expect(off, `times ${slowness}`).toBeLessThan(0.35);
      }
    }
  });

  it("does not forget what long prompts cost while only short ones come", () => {
    const random = new Random(testSeed("cost fit, diversity"));
    const machine = new Machine(random);
    for (let step = 0; step < 100; step++) machine.step(0.02, 0);
    const before = ratio(machine.costs.prefillMs(512, 3000), machine.prefillMs(512, 3000));
    for (let step = 0, nowMs = 1e9; step < 2000; step++) {
      const ms = machine.decodeMs(1, 100);
      machine.costs.decoded(1, 100, { ms, nowMs: (nowMs += ms) });
      const chunkMs = machine.prefillMs(32, 0);
      machine.costs.prefilled(32, 0, { ms: chunkMs, nowMs: (nowMs += chunkMs) });
    }
    expect(ratio(machine.costs.prefillMs(512, 3000), machine.prefillMs(512, 3000))).toBeLessThan(
      before + 0.15,
    );
    expect(ratio(machine.costs.decodeMs(6, 6000), machine.decodeMs(6, 6000))).toBeLessThan(0.2);
  });

  it("has no coefficient below 0: more work never costs less", () => {
    const random = new Random(testSeed("cost fit, monotonic"));
    for (let round = 0; round < 30; round++) {
      const machine = new Machine(random);
      for (let step = 0; step < random.below(40); step++) machine.step(0.9, 3);
      const { costs } = machine;
      expect(costs.prefillMs(200, 100)).toBeGreaterThanOrEqual(costs.prefillMs(100, 100));
      expect(costs.prefillMs(200, 1000)).toBeGreaterThanOrEqual(costs.prefillMs(200, 100));
      expect(costs.decodeMs(2, 100)).toBeGreaterThanOrEqual(costs.decodeMs(1, 100));
      expect(costs.decodeMs(2, 200)).toBeGreaterThanOrEqual(costs.decodeMs(2, 100));
      expect(costs.decodeMs(1, 1)).toBeGreaterThan(0);
    }
  });
});

describe("the cost of a block", () => {
  it("is assumed until a chunk is measured, and then follows from it", () => {
    const costs = new CostModel(facts);
    const assumed = costs.computeMs();
    expect(assumed).toBeGreaterThan(0);
    costs.prefilled(8 * BLOCK, 0, { ms: 80_000, nowMs: 80_000 });
    expect(costs.computeMs()).toBeCloseTo(10_000, -2);
  });

  it("counts chunks that were submitted together one after the other, and decode steps between them", () => {
    const costs = new CostModel(facts);
    costs.prefilled(8 * BLOCK, 0, { ms: 800, nowMs: 1000 });
    costs.prefilled(8 * BLOCK, 0, { ms: 1600, nowMs: 1800 }); // submitted with the first: it ran for the second half
    expect(costs.computeMs()).toBeCloseTo(100);
    costs.decoded(1, 100, { ms: 800, nowMs: 1810 });
    expect(costs.decodeMs(1, 100)).toBeCloseTo(10);
  });

  it("becomes another when another device computes", () => {
    const costs = new CostModel(facts);
    costs.prefilled(8 * BLOCK, 0, { ms: 8000, nowMs: 8000 });
    costs.moveTo({ ...facts, isSoftware: false });
    expect(costs.computeMs()).toBeLessThan(10);
  });

  it("tells the time that was saved, also before it was known", () => {
    const costs = new CostModel(facts);
    costs.credit({ gpu: 0, ram: 64, disk: 320 });
    expect(costs.timeSavedMs).toEqual({ gpu: 0, ram: 0, disk: 0 });
    costs.prefilled(8 * BLOCK, 0, { ms: 800, nowMs: 2000 });
    expect(costs.timeSavedMs.ram).toBeCloseTo(200);
    expect(costs.timeSavedMs.disk).toBeCloseTo(1000);
    costs.credit({ gpu: 32, ram: 0, disk: 0 });
    expect(costs.timeSavedMs.gpu).toBeCloseTo(100);
    expect(costs.timeSavedMs.disk).toBeCloseTo(1000);
  });
});

describe("what was learned", () => {
  it("is plain JSON, bounded, and predicts the same in the next session", () => {
    const random = new Random(testSeed("cost state"));
    const machine = new Machine(random);
    for (let step = 0; step < 2000; step++) machine.step();
    machine.costs.transferred(1e6, 200);
    const load = machine.costs.loadsOf("disk");
    load.begin(0);
    load.end(8, BLOCK);
    const text = JSON.stringify(machine.costs.state());
    expect(text.length).toBeLessThan(12_000);
    const costs = new CostModel(facts);
    costs.restore(JSON.parse(text) as object);
    expect(costs.loadMs("disk")).toBeCloseTo(8);
    expect(costs.transferMs(1e6)).toBeCloseTo(machine.costs.transferMs(1e6) as number, 0);
    expect(ratio(costs.prefillMs(512, 1000), machine.prefillMs(512, 1000))).toBeLessThan(0.2);
    expect(ratio(costs.decodeMs(4, 4000), machine.decodeMs(4, 4000))).toBeLessThan(0.2);
  });

  it("is left out where it cannot be what it says", () => {
    const assumed = new CostModel(facts).prefillMs(512, 0);
    const good = { version: 1, prefill: [[1, 512, 131_072, 5]], decode: [], transfer: [], loads: {} };
    for (const state of [
      {},
      { ...good, version: 2 },
      { ...good, prefill: [[1, 512, 5]] },
      { ...good, prefill: [[1, 512, -1, 5]] },
      { ...good, prefill: [[1, 512, 131_072, "5"]] },
      { ...good, prefill: "512" },
      { ...good, prefill: [[1, 512, 131_072, null]] },
    ]) {
      const costs = new CostModel(facts);
      costs.restore(state);
      expect(costs.prefillMs(512, 0), JSON.stringify(state)).toBe(assumed);
    }
    const costs = new CostModel(facts);
    costs.restore({ ...good, loads: { disk: -5, ram: "x" } });
    expect(costs.prefillMs(512, 0)).toBeCloseTo(5);
    expect(costs.loadMs("disk")).toBe(new CostModel(facts).loadMs("disk"));
  });

  it("of a link is nothing until something was sent", () => {
    const costs = new CostModel(facts);
    expect(costs.transferMs(1e6)).toBeUndefined();
    for (const bytes of [1e5, 1e6, 3e6]) costs.transferred(bytes, 3 + bytes / 1e5);
    expect(costs.transferMs(2e6)).toBeGreaterThan(20);
    expect(costs.transferMs(2e6)).toBeLessThan(26);
  });
});

describe("errors", () => {
  it("are those of predictions made before the measurement", () => {
    const costs = new CostModel(facts);
    costs.prefilled(512, 0, { ms: 1000, nowMs: 1000 });
    for (const nowMs of [4000, 8000, 12_000]) costs.prefilled(512, 0, { ms: 2000, nowMs });
    const { prefill, decode } = costs.errors();
    expect(prefill.count).toBe(4);
    expect(prefill.median).toBeGreaterThan(0.04);
    expect(decode).toEqual({ count: 0, median: undefined });
    costs.firstToken(150, 100);
    expect(costs.errors().ttft).toEqual({ count: 1, median: 0.5 });
  });

  it("of loads compare what a window took with what the tier was expected to take", () => {
    const costs = new CostModel(facts);
    const loads = costs.loadsOf("ram");
    loads.begin(0);
    loads.end(10, BLOCK);
    loads.begin(20);
    loads.end(25, BLOCK);
    expect(costs.errors().move.count).toBe(2);
    expect(costs.errors().move.median).toBeLessThanOrEqual(1);
  });

  it("are the median of the last ones", () => {
    const errors = new PredictionErrors();
    for (let index = 0; index < 100; index++) errors.add(300, 100);
    for (let index = 0; index < ERROR_WINDOW; index++) errors.add(index < 40 ? 110 : 500, 100);
    expect(errors.figures.count).toBe(100 + ERROR_WINDOW);
    expect(errors.figures.median).toBeCloseTo(0.1);
  });
});
