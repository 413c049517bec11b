/**
 * A device that computes nothing and counts what is asked of it, so that all of a model's loading runs on the processor: the
 * buffers it would make and the bytes it would write are real, the pipelines are not.
 * It does not check bindings or limits of buffers as a real one does: kernels have their own tests.
 */
import type { Gpu } from "../../src/gpu/device.ts";

export interface FakeGpu {
  gpu: Gpu;
  /** Bytes of all buffers made since the last look; looking sets it to 0. */
  takeBufferBytes(): number;
}

/** @param maxBufferBytes no buffer may be larger; more is an error, as a real device's is. */
export function fakeGpu(maxBufferBytes: number): FakeGpu {
  let bytes = 0;
  const limits = {
    maxBufferSize: maxBufferBytes,
    maxStorageBufferBindingSize: maxBufferBytes,
    maxComputeWorkgroupsPerDimension: 65_535,
    maxComputeInvocationsPerWorkgroup: 256,
    maxComputeWorkgroupStorageSize: 16_384,
    maxStorageBuffersPerShaderStage: 8,
    minStorageBufferOffsetAlignment: 256,
    minUniformBufferOffsetAlignment: 256,
  };
  const device = {
    limits,
    lost: new Promise(() => {}),
    features: new Set<string>(),
    queue: {
      submit: () => {},
      onSubmittedWorkDone: () => Promise.resolve(),
      writeBuffer: (buffer: { size: number }, offset: number, data: ArrayBufferView) => {
        if (offset + data.byteLength > buffer.size) throw new Error("a write leaves its buffer");
      },
    },
    createBuffer: ({ size, label }: { size: number; label?: string }) => {
      if (!Number.isInteger(size) || size < 0) throw new Error(`buffer "${label}" has ${size} bytes`);
      bytes += size;
      return { size, label, destroy: () => {}, unmap: () => {} };
    },
    createShaderModule: () => ({ getCompilationInfo: () => Promise.resolve({ messages: [] }) }),
    createPipelineLayout: () => ({}),
    createBindGroupLayout: () => ({}),
    createBindGroup: () => ({}),
    createQuerySet: () => ({ destroy: () => {} }),
    createComputePipelineAsync: () => Promise.resolve({}),
    pushErrorScope: () => {},
    popErrorScope: () => Promise.resolve(null),
    addEventListener: () => {},
    destroy: () => {},
  };
  const gpu = {
    device: device as unknown as GPUDevice,
    adapter: { name: "fake", software: true },
    features: { f16: false, subgroups: false, timestamps: false },
  } as unknown as Gpu;
  const takeBufferBytes = (): number => {
    const taken = bytes;
    bytes = 0;
    return taken;
  };
  return { gpu, takeBufferBytes };
}
