/**
 * Runs one op of src/model/matrix/products.ts on a device and reads what it wrote: buffers, a step's data, the comparison with
 * float64. It knows the step's layout (shaders/lib/step.wgsl) and nothing of what the op computes.
 */
import { assert, type Random } from "../../src/base.ts";
import type { Gpu } from "../../src/gpu/device.ts";
import { Kernels, type Elem } from "../../src/gpu/kernel.ts";
import { packStep } from "../../src/model/step.ts";
import {
  USAGE_COPY_DST,
  USAGE_COPY_SRC,
  USAGE_MAP_READ,
  USAGE_STORAGE,
  USAGE_UNIFORM,
  type Op,
} from "../../src/gpu/op.ts";
import { halfToNumber, numberToHalf, roundToHalf } from "./quants.ts";

/** What a case changes of the GPU that it runs on: the kernels are then chosen as if the adapter were so. */
export interface Pretence {
  subgroups?: boolean;
  software?: boolean;
}

/** The kernels of a device that pretends. */
export function kernelsOf(gpu: Gpu, pretence: Pretence): Kernels {
  const features = { ...gpu.features, subgroups: pretence.subgroups ?? gpu.features.subgroups };
  const adapter = { ...gpu.adapter, software: pretence.software ?? gpu.adapter.software };
  return new Kernels({ ...gpu, features, adapter });
}

/** Buffers of one case, destroyed together. */
export class Scratch {
  readonly gpu: Gpu;
  private readonly buffers: GPUBuffer[] = [];

  constructor(gpu: Gpu) {
    this.gpu = gpu;
  }

  empty(bytes: number, usage = USAGE_STORAGE): GPUBuffer {
    const size = Math.max(16, Math.ceil(bytes / 4) * 4);
    const buffer = this.gpu.device.createBuffer({ size, usage: usage | USAGE_COPY_SRC | USAGE_COPY_DST });
    this.buffers.push(buffer);
    return buffer;
  }

  words(values: Uint32Array<ArrayBuffer>, usage = USAGE_STORAGE): GPUBuffer {
    const buffer = this.empty(values.byteLength, usage);
    this.gpu.device.queue.writeBuffer(buffer, 0, values);
    return buffer;
  }

  floats(values: ArrayLike<number>, elem: Elem): GPUBuffer {
    if (elem === "f32") return this.words(new Uint32Array(Float32Array.from(values).buffer));
    const halves = new Uint16Array(Math.ceil(values.length / 2) * 2);
    for (let index = 0; index < values.length; index++) halves[index] = numberToHalf(values[index] as number);
    return this.words(new Uint32Array(halves.buffer));
  }

  async read(buffer: GPUBuffer, length: number, elem: Elem): Promise<number[]> {
    const { device } = this.gpu;
    const copy = device.createBuffer({ size: buffer.size, usage: USAGE_MAP_READ | USAGE_COPY_DST });
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(buffer, 0, copy, 0, buffer.size);
    device.queue.submit([encoder.finish()]);
    await copy.mapAsync(1);
    const bytes = copy.getMappedRange().slice(0);
    copy.destroy();
    if (elem === "f32") return Array.from(new Float32Array(bytes, 0, length));
    return Array.from(new Uint16Array(bytes, 0, length), halfToNumber);
  }

  destroy(): void {
    for (const buffer of this.buffers) buffer.destroy();
  }
}

export interface StepData {
  rows: number;
  logitRows: number;
  /** The `token` of each row. Default: the row's number. */
  tokens?: readonly number[];
}

/** Dispatches the ops one after another with a step of `data`. */
export function runOps(scratch: Scratch, ops: readonly Op[], data: StepData): void {
  const { device } = scratch.gpu;
  const rows = new Uint32Array(data.rows * 4);
  for (let row = 0; row < data.rows; row++) rows.set([data.tokens?.[row] ?? row, row, row, row], row * 4);
  const step = scratch.words(new Uint32Array([data.rows, 1, 1, data.logitRows]), USAGE_UNIFORM);
  const words = new Uint32Array(rows.length + 1 + data.logitRows);
  const logitRows = Array.from({ length: data.logitRows }, (_, row) => row);
  packStep(words, { rows, tables: new Uint32Array(1), logitRows, rope: new Float32Array(0) });
  const buffers = [step, scratch.words(words)];
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  for (const op of ops) {
    const [layout] = op.pipeline.layouts.slice(1);
    assert(layout, `${op.label} has no step data`);
    pass.setPipeline(op.pipeline.compute);
    pass.setBindGroup(0, op.group);
    const entries = buffers.map((buffer, binding) => ({ binding, resource: { buffer } }));
    pass.setBindGroup(1, device.createBindGroup({ layout, entries }));
    pass.dispatchWorkgroups(...op.grid({ ...data, sequences: 1, maxContext: data.rows }));
  }
  pass.end();
  device.queue.submit([encoder.finish()]);
}

/** Lumpy activations: some channels are 20 times larger, some rows tiny. Rounded to f16 where they will be stored so. */
export function lumpyRows(rows: number, columns: number, random: Random, elem: Elem): Float64Array {
  const channel = Array.from({ length: columns }, () => (random.below(8) === 0 ? 20 : 1));
  const out = new Float64Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    const size = row % 5 === 4 ? 0.01 : 0.5;
    for (let column = 0; column < columns; column++) {
      const value = Math.fround(random.normal() * size * (channel[column] as number));
      out[row * columns + column] = elem === "f16" ? roundToHalf(value) : value;
    }
  }
  return out;
}

/** The device with a smaller limit for bindings, so that matrices are split early. */
export function smallBindings(device: GPUDevice, bytes: number): GPUDevice {
  return new Proxy(device, {
    get(target, key) {
      if (key === "limits") return { maxStorageBufferBindingSize: bytes };
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
}

/** @throws with a window around the first wrong element. */
export function expectClose(
  label: string,
  actual: readonly number[],
  expected: ArrayLike<number>,
  bound: ArrayLike<number>,
): void {
  const length = expected.length;
  assert(actual.length === length, `${label}: ${actual.length} values, expected ${length}`);
  const off = (index: number) => Math.abs((actual[index] as number) - (expected[index] as number));
  const bad = actual.findIndex((_, index) => !(off(index) <= (bound[index] as number)));
  if (bad < 0) return;
  const lines: string[] = [];
  for (let index = Math.max(0, bad - 1); index < Math.min(length, bad + 4); index++) {
    lines.push(
      `[${index}] actual ${actual[index]} expected ${expected[index]} off ${off(index)} bound ${bound[index]}`,
    );
  }
  throw new Error(`${label}: wrong at ${bad} of ${length}\n${lines.join("\n")}`);
}
