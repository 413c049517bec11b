/** Which layers are local, in the forms in which config.json says it. */
import { localByPeriod, MAX_LAYERS } from "../hyperparameters.ts";
import type { Reader } from "../settings-reader.ts";

const LAYER_TYPES: readonly string[] = ["full_attention", "sliding_attention"];

/** undefined: nothing is listed. */
export function listedLayers(read: Reader, layers: number): boolean[] | undefined {
  return read.list("layer_types", layers)?.map((type) => {
    if (!LAYER_TYPES.includes(String(type)))
      throw read.unsupported("layer_types", type, LAYER_TYPES.join(" and "));
    return type === "sliding_attention";
  });
}

/** EXAONE 4: "LLLG" for three local layers and a global one, again and again, or a number as everywhere. */
export function letteredLayers(read: Reader, layers: number): boolean[] {
  const name = "sliding_window_pattern";
  const pattern = read.value(name);
  if (typeof pattern !== "string") return localByPeriod(layers, read.integer(name, MAX_LAYERS, 0, 0));
  if (!/^[LG]+$/.test(pattern)) throw read.bad(name, pattern, "a number or the letters L and G");
  return Array.from({ length: layers }, (_, index) => pattern[index % pattern.length] === "L");
}
