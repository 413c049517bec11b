/**
 * The state pool: what the recurrent layers of a sequence carry from token to token, as slots in one f32 buffer a layer,
 * and the copying of whole slots: within the pool, out and in. It grows by moving to larger buffers. Which slot holds what,
 * and when it should grow, is not its business (cache/state-slot-pool.ts, worker/pool-growth.ts).
 *
 * Slot s of a layer lies at s * floats. A slot's bytes at rest are layer-major.
 */
import { assert } from "../base.ts";
import { CopyWithin } from "./copy-within.ts";
import { MAX_BINDING_BYTES } from "./device.ts";
import { guarded } from "./guard.ts";
import { USAGE_COPY_DST, USAGE_COPY_SRC, USAGE_MAP_READ, USAGE_STORAGE } from "./op.ts";
import { MARK_BYTES, readBack } from "./read-back.ts";
import type { StateLayer } from "../shape/shape.ts";

/** Bytes of one sequence's state in all layers; 0 in a model without recurrent layers. */
export function stateBytes(layers: readonly StateLayer[]): number {
  return layers.reduce((sum, { floats }) => sum + 4 * floats, 0);
}

/** The most slots that fit: a layer's buffer must stay within one binding. */
export function maxStateSlots(layers: readonly StateLayer[]): number {
  const widest = layers.reduce((most, { floats }) => Math.max(most, 4 * floats), 4);
  return Math.floor(MAX_BINDING_BYTES / widest);
}

/** What a program needs of a pool. */
export interface StateBuffers {
  readonly layers: readonly StateLayer[];
  readonly slots: number;
  /** One buffer a recurrent layer. */
  readonly buffers: readonly GPUBuffer[];
}

export class StatePool implements StateBuffers {
  readonly layers: readonly StateLayer[];
  /** Bytes of one slot in all layers. */
  readonly slotBytes: number;
  private held: StateBuffers;
  private readonly device: GPUDevice;
  private readonly between: CopyWithin;

  /** @param slots at first */
  constructor(device: GPUDevice, layers: readonly StateLayer[], slots: number) {
    this.device = device;
    this.layers = layers;
    this.slotBytes = stateBytes(layers);
    this.between = new CopyWithin(device, Math.max(4, ...layers.map(({ floats }) => 4 * floats)));
    this.held = this.make(slots);
  }

  get slots(): number {
    return this.held.slots;
  }

  get buffers(): readonly GPUBuffer[] {
    return this.held.buffers;
  }

  /** Bytes on the GPU. */
  get bytes(): number {
    return this.slotBytes * this.slots;
  }

  /** Buffers for that many slots, to be taken over by `adopt` or destroyed; undefined if the device's memory is short. */
  async allocate(slots: number): Promise<StateBuffers | undefined> {
    assert(slots <= maxStateSlots(this.layers), `${slots} states are more than a binding holds`);
    this.device.pushErrorScope("out-of-memory");
    const made = this.make(slots);
    if ((await this.device.popErrorScope()) === null) return made;
    for (const buffer of made.buffers) buffer.destroy();
    return undefined;
  }

  /** Moves to larger buffers, behind the GPU work submitted so far. Ops that are bound to the old ones must not run again. */
  adopt(larger: StateBuffers): void {
    const old = this.held;
    assert(larger.slots >= old.slots, `a pool of ${old.slots} states does not shrink to ${larger.slots}`);
    const encoder = this.device.createCommandEncoder({ label: "grow the state pool" });
    old.buffers.forEach((buffer, index) =>
      encoder.copyBufferToBuffer(buffer, 0, larger.buffers[index] as GPUBuffer, 0, buffer.size),
    );
    this.device.queue.submit([encoder.finish()]);
    this.held = larger;
    for (const buffer of old.buffers) buffer.destroy();
  }

  /** Copies a slot over another, ordered behind the GPU work submitted so far. */
  copySlot(from: number, to: number): void {
    const encoder = this.device.createCommandEncoder({ label: "copy state" });
    this.eachPart((buffer, bytes) => this.between.copy(encoder, buffer, from * bytes, to * bytes, bytes));
    this.device.queue.submit([encoder.finish()]);
  }

  /**
   * Reads a slot as the bytes of a record. Later GPU work does not change the result.
   * @throws TidepoolError `device_lost`, `gpu_failed`.
   */
  async readSlot(slot: number): Promise<Uint8Array<ArrayBuffer>> {
    const usage = USAGE_COPY_DST | USAGE_MAP_READ;
    const size = this.slotBytes + MARK_BYTES;
    const staging = this.device.createBuffer({ label: "read state", size, usage });
    const encoder = this.device.createCommandEncoder({ label: "read state" });
    this.eachPart((buffer, bytes, at) =>
      encoder.copyBufferToBuffer(buffer, slot * bytes, staging, at, bytes),
    );
    try {
      const range = await readBack(this.device, encoder, staging, this.slotBytes);
      return new Uint8Array(range.slice(0, this.slotBytes));
    } finally {
      staging.destroy();
    }
  }

  /**
   * Writes the bytes of a record into a slot, ordered before GPU work that is submitted later.
   * @throws TidepoolError `gpu_failed`.
   */
  writeSlot(slot: number, state: Uint8Array<ArrayBuffer>): Promise<void> {
    assert(
      state.byteLength === this.slotBytes,
      `a state of ${state.byteLength} bytes, not ${this.slotBytes}`,
    );
    assert(slot >= 0 && slot < this.slots, `state slot ${slot} is outside the pool of ${this.slots}`);
    return guarded(this.device, "to write a state", () =>
      this.eachPart((buffer, bytes, at) =>
        this.device.queue.writeBuffer(buffer, slot * bytes, state, at, bytes),
      ),
    );
  }

  destroy(): void {
    this.between.destroy();
    for (const buffer of this.buffers) buffer.destroy();
  }

  private make(slots: number): StateBuffers {
    const { layers } = this;
    const usage = USAGE_STORAGE | USAGE_COPY_SRC | USAGE_COPY_DST;
    const buffers = layers.map(({ floats }, index) =>
      this.device.createBuffer({ label: `state ${index}`, size: Math.max(16, slots * floats * 4), usage }),
    );
    return { layers, slots, buffers };
  }

  /** Calls back for each layer: its buffer, its bytes a slot, and the offset of its part in a record. */
  private eachPart(visit: (buffer: GPUBuffer, bytes: number, at: number) => void): void {
    let at = 0;
    this.layers.forEach(({ floats }, index) => {
      visit(this.buffers[index] as GPUBuffer, 4 * floats, at);
      at += 4 * floats;
    });
  }
}
