/**
 * The KV pool: blocks of keys and values as slots in large buffers, one K and one V buffer a layer, and the moving of
 * whole slots in and out. It grows by moving to larger buffers. Which slot holds what, and when it should grow, is not its
 * business (cache/blocks.ts, worker/pool-growth.ts). If its slots are packed (packed.ts), blocks that are not complete lie in tails.
 *
 * Exact: place p = slot * blockTokens + offset lies at ((slot * kvHeads + head) * blockTokens + offset) * headDim + c, so that
 * one slot is one contiguous range of each buffer. A slot's bytes at rest are layer-major: K then V (if any) of layer 0, and on.
 */
import { assert } from "../base.ts";
import { TidepoolError } from "../errors.ts";
import { CopyWithin } from "./copy-within.ts";
import { MAX_BINDING_BYTES } from "./device.ts";
import { guarded } from "./guard.ts";
import { packedBits, partBytes, type KvDtype, type PackedBits } from "./packed.ts";
import { USAGE_COPY_DST, USAGE_COPY_SRC, USAGE_MAP_READ, USAGE_STORAGE } from "./op.ts";
import { MARK_BYTES, readBack } from "./read-back.ts";
import type { KvTails } from "./tails.ts";
import type { KvLayer } from "../shape/shape.ts";

export interface PoolOptions {
  layers: readonly KvLayer[];
  /** Tokens a block; a power of two. */
  blockTokens: number;
  /** At first. */
  slots: number;
  dtype: KvDtype;
}

/** The buffers of a pool: one of keys and one of values a layer, which are the same where values are parts of keys. */
export interface KvPoolBuffers {
  readonly slots: number;
  readonly keys: readonly GPUBuffer[];
  readonly values: readonly GPUBuffer[];
}

/** Slots of a model without attention layers: places in block tables, without a byte behind them. */
const MAX_SLOTS_WITHOUT_KV = 1 << 20;

/** The most slots that fit: every layer's K buffer must stay within one binding. */
export function maxSlots(layers: readonly KvLayer[], blockTokens: number, dtype: KvDtype): number {
  if (layers.length === 0) return MAX_SLOTS_WITHOUT_KV;
  return Math.floor(MAX_BINDING_BYTES / widestPart(layers, blockTokens, dtype));
}

/** Bytes of one block in all layers, keys and values. */
export function blockBytes(layers: readonly KvLayer[], blockTokens: number, dtype: KvDtype): number {
  return layers.reduce((sum, layer) => {
    const { keys, values } = partBytes(layer, blockTokens, dtype);
    return sum + keys + values;
  }, 0);
}

/** Keys and values, or keys alone. */
export function partsOf({ keysOnly }: KvLayer): 1 | 2 {
  return keysOnly ? 1 : 2;
}

function widestPart(layers: readonly KvLayer[], blockTokens: number, dtype: KvDtype): number {
  const parts = layers.map((layer) => partBytes(layer, blockTokens, dtype));
  return Math.max(...parts.map(({ keys, values }) => Math.max(keys, values)));
}

export class KvPool {
  readonly options: PoolOptions;
  /** Bytes of one slot in all layers. */
  readonly slotBytes: number;
  /** Of a pool whose slots are packed. */
  readonly tails: KvTails<KvPool> | undefined;
  private buffers: KvPoolBuffers;
  private readonly device: GPUDevice;
  private readonly between: CopyWithin;

  /**
   * @param tails which the pool destroys, for slots that are packed
   * @throws TidepoolError `out_of_memory` when `slots` would need a binding over 128 MiB.
   */
  constructor(device: GPUDevice, options: PoolOptions, tails?: KvTails<KvPool>) {
    const { layers, blockTokens, slots, dtype } = options;
    const limit = maxSlots(layers, blockTokens, dtype);
    if (slots > limit) {
      throw new TidepoolError(
        "out_of_memory",
        `a KV pool of ${slots} blocks is over the limit of ${limit} for this model`,
      );
    }
    this.device = device;
    this.options = options;
    this.slotBytes = blockBytes(layers, blockTokens, dtype);
    this.tails = tails;
    this.between = new CopyWithin(device, Math.max(4, widestPart(layers, blockTokens, dtype)));
    this.buffers = this.make(slots);
  }

  get slots(): number {
    return this.buffers.slots;
  }

  get keys(): readonly GPUBuffer[] {
    return this.buffers.keys;
  }

  get values(): readonly GPUBuffer[] {
    return this.buffers.values;
  }

  /** Bytes on the GPU. */
  get bytes(): number {
    return this.slotBytes * this.slots;
  }

  /** Bits of a code; undefined if the slots are exact. */
  get bits(): PackedBits | undefined {
    return packedBits(this.options.dtype);
  }

  /** The pool that partial blocks lie in: this one, or that of its tails. */
  get partial(): KvPool {
    return this.tails?.pool ?? this;
  }

  /** Where a step writes the keys and values of a row. */
  placeOf(slot: number, offset: number): number {
    return this.tails?.placeOf(slot, offset) ?? slot * this.options.blockTokens + offset;
  }

  /** Buffers for that many slots, to be taken over by `adopt` or destroyed; undefined where the device's memory is short. */
  async allocate(slots: number): Promise<KvPoolBuffers | undefined> {
    const { layers, blockTokens, dtype } = this.options;
    assert(slots <= maxSlots(layers, blockTokens, dtype), `${slots} slots are more than a binding holds`);
    this.device.pushErrorScope("out-of-memory");
    const made = this.make(slots);
    if ((await this.device.popErrorScope()) === null) return made;
    destroyAll(made);
    return undefined;
  }

  /** Moves to larger buffers, behind the GPU work submitted so far. Ops that are bound to the old ones must not run again. */
  adopt(larger: KvPoolBuffers): void {
    const old = this.buffers;
    assert(larger.slots >= old.slots, `a pool of ${old.slots} slots does not shrink to ${larger.slots}`);
    const encoder = this.device.createCommandEncoder({ label: "grow the KV pool" });
    const [from, to] = [buffersOf(old), buffersOf(larger)];
    from.forEach((buffer, index) =>
      encoder.copyBufferToBuffer(buffer, 0, to[index] as GPUBuffer, 0, buffer.size),
    );
    this.device.queue.submit([encoder.finish()]);
    this.buffers = larger;
    destroyAll(old);
  }

  /**
   * Reads whole slots, each as the bytes of a record's payload, at the end of a buffer of its own with `roomBytes` before
   * it, so that a record can be made around it without another copy. Later GPU work does not change the result.
   * @throws TidepoolError `device_lost`, `gpu_failed`.
   */
  async readSlots(slots: readonly number[], roomBytes = 0): Promise<Uint8Array<ArrayBuffer>[]> {
    if (slots.length === 0 || this.slotBytes === 0)
      return slots.map(() => new Uint8Array(roomBytes).subarray(roomBytes));
    const size = this.slotBytes * slots.length;
    const staging = this.device.createBuffer({
      label: "read slots",
      size: size + MARK_BYTES,
      usage: USAGE_COPY_DST | USAGE_MAP_READ,
    });
    const encoder = this.device.createCommandEncoder({ label: "read slots" });
    slots.forEach((slot, index) => {
      this.eachPart(slot, (buffer, offset, bytes, at) =>
        encoder.copyBufferToBuffer(buffer, offset, staging, index * this.slotBytes + at, bytes),
      );
    });
    try {
      const all = new Uint8Array(await readBack(this.device, encoder, staging, size));
      return slots.map((_, index) => {
        const bytes = new Uint8Array(roomBytes + this.slotBytes);
        bytes.set(all.subarray(index * this.slotBytes, (index + 1) * this.slotBytes), roomBytes);
        return bytes.subarray(roomBytes);
      });
    } finally {
      staging.destroy();
    }
  }

  /** Reads a block that is not complete, as `readSlots`: `partial.slotBytes` bytes. */
  async readPartial(slot: number): Promise<Uint8Array<ArrayBuffer>> {
    if (this.tails) return this.tails.read(slot);
    const [bytes] = await this.readSlots([slot]);
    return bytes as Uint8Array<ArrayBuffer>;
  }

  /** Writes a block that is not complete into a slot, as `writeSlot`. */
  writePartial(slot: number, payload: Uint8Array<ArrayBuffer>): Promise<void> {
    return this.tails ? this.tails.write(slot, payload) : this.writeSlot(slot, payload);
  }

  /** Copies a block that is not complete, as `copySlot`. */
  copyPartial(from: number, to: number): void {
    if (this.tails) this.tails.copy(from, to);
    else this.copySlot(from, to);
  }

  /**
   * Writes a record's payload into a slot, ordered before GPU work that is submitted later.
   * @throws TidepoolError `gpu_failed`.
   */
  writeSlot(slot: number, payload: Uint8Array<ArrayBuffer>): Promise<void> {
    assert(
      payload.byteLength === this.slotBytes,
      `payload of ${payload.byteLength} bytes, a slot has ${this.slotBytes}`,
    );
    this.tails?.filled(slot);
    return guarded(this.device, "to write a block", () =>
      this.eachPart(slot, (buffer, offset, bytes, at) =>
        this.device.queue.writeBuffer(buffer, offset, payload, at, bytes),
      ),
    );
  }

  /** Copies a slot over another, ordered behind the GPU work submitted so far. */
  copySlot(from: number, to: number): void {
    const encoder = this.device.createCommandEncoder({ label: "copy slot" });
    this.eachPart(from, (buffer, offset, bytes) =>
      this.between.copy(encoder, buffer, offset, to * bytes, bytes),
    );
    this.device.queue.submit([encoder.finish()]);
  }

  destroy(): void {
    this.between.destroy();
    destroyAll(this.buffers);
    this.tails?.pool.destroy();
  }

  private make(slots: number): KvPoolBuffers {
    const { layers, blockTokens, dtype } = this.options;
    const usage = USAGE_STORAGE | USAGE_COPY_SRC | USAGE_COPY_DST;
    const make = (label: string, blockBytes: number) =>
      this.device.createBuffer({ label, size: slots * blockBytes, usage });
    const parts = layers.map((layer) => partBytes(layer, blockTokens, dtype));
    const keys = parts.map((part, index) => make(`keys ${index}`, part.keys));
    const values = parts.map((part, index) =>
      part.values === 0 ? (keys[index] as GPUBuffer) : make(`values ${index}`, part.values),
    );
    return { slots, keys, values };
  }

  /** Calls back for each layer's K and V range of a slot: the buffer, its offset, the bytes, and the offset in a payload. */
  private eachPart(
    slot: number,
    visit: (buffer: GPUBuffer, offset: number, bytes: number, at: number) => void,
  ): void {
    const { layers, blockTokens, dtype } = this.options;
    assert(slot >= 0 && slot < this.slots, `slot ${slot} is outside the pool of ${this.slots}`);
    let at = 0;
    layers.forEach((layer, index) => {
      const { keys, values } = partBytes(layer, blockTokens, dtype);
      visit(this.keys[index] as GPUBuffer, slot * keys, keys, at);
      if (values > 0) visit(this.values[index] as GPUBuffer, slot * values, values, at + keys);
      at += keys + values;
    });
  }
}

/**
 * Blanks what an exact block's payload holds behind its first `tokens` tokens: keys and values that the slot's former users left
 * there.
 */
export function blankBehind(
  payload: Uint8Array,
  { layers, blockTokens, dtype }: PoolOptions,
  tokens: number,
): void {
  let at = 0;
  for (const layer of layers) {
    const rowBytes = layer.headDim * (dtype === "f16" ? 2 : 4);
    for (let head = 0; head < partsOf(layer) * layer.kvHeads; head++, at += blockTokens * rowBytes)
      payload.fill(0, at + tokens * rowBytes, at + blockTokens * rowBytes);
  }
}

/** Their content lasts until the GPU work submitted before has run. */
function destroyAll(buffers: KvPoolBuffers): void {
  for (const buffer of buffersOf(buffers)) buffer.destroy();
}

/** Each once. */
function buffersOf({ keys, values }: KvPoolBuffers): GPUBuffer[] {
  return [...new Set([...keys, ...values])];
}
