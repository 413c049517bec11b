/** The books of the state pool against a naive model, and how many slots a model's pool has at first and at most. */
import { expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { StateSlotPool, type StateRing } from "../../src/cache/state-slot-pool.ts";
import type { ModelFile } from "../../src/load/model-file.ts";
import { checkSeats, planMemory, planStates, tailRoom, tailsFor } from "../../src/model/memory.ts";
import type { Mixer, ModelShape } from "../../src/shape/shape.ts";
import { stateBytes } from "../../src/gpu/state-pool.ts";
import { stateLayers } from "../../src/model/mixer/kinds.ts";
import { testSeed } from "../support/seed.ts";

test("random life agrees with a naive model: no slot twice, snapshots within their bound", () => {
  const random = new Random(testSeed("cache-state-slots"));
  for (let round = 0; round < 200; round++) {
    const most = random.below(6);
    const pool = new StateSlotPool(2 + random.below(6), most);
    const pairs: StateRing[] = [];
    const saving: number[] = [];
    const cached: number[] = [];
    for (let turn = 0; turn < 200; turn++) {
      const used = [...pairs.flat(), ...saving, ...cached];
      const unused = pool.slotCount - used.length;
      const action = random.below(7);
      if (action === 0) {
        const pair = pool.takeRing();
        expect(pair !== undefined, "a pair").toBe(unused >= 2);
        if (pair) pairs.push(pair);
      } else if (action === 1) {
        const pair = pairs.shift();
        if (pair) pool.giveRing(pair);
      } else if (action === 2) {
        const slot = pool.allocateOne();
        expect(slot !== undefined, "a snapshot").toBe(unused > 0 && saving.length + cached.length < most);
        if (slot !== undefined) saving.push(slot);
      } else if (action === 3) {
        const slot = saving.shift();
        if (slot !== undefined) {
          pool.keep(slot);
          pool.release(slot);
          cached.push(slot);
        }
      } else if (action === 4) {
        const slot = cached.shift();
        if (slot !== undefined) pool.forget(slot);
      } else if (action === 5) {
        const slot = saving.shift();
        if (slot !== undefined) pool.release(slot);
      } else if (random.below(10) === 0) pool.grow(random.below(4));
      const now = [...pairs.flat(), ...saving, ...cached];
      expect(new Set(now).size, "a slot is given twice").toBe(now.length);
      expect(pool.runningCount).toBe(2 * pairs.length);
      const counts = { cached: cached.length, inUse: saving.length };
      const free = most - cached.length - saving.length;
      expect(pool.snapshotCounts()).toEqual({ total: most, free, ...counts });
      pool.check();
    }
  }
});

test("misuse is refused: a pair given back twice, a running slot that the tree keeps", () => {
  const pool = new StateSlotPool(4, 2);
  const pair = pool.takeRing() as [number, number];
  pool.keep(pair[0]);
  expect(() => pool.check()).toThrow(/shared/);
  pool.forget(pair[0]);
  pool.giveRing(pair);
  expect(() => pool.giveRing(pair)).toThrow(/no sequence has it/);
});

const shapeOf = (count: number, mixer: Mixer, hiddenSize: number): ModelShape =>
  ({
    hiddenSize,
    layers: Array.from({ length: count }, () => ({ mixers: [mixer] })),
  }) as unknown as ModelShape;

/** Published sizes; MB at first and at most for 8 requests. */
test.each([
  [
    "Granite 4.0 H 350M",
    shapeOf(
      28,
      { kind: "mamba2", heads: 48, headDim: 32, stateSize: 128, groups: 1, kernel: 4 } as Mixer,
      768,
    ),
    136,
    520,
  ],
  [
    "Falcon-H1 0.5B",
    shapeOf(
      36,
      { kind: "mamba2", heads: 24, headDim: 64, stateSize: 128, groups: 1, kernel: 4 } as Mixer,
      1024,
    ),
    175,
    640,
  ],
  [
    "Mamba-2 130M",
    shapeOf(
      24,
      { kind: "mamba2", heads: 24, headDim: 64, stateSize: 128, groups: 1, kernel: 4 } as Mixer,
      768,
    ),
    116,
    465,
  ],
])(
  "the state pool of %s starts with one request's states and a few snapshots",
  (_name, shape, first, most) => {
    const { startSlots, maxSlots, maxSnapshots } = planStates(shape, { seats: 8 });
    const slotMb = stateBytes(stateLayers(shape)) / 1e6;
    expect([startSlots, maxSlots]).toEqual([6, 18 + maxSnapshots]);
    expect([Math.round(startSlots * slotMb), Math.round(maxSlots * slotMb)]).toEqual([first, most]);
  },
);

test("a pool without snapshots starts with one pair, and seats that no binding holds are refused", () => {
  const mixer = { kind: "mamba2", heads: 24, headDim: 64, stateSize: 128, groups: 1, kernel: 4 };
  const shape = shapeOf(1, mixer as Mixer, 768);
  expect(planStates(shape, { seats: 3, snapshots: 0 })).toEqual({
    startSlots: 2,
    maxSlots: 8,
    maxSnapshots: 0,
  });
  expect(planStates(shape, { seats: 3, snapshots: 0, stateStartSlots: 99 }).startSlots).toBe(8);
  expect(planStates(shapeOf(0, mixer as Mixer, 768), { seats: 3 }).maxSlots).toBe(0);
  checkSeats(shape, { seats: 3 });
  expect(() => checkSeats(shape, { seats: 500 })).toThrow(
    /1002 states do not fit: at most \d+ .* fewer requests/,
  );
});

test("a state of which not even one request's fit is the model's fault, and no advice helps", () => {
  const mixer = { kind: "mamba2", heads: 1024, headDim: 64, stateSize: 1024, groups: 1, kernel: 4 };
  const huge = shapeOf(1, mixer as Mixer, 768);
  expect(() => checkSeats(huge, { seats: 1 })).toThrow(
    expect.objectContaining({
      code: "unsupported",
      message: expect.stringMatching(/takes 256.* MiB for each sequence: the 4 .* binding of 128.0 MiB$/),
    }),
  );
  const file = { name: "huge.gguf", format: "gguf", tensors: new Map() } as unknown as ModelFile;
  const options = { dtype: "f32", kvDtype: "f32", blockTokens: 16, chunkTokens: 16 } as const;
  expect(() => planMemory(file, huge, { ...options, seats: 1 })).toThrow(/^huge\.gguf: the recurrent state/);
  const seats = { ...options, seats: 500 };
  expect(() => planMemory(file, shapeOf(1, { ...mixer, heads: 24 } as Mixer, 768), seats)).toThrow(
    /^huge\.gguf: 1002 states do not fit/,
  );
});

/** A recurrent layer, and attention with blocks of 4 MiB in f32: 32 in a binding. */
const wideHybrid = {
  ...{ hiddenSize: 64, contextTokens: 4096, vocabSize: 100, perLayerWidth: 0 },
  layers: [
    { mixers: [{ kind: "mamba2", heads: 2, headDim: 8, stateSize: 8, groups: 1, kernel: 4 }] },
    { mixers: [{ kind: "attention", heads: 64, kvHeads: 64, headDim: 256 }] },
  ],
} as unknown as ModelShape;

test("snapshots beside a packed pool are no more than their exact last blocks fit a binding", () => {
  const options = { dtype: "f32", kvDtype: "q8", blockTokens: 64, chunkTokens: 64, seats: 1 } as const;
  expect(tailRoom(wideHybrid, { ...options, kvDtype: "f32" })).toBe(Infinity);
  const room = tailRoom(wideHybrid, options);
  const { maxSlots, maxSnapshots } = planStates(wideHybrid, { seats: 1, snapshots: 200 }, room);
  expect(maxSnapshots).toBe(room);
  expect(tailsFor(wideHybrid, options, maxSlots)).toBe(32);
  expect(() => tailRoom(wideHybrid, { ...options, seats: 20 })).toThrow(
    /blocks of exact newest tokens do not fit .* at most 32 of 64 tokens; use fewer requests at once than 20/,
  );
});
