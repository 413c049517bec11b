/** A GGUF model with numbers of one F32 tensor replaced, so that what depends on them is not finite. */
import { readGguf } from "../../src/load/gguf.ts";
import { openBytes } from "../../src/load/source.ts";

/** @param at elements of the tensor, the contiguous dimension first */
export async function withNumbers(
  model: Uint8Array,
  name: string,
  at: readonly number[],
  value: number,
): Promise<Uint8Array> {
  const { tensors } = await readGguf(openBytes(model, "model.gguf"));
  const tensor = tensors.find((each) => each.name === name);
  if (tensor?.type !== "F32") throw new Error(`${name} is ${tensor?.type ?? "not in the model"}, not F32`);
  const bytes = Uint8Array.from(model);
  const view = new DataView(bytes.buffer);
  for (const index of at) view.setFloat32(tensor.offset + 4 * index, value, true);
  return bytes;
}
