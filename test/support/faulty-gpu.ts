/**
 * A real device with faults between it and the engine: a command buffer that is dropped without a word, or one that is
 * refused as a validation error refuses it. Which one is chosen by its label. Everything else passes through.
 */
import type { Gpu } from "../../src/gpu/device.ts";

/**
 * - "dropped": the queue forgets the command buffer; no error is reported.
 * - "refused": it is forgotten, and the device reports a validation error.
 */
export type Fault = "dropped" | "refused";

export class FaultyGpu {
  readonly gpu: Gpu;
  /** Command buffers that were dropped or refused. */
  faults = 0;
  private readonly real: GPUDevice;
  private readonly labels = new WeakMap<object, string>();
  private armed: { fault: Fault; label: string; left: number } | undefined;

  constructor(gpu: Gpu) {
    this.real = gpu.device;
    const queue = forward(gpu.device.queue, {
      submit: (buffers: GPUCommandBuffer[]) => this.submit(buffers),
    });
    const device = forward(gpu.device, {
      queue,
      createCommandEncoder: (descriptor: GPUCommandEncoderDescriptor = {}) => this.encoder(descriptor),
    });
    this.gpu = { ...gpu, device };
  }

  /** The next `times` command buffers whose encoder has this label do not run. */
  arm(fault: Fault, label: string, times = 1): void {
    this.armed = { fault, label, left: times };
  }

  private encoder(descriptor: GPUCommandEncoderDescriptor): GPUCommandEncoder {
    const encoder = this.real.createCommandEncoder(descriptor);
    return forward(encoder, {
      finish: () => {
        const buffer = encoder.finish();
        this.labels.set(buffer, descriptor.label ?? "");
        return buffer;
      },
    });
  }

  private submit(buffers: GPUCommandBuffer[]): void {
    const { armed } = this;
    const isHit =
      armed && armed.left > 0 && buffers.some((buffer) => this.labels.get(buffer) === armed.label);
    if (!isHit) return this.real.queue.submit(buffers);
    armed.left--;
    this.faults++;
    if (armed.fault === "refused")
      this.real.createBuffer({ size: 16, usage: 0, label: "refused on purpose" });
  }
}

/** The object with some members replaced; methods are called on the real one. */
export function forward<T extends object>(real: T, instead: Record<string, unknown>): T {
  return new Proxy(real, {
    get(target, name) {
      if (typeof name === "string" && name in instead) return instead[name];
      const value = Reflect.get(target, name, target) as unknown;
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
    set: (target, name, value) => Reflect.set(target, name, value, target),
  });
}
