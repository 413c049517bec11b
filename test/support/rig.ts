/**
 * What kernel cases need around an op: buffers of either element type, a step's data, a run, and a comparison with a
 * float64 reference that prints a small window where it fails. It knows no kernel.
 */
import type { Random } from "../../src/base.ts";
import { assert } from "../../src/base.ts";
import type { Gpu } from "../../src/gpu/device.ts";
import { Kernels, type Elem, type KernelTypes } from "../../src/gpu/kernel.ts";
import {
  uniformBuffer,
  USAGE_COPY_DST,
  USAGE_COPY_SRC,
  USAGE_MAP_READ,
  USAGE_STORAGE,
  type Op,
} from "../../src/gpu/op.ts";
import { packStep, type StateSlots } from "../../src/model/step.ts";
import type { Setting } from "./cases.ts";

/** A step as a test describes it; what is left out is empty or zero. */
export interface StepInput {
  rows: readonly { position?: number; sequence?: number; write?: number }[];
  /** The block table of each sequence. */
  tables?: readonly (readonly number[])[];
  /** The state slots of each sequence. */
  states?: readonly StateSlots[];
  ropeTable?: Float32Array;
  logitRows?: readonly number[];
}

/** One device in one of the four settings, with the buffers of one case; `close` frees them. */
export class Rig {
  readonly kernels: Kernels;
  readonly types: KernelTypes;
  private readonly device: GPUDevice;
  private readonly buffers: GPUBuffer[] = [];

  constructor(gpu: Gpu, setting: Setting, types: Partial<KernelTypes> = {}) {
    const features = { ...gpu.features, f16: setting.f16, subgroups: setting.subgroups };
    this.kernels = new Kernels({ ...gpu, features });
    const elem: Elem = setting.f16 ? "f16" : "f32";
    this.types = { elem, kv: elem, out: elem, ...types };
    this.device = gpu.device;
  }

  /** A storage buffer holding `values` as `type`. */
  upload(values: ArrayLike<number>, type: Elem | "u32" = "f32"): GPUBuffer {
    const bytes = encode(values, type);
    const size = Math.max(16, Math.ceil(bytes.byteLength / 16) * 16);
    const usage = USAGE_STORAGE | USAGE_COPY_DST | USAGE_COPY_SRC;
    const buffer = this.device.createBuffer({ label: `test ${type}`, size, usage });
    const padded = new Uint8Array(size);
    padded.set(bytes);
    this.device.queue.writeBuffer(buffer, 0, padded);
    this.buffers.push(buffer);
    return buffer;
  }

  /** A storage buffer of `count` NaNs: what a kernel does not write stays NaN and is seen. */
  unwritten(count: number, type: Elem): GPUBuffer {
    return this.upload(new Float32Array(count).fill(NaN), type);
  }

  /** Runs the ops in order as one step. */
  run(ops: readonly Op[], input: StepInput): void {
    const step = this.stepBindings(input);
    const shape = stepShape(input);
    const encoder = this.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (const op of ops) {
      const grid = op.grid(shape);
      if (grid.includes(0)) continue;
      pass.setPipeline(op.pipeline.compute);
      pass.setBindGroup(0, op.group);
      if (op.pipeline.layouts.length > 1) pass.setBindGroup(1, this.kernels.bind(op.pipeline, 1, step));
      pass.dispatchWorkgroups(...grid);
    }
    pass.end();
    this.device.queue.submit([encoder.finish()]);
  }

  /** The first `count` elements of a buffer. */
  async read(buffer: GPUBuffer, type: Elem, count: number): Promise<Float32Array> {
    const { size } = buffer;
    const staging = this.device.createBuffer({ size, usage: USAGE_MAP_READ | USAGE_COPY_DST });
    const encoder = this.device.createCommandEncoder();
    encoder.copyBufferToBuffer(buffer, 0, staging, 0, size);
    this.device.queue.submit([encoder.finish()]);
    await staging.mapAsync(MAP_READ);
    const bytes = staging.getMappedRange().slice(0);
    staging.destroy();
    if (type === "f32") return new Float32Array(bytes, 0, count);
    return Float32Array.from(new Uint16Array(bytes, 0, count), fromHalf);
  }

  close(): void {
    for (const buffer of this.buffers) buffer.destroy();
  }

  private stepBindings(input: StepInput): GPUBuffer[] {
    const tables = input.tables ?? input.states?.map(() => []) ?? [];
    const blocksEach = Math.max(1, ...tables.map((table) => table.length));
    const stride = blocksEach + 2;
    const rows = input.rows.flatMap((row) => [0, row.position ?? 0, row.sequence ?? 0, row.write ?? 0]);
    const blocks = tables.flatMap((table, sequence) => [
      ...table,
      ...Array<number>(blocksEach - table.length).fill(NO_SLOT),
      input.states?.[sequence] ? (input.states[sequence].read ?? 0xffffffff) : NO_SLOT,
      input.states?.[sequence]?.write ?? NO_SLOT,
    ]);
    const { rows: rowCount, sequences, logitRows } = stepShape(input);
    const step = new Uint32Array([rowCount, sequences, stride, logitRows]);
    const uniform = uniformBuffer(this.device, step, "test step");
    this.buffers.push(uniform);
    const table = new Uint32Array(sequences * stride);
    table.set(blocks);
    const rope = input.ropeTable ?? new Float32Array(0);
    const words = new Uint32Array(rows.length + table.length + logitRows + rope.length);
    packStep(words, { rows: Uint32Array.from(rows), tables: table, logitRows: input.logitRows ?? [], rope });
    return [uniform, this.upload(words, "u32")];
  }
}

/** Block table entries that no kernel may follow. */
const NO_SLOT = 0x0fff_ffff;

/** GPUMapMode.READ. */
const MAP_READ = 1;

function stepShape(input: StepInput) {
  return {
    rows: input.rows.length,
    sequences: Math.max(1, (input.tables ?? input.states)?.length ?? 1),
    logitRows: input.logitRows?.length ?? 0,
    maxContext: 1 + Math.max(0, ...input.rows.map((row) => row.position ?? 0)),
  };
}

function encode(values: ArrayLike<number>, type: Elem | "u32"): Uint8Array {
  const list =
    type === "f16"
      ? Uint16Array.from(values, toHalf)
      : type === "u32"
        ? Uint32Array.from(values)
        : Float32Array.from(values);
  return new Uint8Array(list.buffer);
}

/** Unit round-off of an element type. */
export function roundOff(type: Elem): number {
  return type === "f16" ? 2 ** -11 : 2 ** -24;
}

/** The values as the GPU will hold them. */
export function rounded(values: ArrayLike<number>, type: Elem): Float64Array {
  return Float64Array.from(values, (value) =>
    type === "f16" ? fromHalf(toHalf(value)) : Math.fround(value),
  );
}

/**
 * Normal numbers with the lumps of real activations: in each row of `width`, every 13th channel is 20 times larger, and
 * every fifth row is 1,000 times smaller.
 */
export function lumpy(random: Random, count: number, width: number): Float64Array {
  return Float64Array.from({ length: count }, (_, index) => {
    const row = Math.floor(index / width);
    const size = ((index % width) % 13 === 5 ? 20 : 1) * (row % 5 === 3 ? 0.001 : 1);
    return random.normal() * size;
  });
}

/** Multiplies derived error bounds: they count round-offs of the largest magnitude, not those of each operation. */
export const SAFETY = 4;

/**
 * Allowed everywhere: WGSL lets a device flush subnormal numbers to zero (https://www.w3.org/TR/WGSL/#floating-point-evaluation),
 * and what is flushed may be scaled up afterwards.
 */
const FLUSHED = 2 ** -118;

/**
 * Throws unless |actual - expected| <= SAFETY * bound for each element, and prints the elements around the first failure.
 * `bound` is the derived error, without the safety factor.
 */
export function expectClose(
  what: string,
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  bound: (index: number) => number,
): void {
  assert(actual.length === expected.length, `${what}: ${actual.length} values, expected ${expected.length}`);
  const allowed = (i: number) => SAFETY * bound(i) + FLUSHED;
  const near = (i: number) => Math.abs((actual[i] as number) - (expected[i] as number)) <= allowed(i);
  let wrong = 0;
  let first = -1;
  for (let i = 0; i < expected.length; i++) {
    if (near(i)) continue;
    if (first < 0) first = i;
    wrong++;
  }
  if (wrong === 0) return;
  const lines = [`${what}: ${wrong} of ${expected.length} values are off; around the first:`];
  for (let i = Math.max(0, first - 2); i < Math.min(expected.length, first + 6); i++) {
    const mark = near(i) ? " " : "*";
    lines.push(`${mark} [${i}] actual ${actual[i]} expected ${expected[i]} allowed ${allowed(i)}`);
  }
  throw new Error(lines.join("\n"));
}

/** Throws unless both hold the same numbers (NaN equals NaN). */
export function expectSame(what: string, actual: ArrayLike<number>, expected: ArrayLike<number>): void {
  assert(actual.length === expected.length, `${what}: ${actual.length} values, expected ${expected.length}`);
  for (let i = 0; i < expected.length; i++) {
    if (!Object.is(actual[i], expected[i])) {
      throw new Error(`${what}: [${i}] actual ${actual[i]}, expected exactly ${expected[i]}`);
    }
  }
}

const scratch = new DataView(new ArrayBuffer(4));

/** Bits of the nearest f16, ties to even; larger numbers become infinity. */
export function toHalf(value: number): number {
  scratch.setFloat32(0, value);
  const sign = scratch.getUint32(0) >>> 31 ? 0x8000 : 0;
  const size = Math.abs(value);
  if (Number.isNaN(value)) return 0x7e00;
  if (size >= 65520) return sign | 0x7c00;
  if (size < 2 ** -14) return sign | roundEven(size * 2 ** 24);
  const exponent = Math.floor(Math.log2(Math.fround(size)));
  const exact = size >= 2 ** (exponent + 1) ? exponent + 1 : size < 2 ** exponent ? exponent - 1 : exponent;
  return sign | (((exact + 15) << 10) + roundEven((size / 2 ** exact - 1) * 1024));
}

export function fromHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function roundEven(x: number): number {
  const down = Math.floor(x);
  const rest = x - down;
  return rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? down + 1 : down;
}
