/**
 * Low-bit copies of all experts, which stay on the GPU: what a decode step may compute an expert with that is not there and
 * matters little. The GPU makes them while the model loads, an expert's matrix at a time. It decides nothing about which are used.
 */
import { assert } from "../../base.ts";
import { TidepoolError } from "../../errors.ts";
import type { Kernels } from "../../gpu/kernel.ts";
import { USAGE_COPY_DST, USAGE_COPY_SRC, USAGE_STORAGE, USAGE_UNIFORM } from "../../gpu/op.ts";
import { CommandRecorder } from "../../gpu/recorder.ts";
import { UNIT_COLUMNS } from "../matrix/formats.ts";
import { packed, panelBytes, PANEL_ROWS, rowBytes, tilesPerRow } from "../matrix/panels.ts";
import { NO_SLOT, type ExpertSlotting } from "../matrix/products.ts";
import { destroyWeight, emptyWeight, UNSETTLED_BYTES, type PackedWeight } from "../matrix/upload.ts";
import bounded from "../../../shaders/lib/bounded.wgsl";
import unitLib from "../../../shaders/lib/format-unit.wgsl";
import requantise from "../../../shaders/requantise.wgsl";
import { COPY_FORMAT, slotRows, type ExpertPlan, type StoredMatrix } from "./plan.ts";

/** HOBBIT's threshold (arXiv 2411.01433, T1). */
const UNIMPORTANT_ABOVE = 0.6;

const ROW_ALIGNMENT = 256;
const WORKGROUP = 32;
const TYPES = { elem: "f32", kv: "f32", out: "f32" } as const;

/** What a layer's products need of a matrix's copies. */
export interface ExpertCopy {
  weight: PackedWeight;
  slots: ExpertSlotting;
  /** Of the weight of a row's choices; those behind that share may be computed with copies. */
  above: number;
}

/** As many entries as experts, and one for no expert. */
function rowBytesOf({ experts }: ExpertPlan): number {
  return Math.ceil((4 * (experts + 1)) / ROW_ALIGNMENT) * ROW_ALIGNMENT;
}

/** Bytes of the table that says which copies are computed. */
export function copyTableBytes(plan: ExpertPlan): number {
  return plan.layers.length * rowBytesOf(plan);
}

/** Buffers that copies are made with. */
interface Making {
  op: GPUBuffer;
  /** An expert's matrix as it is in the file, in panels. */
  source: GPUBuffer;
  /** f32 [tiles, rows, 2]: squared errors and squared values. */
  errors: GPUBuffer;
}

export class ExpertCopies {
  readonly above: number;
  /** On the GPU. */
  readonly bytes: number;
  /** Squared error of all copies, as a share of the squared weights; known when they are all made. */
  error = NaN;
  private readonly kernels: Kernels;
  private readonly plan: ExpertPlan;
  private readonly table: GPUBuffer;
  /** By layer, of each matrix. */
  private readonly weights: readonly (readonly PackedWeight[])[];
  private readonly making: Making;
  private unsettled = 0;

  constructor(kernels: Kernels, plan: ExpertPlan, above = UNIMPORTANT_ABOVE) {
    const { device } = kernels.gpu;
    this.kernels = kernels;
    this.plan = plan;
    this.above = above;
    const make = (label: string, size: number, usage: number) =>
      device.createBuffer({ label, size, usage: usage | USAGE_COPY_DST });
    this.table = make("copies shown", copyTableBytes(plan), USAGE_STORAGE);
    this.weights = plan.layers.map(({ matrices }) =>
      matrices.map((matrix) => {
        const rows = slotRows(matrix);
        const { name, columns } = matrix;
        const info = { name: `${name} copies`, type: COPY_FORMAT.name, columns, rows: rows * plan.experts };
        return emptyWeight(device, info, rows);
      }),
    );
    this.bytes = this.table.size + this.weights.flat().reduce((sum, { bytes }) => sum + bytes, 0);
    const matrices = plan.layers.flatMap((layer) => layer.matrices);
    this.making = {
      op: make("copy op", 32, USAGE_UNIFORM),
      source: make("copy source", Math.max(...matrices.map(sourceBytes)), USAGE_STORAGE),
      errors: make("copy errors", Math.max(...matrices.map(errorBytes)), USAGE_STORAGE | USAGE_COPY_SRC),
    };
  }

  /** @param layer among those with experts */
  of(layer: number, matrix: number): ExpertCopy {
    const rows = slotRows(this.matrix(layer, matrix));
    const residency = {
      buffer: this.table,
      offset: layer * rowBytesOf(this.plan),
      size: 4 * (this.plan.experts + 1),
    };
    const weight = this.weights[layer]?.[matrix] as PackedWeight;
    return { weight, slots: { rows, residency }, above: this.above };
  }

  /**
   * Makes the copies of a matrix of all experts of a layer.
   * @param sources its bytes in the file, expert by expert
   */
  async make(layer: number, matrix: number, sources: Iterable<AsyncIterable<Uint8Array>>): Promise<void> {
    const stored = this.matrix(layer, matrix);
    const { format, columns, rows } = stored;
    const one = new Uint8Array(rows * rowBytes(format, columns));
    let [expert, filled] = [0, 0];
    for (const source of sources)
      for await (const piece of source)
        for (let from = 0; from < piece.byteLength;) {
          const part = piece.subarray(from, from + one.byteLength - filled);
          one.set(part, filled);
          from += part.byteLength;
          filled += part.byteLength;
          if (filled < one.byteLength) continue;
          await this.makeOne(layer, matrix, expert++, packed(format, columns, rows, one));
          filled = 0;
        }
    const { experts } = this.plan;
    if (expert === experts && filled === 0) return;
    const { name } = stored.tensors[0] as StoredMatrix["tensors"][number];
    const message = `${name} has the bytes of ${expert} experts, expected ${experts}`;
    throw new TidepoolError("invalid_file", message, { tensor: name });
  }

  /** All copies are made. */
  async finish(): Promise<void> {
    const { op, source, errors } = this.making;
    const recorder = new CommandRecorder(this.kernels.gpu);
    const [read] = await recorder.read([{ buffer: errors, bytes: errors.size }]);
    recorder.destroy();
    let [error, size] = [0, 0];
    new Float32Array(read as ArrayBuffer).forEach((value, i) => {
      if (i % 2 === 0) error += value;
      else size += value;
    });
    this.error = size > 0 ? error / size : 0;
    for (const buffer of [op, source, errors]) buffer.destroy();
  }

  /** Which copies of a layer the passes that are submitted from now on compute. */
  show(layer: number, experts: Iterable<number>): void {
    const row = new Uint32Array(this.plan.experts + 1).fill(NO_SLOT);
    for (const expert of experts) row[expert] = expert;
    this.kernels.gpu.device.queue.writeBuffer(this.table, layer * rowBytesOf(this.plan), row);
  }

  destroy(): void {
    this.table.destroy();
    for (const weight of this.weights.flat()) destroyWeight(weight);
  }

  private matrix(layer: number, matrix: number): StoredMatrix {
    const stored = this.plan.layers[layer]?.matrices[matrix];
    assert(stored, `no matrix ${matrix} in layer ${layer}`);
    return stored;
  }

  private async makeOne(
    layer: number,
    matrix: number,
    expert: number,
    words: Uint32Array<ArrayBuffer>,
  ): Promise<void> {
    const { device } = this.kernels.gpu;
    const stored = this.matrix(layer, matrix);
    const weight = this.weights[layer]?.[matrix] as PackedWeight;
    const rows = slotRows(stored);
    const first = expert * rows;
    device.queue.writeBuffer(this.making.source, 0, words);
    for (const piece of weight.pieces) {
      if (first >= piece.firstRow + piece.rows || first + rows <= piece.firstRow) continue;
      await this.dispatch(stored, piece, first - piece.firstRow);
    }
    this.unsettled += words.byteLength;
    if (this.unsettled < UNSETTLED_BYTES) return;
    this.unsettled = 0;
    await device.queue.onSubmittedWorkDone();
  }

  private async dispatch(
    stored: StoredMatrix,
    { buffer, rows: pieceRows }: PackedWeight["pieces"][number],
    firstRow: number,
  ): Promise<void> {
    const { kernels, making } = this;
    const { format, columns } = stored;
    const { device } = kernels.gpu;
    const [rows, tiles] = [slotRows(stored), tilesPerRow(COPY_FORMAT, columns)];
    const source = {
      name: `requantise ${format.name}`,
      code: requantise,
      libs: [bounded, unitLib, format.fragment],
    };
    const pipeline = await kernels.pipeline(source, TYPES, { WG: WORKGROUP });
    const units = Math.ceil(columns / UNIT_COLUMNS);
    const op = [rows, units, tilesPerRow(format, columns), tiles, firstRow, pieceRows];
    device.queue.writeBuffer(making.op, 0, new Uint32Array(op));
    const encoder = device.createCommandEncoder({ label: "copies" });
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline.compute);
    pass.setBindGroup(0, kernels.bind(pipeline, 0, [making.op, making.source, buffer, making.errors]));
    pass.dispatchWorkgroups(Math.ceil(rows / WORKGROUP), tiles);
    pass.end();
    device.queue.submit([encoder.finish()]);
  }
}

function sourceBytes(matrix: StoredMatrix): number {
  return (slotRows(matrix) / PANEL_ROWS) * panelBytes(matrix.format, matrix.columns);
}

function errorBytes(matrix: StoredMatrix): number {
  return 8 * slotRows(matrix) * tilesPerRow(COPY_FORMAT, matrix.columns);
}
