/**
 * What a mixer is beside a part of a layer: it keeps something of a sequence, and its ops read and write that. The kinds
 * are the files of this folder; kinds.ts lists them.
 */
import { assert } from "../../base.ts";
import type { KvPoolBuffers } from "../../gpu/pool.ts";
import type { KvLayer, Mixer, StateLayer } from "../../shape/shape.ts";
import type { LayerPart } from "../layer-part.ts";
import type { KvBuffers } from "./paged-attention.ts";
import { OpContext, type OpEnvironment, type PartBuffers, type Phase } from "../op/op-context.ts";

/** What must be kept of a sequence: keys and values of each token, or numbers that each token changes. */
export interface Keeps {
  kv?: KvLayer;
  state?: StateLayer;
}

/** The mixer's layers in the KV pool and the state pool, as far as it keeps something there. */
export interface PoolLayers {
  kv: number;
  state: number;
}

export interface MixerKind<M extends { kind: string } = Mixer, W = unknown> extends LayerPart<
  M,
  W,
  MixerContext
> {
  keeps(mixer: M, hiddenSize: number): Keeps;
  /** The layer whose first mixer's keys and values it reads instead of its own; undefined, the default: its own. */
  readsKvOf?(mixer: M): number | undefined;
  /** Positions of a sequence at most if no buffer may have more than `bytes`. Default: as many as one likes. */
  maxContext?(mixer: M, seats: number, bytes: number): number;
}

export class MixerContext extends OpContext {
  private readonly layers: PoolLayers;

  constructor(
    environment: OpEnvironment,
    buffers: PartBuffers,
    phase: Phase,
    accumulate: boolean,
    layers: PoolLayers,
  ) {
    super(environment, buffers, phase, accumulate);
    this.layers = layers;
  }

  /** Keys and values of the mixer's layer, for mixers that keep some. */
  get kv(): Pick<KvBuffers, "keys" | "values" | "packed"> {
    const { pool, tails, packedBits: bits } = this.environment;
    const slots = this.layerOf(pool);
    return tails && bits ? { ...this.layerOf(tails), packed: { ...slots, bits } } : slots;
  }

  private layerOf({ keys, values }: Pick<KvPoolBuffers, "keys" | "values">) {
    return { keys: kept(keys, this.layers.kv), values: kept(values, this.layers.kv) };
  }

  /** The states of the mixer's layer, f32 [slots][stateStride], for mixers that keep one. */
  get state(): { state: GPUBuffer; stateStride: number } {
    const { states } = this.environment;
    const state = kept(states.buffers, this.layers.state);
    return { state, stateStride: states.layers[this.layers.state]?.floats ?? 0 };
  }
}

function kept(buffers: KvPoolBuffers["keys"], layer: number): GPUBuffer {
  const buffer = buffers[layer];
  assert(buffer, `the pool has no layer ${layer}: a mixer reads what it does not keep`);
  return buffer;
}
