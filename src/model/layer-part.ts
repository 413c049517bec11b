/**
 * A part of a layer (a mixer or a feed-forward) as the rest of the model sees it: everything that differs between kinds,
 * behind one interface. A kind is one file in mixer/ or ffn/, its row in kinds.ts there, and its data and costs in src/shape.
 */
import { assert } from "../base.ts";
import type { Op } from "../gpu/op.ts";
import type { Cost, CostUnits } from "../shape/cost.ts";
import type { ModelShape } from "../shape/shape.ts";
import type { LayerTensors, TensorSpec } from "./arch/tensor-lookup.ts";
import type { OpContext } from "./op/op-context.ts";
import type { LayerLoader } from "./tensor-loader.ts";

/** What decides how large the buffers between ops are. */
export interface BufferLimits {
  hiddenSize: number;
  /** Bytes of an element of activations. */
  elemBytes: number;
  /** Rows of a step at most. */
  maxRows: number;
  /** Sequences of a step at most. */
  seats: number;
  /** Positions of a sequence at most. */
  maxContext: number;
}

/** Bytes of buffers by name. All parts of a model share those of one name, which are as large as the largest need. */
export type BufferSizes = Readonly<Record<string, number>>;

/**
 * P: the part as plain data; W: its weights on the GPU, which nobody else looks into. Methods, so that a list can hold
 * kinds of different parts.
 */
export interface LayerPart<P extends { kind: string }, W, C extends OpContext> {
  readonly kind: P["kind"];
  /** Its tensors' names in safetensors, without the layer's prefix and suffix. Default: it is read from GGUF only. */
  readonly safetensorsNames?: Readonly<Record<string, string>>;
  /** Checks that kernels can compute with its sizes. @throws TidepoolError `unsupported`, beginning with `where`. */
  check(part: P, shape: ModelShape, where: string): void;
  /** What a token costs, and what must be kept. */
  cost(part: P, units: CostUnits): Cost;
  /** Every tensor that `load` reads, and none besides: a file's other tensors are refused. */
  tensors(part: P, layer: LayerTensors): readonly TensorSpec[];
  load(part: P, layer: LayerLoader): Promise<W>;
  buffers(part: P, limits: BufferLimits): BufferSizes;
  /** From the layer's normed input to `delta`. */
  ops(part: P, weights: W, context: C): Promise<Op[]>;
}

/** Kinds by name. */
export class Kinds<K extends { readonly kind: string }> {
  private readonly what: string;
  private readonly byName = new Map<string, K>();

  /** @param what names a part in errors */
  constructor(what: string, kinds: readonly K[]) {
    this.what = what;
    for (const kind of kinds) this.add(kind);
  }

  add(kind: K): void {
    assert(!this.byName.has(kind.kind), `two kinds of ${this.what} are named "${kind.kind}"`);
    this.byName.set(kind.kind, kind);
  }

  of({ kind }: { kind: string }): K {
    const found = this.byName.get(kind);
    assert(found, `no ${this.what} is named "${kind}"`);
    return found;
  }
}
