/**
 * What the adapter itself can do, as the yardstick of the models: copy bandwidth (the better of a buffer copy and a copy
 * kernel) and f32 multiply-adds a second from registers. It knows nothing of models.
 */
import type { Gpu } from "../../src/gpu/device.ts";
import { Kernels } from "../../src/gpu/kernel.ts";
import { USAGE_COPY_DST, USAGE_COPY_SRC, USAGE_STORAGE } from "../../src/gpu/op.ts";
import copyCode from "./copy.wgsl";
import multiplyAddCode from "./multiply-add.wgsl";

export interface AdapterSpeed {
  /** Bytes read plus bytes written, per second, one value a repeat. */
  bufferCopyBytesPerSecond: number[];
  kernelCopyBytesPerSecond: number[];
  multiplyAddsPerSecond: number[];
}

const COPY_BYTES = 64 * 1024 * 1024;
const COPIES = 4;

/** Workgroups of both kernels: enough for every adapter to be busy, few enough for a software one. */
const WORKGROUPS = 512;
const WORKGROUP_SIZE = 64;

/** Multiply-adds that one turn of multiply-add.wgsl makes: eight vectors of four. */
const MULTIPLY_ADDS_A_TURN = 32;
/** Turns are doubled until one dispatch takes this long. */
const LONG_ENOUGH_MS = 100;
const MAX_TURNS = 2 ** 24;

const F32 = { elem: "f32", kv: "f32", out: "f32" } as const;

/** Measures; the first run of each is for compilation and page faults, and is dropped. */
export async function measureAdapter(gpu: Gpu, repeats: number): Promise<AdapterSpeed> {
  const source = storage(gpu, COPY_BYTES);
  const target = storage(gpu, COPY_BYTES);
  const kernel = await copyKernel(gpu, source, target);
  const throughput = async (encode: (encoder: GPUCommandEncoder) => void) =>
    (await repeated(repeats, () => timeMs(gpu, encode))).map((ms) => (2 * COPIES * COPY_BYTES * 1000) / ms);
  const bufferCopyBytesPerSecond = await throughput((encoder) => {
    for (let i = 0; i < COPIES; i++) encoder.copyBufferToBuffer(source, 0, target, 0, COPY_BYTES);
  });
  const kernelCopyBytesPerSecond = await throughput(kernel);
  source.destroy();
  target.destroy();
  return {
    bufferCopyBytesPerSecond,
    kernelCopyBytesPerSecond,
    multiplyAddsPerSecond: await rate(gpu, repeats),
  };
}

async function copyKernel(gpu: Gpu, source: GPUBuffer, target: GPUBuffer) {
  const kernels = new Kernels(gpu);
  const constants = { STRIDE: WORKGROUPS * WORKGROUP_SIZE };
  const pipeline = await kernels.pipeline({ name: "copy", code: copyCode, libs: [] }, F32, constants);
  const group = kernels.bind(pipeline, 0, [source, target]);
  return (encoder: GPUCommandEncoder): void => {
    for (let i = 0; i < COPIES; i++) dispatch(encoder, pipeline.compute, group);
  };
}

/** Multiply-adds per second. */
async function rate(gpu: Gpu, repeats: number): Promise<number[]> {
  const kernels = new Kernels(gpu);
  const sums = storage(gpu, 4 * WORKGROUPS * WORKGROUP_SIZE);
  gpu.device.queue.writeBuffer(sums, 0, new Float32Array(WORKGROUPS * WORKGROUP_SIZE).fill(0.5));
  for (let turns = 256; ; turns *= 2) {
    const source = { name: "multiply-add", code: multiplyAddCode, libs: [] };
    const pipeline = await kernels.pipeline(source, F32, { TURNS: turns });
    const group = kernels.bind(pipeline, 0, [sums]);
    const run = () => timeMs(gpu, (encoder) => dispatch(encoder, pipeline.compute, group));
    await run();
    if ((await run()) < LONG_ENOUGH_MS && turns < MAX_TURNS) continue;
    const count = turns * MULTIPLY_ADDS_A_TURN * WORKGROUPS * WORKGROUP_SIZE;
    const times = await repeated(repeats, run);
    sums.destroy();
    return times.map((ms) => (count * 1000) / ms);
  }
}

function storage(gpu: Gpu, size: number): GPUBuffer {
  return gpu.device.createBuffer({ size, usage: USAGE_STORAGE | USAGE_COPY_SRC | USAGE_COPY_DST });
}

function dispatch(encoder: GPUCommandEncoder, pipeline: GPUComputePipeline, group: GPUBindGroup): void {
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, group);
  pass.dispatchWorkgroups(WORKGROUPS);
  pass.end();
}

/** From submission to the end of the work. */
async function timeMs(gpu: Gpu, encode: (encoder: GPUCommandEncoder) => void): Promise<number> {
  const { device } = gpu;
  const encoder = device.createCommandEncoder();
  encode(encoder);
  const commands = encoder.finish();
  const started = performance.now();
  device.queue.submit([commands]);
  await device.queue.onSubmittedWorkDone();
  return performance.now() - started;
}

async function repeated<T>(repeats: number, run: () => Promise<T>): Promise<T[]> {
  await run();
  const values: T[] = [];
  while (values.length < repeats) values.push(await run());
  return values;
}
