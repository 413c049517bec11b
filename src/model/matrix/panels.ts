/**
 * How a weight matrix lies in GPU memory. Weights stay quantised; only the order of their words changes, so that blocks
 * whose size is no multiple of four bytes can be read by words, and so that neighbouring rows lie side by side.
 *
 * In GPU memory a matrix is a list of panels of 16 rows. A panel is a list of tiles, one for each block of columns:
 *
 *   tile = [vec4 0 of rows 0..15] [vec4 1 of rows 0..15] ...   words that fill whole vec4s
 *          [word 0 of rows 0..15] [word 1 of rows 0..15] ...   up to three words left over
 *          [tail of rows 0..15]                                the odd one or two bytes of the block (a scale)
 *
 * so invocations that own consecutive rows read consecutive addresses, and a tile is a whole number of vec4s in every
 * format. The bits of a block are as in the file. A last, partial panel is filled up with zero rows, and a row of plain
 * floats with zeros to a multiple of 32 columns; zeros decode to 0 in every format.
 *
 * It touches no device.
 */
import { assert } from "../../base.ts";
import type { Format } from "./formats.ts";

/** Rows whose words lie side by side in GPU memory. Written out in the shaders as `row / 16u`, `row % 16u`. */
export const PANEL_ROWS = 16;

/** Tiles of one row of `columns` columns. */
export function tilesPerRow(format: Format, columns: number): number {
  return Math.ceil(columns / format.tileColumns);
}

/** Bytes of one row in the file. */
export function rowBytes(format: Format, columns: number): number {
  assert(
    columns % format.blockLength === 0,
    `${columns} columns are no whole number of ${format.name} blocks`,
  );
  return (columns / format.blockLength) * format.blockBytes;
}

/** 32-bit words of a tile of 16 rows. */
function tileWords(format: Format): number {
  return PANEL_ROWS * format.wordOffsets.length + (PANEL_ROWS * format.tailBytes) / 4;
}

/** Bytes of a panel of 16 rows in GPU memory. */
export function panelBytes(format: Format, columns: number): number {
  return tilesPerRow(format, columns) * tileWords(format) * 4;
}

/**
 * Rearranges whole rows as they stand in the file into panels.
 * @param source `rows` rows of `columns` columns.
 * @param target takes the words of ceil(rows / 16) panels, and has exactly their length.
 */
export function repack(
  format: Format,
  columns: number,
  rows: number,
  source: Uint8Array,
  target: Uint32Array,
): void {
  const bytesPerRow = rowBytes(format, columns);
  assert(source.byteLength === rows * bytesPerRow, `${source.byteLength} bytes are not ${rows} rows`);
  const wordsPerPanel = panelBytes(format, columns) / 4;
  assert(
    target.length === Math.ceil(rows / PANEL_ROWS) * wordsPerPanel,
    `${target.length} words for ${rows} rows`,
  );
  target.fill(0); // words are put together bit by bit, and the last panel may lack rows
  const lanes = Array.from({ length: PANEL_ROWS }, (_, lane) => laneOf(format, lane));
  const bytes = viewOf(source);
  const whole = paddedRow(format, columns);
  const wholeView = whole && viewOf(whole);
  const tiles = tilesPerRow(format, columns);
  for (let row = 0; row < rows; row++) {
    const from = row * bytesPerRow;
    whole?.set(source.subarray(from, from + bytesPerRow));
    const base = Math.floor(row / PANEL_ROWS) * wordsPerPanel;
    const lane = lanes[row % PANEL_ROWS] as Lane;
    if (wholeView) repackRow(format, lane, wholeView, 0, tiles, target, base);
    else repackRow(format, lane, bytes, from, tiles, target, base);
  }
}

/** Whole rows as they stand in the file, as panels of their own. */
export function packed(
  format: Format,
  columns: number,
  rows: number,
  source: Uint8Array,
): Uint32Array<ArrayBuffer> {
  const words = new Uint32Array((Math.ceil(rows / PANEL_ROWS) * panelBytes(format, columns)) / 4);
  repack(format, columns, rows, source, words);
  return words;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Zeros for a row of plain floats that must be filled up to whole tiles; undefined where rows are used as they are. */
function paddedRow(format: Format, columns: number): Uint8Array | undefined {
  if (columns % format.tileColumns === 0) return undefined;
  return new Uint8Array(tilesPerRow(format, columns) * format.tileColumns * format.blockBytes);
}

/** Where a row of a panel has its words, and its odd bytes, in each tile. */
interface Lane {
  slots: readonly number[];
  tail: number;
  shift: number;
}

function laneOf(format: Format, lane: number): Lane {
  const { wordOffsets, tailBytes } = format;
  return {
    slots: wordOffsets.map((_, index) => wordSlot(format, index, lane)),
    tail: wordOffsets.length * PANEL_ROWS + Math.floor((lane * tailBytes) / 4),
    shift: ((lane * tailBytes) % 4) * 8,
  };
}

/** Rearranges the `tiles` tiles of a row that begins at `start` of `view`. */
function repackRow(
  { wordOffsets, tailOffset, tailBytes }: Format,
  { slots, tail, shift }: Lane,
  view: DataView,
  start: number,
  tiles: number,
  target: Uint32Array,
  base: number,
): void {
  const stride = wordOffsets.length * 4 + tailBytes;
  const words = PANEL_ROWS * wordOffsets.length + (PANEL_ROWS * tailBytes) / 4;
  for (let tile = 0; tile < tiles; tile++) {
    const from = start + tile * stride;
    const to = base + tile * words;
    for (let index = 0; index < slots.length; index++) {
      target[to + (slots[index] as number)] = view.getUint32(from + (wordOffsets[index] as number), true);
    }
    if (tailBytes === 0) continue;
    const odd = tailBytes === 2 ? view.getUint16(from + tailOffset, true) : view.getUint8(from + tailOffset);
    target[to + tail] = (target[to + tail] as number) | (odd << shift);
  }
}

/** Where word `index` of row `lane` lies in a tile. */
function wordSlot(format: Format, index: number, lane: number): number {
  const inVectors = format.wordOffsets.length & ~3;
  if (index >= inVectors) return index * PANEL_ROWS + lane;
  return ((index >> 2) * PANEL_ROWS + lane) * 4 + (index & 3);
}
