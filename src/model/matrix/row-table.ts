/**
 * A table of which a step needs a row a token, and that stays off the GPU: in the model's file, or in RAM if the file is still
 * on its way. Rows are read by token id, kept for a while, and written to the GPU as they are stored, for the kernel that looks
 * embeddings up. It does not know what the rows mean.
 */
import { assert } from "../../base.ts";
import { USAGE_COPY_DST, USAGE_STORAGE } from "../../gpu/op.ts";
import type { TensorInfo } from "../../load/model-file.ts";
import { formatOf } from "./formats.ts";
import { panelBytes, PANEL_ROWS, repack, rowBytes } from "./panels.ts";
import type { PackedWeight } from "./upload.ts";

/** Bytes of rows that are kept, the least recently used go first; those of one step are kept in any case. */
const KEPT_BYTES = 32 * 1024 * 1024;

/** Rows that are read at once. */
const MAX_READS = 16;

export interface RowTableLimits {
  /** Rows of a step at most. */
  maxRows: number;
  /** Tokens of seats stand before those that a step gives (step.ts). */
  seats: number;
}

/** Reads some bytes of a table. */
export type ReadRow = (offset: number, length: number) => Promise<Uint8Array>;

/** A table in RAM, in the pieces in which it came: all but the last are of one length. */
export function rowsInMemory(pieces: readonly Uint8Array[]): ReadRow {
  const length = pieces[0]?.length ?? 1;
  return (offset, count) => {
    const row = new Uint8Array(count);
    for (let at = 0; at < count;) {
      const piece = pieces[Math.floor((offset + at) / length)];
      assert(piece, `no piece of the table has byte ${offset + at}`);
      const part = piece.subarray((offset + at) % length).subarray(0, count - at);
      row.set(part, at);
      at += part.length;
    }
    return Promise.resolve(row);
  };
}

/** Rows of the tokens of a step, by id. */
export type FetchedRows = ReadonlyMap<number, Uint8Array>;

/** Bytes on the GPU of a table's rows of one step. */
export function rowTableBytes(
  { name, type }: Pick<TensorInfo, "name" | "type">,
  columns: number,
  { maxRows, seats }: RowTableLimits,
): number {
  return Math.ceil(maxRows / PANEL_ROWS) * panelBytes(formatOf(type, name), columns) + 4 * (seats + maxRows);
}

export class RowTable {
  /** Has a row for each row of a step. */
  readonly weight: PackedWeight;
  /** u32 [seats + maxRows]: for each place of the token buffer, the row of `weight` that its token has. */
  readonly places: GPUBuffer;
  /** Bytes on the GPU. */
  readonly bytes: number;
  private readonly device: GPUDevice;
  /** Rows come from the model's file, which must stay open. */
  readonly readsFile: boolean;
  private readonly read: ReadRow;
  private readonly rowCount: number;
  private readonly rowBytes: number;
  private readonly kept = new Map<number, Uint8Array>();
  private readonly words: Uint32Array<ArrayBuffer>;
  private readonly placeWords: Uint32Array<ArrayBuffer>;

  constructor(
    device: GPUDevice,
    { name, type }: Pick<TensorInfo, "name" | "type">,
    { columns, rows }: { columns: number; rows: number },
    { maxRows, seats }: RowTableLimits,
    { read, isAtHand }: { read: ReadRow; isAtHand: boolean },
  ) {
    const format = formatOf(type, name);
    const size = Math.ceil(maxRows / PANEL_ROWS) * panelBytes(format, columns);
    const usage = USAGE_STORAGE | USAGE_COPY_DST;
    const buffer = device.createBuffer({ label: name, size, usage });
    this.device = device;
    this.read = read;
    this.readsFile = isAtHand;
    this.rowCount = rows;
    this.rowBytes = rowBytes(format, columns);
    const pieces = [{ buffer, firstRow: 0, rows: maxRows }];
    this.weight = { name, format, columns, rows: maxRows, bytes: size, pieces };
    this.words = new Uint32Array(size / 4);
    this.placeWords = new Uint32Array(seats + maxRows);
    this.places = device.createBuffer({ label: `${name} places`, size: this.placeWords.byteLength, usage });
    this.bytes = size + this.places.size;
  }

  /** The rows of these tokens. @throws TidepoolError `source` if the file can no longer be read */
  async fetch(tokens: readonly number[]): Promise<FetchedRows> {
    const wanted = [...new Set(tokens)];
    const rows = new Map<number, Uint8Array>();
    const missing: number[] = [];
    for (const token of wanted) {
      const row = this.kept.get(token);
      if (row) rows.set(token, row);
      else missing.push(token);
    }
    for (let at = 0; at < missing.length; at += MAX_READS) {
      const some = missing.slice(at, at + MAX_READS);
      const read = await Promise.all(some.map((token) => this.row(token)));
      some.forEach((token, index) => rows.set(token, read[index] as Uint8Array));
    }
    this.keep(rows);
    return rows;
  }

  /** Writes what a step needs, ordered after the steps submitted before. @param tokens by the step's rows */
  write(rows: readonly { token: number }[], tokens: readonly number[], fetched: FetchedRows): void {
    const { format, columns, pieces } = this.weight;
    const source = new Uint8Array(rows.length * this.rowBytes);
    rows.forEach(({ token: place }, index) => {
      const row = fetched.get(tokens[index] as number);
      assert(row, `the row of token ${tokens[index]} was not read`);
      source.set(row, index * this.rowBytes);
      this.placeWords[place] = index;
    });
    const words = this.words.subarray(
      0,
      (Math.ceil(rows.length / PANEL_ROWS) * panelBytes(format, columns)) / 4,
    );
    repack(format, columns, rows.length, source, words);
    this.device.queue.writeBuffer((pieces[0] as (typeof pieces)[number]).buffer, 0, words);
    this.device.queue.writeBuffer(this.places, 0, this.placeWords);
  }

  destroy(): void {
    for (const { buffer } of this.weight.pieces) buffer.destroy();
    this.places.destroy();
  }

  private row(token: number): Promise<Uint8Array> {
    assert(token >= 0 && token < this.rowCount, `token ${token} of a table of ${this.rowCount} rows`);
    return this.read(token * this.rowBytes, this.rowBytes);
  }

  private keep(rows: FetchedRows): void {
    for (const [token, row] of rows) {
      this.kept.delete(token);
      this.kept.set(token, row);
    }
    for (const token of this.kept.keys()) {
      if (this.kept.size * this.rowBytes <= KEPT_BYTES) break;
      this.kept.delete(token);
    }
  }
}
