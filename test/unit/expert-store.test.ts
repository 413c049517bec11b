/** Experts off the GPU: what RAM holds of them is bounded, and a disk that fails is asked again, but not for ever. */
import { mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { openModel, type ModelFile } from "../../src/load/model-file.ts";
import { openBytes, openPath } from "../../src/load/source.ts";
import { namesIn } from "../../src/model/arch/tensor-names.ts";
import { shapeOf } from "../../src/model/arch/rows.ts";
import { expertsOf, planSlots, type ExpertPlan } from "../../src/model/experts/plan.ts";
import { ExpertStore } from "../../src/model/experts/store.ts";
import { Random } from "../../src/base.ts";
import { randomModel, type RandomShape } from "../bench/random-model.ts";
import { testSeed } from "../support/seed.ts";
import { TestDisk } from "../support/test-disk.ts";

const SMALL: RandomShape = {
  ...{ hiddenSize: 64, layers: 3, heads: 2, kvHeads: 1, headDim: 32, ffnWidth: 64, vocabSize: 32 },
  ...{ contextTokens: 64, tied: true, experts: { count: 8, chosen: 2 } },
};

const MODEL = randomModel(SMALL, "Q8_0", 5);

function planOf(file: ModelFile): ExpertPlan {
  const shape = shapeOf(file);
  const all = expertsOf(namesIn(file, shape), shape);
  if (!all) throw new Error("no experts");
  return planSlots(all, all.bytes);
}

interface Opened {
  store: ExpertStore;
  disk: TestDisk;
  plan: ExpertPlan;
}

async function open(ramBytes = 0): Promise<Opened> {
  const disk = new TestDisk();
  const file = await openModel([disk.over(openBytes(MODEL, "model.gguf"))]);
  const plan = planOf(file);
  disk.reads = 0;
  return { store: new ExpertStore(file, plan, ramBytes), disk, plan };
}

const unreadable = { code: "source", details: { tensor: "blk.1.ffn_up_exps.weight", expert: 3 } };

test("RAM holds no more than its budget, with a model of twice as much", async () => {
  const { plan } = await open();
  const budget = plan.bytes / 2;
  const { store } = await open(budget);
  const random = new Random(testSeed("expert-store"));
  let most = 0;
  for (let i = 0; i < 600; i++) {
    await store.words(random.below(3), random.below(8), random.below(3));
    most = Math.max(most, store.keptBytes);
    expect(store.keptBytes).toBeLessThanOrEqual(budget);
  }
  expect(most).toBeGreaterThan(0.9 * budget);
  expect(store.stats.ramBytes).toBeGreaterThan(0);
  store.close();
  expect(store.keptBytes).toBe(0);
});

test("without a budget nothing is kept", async () => {
  const { store, disk } = await open(0);
  await store.words(0, 0, 0);
  await store.words(0, 0, 0);
  expect([disk.reads, store.keptBytes]).toEqual([2, 0]);
});

describe("a disk that fails", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  /** What a read comes to, with time going by as fast as it may. */
  async function outcome(reading: Promise<Uint32Array>): Promise<unknown> {
    const settled = reading.catch((error: unknown) => error);
    await vi.advanceTimersByTimeAsync(200_000);
    return settled;
  }

  for (const fault of ["error", "short", "never"] as const)
    test(`"${fault}" a few times is a retry, and the words are right`, async () => {
      const { store, disk } = await open();
      const expected = await outcome(store.words(1, 3, 1));
      disk.fail(fault, 3);
      expect(await outcome(store.words(1, 3, 1))).toEqual(expected);
      expect(store.stats.retries).toBe(3);
    });

  for (const fault of ["error", "short", "never"] as const)
    test(`"${fault}" for ever is an error that names the expert, and the next read is right again`, async () => {
      const { store, disk } = await open(2 ** 20);
      disk.fail(fault);
      expect(await outcome(store.words(1, 3, 1))).toMatchObject(unreadable);
      expect([disk.reads, store.keptBytes]).toEqual([4, 0]);
      disk.heal();
      const other = await open();
      expect(await outcome(store.words(1, 3, 1))).toEqual(await outcome(other.store.words(1, 3, 1)));
    });

  test("closing ends a read that gets no answer, and one that waits to be tried again", async () => {
    for (const fault of ["never", "error"] as const) {
      const { store, disk } = await open();
      disk.fail(fault);
      const failing = outcome(store.words(0, 0, 0));
      store.close();
      expect(await failing).toMatchObject({ code: "aborted" });
      expect(disk.reads).toBe(1);
      expect(vi.getTimerCount()).toBe(0);
    }
  });
});

test("a file that is cut while it is open gives an error, not zeros", async () => {
  const folder = await mkdtemp(join(tmpdir(), "tidepool-experts-"));
  try {
    const path = join(folder, "model.gguf");
    await writeFile(path, MODEL);
    const file = await openModel([await openPath(path)]);
    const store = new ExpertStore(file, planOf(file), 2 ** 20);
    const before = await store.words(0, 0, 0);
    await truncate(path, 1000);
    await expect(store.words(1, 3, 1)).rejects.toMatchObject(unreadable);
    expect(await store.words(0, 0, 0)).toEqual(before); // still in RAM
    await writeFile(path, MODEL);
    await store.words(1, 3, 1);
    store.close();
    await file.close();
  } finally {
    await rm(folder, { recursive: true });
  }
});
