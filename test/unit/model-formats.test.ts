/** The stored formats: the loader's list, the layout in GPU memory and the tests' decoders speak of the same blocks. */
import { expect, test } from "vitest";
import { BLOCK_FORMATS, type TensorType } from "../../src/load/tensor-type.ts";
import { formatOf } from "../../src/model/matrix/formats.ts";
import { QUANT_REFERENCES } from "../support/quants.ts";

const TYPES = Object.keys(BLOCK_FORMATS) as TensorType[];

test.each(TYPES)("the words of %s take each byte of a tile once", (type) => {
  const { blockLength, blockBytes } = BLOCK_FORMATS[type];
  const { tileColumns, wordOffsets, tailOffset, tailBytes } = formatOf(type, "a tensor");
  const words = wordOffsets.flatMap((offset) => [offset, offset + 1, offset + 2, offset + 3]);
  const tail = Array.from({ length: tailBytes }, (_, index) => tailOffset + index);
  const bytes = (tileColumns / blockLength) * blockBytes;
  expect([...words, ...tail].sort((a, b) => a - b)).toEqual(Array.from({ length: bytes }, (_, at) => at));
});

test("every type has a decoder that the kernels are compared with", () => {
  const decoded = QUANT_REFERENCES.map(({ name, blockLen, blockBytes }) => [name, blockLen, blockBytes]);
  const read = TYPES.map((type) => [type, BLOCK_FORMATS[type].blockLength, BLOCK_FORMATS[type].blockBytes]);
  expect(decoded).toEqual(read);
});
