/**
 * An op: one dispatch of a compiled kernel with everything static but the size of the step. Programs are lists of ops,
 * built once at load, so that a step costs the host little more than the calls themselves.
 */
import type { Pipeline } from "./kernel.ts";

/** What a step's dispatch sizes may depend on. */
export interface StepShape {
  /** Tokens of the step. */
  rows: number;
  /** Sequences of the step: 1 in prefill, `rows` in decode. */
  sequences: number;
  /** Rows whose logits are computed. */
  logitRows: number;
  /** The longest context of any row, in tokens, the row itself included. */
  maxContext: number;
}

export interface Op {
  label: string;
  pipeline: Pipeline;
  /** Group 0. Group 1, the step's data, is set by the runner where the pipeline has one. */
  group: GPUBindGroup;
  /** It computes the experts that are in slots of the GPU, and runs again when others are (model/experts). */
  ofExperts?: true;
  /** Workgroups in x, y and z; an op with a zero is left out. */
  grid(step: StepShape): readonly [number, number, number];
}

/** A uniform buffer holding `words`, rounded up to 16 bytes as WGSL lays structs out. */
export function uniformBuffer(
  device: GPUDevice,
  words: ArrayBufferView<ArrayBuffer>,
  label: string,
): GPUBuffer {
  const size = Math.ceil(words.byteLength / 16) * 16;
  const buffer = device.createBuffer({ label, size, usage: USAGE_UNIFORM | USAGE_COPY_DST });
  device.queue.writeBuffer(buffer, 0, words.buffer, words.byteOffset, words.byteLength);
  return buffer;
}

/** GPUBufferUsage, whose constants are not globals in every worker. */
export const USAGE_MAP_READ = 0x0001;
export const USAGE_COPY_SRC = 0x0004;
export const USAGE_COPY_DST = 0x0008;
export const USAGE_UNIFORM = 0x0040;
export const USAGE_STORAGE = 0x0080;
export const USAGE_QUERY_RESOLVE = 0x0200;

/** GPUMapMode.READ, likewise. */
export const MAP_READ = 1;
