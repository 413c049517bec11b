/** Budgets where the caller names none: from the device's numbers and the model's. */
import { totalmem, tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { openModel } from "../../src/load/model-file.ts";
import { openPath } from "../../src/load/source.ts";
import { planMemory } from "../../src/model/memory.ts";
import { shapeOf } from "../../src/model/arch/rows.ts";
import { diskBudget, ramBudget } from "../../src/worker/cache/budgets.ts";

const MIB = 2 ** 20;
const GIB = 2 ** 30;

test("the RAM tier holds 32,768 tokens of the model, within its bounds", () => {
  const most = Math.max(256 * MIB, totalmem() / 8);
  expect(ramBudget({}, 0)).toBe(256 * MIB);
  expect(ramBudget({}, 4096)).toBe(256 * MIB);
  expect(ramBudget({}, 16_384)).toBe(Math.floor(Math.min(most, 512 * MIB)));
  expect(ramBudget({}, 2 ** 40)).toBe(Math.floor(most));
  expect(ramBudget({ ramBytes: 5 }, 16_384)).toBe(5);
});

test("the disk tier takes a tenth of the file system, 4 GiB at most, also for a folder that is still to be made", async () => {
  const asked = await diskBudget({ directory: join(tmpdir(), "tidepool-none", "below") });
  expect(asked).toBe(await diskBudget({ directory: tmpdir() }));
  expect(asked).toBeGreaterThan(0);
  expect(asked).toBeLessThanOrEqual(4 * GIB);
  expect(await diskBudget({})).toBe(GIB);
  expect(await diskBudget({ directory: tmpdir(), diskBytes: 7 })).toBe(7);
});

test("the KV pool may hold a context for every request, as far as 1 GiB goes", async () => {
  const file = await openModel([await openPath("demo/models/tide-dense.gguf")]);
  const shape = shapeOf(file);
  const options = { dtype: "f16", kvDtype: "f16", blockTokens: 32, chunkTokens: 256, seats: 8 } as const;
  const tokens = (change: object) => 32 * planMemory(file, { ...shape, ...change }, options).maxBlocks;
  expect(tokens({})).toBe(8 * shape.contextTokens);
  expect(tokens({ contextTokens: 500 })).toBe(8192);
  const perToken = planMemory(file, shape, options).kvBytesPerToken;
  expect(perToken * tokens({ contextTokens: 1_000_000 })).toBeLessThanOrEqual(GIB);
  await file.close();
});
