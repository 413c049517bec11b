/** What was learned of a machine's speed, kept in the store between two runs of a model. */
import { expect, test } from "vitest";
import { CostModel } from "../../src/schedule/cost/model.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import { KeptRecord } from "../../src/worker/cache/kept-record.ts";
import { KeptCosts } from "../../src/worker/cache/kept-costs.ts";
import { KeptBackend } from "../support/kept-backend.ts";

const [OURS, OTHER] = ["0a".repeat(16), "0b".repeat(16)];

const newCosts = () =>
  new CostModel({ blockTokens: 32, bytesPerBlock: 1024, flopsPerToken: 1e6, isSoftware: true, tiers: [] });

/** One that has seen a machine of so many milliseconds a token. */
function taught(msPerToken = 3): CostModel {
  const costs = newCosts();
  for (let step = 1; step <= 12; step++)
    costs.prefilled(64 * step, 0, { ms: 64 * step * msPerToken, nowMs: step * 10_000 });
  return costs;
}

interface Place {
  store: TierStore;
  model?: string;
  adapterName?: string;
  subgroups?: boolean;
}

function keeper(costs: CostModel, place: Place): KeptCosts {
  const { store, model = OURS, adapterName = "llvmpipe", subgroups = false } = place;
  const runner = { adapterName, gpu: { features: { subgroups } } } as ConstructorParameters<
    typeof KeptCosts
  >[2];
  return new KeptCosts(store, "", runner, { model, costs, nowMs: 0 });
}

/** What a new model predicts for 256 tokens, after it has looked for what was kept. */
async function predictedAt(place: Place): Promise<number> {
  const costs = newCosts();
  await keeper(costs, place).start();
  return costs.prefillMs(256, 0);
}

test("costs go on from the last time, of the same model on the same adapter alone", async () => {
  const backend = new KeptBackend();
  const first = await backend.openStore();
  await keeper(newCosts(), { store: first }).write(); // nothing was learned: nothing is written
  expect(first.list()).toHaveLength(0);
  await keeper(taught(), { store: first }).write();
  expect(first.list()[0]?.bytes).toBeLessThan(8000);
  await first.close();

  const store = await backend.openStore();
  const assumed = newCosts().prefillMs(256, 0);
  const learned = await predictedAt({ store });
  expect(learned / 256).toBeCloseTo(3, 0);
  expect(Math.abs(learned - assumed)).toBeGreaterThan(50);
  expect(await predictedAt({ store, model: OTHER })).toBe(assumed);
  expect(await predictedAt({ store, adapterName: "another" })).toBe(assumed);
  expect(await predictedAt({ store, subgroups: true })).toBe(assumed);

  await keeper(taught(12), { store }).write();
  expect((await predictedAt({ store })) / learned).toBeGreaterThan(2); // in place of what was there
  expect(store.list()).toHaveLength(1);
  await store.close();
});

test("a record that is damaged, or holds something else, is none", async () => {
  const assumed = newCosts().prefillMs(256, 0);
  const state = taught().state();
  const bad = [
    "{",
    "null",
    "[]",
    '"costs"',
    JSON.stringify({ ...state, version: 99 }),
    JSON.stringify({ ...state, prefill: [[1, 2]] }),
    JSON.stringify({ ...state, prefill: [[1, -5, 3, 4]] }),
    JSON.stringify({ ...state, prefill: "fast" }),
  ];
  for (const text of bad) {
    const store = await TierStore.open({ ramBytes: 1e6 });
    await keeper(taught(), { store }).write();
    const [key] = store.list().map((record) => record.key);
    const record = new KeptRecord(store, "", { costsOf: OURS, adapter: "llvmpipe, without subgroups" }, 0);
    await record.replace([1], new TextEncoder().encode(text));
    expect(store.list().map((record) => record.key)).toEqual([key]); // in its place
    expect(await predictedAt({ store }), text).toBe(assumed);
    await store.close();
  }
});

test("a bit that flips on the disk makes it none", async () => {
  const backend = new KeptBackend();
  const first = await backend.openStore();
  await keeper(taught(), { store: first }).write();
  const key = first.list()[0]!.key;
  await first.close();
  const bytes = (await backend.read(key)) as Uint8Array;
  bytes[bytes.length - 9]! ^= 1; // the medium keeps it by reference
  const store = await backend.openStore();
  expect(await predictedAt({ store })).toBe(newCosts().prefillMs(256, 0));
  await store.close();
});
