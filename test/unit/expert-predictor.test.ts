/** The learned predictor of experts: training, its file, and what does not fit. And the list of a warm start. */
import { describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import type { ActivationStep, ActivationTrace } from "../../src/cache/experts/activations.ts";
import { LearnedPredictor } from "../../src/cache/experts/predictor.ts";
import { MAX_WARM_EXPERTS, readWarmStart, writeWarmStart } from "../../src/cache/experts/warm-start.ts";
import { bestOf } from "../../src/sim/experts/generate.ts";
import { floatToHalf, halfToFloat } from "../../src/tier/record/kv-quant.ts";
import { trainPredictor } from "../bench/train-predictor.ts";

const [HIDDEN, EXPERTS, CHOSEN, LAYERS] = [6, 8, 2, 3];

/** Routers that are linear maps of what the first layer's saw: all can be learned from it. */
function learnable(tokens: number): ActivationTrace {
  const random = new Random(5);
  const normals = (count: number) => Float32Array.from({ length: count }, () => random.normal());
  const maps = Array.from({ length: LAYERS }, () => normals(EXPERTS * HIDDEN));
  const steps = Array.from({ length: tokens }, (): ActivationStep => {
    const input = normals(HIDDEN).map((value) => halfToFloat(floatToHalf(value)));
    const chosen = maps.map((map) => {
      const logits = Array.from({ length: EXPERTS }, (_, expert) =>
        input.reduce((sum, value, i) => sum + value * map[expert * HIDDEN + i]!, 0),
      );
      return bestOf(logits, CHOSEN);
    });
    return {
      ...{ phase: "decode", tokens: 1, experts: Uint16Array.from(chosen.flat()) },
      weights: Float32Array.from({ length: LAYERS * CHOSEN }, (_, i) => (i % CHOSEN === 0 ? 0.6 : 0.4)),
      inputs: Uint16Array.from(maps.flatMap(() => Array.from(input, floatToHalf))),
    };
  });
  const header = {
    ...{ model: "toy", fingerprint: "f00d", layers: [0, 2, 3], experts: EXPERTS, chosen: CHOSEN },
    ...{ matrixBytes: [1], hiddenSize: HIDDEN, distances: [], guesses: 0 },
  };
  return { header, steps };
}

const options = { distances: [1, 2], width: 24, epochs: 6, batch: 16, learningRate: 0.01, seed: 1 };
const model = { fingerprint: "f00d", layers: LAYERS, experts: EXPERTS, hiddenSize: HIDDEN };
const trace = learnable(1200);
const { predictor, held } = trainPredictor(trace, options);

describe("the learned predictor", () => {
  test("learns what can be learned, far beyond the token before", () => {
    expect(held.map(({ behind, distance }) => [behind, distance])).toEqual([
      [0, 1],
      [1, 1],
      [0, 2],
    ]);
    for (const { learned, former } of held) {
      expect(learned).toBeGreaterThan(0.8);
      expect(former).toBeLessThan(0.4);
    }
    expect(predictor.distances).toEqual([1, 2]);
    expect(predictor.predict(2, 1, new Float32Array(HIDDEN))).toBeUndefined();
  });

  test("is the same for the same seed, and in a file", () => {
    const bytes = predictor.write();
    expect(Buffer.from(trainPredictor(trace, options).predictor.write()).equals(Buffer.from(bytes))).toBe(
      true,
    );
    const read = LearnedPredictor.read("toy.predictor", bytes, model);
    const input = Float32Array.from({ length: HIDDEN }, (_, i) => i - 2);
    expect(read.predict(1, 1, input)).toEqual(predictor.predict(1, 1, input));
    expect(Buffer.from(read.write()).equals(Buffer.from(bytes))).toBe(true);
  });

  test("is refused by another model, and when its file is damaged", () => {
    const bytes = predictor.write();
    const read =
      (given: Uint8Array, expected = model) =>
      () =>
        LearnedPredictor.read("toy.p", given, expected);
    expect(read(bytes, { ...model, fingerprint: "beef" })).toThrow(
      /^toy\.p was trained for another model: its fingerprint is f00d, expected beef$/,
    );
    expect(read(bytes, { ...model, experts: 16 })).toThrow(/its experts is 8, expected 16/);
    for (const cut of [0, 7, 30, bytes.length - 1]) expect(read(bytes.subarray(0, cut))).toThrow(/^toy\.p/);
    const text = new TextDecoder("latin1").decode(bytes);
    const changed = (from: string, to: string): Uint8Array => {
      expect(text).toContain(from);
      return Uint8Array.from(text.replace(from, to), (char) => char.charCodeAt(0));
    };
    expect(read(changed('"shape":[24,6]', '"shape":[24,7]'))).toThrow(
      /0\.1\.in is F32 \[24,7\]; expected F32 \[24,6\]/,
    );
    expect(read(changed('"data_offsets":[0,', '"data_offsets":[4,'))).toThrow(
      /0\.1\.in lies at 4 to 576; expected 576/,
    );
    expect(read(changed("predictor-1", "predictor-9"))).toThrow(
      /__metadata__\.format is "tidepool-expert-predictor-9"/,
    );
    const notFinite = bytes.slice();
    notFinite.set([0, 0, 0xc0, 0x7f], bytes.length - 4);
    expect(read(notFinite)).toThrow(/outBias has a value that is not finite/);
  });

  test("needs a trace with inputs", () => {
    const without = { ...trace, header: { ...trace.header, hiddenSize: 0 } };
    expect(() => trainPredictor(without, options)).toThrow(/has no inputs of routers/);
    expect(() => trainPredictor({ ...trace, steps: [] }, options)).toThrow(/0 tokens are too few/);
  });
});

describe("a warm start's list", () => {
  const shape = { layers: 4, experts: 9 };
  const needed = [
    { layer: 3, expert: 8 },
    { layer: 0, expert: 0 },
    { layer: 1, expert: 7 },
  ];

  test("is read in its order, up to its bound", () => {
    expect(readWarmStart(shape, writeWarmStart(shape, needed))).toEqual(needed);
    expect(readWarmStart(shape, writeWarmStart(shape, []))).toEqual([]);
    const large = { layers: 100, experts: 128 };
    const many = Array.from({ length: MAX_WARM_EXPERTS + 5 }, (_, i) => ({ layer: i >> 7, expert: i & 127 }));
    expect(readWarmStart(large, writeWarmStart(large, many))).toEqual(many.slice(0, MAX_WARM_EXPERTS));
  });

  test("is none if it does not fit: other bytes, an expert too many, one twice", () => {
    const bytes = writeWarmStart(shape, needed);
    expect(readWarmStart(shape, bytes.subarray(1))).toBeUndefined();
    expect(readWarmStart({ ...shape, layers: 3 }, bytes)).toBeUndefined();
    expect(readWarmStart(shape, writeWarmStart(shape, [needed[0]!, needed[0]!]))).toBeUndefined();
    expect(readWarmStart(shape, new Uint8Array(4 * (MAX_WARM_EXPERTS + 1)))).toBeUndefined();
  });
});
