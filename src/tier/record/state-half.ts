/**
 * Snapshots at rest in 16 bits: the state's f32 numbers as f16, and the keys and values behind them as they are. Bytes in,
 * bytes out. It does not decide when that is done.
 *
 *     0 stateBytes u32 (of the f32 numbers) | f16 [stateBytes / 4] | the rest of the payload
 */
import { floatToHalf, halfToFloat } from "./kv-quant.ts";

const HEADER_BYTES = 4;

/** The largest finite f16. */
const MAX_HALF = 65504;

/** @returns undefined if a number does not fit: such a state is kept as it is */
export function halveState(payload: Uint8Array, stateBytes: number): Uint8Array | undefined {
  const state = new Float32Array(payload.slice(0, stateBytes).buffer);
  if (!state.every((value) => Math.abs(value) <= MAX_HALF)) return undefined;
  const halves = Uint16Array.from(state, floatToHalf);
  const out = new Uint8Array(HEADER_BYTES + halves.byteLength + payload.length - stateBytes);
  new DataView(out.buffer).setUint32(0, stateBytes, true);
  out.set(new Uint8Array(halves.buffer), HEADER_BYTES);
  out.set(payload.subarray(stateBytes), HEADER_BYTES + halves.byteLength);
  return out;
}

/** @returns undefined for bytes that `halveState` does not make */
export function wholeState(bytes: Uint8Array): Uint8Array | undefined {
  if (bytes.length < HEADER_BYTES) return undefined;
  const stateBytes = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  const halfEnd = HEADER_BYTES + stateBytes / 2;
  if (stateBytes % 4 !== 0 || halfEnd > bytes.length) return undefined;
  const state = Float32Array.from(new Uint16Array(bytes.slice(HEADER_BYTES, halfEnd).buffer), halfToFloat);
  const out = new Uint8Array(stateBytes + bytes.length - halfEnd);
  out.set(new Uint8Array(state.buffer));
  out.set(bytes.subarray(halfEnd), stateBytes);
  return out;
}
