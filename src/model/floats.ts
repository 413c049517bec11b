/** Numbers of tensors on the host: F32, F16 and BF16 as f32. */
import { TidepoolError } from "../errors.ts";
import type { TensorInfo } from "../load/model-file.ts";

/** @throws TidepoolError `unsupported` for a quantised type. */
export function floatsOf(tensor: TensorInfo, bytes: Uint8Array<ArrayBuffer>): Float32Array<ArrayBuffer> {
  if (tensor.type === "F32") return new Float32Array(bytes.buffer);
  const halves = new Uint16Array(bytes.buffer);
  if (tensor.type === "BF16") {
    return new Float32Array(Uint32Array.from(halves, (half) => half << 16).buffer);
  }
  if (tensor.type === "F16") return Float32Array.from(halves, halfToFloat);
  throw new TidepoolError(
    "unsupported",
    `${tensor.name} is a vector of type ${tensor.type}; expected F32, F16 or BF16`,
    {
      tensor: tensor.name,
    },
  );
}

/** IEEE binary16 -> number. */
export function halfToFloat(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 31;
  const fraction = half & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
