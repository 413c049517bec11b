/** What is told of options that cannot do for a model what was asked. */
import { expect, test } from "vitest";
import type { ModelShape } from "../../src/shape/shape.ts";
import { missingOfExperts, missingOfStore } from "../../src/worker/capabilities.ts";

const attention = (headDim: number, sharesKvOf?: number) => ({
  mixers: [{ kind: "attention", heads: 4, kvHeads: 1, headDim, sharesKvOf }],
});
const latent = { mixers: [{ kind: "latent", heads: 4, rank: 32, ropeDim: 8, plainDim: 16, valueDim: 16 }] };

const shapeOf = (...layers: readonly unknown[]) => ({ hiddenSize: 64, layers }) as unknown as ModelShape;

const codes = (shape: ModelShape, atRestBits?: 8 | 4) =>
  missingOfStore(shape, { atRestBits }).map(({ code }) => code);

test("blocks whose layers differ, or have keys alone, are not quantised at rest, and that is told", () => {
  expect(codes(shapeOf(attention(16), attention(32)), 8)).toEqual(["at_rest_exact"]);
  expect(codes(shapeOf(latent, latent), 4)).toEqual(["at_rest_exact"]);
});

test("nothing is told where blocks are quantised, or where that was not asked for", () => {
  expect(codes(shapeOf(attention(16), attention(16), attention(32, 0)), 8)).toEqual([]);
  expect(codes(shapeOf(attention(16), attention(32)))).toEqual([]);
});

test("memory for experts is told to change nothing in a model that has none", () => {
  const dense = { architecture: "qwen3", layers: [{ ffn: { kind: "mlp" } }] } as unknown as ModelShape;
  const experts = {
    architecture: "qwen3moe",
    layers: [{ ffn: { kind: "experts" } }],
  } as unknown as ModelShape;
  const [told, ...others] = missingOfExperts(dense, { expertMemory: 1, experts: "bounded" });
  expect(told?.code).toBe("no_experts");
  expect(told?.message).toContain("qwen3");
  expect(told?.message).toContain("expertMemory and experts");
  expect(others).toEqual([]);
  expect(missingOfExperts(dense, { experts: "exact" })).toEqual([]);
  expect(missingOfExperts(experts, { expertMemory: 1 })).toEqual([]);
});
