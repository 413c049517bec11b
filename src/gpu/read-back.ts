/**
 * Waits until a staging buffer can be read, and checks that its content is of the command buffer that was to write it. A
 * command buffer with an error is dropped as a whole, the copy to the staging buffer included, and what is read then is
 * what lay there before. So every read-back ends with a mark: a number of its own that the same command buffer copies.
 * What to do about a read-back that fails is not decided here.
 */
import { TidepoolError } from "../errors.ts";
import { MAP_READ, USAGE_COPY_DST, USAGE_COPY_SRC } from "./op.ts";

/** Bytes behind those that are read, for the mark. */
export const MARK_BYTES = 4;

/** The number that the next read-back of a device copies. */
interface Marker {
  buffer: GPUBuffer;
  last: number;
}

const markers = new WeakMap<GPUDevice, Marker>();

/**
 * Ends and submits a command buffer whose copies fill the first `bytes` of `staging`, and maps these.
 * `staging` has MARK_BYTES more. @throws TidepoolError `device_lost`, or `gpu_failed` if the command buffer was dropped.
 */
export async function readBack(
  device: GPUDevice,
  encoder: GPUCommandEncoder,
  staging: GPUBuffer,
  bytes: number,
): Promise<ArrayBuffer> {
  const mark = copyMark(device, encoder, staging, bytes);
  device.queue.submit([encoder.finish()]);
  const range = await mapForReading(staging, bytes + MARK_BYTES);
  const found = new Uint32Array(range, bytes, 1)[0];
  if (found === mark) return range;
  staging.unmap();
  throw new TidepoolError(
    "gpu_failed",
    `the GPU dropped the work before a read-back: its mark is ${found}, expected ${mark}`,
  );
}

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

/** A new buffer holds 0, which is no mark. */
function copyMark(device: GPUDevice, encoder: GPUCommandEncoder, staging: GPUBuffer, at: number): number {
  const marker = markerOf(device);
  marker.last = (marker.last % 0xffff_ffff) + 1;
  device.queue.writeBuffer(marker.buffer, 0, Uint32Array.of(marker.last));
  encoder.copyBufferToBuffer(marker.buffer, 0, staging, at, MARK_BYTES);
  return marker.last;
}

function markerOf(device: GPUDevice): Marker {
  let marker = markers.get(device);
  if (!marker) {
    const usage = USAGE_COPY_DST | USAGE_COPY_SRC;
    marker = { buffer: device.createBuffer({ label: "mark", size: MARK_BYTES, usage }), last: 0 };
    markers.set(device, marker);
  }
  return marker;
}
