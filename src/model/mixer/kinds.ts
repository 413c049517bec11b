/**
 * The kinds of mixers, and what those of a model keep. A new kind is a file beside this one and a row here.
 */
import type { KvLayer, ModelShape, StateLayer } from "../../shape/shape.ts";
import { mixersOf } from "../../shape/shape.ts";
import { Kinds } from "../layer-part.ts";
import { ATTENTION } from "./attention.ts";
import { GATED_DELTA } from "./gated-delta.ts";
import type { Keeps, MixerKind } from "./kind.ts";
import { LATENT } from "./latent.ts";
import { MAMBA2 } from "./mamba2.ts";
import { SHORT_CONV } from "./short-conv.ts";

export const MIXERS = new Kinds<MixerKind>("mixer", [ATTENTION, LATENT, SHORT_CONV, MAMBA2, GATED_DELTA]);

/** What the KV pool must hold of each mixer that keeps keys and values, in order. */
export function kvLayers(shape: ModelShape): KvLayer[] {
  return keptBy(shape).flatMap(({ kv }) => (kv ? [kv] : []));
}

/** What the state pool must hold of each mixer that keeps a state, in order. */
export function stateLayers(shape: ModelShape): StateLayer[] {
  return keptBy(shape).flatMap(({ state }) => (state ? [state] : []));
}

/** Where the keys and values that a layer's first mixer keeps lie in the KV pool. */
export function kvLayerOf(shape: ModelShape, layer: number): number {
  return kvLayers({ ...shape, layers: shape.layers.slice(0, layer) }).length;
}

function keptBy(shape: ModelShape): Keeps[] {
  return mixersOf(shape).map((mixer) => MIXERS.of(mixer).keeps(mixer, shape.hiddenSize));
}
