/**
 * The experts on the GPU: slots for the matrices of some of them, and the residency table, by which kernels find an expert's slot
 * (shaders/lib/experts.wgsl). It decides nothing about who is in which slot, and reads no file.
 */
import { assert } from "../../base.ts";
import { USAGE_COPY_DST, USAGE_STORAGE } from "../../gpu/op.ts";
import { NO_SLOT, type ExpertSlotting } from "../matrix/products.ts";
import { destroyWeight, emptyWeight, writePanels, type PackedWeight } from "../matrix/upload.ts";
import type { ExpertCopies, ExpertCopy } from "./copies.ts";
import { slotRows, type ExpertPlan, type SlotClass } from "./plan.ts";

/** A row of the table begins where a binding may. */
const ROW_ALIGNMENT = 256;

function rowBytesOf({ experts }: ExpertPlan): number {
  return Math.ceil((4 * experts) / ROW_ALIGNMENT) * ROW_ALIGNMENT;
}

/** Bytes of the residency table. */
export function tableBytes(plan: ExpertPlan): number {
  return plan.layers.length * rowBytesOf(plan);
}

/** An expert and its slot. */
export type Resident = readonly [expert: number, slot: number];

/** What a layer's products need of the arena. */
export interface LayerSlots {
  weight: PackedWeight;
  slots: ExpertSlotting;
  copy?: ExpertCopy;
}

export class ExpertArena {
  readonly plan: ExpertPlan;
  /** Of experts that are not there. */
  readonly copies: ExpertCopies | undefined;
  /** On the GPU. */
  readonly bytes: number;
  private readonly device: GPUDevice;
  private readonly table: GPUBuffer;
  private readonly rowBytes: number;
  /** For each layer with experts the class that it is of. */
  private readonly classOf: readonly number[];
  /** For each class the matrices of its slots. */
  private readonly weights: readonly (readonly PackedWeight[])[];

  constructor(device: GPUDevice, plan: ExpertPlan, copies?: ExpertCopies) {
    this.device = device;
    this.plan = plan;
    this.copies = copies;
    this.rowBytes = rowBytesOf(plan);
    const usage = USAGE_STORAGE | USAGE_COPY_DST;
    this.table = device.createBuffer({ label: "residency", size: tableBytes(plan), usage });
    this.classOf = plan.layers.map((_, layer) => plan.classes.findIndex((one) => one.layers.includes(layer)));
    this.weights = plan.classes.map((each) => this.makeWeights(each));
    const slotBytes = this.weights.flat().reduce((sum, { bytes }) => sum + bytes, 0);
    this.bytes = this.table.size + slotBytes + (copies?.bytes ?? 0);
  }

  private makeWeights({ layers, slots }: SlotClass): PackedWeight[] {
    const first = this.plan.layers[layers[0] as number];
    assert(first, "a class of no layers");
    return first.matrices.map((matrix) => {
      const { format, columns, name } = matrix;
      const rows = slotRows(matrix);
      const info = { name: `${name} slots`, type: format.name, columns, rows: rows * slots };
      return emptyWeight(this.device, info, rows);
    });
  }

  /** Slots that a layer may have, all others of its class with none. */
  slotsOf(layer: number): number {
    return this.plan.classes[this.classOf[layer] as number]?.slots ?? 0;
  }

  /** @param index of a layer among all of the model */
  of(index: number, name: string): LayerSlots {
    const [layer, matrix] = this.placeOf(index, name);
    const found = this.plan.layers[layer]?.matrices[matrix];
    const weight = this.weights[this.classOf[layer] as number]?.[matrix];
    assert(found && weight, `layer ${index} has no experts with a matrix ${name}`);
    const residency = { buffer: this.table, offset: layer * this.rowBytes, size: 4 * this.plan.experts };
    const slots = { rows: slotRows(found), residency };
    return { weight, slots, ...(this.copies && { copy: this.copies.of(layer, matrix) }) };
  }

  /** Makes low-bit copies of a layer's matrix from its bytes in the file; nothing if there are none. */
  async copy(index: number, name: string, sources: Iterable<AsyncIterable<Uint8Array>>): Promise<void> {
    if (this.copies) return this.copies.make(...this.placeOf(index, name), sources);
    for (const source of sources) for await (const _ of source);
  }

  private placeOf(index: number, name: string): [layer: number, matrix: number] {
    const layer = this.plan.layers.findIndex((each) => each.index === index);
    return [layer, this.plan.layers[layer]?.matrices.findIndex((each) => each.name === name) ?? -1];
  }

  /** Writes a matrix of an expert to a slot, as panels, behind the passes submitted so far. */
  write(layer: number, matrix: number, slot: number, words: Uint32Array<ArrayBuffer>): void {
    const weight = this.weights[this.classOf[layer] as number]?.[matrix];
    const stored = this.plan.layers[layer]?.matrices[matrix];
    assert(weight && stored, `no matrix ${matrix} in layer ${layer}`);
    writePanels(this.device, weight, slot * slotRows(stored), words);
  }

  /**
   * What the passes of a layer that are submitted from now on compute: these experts and no others.
   * @param low experts of which the unimportant choices are computed with copies
   */
  show(layer: number, residents: Iterable<Resident>, low: Iterable<number> = []): void {
    const row = new Uint32Array(this.plan.experts).fill(NO_SLOT);
    for (const [expert, slot] of residents) row[expert] = slot;
    this.device.queue.writeBuffer(this.table, layer * this.rowBytes, row);
    this.copies?.show(layer, low);
  }

  destroy(): void {
    this.table.destroy();
    this.copies?.destroy();
    for (const weight of this.weights.flat()) destroyWeight(weight);
  }
}
