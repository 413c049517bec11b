/**
 * Weight matrices on their way to the GPU: streamed in bounded pieces, rearranged into panels (panels.ts), several of one
 * input stacked. A matrix may lie in several buffers. It runs nothing (products.ts does) and does not know which tensor
 * plays which part in a model.
 */
import { assert } from "../../base.ts";
import { TidepoolError } from "../../errors.ts";
import { MAX_BINDING_BYTES } from "../../gpu/device.ts";
import { USAGE_COPY_DST, USAGE_COPY_SRC, USAGE_STORAGE } from "../../gpu/op.ts";
import { formatOf, type Format } from "./formats.ts";
import { panelBytes, PANEL_ROWS, repack, rowBytes } from "./panels.ts";

/** What the file says of a matrix: `rows` rows (N) of `columns` columns (K, contiguous), stored as `type`. */
export interface WeightInfo {
  name: string;
  /** The format's name as ggml writes it: "Q4_0". */
  type: string;
  columns: number;
  rows: number;
}

/** Consecutive rows of a matrix in one buffer of at most 128 MiB. */
export interface WeightPiece {
  buffer: GPUBuffer;
  firstRow: number;
  rows: number;
}

export interface PackedWeight {
  name: string;
  format: Format;
  columns: number;
  rows: number;
  /** Bytes of GPU memory. */
  bytes: number;
  pieces: readonly WeightPiece[];
}

/** File bytes that are rearranged and written at once; a panel of very long rows may be larger. */
const BATCH_BYTES = 2 * 1024 * 1024;

/** File bytes written to the device's queue between two waits for it, so that its staging memory stays bounded. */
export const UNSETTLED_BYTES = 32 * 1024 * 1024;

/** The JavaScript memory that matrices pass through on their way, used for one after the other: it grows to the largest need. */
export class UploadBuffers {
  private panel = new Uint8Array(0);
  private words = new Uint32Array(0);

  /** For the bytes of a panel that arrive in several pieces. */
  panelOf(bytes: number): Uint8Array {
    if (this.panel.length < bytes) this.panel = new Uint8Array(bytes);
    return this.panel.subarray(0, bytes);
  }

  /** For what is rearranged. */
  wordsOf(count: number): Uint32Array<ArrayBuffer> {
    if (this.words.length < count) this.words = new Uint32Array(count);
    return this.words.subarray(0, count);
  }
}

/**
 * Streams a matrix to the GPU, rearranging blocks on the way. The pieces that `source` yields may have any size.
 * @throws TidepoolError `unsupported` for an unknown format, `invalid_file` when `source` is shorter or longer than
 * the matrix or its rows are no whole number of blocks.
 */
export function uploadWeight(
  device: GPUDevice,
  info: WeightInfo,
  source: AsyncIterable<Uint8Array>,
): Promise<PackedWeight> {
  return uploadStacked(device, [info], [source], new UploadBuffers());
}

/**
 * Streams several matrices of one format and width to the GPU as one matrix, stacked by rows in the order given, so that
 * one dispatch computes them all (q, k, v; gate, up).
 * @throws TidepoolError as `uploadWeight`.
 */
export async function uploadStacked(
  device: GPUDevice,
  infos: readonly WeightInfo[],
  sources: readonly AsyncIterable<Uint8Array>[],
  buffers: UploadBuffers,
): Promise<PackedWeight> {
  const [first] = infos;
  assert(first && infos.length === sources.length, "as many sources as matrices, and at least one");
  const { format, columns } = checked(first);
  for (const info of infos) {
    assert(canStack(first, info), `${info.name} cannot be stacked on ${first.name}`);
  }
  const rows = infos.reduce((sum, info) => sum + info.rows, 0);
  const name = infos.map((info) => info.name).join("+");
  const pieces = createPieces(device, name, format, columns, rows);
  const writer = new PieceWriter(device, format, columns, pieces, buffers);
  try {
    for (const [index, info] of infos.entries()) {
      await writeAll(writer, info, format, sources[index] as AsyncIterable<Uint8Array>);
    }
    await writer.finish();
  } catch (error) {
    for (const piece of pieces) piece.buffer.destroy();
    throw error;
  }
  const bytes = pieces.reduce((sum, piece) => sum + piece.buffer.size, 0);
  return { name, format, columns, rows, bytes, pieces };
}

/** Whether two matrices may be stacked by rows: same format, same width. */
export function canStack(a: WeightInfo, b: WeightInfo): boolean {
  return a.type === b.type && a.columns === b.columns;
}

/** Frees the GPU memory of a matrix. */
export function destroyWeight(weight: PackedWeight): void {
  for (const piece of weight.pieces) piece.buffer.destroy();
}

function checked(info: WeightInfo): { format: Format; columns: number } {
  const format = formatOf(info.type, info.name);
  const { name, columns, rows } = info;
  if (columns > 0 && rows > 0 && columns % format.blockLength === 0) return { format, columns };
  throw new TidepoolError(
    "invalid_file",
    `tensor ${name} has ${rows} rows of ${columns} columns; ${format.name} needs at least one row and a multiple of ${format.blockLength} columns`,
    { tensor: name, rows, columns },
  );
}

/** An empty matrix, of which parts are written by `writePanels`. @param together rows that lie in one piece if that is possible */
export function emptyWeight(
  device: GPUDevice,
  { name, type, columns, rows }: WeightInfo,
  together: number,
): PackedWeight {
  const format = formatOf(type, name);
  const pieces = createPieces(device, name, format, columns, rows, together);
  const bytes = pieces.reduce((sum, piece) => sum + piece.buffer.size, 0);
  return { name, format, columns, rows, bytes, pieces };
}

/** Writes panels (panels.ts) to a matrix from a row on, which begins a panel. */
export function writePanels(
  { queue }: GPUDevice,
  { format, columns, pieces }: PackedWeight,
  firstRow: number,
  words: Uint32Array<ArrayBuffer>,
): void {
  const wordsPerPanel = panelBytes(format, columns) / 4;
  const end = firstRow + (words.length / wordsPerPanel) * PANEL_ROWS;
  for (const piece of pieces) {
    const from = Math.max(firstRow, piece.firstRow);
    const to = Math.min(end, piece.firstRow + Math.ceil(piece.rows / PANEL_ROWS) * PANEL_ROWS);
    if (from >= to) continue;
    const panelsBefore = (row: number) => (from - row) / PANEL_ROWS;
    const size = ((to - from) / PANEL_ROWS) * wordsPerPanel;
    const offset = panelsBefore(piece.firstRow) * wordsPerPanel * 4;
    queue.writeBuffer(piece.buffer, offset, words, panelsBefore(firstRow) * wordsPerPanel, size);
  }
}

function createPieces(
  device: GPUDevice,
  name: string,
  format: Format,
  columns: number,
  rows: number,
  together = PANEL_ROWS,
): WeightPiece[] {
  const bytesPerPanel = panelBytes(format, columns);
  const limit = Math.min(MAX_BINDING_BYTES, device.limits.maxStorageBufferBindingSize);
  const most = Math.floor(limit / bytesPerPanel);
  const unit = together / PANEL_ROWS;
  const panels = most > unit ? most - (most % unit) : most;
  assert(
    panels > 0,
    `${name}: 16 rows of ${columns} columns need ${bytesPerPanel} bytes, over the binding limit`,
  );
  const pieces: WeightPiece[] = [];
  for (let firstRow = 0; firstRow < rows; firstRow += panels * PANEL_ROWS) {
    const here = Math.min(panels * PANEL_ROWS, rows - firstRow);
    const size = Math.ceil(here / PANEL_ROWS) * bytesPerPanel;
    const buffer = device.createBuffer({
      label: name,
      size,
      usage: USAGE_STORAGE | USAGE_COPY_DST | USAGE_COPY_SRC,
    });
    pieces.push({ buffer, firstRow, rows: here });
  }
  return pieces;
}

async function writeAll(
  writer: PieceWriter,
  info: WeightInfo,
  format: Format,
  source: AsyncIterable<Uint8Array>,
): Promise<void> {
  const expected = info.rows * rowBytes(format, info.columns);
  let seen = 0;
  for await (const bytes of source) {
    seen += bytes.byteLength;
    if (seen > expected) break;
    await writer.write(bytes);
  }
  if (seen === expected) return;
  throw new TidepoolError(
    "invalid_file",
    `tensor ${info.name} needs ${expected} bytes, its source gave ${seen > expected ? "more" : seen}`,
    { tensor: info.name, expected },
  );
}

/**
 * Cuts a stream of bytes into whole panels, rearranges them and writes them to the pieces, front to back. Panels are taken
 * from where they lie; only one that is spread over several arrays is gathered.
 */
class PieceWriter {
  private readonly device: GPUDevice;
  private readonly format: Format;
  private readonly columns: number;
  private readonly pieces: readonly WeightPiece[];
  private readonly buffers: UploadBuffers;
  private readonly bytesPerRow: number;
  private readonly panel: Uint8Array;
  private filled = 0;
  private row = 0;
  private unsettled = 0;

  constructor(
    device: GPUDevice,
    format: Format,
    columns: number,
    pieces: readonly WeightPiece[],
    buffers: UploadBuffers,
  ) {
    this.device = device;
    this.format = format;
    this.columns = columns;
    this.pieces = pieces;
    this.buffers = buffers;
    this.bytesPerRow = rowBytes(format, columns);
    this.panel = buffers.panelOf(this.bytesPerRow * PANEL_ROWS);
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let from = 0; from < bytes.byteLength;) {
      const rest = bytes.subarray(from);
      const whole = this.filled === 0 ? this.wholePanels(rest.byteLength) : 0;
      if (whole > 0) await this.flush(rest.subarray(0, whole));
      from += whole > 0 ? whole : await this.gather(rest);
    }
  }

  async finish(): Promise<void> {
    if (this.filled > 0) await this.flush(this.panel.subarray(0, this.filled));
    await this.settle();
  }

  /** The bytes of as many panels as a batch takes, of those that lie in `bytes` bytes. */
  private wholePanels(bytes: number): number {
    const size = this.panel.byteLength;
    return Math.min(Math.floor(bytes / size), Math.max(1, Math.floor(BATCH_BYTES / size))) * size;
  }

  /** Takes what the panel lacks; gives how much that was. */
  private async gather(bytes: Uint8Array): Promise<number> {
    const count = Math.min(bytes.byteLength, this.panel.byteLength - this.filled);
    this.panel.set(bytes.subarray(0, count), this.filled);
    this.filled += count;
    if (this.filled === this.panel.byteLength) await this.flush(this.panel);
    return count;
  }

  /** Sends rows; all but the last batch are whole panels. */
  private async flush(source: Uint8Array): Promise<void> {
    const rows = source.byteLength / this.bytesPerRow;
    let done = 0;
    while (done < rows) {
      const piece = this.pieces.find((each) => this.row < each.firstRow + each.rows);
      assert(piece, "more rows than the pieces hold");
      const count = Math.min(rows - done, piece.firstRow + piece.rows - this.row);
      const bytes = source.subarray(done * this.bytesPerRow, (done + count) * this.bytesPerRow);
      this.send(piece, count, bytes);
      done += count;
      this.row += count;
    }
    this.unsettled += source.byteLength;
    this.filled = 0;
    if (this.unsettled >= UNSETTLED_BYTES) await this.settle();
  }

  private send(piece: WeightPiece, rows: number, bytes: Uint8Array): void {
    const { format, columns } = this;
    const bytesPerPanel = panelBytes(format, columns);
    const offset = ((this.row - piece.firstRow) / PANEL_ROWS) * bytesPerPanel;
    assert(Number.isInteger(offset), "a batch begins with a panel");
    const words = this.buffers.wordsOf((Math.ceil(rows / PANEL_ROWS) * bytesPerPanel) / 4);
    repack(format, columns, rows, bytes, words);
    this.device.queue.writeBuffer(piece.buffer, offset, words);
  }

  private async settle(): Promise<void> {
    this.unsettled = 0;
    this.device.queue.submit([]);
    await this.device.queue.onSubmittedWorkDone();
  }
}
