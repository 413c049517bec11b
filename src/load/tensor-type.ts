/**
 * Tensors of model files, and the element types of weights: GGUF's type ids and block sizes (ggml-common.h), and safetensors' dtypes.
 * It computes how many bytes a tensor takes and decodes no block (the kernels do).
 */
import { assert } from "../base.ts";
import { TidepoolError } from "../errors.ts";

/** A tensor in a file, by its header. */
export interface TensorInfo {
  name: string;
  /** As the file names it: a type below or a dtype of safetensors, computed with or not. */
  type: string;
  /** Dimensions, the contiguous one first: a matrix is [in, out]. */
  shape: number[];
  /** From the start of its shard, bytes. */
  offset: number;
  sizeBytes: number;
  /** Index into the sources of its ModelFile; beyond them, `readTensor` alone knows where the bytes are. */
  shard: number;
}

export interface BlockFormat {
  /** The id in a GGUF file. */
  readonly id: number;
  /** Elements in a block; a row is a whole number of blocks. */
  readonly blockLength: number;
  readonly blockBytes: number;
}

/** Every type that Tidepool computes with. */
export const BLOCK_FORMATS = {
  F32: { id: 0, blockLength: 1, blockBytes: 4 },
  F16: { id: 1, blockLength: 1, blockBytes: 2 },
  BF16: { id: 30, blockLength: 1, blockBytes: 2 },
  Q4_0: { id: 2, blockLength: 32, blockBytes: 18 },
  Q4_1: { id: 3, blockLength: 32, blockBytes: 20 },
  Q5_0: { id: 6, blockLength: 32, blockBytes: 22 },
  Q5_1: { id: 7, blockLength: 32, blockBytes: 24 },
  Q8_0: { id: 8, blockLength: 32, blockBytes: 34 },
  Q2_K: { id: 10, blockLength: 256, blockBytes: 84 },
  Q3_K: { id: 11, blockLength: 256, blockBytes: 110 },
  Q4_K: { id: 12, blockLength: 256, blockBytes: 144 },
  Q5_K: { id: 13, blockLength: 256, blockBytes: 176 },
  Q6_K: { id: 14, blockLength: 256, blockBytes: 210 },
  IQ4_NL: { id: 20, blockLength: 32, blockBytes: 18 },
  IQ4_XS: { id: 23, blockLength: 256, blockBytes: 136 },
  MXFP4: { id: 39, blockLength: 32, blockBytes: 17 },
} as const satisfies Record<string, BlockFormat>;

export type TensorType = keyof typeof BLOCK_FORMATS;

/**
 * Types that files hold and that no kernel reads: a header with them can be read, so that it is known what the model is; a
 * tensor of such a type is refused where it is used (model/matrix/formats.ts).
 */
const OTHER_FORMATS: Readonly<Record<string, BlockFormat>> = {
  Q8_1: { id: 9, blockLength: 32, blockBytes: 36 },
  Q8_K: { id: 15, blockLength: 256, blockBytes: 292 },
  IQ2_XXS: { id: 16, blockLength: 256, blockBytes: 66 },
  IQ2_XS: { id: 17, blockLength: 256, blockBytes: 74 },
  IQ3_XXS: { id: 18, blockLength: 256, blockBytes: 98 },
  IQ1_S: { id: 19, blockLength: 256, blockBytes: 50 },
  IQ3_S: { id: 21, blockLength: 256, blockBytes: 110 },
  IQ2_S: { id: 22, blockLength: 256, blockBytes: 82 },
  I8: { id: 24, blockLength: 1, blockBytes: 1 },
  I16: { id: 25, blockLength: 1, blockBytes: 2 },
  I32: { id: 26, blockLength: 1, blockBytes: 4 },
  I64: { id: 27, blockLength: 1, blockBytes: 8 },
  F64: { id: 28, blockLength: 1, blockBytes: 8 },
  IQ1_M: { id: 29, blockLength: 256, blockBytes: 56 },
  TQ1_0: { id: 34, blockLength: 256, blockBytes: 54 },
  TQ2_0: { id: 35, blockLength: 256, blockBytes: 66 },
};

const FORMAT_BY_ID: ReadonlyMap<number, NamedFormat> = new Map(
  Object.entries({ ...OTHER_FORMATS, ...BLOCK_FORMATS }).map(([name, format]) => [
    format.id,
    { name, ...format },
  ]),
);

export interface NamedFormat extends BlockFormat {
  readonly name: string;
}

/** The format with a GGUF id, whether it is computed with or not. @throws TidepoolError `invalid_file` for unknown ids. */
export function formatOfId(id: number, tensorName: string, file: string): NamedFormat {
  const format = FORMAT_BY_ID.get(id);
  if (format !== undefined) return format;
  throw new TidepoolError("invalid_file", `${file}: tensor "${tensorName}" has the unknown type id ${id}`, {
    file,
    tensor: tensorName,
    type: id,
  });
}

/** Bytes of a tensor of `elements` elements in whole rows. `elements` must be a multiple of the block length. */
export function bytesOfElements({ name, blockLength, blockBytes }: NamedFormat, elements: number): number {
  assert(elements % blockLength === 0, `${elements} elements are not whole blocks of ${name}`);
  return (elements / blockLength) * blockBytes;
}
