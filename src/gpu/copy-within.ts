/**
 * Copies from one place of a buffer to another of the same buffer, which WebGPU does not do in one go: by way of a small
 * buffer between. Commands of one queue run in order, so one such buffer serves all copies.
 */
import { assert } from "../base.ts";
import { USAGE_COPY_DST, USAGE_COPY_SRC } from "./op.ts";

export class CopyWithin {
  private readonly between: GPUBuffer;

  /** @param maxBytes of one copy; a multiple of 4 */
  constructor(device: GPUDevice, maxBytes: number) {
    const usage = USAGE_COPY_SRC | USAGE_COPY_DST;
    this.between = device.createBuffer({ label: "copy within", size: maxBytes, usage });
  }

  copy(encoder: GPUCommandEncoder, buffer: GPUBuffer, from: number, to: number, bytes: number): void {
    assert(from !== to, `${bytes} bytes at ${from} are copied onto themselves`);
    encoder.copyBufferToBuffer(buffer, from, this.between, 0, bytes);
    encoder.copyBufferToBuffer(this.between, 0, buffer, to, bytes);
  }

  destroy(): void {
    this.between.destroy();
  }
}
