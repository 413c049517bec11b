/**
 * Finds out whether the device refused any of what it was asked to do. An error that no scope catches is an event that
 * belongs to no work; inside a scope it fails the work that caused it.
 */
import { TidepoolError } from "../errors.ts";

/**
 * Runs `submit` inside an error scope. It must ask the device for everything before it first waits.
 * @throws TidepoolError `gpu_failed` with the device's words if it refused any of it; else whatever `submit` throws.
 */
export async function guarded<T>(device: GPUDevice, what: string, submit: () => T | Promise<T>): Promise<T> {
  device.pushErrorScope("validation");
  const work = started(submit);
  // A device that is lost may reject here. The work fails for the same reason.
  const refusal = device.popErrorScope().catch(() => null);
  const outcome = await work;
  const isLost =
    "error" in outcome && outcome.error instanceof TidepoolError && outcome.error.code === "device_lost";
  const refused = isLost ? null : await refusal; // a device that is lost may not answer
  if (refused) throw new TidepoolError("gpu_failed", `the GPU refused ${what}: ${refused.message}`);
  if ("error" in outcome) throw outcome.error;
  return outcome.value;
}

async function started<T>(submit: () => T | Promise<T>): Promise<{ value: T } | { error: unknown }> {
  try {
    return { value: await submit() };
  } catch (error) {
    return { error };
  }
}
