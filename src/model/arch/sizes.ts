/**
 * What the kernels ask of a model's sizes, checked before anything is made of them: a file that goes outside is refused with
 * the size named, and what the kernels assert stays our own mistakes. The limits of a mixer or feed-forward stand
 * with its kind. Whether tensors have these sizes is for tensor-loader.ts.
 */
import type { ModelShape } from "../../shape/shape.ts";
import { FEED_FORWARDS } from "../ffn/kinds.ts";
import { MIXERS } from "../mixer/kinds.ts";
import { LANES, need } from "./need.ts";

/** @throws TidepoolError `unsupported` naming layer and size. */
export function checkSizes(shape: ModelShape): void {
  need(shape.hiddenSize % LANES === 0, `the hidden size ${shape.hiddenSize} is not a multiple of ${LANES}`);
  for (const { rot } of shape.ropeTables) {
    need(rot >= 0 && rot % 2 === 0, `${rot} rotated entries a head (RoPE) are not a whole number of pairs`);
  }
  shape.layers.forEach(({ mixers, ffn }, index) => {
    for (const mixer of mixers) MIXERS.of(mixer).check(mixer, shape, `layer ${index}`);
    if (ffn) FEED_FORWARDS.of(ffn).check(ffn, shape, `layer ${index}`);
  });
}

/** Why a model must be computed in f32; undefined: f16 does for it. */
export function f32Reason({ altUp }: Pick<ModelShape, "altUp">): string | undefined {
  return altUp && "its streams and sparse gates are differences of large numbers, which 16 bits do not hold";
}
