/**
 * What a token of a model costs, by the formulas of its mixers and feed-forwards. The bytes are those of the formulas; what
 * the pools take on the GPU is for memory.ts.
 */
import type { KvDtype } from "../gpu/packed.ts";
import { addCost, NO_COST, type Cost } from "../shape/cost.ts";
import type { ModelShape } from "../shape/shape.ts";
import { FEED_FORWARDS } from "./ffn/kinds.ts";
import { MIXERS } from "./mixer/kinds.ts";

const F32_BYTES = 4;

/** A packed element has its code, and its share of a word for each 32. */
const KV_BYTES: Readonly<Record<KvDtype, number>> = { f32: 4, f16: 2, q8: 9 / 8, q4: 5 / 8, q2: 3 / 8 };

export function modelCost(shape: ModelShape, kvDtype: KvDtype): Cost {
  const kvElementBytes = KV_BYTES[kvDtype];
  const units = { hiddenSize: shape.hiddenSize, kvElementBytes, stateElementBytes: F32_BYTES };
  const costs = shape.layers.flatMap(({ mixers, ffn }) => [
    ...mixers.map((mixer) => MIXERS.of(mixer).cost(mixer, units)),
    ...(ffn ? [FEED_FORWARDS.of(ffn).cost(ffn, units)] : []),
  ]);
  return costs.reduce((sum, one) => addCost(sum, one), NO_COST);
}
