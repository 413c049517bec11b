/**
 * The stored formats of weight matrices: what the loader knows of a block (load/tensor-type.ts), and how its words are
 * taken into GPU memory (panels.ts). A new format is a row there, a row here and a shader that decodes 32 columns.
 *
 * It does not decode (shaders/lib/format-*.wgsl do) and touches no device.
 */
import { assert } from "../../base.ts";
import { TidepoolError } from "../../errors.ts";
import { BLOCK_FORMATS, type TensorType } from "../../load/tensor-type.ts";
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

/** Columns that the shaders decode at a time. */
export const UNIT_COLUMNS = 32;

export interface Format {
  readonly name: TensorType;
  /** Values in a block of the file, and its bytes. A row is a whole number of blocks. */
  readonly blockLength: number;
  readonly blockBytes: number;
  /** Columns of a tile: `blockLength`, or 32 for plain floats. */
  readonly tileColumns: number;
  /** Byte offsets, in one row's part of a tile, of its words in the order in which they lie in GPU memory. */
  readonly wordOffsets: readonly number[];
  /** The odd bytes that are no whole word: 0, 1 or 2 of them at `tailOffset`. */
  readonly tailOffset: number;
  readonly tailBytes: number;
  /** WGSL fragment: `decodeUnit(row, unit, tiles)`. */
  readonly fragment: string;
}

/** How a tile's bytes are taken into GPU memory. */
interface Layout {
  /** Runs of words: [byte offset, number of words]. Whole vec4s first, since words left over come last in a tile. */
  runs: readonly (readonly [number, number])[];
  /** [byte offset, 1 or 2]: odd bytes that are no whole word. */
  tail?: readonly [number, number];
  fragment: string;
}

/** One row for each type that can be read; TypeScript refuses one that is missing. */
const LAYOUTS: Readonly<Record<TensorType, Layout>> = {
  F32: { runs: [[0, 32]], fragment: f32 },
  F16: { runs: [[0, 16]], fragment: f16 },
  BF16: { runs: [[0, 16]], fragment: bf16 },
  Q4_0: { runs: [[2, 4]], tail: [0, 2], fragment: q4_0 },
  Q4_1: {
    runs: [
      [4, 4],
      [0, 1],
    ],
    fragment: q4_1,
  },
  Q5_0: {
    runs: [
      [6, 4],
      [2, 1],
    ],
    tail: [0, 2],
    fragment: q5_0,
  },
  Q5_1: {
    runs: [
      [8, 4],
      [4, 1],
      [0, 1],
    ],
    fragment: q5_1,
  },
  Q8_0: { runs: [[2, 8]], tail: [0, 2], fragment: q8_0 },
  Q2_K: {
    runs: [
      [16, 16],
      [0, 4],
      [80, 1],
    ],
    fragment: q2_k,
  },
  Q3_K: {
    runs: [
      [0, 8],
      [32, 16],
      [96, 3],
    ],
    tail: [108, 2],
    fragment: q3_k,
  },
  Q4_K: { runs: [[0, 36]], fragment: q4_k },
  Q5_K: { runs: [[0, 44]], fragment: q5_k },
  Q6_K: { runs: [[0, 52]], tail: [208, 2], fragment: q6_k },
  IQ4_NL: { runs: [[2, 4]], tail: [0, 2], fragment: iq4_nl },
  IQ4_XS: {
    runs: [
      [8, 32],
      [0, 1],
      [4, 1],
    ],
    fragment: iq4_xs,
  },
  MXFP4: { runs: [[1, 4]], tail: [0, 1], fragment: mxfp4 },
};

/** Every format that Tidepool can compute with. */
const FORMATS: ReadonlyMap<string, Format> = new Map(
  (Object.keys(LAYOUTS) as TensorType[]).map((name) => [name, derived(name)]),
);

function derived(name: TensorType): Format {
  const { blockLength, blockBytes } = BLOCK_FORMATS[name];
  const { runs, tail = [0, 0], fragment } = LAYOUTS[name];
  const wordOffsets = runs.flatMap(([start, words]) =>
    Array.from({ length: words }, (_, index) => start + index * 4),
  );
  const tileColumns = Math.max(blockLength, UNIT_COLUMNS);
  const [tailOffset, tailBytes] = tail;
  assert(
    wordOffsets.length * 4 + tailBytes === (tileColumns / blockLength) * blockBytes,
    `the words of ${name} do not make up its block of ${blockBytes} bytes`,
  );
  return { name, blockLength, blockBytes, tileColumns, wordOffsets, tailOffset, tailBytes, fragment };
}

/** @throws TidepoolError `unsupported` naming the tensor and the formats that are known. */
export function formatOf(type: string, tensor: string): Format {
  const format = FORMATS.get(type);
  if (format) return format;
  const known = [...FORMATS.keys()].join(", ");
  throw new TidepoolError(
    "unsupported",
    `tensor ${tensor} is stored as ${type}, which Tidepool cannot read; it reads ${known}`,
    { tensor, type },
  );
}
