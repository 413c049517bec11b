/**
 * The element types of weights: GGUF's type ids and block sizes (ggml-common.h), and safetensors' dtypes.
 * It computes how many bytes a tensor takes and decodes no block (the kernels do).
 */
import { assert } from "../base.ts";
import { TidepoolError } from "../errors.ts";

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

const TYPE_BY_ID: ReadonlyMap<number, TensorType> = new Map(
  (Object.keys(BLOCK_FORMATS) as TensorType[]).map((type) => [BLOCK_FORMATS[type].id, type]),
);

/** Types that exist but are not computed with: known by name, so that the refusal can say it. */
const REFUSED_TYPES: ReadonlyMap<number, string> = new Map([
  [9, "Q8_1"],
  [15, "Q8_K"],
  [16, "IQ2_XXS"],
  [17, "IQ2_XS"],
  [18, "IQ3_XXS"],
  [19, "IQ1_S"],
  [21, "IQ3_S"],
  [22, "IQ2_S"],
  [24, "I8"],
  [25, "I16"],
  [26, "I32"],
  [27, "I64"],
  [28, "F64"],
  [29, "IQ1_M"],
  [34, "TQ1_0"],
  [35, "TQ2_0"],
]);

/** The type with a GGUF id. Throws `unsupported` for known types without kernels, `invalid_file` for unknown ids. */
export function typeOfId(id: number, tensorName: string, file: string): TensorType {
  const type = TYPE_BY_ID.get(id);
  if (type !== undefined) return type;
  const refused = REFUSED_TYPES.get(id);
  if (refused !== undefined) {
    throw new TidepoolError(
      "unsupported",
      `${file}: tensor "${tensorName}" has type ${refused}, which is not supported`,
      {
        file,
        tensor: tensorName,
        type: refused,
      },
    );
  }
  throw new TidepoolError("invalid_file", `${file}: tensor "${tensorName}" has the unknown type id ${id}`, {
    file,
    tensor: tensorName,
    type: id,
  });
}

/** Bytes of a tensor of `elements` elements in whole rows. `elements` must be a multiple of the block length. */
export function bytesOfElements(type: TensorType, elements: number): number {
  const { blockLength, blockBytes } = BLOCK_FORMATS[type];
  assert(elements % blockLength === 0, `${elements} elements are not whole blocks of ${type}`);
  return (elements / blockLength) * blockBytes;
}
