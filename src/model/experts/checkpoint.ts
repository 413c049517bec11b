/**
 * What a step needs to go on from a layer's experts once more: the residual stream, the layer's choices and what else is there by
 * then, kept for each layer with experts. Keys, values and recurrent states need not be kept: a step that runs again reads and
 * writes the same places. It knows no ops.
 */
import { USAGE_COPY_DST, USAGE_COPY_SRC } from "../../gpu/op.ts";
import type { CommandRecorder, Source } from "../../gpu/recorder.ts";

/** A buffer between ops, and what a row of a step has in it. */
export interface KeptBuffer {
  buffer: GPUBuffer;
  rowBytes: number;
}

/** The buffers that are kept. Those of the choices stand first, in this order, to be read back together. */
export interface KeptBuffers {
  choices: KeptBuffer;
  weights: KeptBuffer;
  unimportant: KeptBuffer;
  /** What the router saw: elem [rows, hidden size]. */
  seen: KeptBuffer;
  others: readonly KeptBuffer[];
}

/** Bytes on the GPU. */
export function checkpointBytes(layers: number, rows: number, rowBytes: number): number {
  return layers * rows * rowBytes;
}

export class Checkpoints {
  private readonly buffers: readonly KeptBuffer[];
  private readonly recorder: CommandRecorder;
  private readonly store: GPUBuffer;
  private readonly layerBytes: number;
  private readonly choiceBytes: number;

  /** @param rows of a step at most */
  constructor(
    device: GPUDevice,
    recorder: CommandRecorder,
    { choices, weights, unimportant, seen, others }: KeptBuffers,
    layers: number,
    rows: number,
  ) {
    this.recorder = recorder;
    this.buffers = [choices, weights, unimportant, seen, ...others];
    this.choiceBytes = choices.rowBytes + weights.rowBytes + unimportant.rowBytes;
    const rowBytes = this.buffers.reduce((sum, each) => sum + each.rowBytes, 0);
    this.layerBytes = rows * rowBytes;
    const size = checkpointBytes(layers, rows, rowBytes);
    const usage = USAGE_COPY_SRC | USAGE_COPY_DST;
    this.store = device.createBuffer({ label: "checkpoints", size, usage });
  }

  /** On the GPU. */
  get bytes(): number {
    return this.store.size;
  }

  keep(layer: number, rows: number): void {
    this.each(layer, rows, (buffer, at, bytes) => this.recorder.copy(buffer, 0, this.store, at, bytes));
  }

  putBack(layer: number, rows: number): void {
    this.each(layer, rows, (buffer, at, bytes) => this.recorder.copy(this.store, at, buffer, 0, bytes));
  }

  /** The choices that were kept, their weights, and which are unimportant, one behind the other. */
  choices(layer: number, rows: number): Source {
    return { buffer: this.store, offset: layer * this.layerBytes, bytes: rows * this.choiceBytes };
  }

  destroy(): void {
    this.store.destroy();
  }

  private each(
    layer: number,
    rows: number,
    act: (buffer: GPUBuffer, at: number, bytes: number) => void,
  ): void {
    let at = layer * this.layerBytes;
    for (const { buffer, rowBytes } of this.buffers) {
      act(buffer, at, rows * rowBytes);
      at += rows * rowBytes;
    }
  }
}
