/**
 * The stored formats of weight matrices: what a block looks like in the file, and how it lies in GPU memory. Weights
 * stay quantised; only the order of their words changes, so that blocks whose size is no multiple of four bytes can be
 * read by words, and so that neighbouring rows lie side by side.
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
 * It does not decode (shaders/lib/format-*.wgsl do) and touches no device.
 */
import { assert } from "../../base.ts";
import { TidepoolError } from "../../errors.ts";
import bf16 from "../../../shaders/lib/format-bf16.wgsl";
import f16 from "../../../shaders/lib/format-f16.wgsl";
import f32 from "../../../shaders/lib/format-f32.wgsl";
import iq4_nl from "../../../shaders/lib/format-iq4_nl.wgsl";
import iq4_xs from "../../../shaders/lib/format-iq4_xs.wgsl";
import mxfp4 from "../../../shaders/lib/format-mxfp4.wgsl";
import q2_k from "../../../shaders/lib/format-q2_k.wgsl";
import q3_k from "../../../shaders/lib/format-q3_k.wgsl";
import q4_0 from "../../../shaders/lib/format-q4_0.wgsl";
import q4_1 from "../../../shaders/lib/format-q4_1.wgsl";
import q4_k from "../../../shaders/lib/format-q4_k.wgsl";
import q5_0 from "../../../shaders/lib/format-q5_0.wgsl";
import q5_1 from "../../../shaders/lib/format-q5_1.wgsl";
import q5_k from "../../../shaders/lib/format-q5_k.wgsl";
import q6_k from "../../../shaders/lib/format-q6_k.wgsl";
import q8_0 from "../../../shaders/lib/format-q8_0.wgsl";

/** Rows whose words lie side by side in GPU memory. Written out in the shaders as `row / 16u`, `row % 16u`. */
export const PANEL_ROWS = 16;

/** Columns that the shaders decode at a time. */
export const UNIT_COLUMNS = 32;

/** Format names as ggml writes them. */
export type FormatName =
  | "F32"
  | "F16"
  | "BF16"
  | "Q4_0"
  | "Q4_1"
  | "Q5_0"
  | "Q5_1"
  | "Q8_0"
  | "Q2_K"
  | "Q3_K"
  | "Q4_K"
  | "Q5_K"
  | "Q6_K"
  | "IQ4_NL"
  | "IQ4_XS"
  | "MXFP4";

export interface Format {
  readonly name: FormatName;
  /** The number of this type in GGUF files. */
  readonly ggmlType: number;
  /** Values in a block of the file, and its bytes. A row is a whole number of blocks. */
  readonly blockLen: number;
  readonly blockBytes: number;
  /** Columns of a tile: `blockLen`, or 32 for plain floats. */
  readonly tileColumns: number;
  /** Byte offsets, in one row's part of a tile, of its words in the order in which they lie in GPU memory. */
  readonly wordOffsets: readonly number[];
  /** The odd bytes that are no whole word: 0, 1 or 2 of them at `tailOffset`. */
  readonly tailOffset: number;
  readonly tailBytes: number;
  /** WGSL fragment: `decodeUnit(row, unit, tiles)`. */
  readonly fragment: string;
}

/** Runs of words: [byte offset, number of words]. Whole vec4s first, since words left over come last in a tile. */
type Runs = readonly (readonly [number, number])[];

function plain(name: FormatName, ggmlType: number, bytes: number, fragment: string): Format {
  const wordOffsets = runOffsets([[0, (UNIT_COLUMNS * bytes) / 4]]);
  return {
    name,
    ggmlType,
    blockLen: 1,
    blockBytes: bytes,
    tileColumns: UNIT_COLUMNS,
    wordOffsets,
    tailOffset: 0,
    tailBytes: 0,
    fragment,
  };
}

function quantised(
  name: FormatName,
  ggmlType: number,
  blockLen: number,
  runs: Runs,
  tail: readonly [number, number],
  fragment: string,
): Format {
  const wordOffsets = runOffsets(runs);
  const [tailOffset, tailBytes] = tail;
  const blockBytes = wordOffsets.length * 4 + tailBytes;
  return {
    name,
    ggmlType,
    blockLen,
    blockBytes,
    tileColumns: blockLen,
    wordOffsets,
    tailOffset,
    tailBytes,
    fragment,
  };
}

function runOffsets(runs: Runs): number[] {
  return runs.flatMap(([start, words]) => Array.from({ length: words }, (_, index) => start + index * 4));
}

const NO_TAIL = [0, 0] as const;

/** Every format that Tidepool can compute with. */
export const FORMATS: readonly Format[] = [
  plain("F32", 0, 4, f32),
  plain("F16", 1, 2, f16),
  plain("BF16", 30, 2, bf16),
  quantised("Q4_0", 2, 32, [[2, 4]], [0, 2], q4_0),
  quantised(
    "Q4_1",
    3,
    32,
    [
      [4, 4],
      [0, 1],
    ],
    NO_TAIL,
    q4_1,
  ),
  quantised(
    "Q5_0",
    6,
    32,
    [
      [6, 4],
      [2, 1],
    ],
    [0, 2],
    q5_0,
  ),
  quantised(
    "Q5_1",
    7,
    32,
    [
      [8, 4],
      [4, 1],
      [0, 1],
    ],
    NO_TAIL,
    q5_1,
  ),
  quantised("Q8_0", 8, 32, [[2, 8]], [0, 2], q8_0),
  quantised(
    "Q2_K",
    10,
    256,
    [
      [16, 16],
      [0, 4],
      [80, 1],
    ],
    NO_TAIL,
    q2_k,
  ),
  quantised(
    "Q3_K",
    11,
    256,
    [
      [0, 8],
      [32, 16],
      [96, 3],
    ],
    [108, 2],
    q3_k,
  ),
  quantised("Q4_K", 12, 256, [[0, 36]], NO_TAIL, q4_k),
  quantised("Q5_K", 13, 256, [[0, 44]], NO_TAIL, q5_k),
  quantised("Q6_K", 14, 256, [[0, 52]], [208, 2], q6_k),
  quantised("IQ4_NL", 20, 32, [[2, 4]], [0, 2], iq4_nl),
  quantised(
    "IQ4_XS",
    23,
    256,
    [
      [8, 32],
      [0, 1],
      [4, 1],
    ],
    NO_TAIL,
    iq4_xs,
  ),
  quantised("MXFP4", 39, 32, [[1, 4]], [0, 1], mxfp4),
];

const byName = new Map<string, Format>(FORMATS.map((format) => [format.name, format]));

/** @throws TidepoolError `unsupported` naming the tensor and the formats that are known. */
export function formatOf(type: string, tensor: string): Format {
  const format = byName.get(type);
  if (format) return format;
  const known = FORMATS.map((each) => each.name).join(", ");
  throw new TidepoolError(
    "unsupported",
    `tensor ${tensor} is stored as ${type}, which Tidepool cannot read; it reads ${known}`,
    { tensor, type },
  );
}

/** Tiles of one row of `columns` columns. */
export function tilesPerRow(format: Format, columns: number): number {
  return Math.ceil(columns / format.tileColumns);
}

/** Bytes of one row in the file. */
export function rowBytes(format: Format, columns: number): number {
  assert(columns % format.blockLen === 0, `${columns} columns are no whole number of ${format.name} blocks`);
  return (columns / format.blockLen) * format.blockBytes;
}

/** 32-bit words of a tile of 16 rows. */
export function tileWords(format: Format): number {
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
