/**
 * What the ops of a layer are made from: kernels, the step's bounds, the buffers between ops, and matrix products. It
 * decides nothing about layers.
 */
import { assert } from "../../base.ts";
import type { Elem, Kernels, KernelTypes } from "../../gpu/kernel.ts";
import type { Op } from "../../gpu/op.ts";
import type { PackedBits } from "../../gpu/packed.ts";
import type { KvPoolBuffers } from "../../gpu/pool.ts";
import type { StateBuffers } from "../../gpu/state-pool.ts";
import type { ModelShape } from "../../shape/shape.ts";
import { matmulOp, matvecOp } from "../matrix/products.ts";
import type { StepLimits } from "../step.ts";
import type { Projection } from "../tensor-loader.ts";

/** Prefill: many rows of one sequence. Decode: one row of each of several sequences. */
export type Phase = "prefill" | "decode";

/** What all ops of a program are made from. */
export interface OpEnvironment {
  kernels: Kernels;
  shape: ModelShape;
  pool: Pick<KvPoolBuffers, "keys" | "values">;
  /** The exact pool of partial blocks, if the slots of `pool` are packed in as many bits. */
  tails: Pick<KvPoolBuffers, "keys" | "values"> | undefined;
  packedBits: PackedBits | undefined;
  /** The state pool; without layers in models that have no recurrent ones. */
  states: StateBuffers;
  limits: StepLimits;
  dtype: Elem;
  /** Of exact keys and values. */
  kvDtype: Elem;
}

/** The buffers that a part of a layer reads and writes. */
export interface PartBuffers {
  /** elem [rows, hiddenSize]: the layer's input. */
  normed: GPUBuffer;
  /** f32 [rows, hiddenSize]: its output. */
  delta: GPUBuffer;
  /** f32 [rows, hiddenSize]: the residual stream. */
  hidden: GPUBuffer;
  /** Those that parts ask for by name. */
  parts: ReadonlyMap<string, GPUBuffer>;
}

/** A buffer that a part has asked for by this name. */
export function bufferOf({ parts }: Pick<PartBuffers, "parts">, name: string): GPUBuffer {
  const buffer = parts.get(name);
  assert(buffer, `no part of the model has asked for a buffer "${name}"`);
  return buffer;
}

export class OpContext {
  readonly kernels: Kernels;
  readonly shape: ModelShape;
  readonly limits: StepLimits;
  readonly dtype: Elem;
  readonly phase: Phase;
  readonly normed: GPUBuffer;
  readonly hidden: GPUBuffer;
  protected readonly environment: OpEnvironment;
  private readonly buffers: PartBuffers;
  private readonly accumulate: boolean;

  /** @param accumulate the output is added to what stands in `delta` (mixers in parallel) */
  constructor(environment: OpEnvironment, buffers: PartBuffers, phase: Phase, accumulate = false) {
    this.environment = environment;
    this.kernels = environment.kernels;
    this.shape = environment.shape;
    this.limits = environment.limits;
    this.dtype = environment.dtype;
    this.normed = buffers.normed;
    this.hidden = buffers.hidden;
    this.buffers = buffers;
    this.phase = phase;
    this.accumulate = accumulate;
  }

  /** A buffer that the kind has named in `buffers`. */
  buffer(name: string): GPUBuffer {
    return bufferOf(this.buffers, name);
  }

  types(out: Elem = "f32"): KernelTypes {
    return { elem: this.dtype, kv: this.environment.kvDtype, out };
  }

  /** Matrix products x -> y. @param outStride elements between two rows of y. @param out the type of y */
  project(projection: Projection, x: GPUBuffer, y: GPUBuffer, outStride: number, out: Elem): Promise<Op[]> {
    return this.products(projection, x, { y, outStride, accumulate: false }, out);
  }

  /** Where the output goes, and whether it is added to what stands there. */
  get target(): { delta: GPUBuffer; accumulate: boolean } {
    return { delta: this.buffers.delta, accumulate: this.accumulate };
  }

  /** The products of the output matrix, into `delta`. */
  output(projection: Projection, x: GPUBuffer): Promise<Op[]> {
    const y = this.buffers.delta;
    return this.products(
      projection,
      x,
      { y, outStride: this.shape.hiddenSize, accumulate: this.accumulate },
      "f32",
    );
  }

  private async products(
    projection: Projection,
    x: GPUBuffer,
    into: { y: GPUBuffer; outStride: number; accumulate: boolean },
    out: Elem,
  ): Promise<Op[]> {
    const maker = this.phase === "prefill" ? matmulOp : matvecOp;
    const ops: Op[] = [];
    for (const { weight, outOffset, bias, scale } of projection) {
      for (const piece of weight.pieces) {
        const options = { weight, piece, x, ...into, outOffset, scale, ...(bias && { bias }) };
        ops.push(await maker(this.kernels, this.types(out), options));
      }
    }
    return ops;
  }
}
