/**
 * A mixer and a feed-forward are one value each: what the rest of the model needs of them it asks them. Two toys are added
 * from outside; that they compute the right thing is a GPU case (test/model/toy-kinds.cases.ts).
 */
import { expect, test } from "vitest";
import { openModel } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import { shapeOf } from "../../src/model/arch/rows.ts";
import { checkTensors } from "../../src/model/arch/tensor-names.ts";
import { modelCost } from "../../src/model/cost.ts";
import { FEED_FORWARDS } from "../../src/model/ffn/kinds.ts";
import { MLP } from "../../src/model/ffn/mlp.ts";
import { ATTENTION } from "../../src/model/mixer/attention.ts";
import { GATED_DELTA } from "../../src/model/mixer/gated-delta.ts";
import { MIXERS } from "../../src/model/mixer/kinds.ts";
import { MAMBA2 } from "../../src/model/mixer/mamba2.ts";
import { SHORT_CONV } from "../../src/model/mixer/short-conv.ts";
import { Runner } from "../../src/model/runner.ts";
import type { LayerShape, Mixer, ModelShape } from "../../src/shape/shape.ts";
import { costOf, type CostLayer } from "../../src/sim/cost-shape.ts";
import { fakeGpu } from "../support/fake-gpu.ts";
import { addToys, TOY, toyModel, toyTensors } from "../support/toy-kinds.ts";

addToys();

const OPTIONS = { dtype: "f32", kvDtype: "f32", blockTokens: 16, chunkTokens: 8, seats: 2 } as const;

const open = (tensors: ReadonlyMap<string, Float32Array>) =>
  openModel([openBytes(toyModel(tensors), "toy.gguf")]);

test("weights, state, buffers and cost of a model of added kinds are those that the kinds name", async () => {
  const { hiddenSize: d, layers } = TOY;
  const { gpu } = fakeGpu(2 ** 28);
  const tensors = toyTensors(1);
  const read = new Set<string>();
  const runner = await Runner.load(gpu, await open(tensors), OPTIONS, undefined, ({ name }) =>
    read.add(name),
  );
  expect([...read].sort()).toEqual([...tensors.keys()].sort());
  expect(runner.states.slotBytes).toBe(layers * d * 4);
  expect(runner.pool.slotBytes).toBe(0);
  expect(modelCost(runner.shape, "f32")).toEqual({
    flopsLinear: layers * (2 * d + 4 * d * d),
    flopsQuadratic: 0,
    bytesPerToken: 0,
    bytesPerSnapshot: layers * d * 4,
  });
  expect(runner.shape.layers[0]).toEqual({
    mixers: [{ kind: "decaying-sum" }],
    ffn: { kind: "linear", width: d },
    norms: { mixer: "attn_norm", ffn: "ffn_norm" },
    parallel: false,
  });
  runner.destroy();
});

test.each(["sum_decay", "sum_out", "ffn_linear"])(
  "a file without its %s is refused by name",
  async (name) => {
    const tensors = new Map(toyTensors(1));
    tensors.delete(`blk.1.${name}.weight`);
    const file = await open(tensors);
    expect(() => checkTensors(file, shapeOf(file))).toThrow(
      `toy.gguf: the tensor blk.1.${name}.weight is missing`,
    );
  },
);

test("a tensor that no kind names is refused", async () => {
  const file = await open(
    new Map([...toyTensors(1), ["blk.0.sum_gate.weight", new Float32Array(TOY.hiddenSize)]]),
  );
  expect(() => checkTensors(file, shapeOf(file))).toThrow(/the tensor blk\.0\.sum_gate\.weight has no part/);
});

/** One layer of each kind, and the same as replays describe it. */
const DESCRIBED: readonly (readonly [Partial<LayerShape>, CostLayer])[] = [
  [
    { mixers: [{ kind: "attention", heads: 6, kvHeads: 2, headDim: 16 } as Mixer] },
    { kind: "attention", count: 1, heads: 6, kvHeads: 2, headDim: 16 },
  ],
  [{ mixers: [{ kind: "short-conv", kernel: 3 }] }, { kind: "short-conv", count: 1, convKernel: 3 }],
  [
    { mixers: [{ kind: "mamba2", heads: 6, headDim: 16, groups: 2, stateSize: 32, kernel: 4 }] },
    { kind: "mamba2", count: 1, inner: 96, groups: 2, stateSize: 32, convKernel: 4 },
  ],
  [
    {
      mixers: [
        { kind: "gated-delta", valueHeads: 6, keyHeads: 2, keyDim: 8, valueDim: 16, kernel: 4 } as Mixer,
      ],
    },
    { kind: "gated-delta", count: 1, heads: 6, keyHeads: 2, keyDim: 8, valueDim: 16, convKernel: 4 },
  ],
  [
    { ffn: { kind: "mlp", width: 80, activation: "silu", gated: true } },
    { kind: "mlp", count: 1, inner: 80, matrices: 3 },
  ],
  [
    { ffn: { kind: "mlp", width: 80, activation: "relu2", gated: false } },
    { kind: "mlp", count: 1, inner: 80, matrices: 2 },
  ],
];

test.each(DESCRIBED)(
  "a layer costs what its description in a replay costs: $mixers $ffn",
  (layer, described) => {
    const hiddenSize = 32;
    const layers = [{ mixers: [], ffn: undefined, ...layer }];
    const units = { hiddenSize, kvElementBytes: 2, stateElementBytes: 4 };
    const cost = costOf({ name: "one layer", ...units, layers: [described] });
    expect(cost.flopsLinear).toBeGreaterThan(0);
    expect(modelCost({ hiddenSize, layers } as unknown as ModelShape, "f16")).toEqual(cost);
  },
);

test("two kinds of one name are a mistake of ours, and so is a kind that is not there", () => {
  expect(() => MIXERS.add(MIXERS.of({ kind: "attention" }))).toThrow(
    /two kinds of mixer are named "attention"/,
  );
  expect(() => FEED_FORWARDS.of({ kind: "magic" })).toThrow(/no feed-forward is named "magic"/);
});

test.each([GATED_DELTA, MAMBA2, SHORT_CONV])(
  "attention and $kind, which are in one model, have no tensor of one GGUF name under two names in safetensors",
  (recurrent) => {
    const kinds = [ATTENTION, recurrent, MLP];
    const pairs = kinds.flatMap(({ safetensorsNames }) => Object.entries(safetensorsNames ?? {}));
    const names = new Set(pairs.map(([name]) => name));
    expect(new Set(pairs.map((pair) => pair.join(" "))).size).toBe(names.size);
  },
);
