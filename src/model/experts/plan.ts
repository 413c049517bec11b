/**
 * How many experts of a model are on the GPU when not all of them are: layers whose experts have one size and format share slots,
 * and what may be taken is divided among such classes. It touches no device and reads no tensor.
 */
import { TidepoolError } from "../../errors.ts";
import type { TensorInfo } from "../../load/model-file.ts";
import type { ModelShape } from "../../shape/shape.ts";
import type { TensorNames } from "../arch/tensor-lookup.ts";
import { formatOf, type Format } from "../matrix/formats.ts";
import { panelBytes, PANEL_ROWS } from "../matrix/panels.ts";
import { expertMatrices, expertTensors, type ExpertMatrix } from "./matrices.ts";

/** What low-bit copies of experts are stored as. */
export const COPY_FORMAT = formatOf("Q2_K", "copies of experts");

/** A matrix of a layer's experts in a file. */
export interface StoredMatrix extends ExpertMatrix {
  format: Format;
  tensors: readonly TensorInfo[];
}

/** A layer with experts. */
export interface ExpertLayer {
  /** Its number among all layers of the model. */
  index: number;
  matrices: readonly StoredMatrix[];
}

/** Layers whose experts have one size. */
export interface SlotClass {
  /** Numbers among the layers with experts. */
  layers: readonly number[];
  slots: number;
  /** Bytes that each matrix of an expert takes on the GPU. */
  matrixBytes: readonly number[];
}

/** The layers with experts, and the slots that they have. */
export interface ExpertPlan {
  experts: number;
  chosen: number;
  layers: readonly ExpertLayer[];
  classes: readonly SlotClass[];
  /** Bytes of the slots. */
  bytes: number;
  /** Bytes of the low-bit copies of all experts; 0: there are none. */
  copyBytes: number;
}

/** The experts of a model. */
export interface ModelExperts {
  experts: number;
  chosen: number;
  layers: readonly ExpertLayer[];
  classes: readonly Omit<SlotClass, "slots">[];
  /** Bytes of all of them on the GPU, and the least that a step can run with: those that one token has in one layer. */
  bytes: number;
  leastBytes: number;
  /** Bytes that low-bit copies of all of them would take. */
  copyBytes: number;
}

/** undefined: it has none. */
export function expertsOf(names: TensorNames, shape: ModelShape): ModelExperts | undefined {
  const layers: ExpertLayer[] = [];
  let sizes: { experts: number; chosen: number } | undefined;
  for (const [index, { ffn }] of shape.layers.entries()) {
    if (ffn?.kind !== "experts") continue;
    sizes ??= ffn;
    const matrices = expertMatrices(ffn, names.at(index), shape.hiddenSize).map((matrix): StoredMatrix => {
      const tensors = expertTensors(names, index, matrix, ffn.experts);
      const [{ type, name }] = tensors as [TensorInfo];
      return { ...matrix, tensors, format: formatOf(type, name) };
    });
    layers.push({ index, matrices });
  }
  if (!sizes) return undefined;
  const { experts, chosen } = sizes;
  const classes = classesOf(layers);
  const sum = (each: (one: (typeof classes)[number]) => number) =>
    classes.reduce((total, one) => total + each(one) * slotBytes(one), 0);
  const bytes = sum((one) => one.layers.length * experts);
  const copyBytes = layers
    .flatMap(({ matrices }) => matrices)
    .reduce((all, one) => all + copyBytesOf(one), 0);
  return {
    experts,
    chosen,
    layers,
    classes,
    bytes,
    leastBytes: sum(() => chosen),
    copyBytes: experts * copyBytes,
  };
}

function classesOf(layers: readonly ExpertLayer[]): Omit<SlotClass, "slots">[] {
  const byKey = new Map<string, { layers: number[]; matrixBytes: number[] }>();
  for (const [number, { matrices }] of layers.entries()) {
    const key = JSON.stringify(matrices.map(({ format, rows, columns }) => [format.name, rows, columns]));
    const known = byKey.get(key);
    if (known) known.layers.push(number);
    else byKey.set(key, { layers: [number], matrixBytes: matrices.map(bytesOf) });
  }
  return [...byKey.values()];
}

/** Rows of a matrix's slot: whole panels. */
export function slotRows({ rows }: ExpertMatrix): number {
  return Math.ceil(rows / PANEL_ROWS) * PANEL_ROWS;
}

function bytesOf(matrix: StoredMatrix): number {
  return (slotRows(matrix) / PANEL_ROWS) * panelBytes(matrix.format, matrix.columns);
}

function copyBytesOf(matrix: ExpertMatrix): number {
  return (slotRows(matrix) / PANEL_ROWS) * panelBytes(COPY_FORMAT, matrix.columns);
}

function slotBytes({ matrixBytes }: Pick<SlotClass, "matrixBytes">): number {
  return matrixBytes.reduce((sum, bytes) => sum + bytes, 0);
}

/**
 * Divides bytes among the classes: what one token has in a layer for each, and the rest by their sizes.
 * @param copyBytes of `most`, what low-bit copies take
 * @throws TidepoolError `out_of_memory` naming the least
 */
export function planSlots(all: ModelExperts, most: number, copyBytes = 0): ExpertPlan {
  const { experts, chosen, layers } = all;
  const leastBytes = all.leastBytes + copyBytes;
  if (most < leastBytes) throw tooFewBytes(most, leastBytes, chosen, copyBytes);
  const rest = all.bytes - all.leastBytes;
  const share = rest > 0 ? Math.min(1, (most - leastBytes) / rest) : 1;
  const classes = all.classes.map((each): SlotClass => {
    const count = each.layers.length * experts;
    return { ...each, slots: chosen + Math.floor((count - chosen) * share) };
  });
  const bytes = classes.reduce((sum, each) => sum + each.slots * slotBytes(each), 0);
  return { experts, chosen, layers, classes, bytes, copyBytes };
}

function tooFewBytes(
  expertMemory: number,
  leastBytes: number,
  chosen: number,
  copyBytes: number,
): TidepoolError {
  const copies =
    copyBytes > 0
      ? `${copyBytes} of them for the low-bit copies that experts "bounded" keeps, the others `
      : "";
  const message = `expertMemory is ${expertMemory} bytes: at least ${leastBytes} are needed, ${copies}for the ${chosen} experts that a token has in a layer`;
  return new TidepoolError("out_of_memory", message, { expertMemory, leastBytes, copyBytes });
}
