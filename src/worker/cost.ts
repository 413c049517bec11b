/**
 * What a token of a loaded model costs in FLOPs and bytes, for the cache's policies: the model's shape in the terms of
 * cache/cost.ts.
 */
import { costOf, type Cost, type LayerShape as CostLayer } from "../cache/cost.ts";
import type { Runner } from "../model/runner.ts";
import type { Mixer, ModelShape } from "../model/shape.ts";

export function cacheCost({ shape, options }: { shape: ModelShape; options: Runner["options"] }): Cost {
  return costOf({
    name: shape.name,
    hiddenSize: shape.hiddenSize,
    kvElementBytes: options.kvDtype === "f16" ? 2 : 4,
    stateElementBytes: 4,
    layers: shape.layers.flatMap(({ mixers, ffn }) => [
      ...mixers.map(mixerCost),
      ...(ffn ? [{ kind: ffn.kind, count: 1, inner: ffn.width, matrices: 3 }] : []),
    ]),
  });
}

function mixerCost(mixer: Mixer): CostLayer {
  switch (mixer.kind) {
    case "attention": {
      const { heads, kvHeads, headDim } = mixer;
      return { kind: "attention", count: 1, heads, kvHeads, headDim };
    }
    case "short-conv":
      return { kind: "short-conv", count: 1, convKernel: mixer.kernel };
    case "mamba2": {
      const { heads, headDim, stateSize, groups, kernel } = mixer;
      return { kind: "mamba2", count: 1, inner: heads * headDim, stateSize, groups, convKernel: kernel };
    }
    case "gated-delta": {
      const { valueHeads: heads, keyHeads, keyDim, valueDim, kernel } = mixer;
      return { kind: "gated-delta", count: 1, heads, keyHeads, keyDim, valueDim, convKernel: kernel };
    }
  }
}
