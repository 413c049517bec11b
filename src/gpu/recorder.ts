/**
 * Records ops into command buffers, submits them, and reads small results back through a kept set of staging buffers.
 * With profiling on, every op gets a pass of its own with timestamps, and the times are summed by label.
 */
import { assert } from "../base.ts";
import type { Gpu } from "./device.ts";
import {
  USAGE_COPY_DST,
  USAGE_COPY_SRC,
  USAGE_MAP_READ,
  USAGE_QUERY_RESOLVE,
  type Op,
  type StepShape,
} from "./op.ts";
import { MARK_BYTES, mapForReading, readBack } from "./read-back.ts";

/** Ops of one profiled submission at most: two timestamps each. */
const MAX_PROFILED_OPS = 2048;

export class CommandRecorder {
  private readonly gpu: Gpu;
  private encoder: GPUCommandEncoder | undefined;
  private readonly idle: GPUBuffer[] = [];
  private readonly profiler: Profiler | undefined;
  /** Bytes that have been read back. */
  bytesRead = 0;

  /** @param profile needs a device with timestamp queries. */
  constructor(gpu: Gpu, profile = false) {
    this.gpu = gpu;
    if (profile) this.profiler = new Profiler(gpu);
  }

  /** Adds ops, in order; `stepGroup` is bound as group 1 where an op's pipeline has one. */
  run(ops: readonly Op[], stepGroup: GPUBindGroup, step: StepShape): void {
    const encoder = this.open();
    const { profiler } = this;
    let pass = profiler ? undefined : encoder.beginComputePass();
    for (const op of ops) {
      const [x, y, z] = op.grid(step);
      if (x * y * z === 0) continue;
      if (profiler) pass = encoder.beginComputePass(profiler.pass(op.label));
      assert(pass, "no compute pass");
      pass.setPipeline(op.pipeline.compute);
      pass.setBindGroup(0, op.group);
      if (op.pipeline.layouts.length > 1) pass.setBindGroup(1, stepGroup);
      pass.dispatchWorkgroups(x, y, z);
      if (profiler) pass.end();
    }
    if (!profiler) pass?.end();
  }

  /**
   * Submits what was recorded and reads each source as it is then.
   * @throws TidepoolError `device_lost`, or `gpu_failed` if what was recorded did not run.
   */
  async read(sources: readonly Source[]): Promise<ArrayBuffer[]> {
    const total = sources.reduce((sum, { bytes }) => sum + bytes, 0);
    const staging = this.staging(total + MARK_BYTES);
    const encoder = this.open();
    this.encoder = undefined;
    const offsets = copyAll(encoder, sources, staging);
    const resolved = this.profiler?.resolve(encoder);
    const reading = readBack(this.gpu.device, encoder, staging, total);
    resolved?.();
    try {
      const range = await reading;
      const parts = sources.map(({ bytes }, index) => {
        const at = offsets[index] as number;
        return range.slice(at, at + bytes);
      });
      staging.unmap();
      return parts;
    } finally {
      this.idle.push(staging);
      this.bytesRead += total;
    }
  }

  /** Copies bytes between buffers, behind the ops recorded so far. */
  copy(from: GPUBuffer, at: number, to: GPUBuffer, toAt: number, bytes: number): void {
    this.open().copyBufferToBuffer(from, at, to, toAt, bytes);
  }

  /** Submits what was recorded. Whether it ran is known by the next read. */
  submit(): void {
    const { encoder } = this;
    if (!encoder) return;
    this.encoder = undefined;
    const resolved = this.profiler?.resolve(encoder);
    this.gpu.device.queue.submit([encoder.finish()]);
    resolved?.();
  }

  /** Drops what was recorded since the last read: it never runs. */
  discard(): void {
    this.encoder = undefined;
  }

  /** Nanoseconds and dispatches by label since the last call; undefined without profiling. Waits for the GPU. */
  async profile(): Promise<Map<string, { nanoseconds: number; dispatches: number }> | undefined> {
    return this.profiler?.take();
  }

  destroy(): void {
    for (const buffer of this.idle) buffer.destroy();
  }

  private open(): GPUCommandEncoder {
    return (this.encoder ??= this.gpu.device.createCommandEncoder({ label: "step" }));
  }

  private staging(bytes: number): GPUBuffer {
    const index = this.idle.findIndex((buffer) => buffer.size >= bytes);
    if (index >= 0) return this.idle.splice(index, 1)[0] as GPUBuffer;
    const size = Math.ceil(bytes / 256) * 256;
    return this.gpu.device.createBuffer({ label: "read-back", size, usage: USAGE_COPY_DST | USAGE_MAP_READ });
  }
}

/** Bytes of a buffer, from its start if no offset is given. */
export interface Source {
  buffer: GPUBuffer;
  offset?: number;
  bytes: number;
}

/** Copies the sources into `staging`, one behind the other; says where each begins. */
function copyAll(encoder: GPUCommandEncoder, sources: readonly Source[], staging: GPUBuffer): number[] {
  let end = 0;
  return sources.map(({ buffer, offset = 0, bytes }) => {
    const at = end;
    if (bytes > 0) encoder.copyBufferToBuffer(buffer, offset, staging, at, bytes);
    end += bytes;
    return at;
  });
}

/** Timestamps around each op of a submission, resolved after it and summed by label. */
class Profiler {
  private readonly gpu: Gpu;
  private readonly queries: GPUQuerySet;
  private labels: string[] = [];
  private readonly pending: Promise<void>[] = [];
  private totals = new Map<string, { nanoseconds: number; dispatches: number }>();

  constructor(gpu: Gpu) {
    assert(gpu.features.timestamps, "profiling needs timestamp queries");
    this.gpu = gpu;
    this.queries = gpu.device.createQuerySet({ type: "timestamp", count: 2 * MAX_PROFILED_OPS });
  }

  pass(label: string): GPUComputePassDescriptor {
    const index = this.labels.push(label) - 1;
    assert(index < MAX_PROFILED_OPS, `more than ${MAX_PROFILED_OPS} profiled ops in one submission`);
    return {
      timestampWrites: {
        querySet: this.queries,
        beginningOfPassWriteIndex: 2 * index,
        endOfPassWriteIndex: 2 * index + 1,
      },
    };
  }

  /** Resolves the queries at the end of the submission; call the result after it was submitted. */
  resolve(encoder: GPUCommandEncoder): (() => void) | undefined {
    const { labels } = this;
    if (labels.length === 0) return undefined;
    this.labels = [];
    const { device } = this.gpu;
    const size = 16 * labels.length;
    const resolved = device.createBuffer({ size, usage: USAGE_QUERY_RESOLVE | USAGE_COPY_SRC });
    const staging = device.createBuffer({ size, usage: USAGE_COPY_DST | USAGE_MAP_READ });
    encoder.resolveQuerySet(this.queries, 0, 2 * labels.length, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, staging, 0, size);
    return () => this.pending.push(this.add(labels, staging, resolved));
  }

  async take(): Promise<Map<string, { nanoseconds: number; dispatches: number }>> {
    await Promise.all(this.pending.splice(0));
    const { totals } = this;
    this.totals = new Map();
    return totals;
  }

  private async add(labels: readonly string[], staging: GPUBuffer, resolved: GPUBuffer): Promise<void> {
    const times = new BigUint64Array(await mapForReading(staging));
    labels.forEach((label, index) => {
      const entry = this.totals.get(label) ?? { nanoseconds: 0, dispatches: 0 };
      entry.nanoseconds += Number((times[2 * index + 1] as bigint) - (times[2 * index] as bigint));
      entry.dispatches++;
      this.totals.set(label, entry);
    });
    staging.destroy();
    resolved.destroy();
  }
}
