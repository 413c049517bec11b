/**
 * Waits until a staging buffer can be read. A map that fails means that the device is gone or its buffer with it: the one
 * way in which that is noticed in the middle of work. What to do about it is not decided here.
 */
import { TidepoolError } from "../errors.ts";
import { MAP_READ } from "./op.ts";

/** @throws TidepoolError `device_lost`. */
export async function mapForReading(staging: GPUBuffer, bytes = staging.size): Promise<ArrayBuffer> {
  try {
    await staging.mapAsync(MAP_READ, 0, bytes);
  } catch (error) {
    const why = error instanceof Error ? error.message || error.name : String(error);
    throw new TidepoolError("device_lost", `reading ${bytes} bytes back from the GPU failed: ${why}`);
  }
  return staging.getMappedRange(0, bytes);
}
