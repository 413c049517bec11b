/**
 * Small parts that several ops share when they compile and bind kernels. It makes no op itself.
 */
import plain from "../../../shaders/lib/reduce.wgsl";
import withSubgroups from "../../../shaders/lib/reduce-subgroups.wgsl";
import type { Elem, Kernels } from "../../gpu/kernel.ts";
import { USAGE_STORAGE } from "../../gpu/op.ts";

/**
 * The form of the workgroup reductions that fits the device: the fragment to put into `libs`, and the value of the
 * kernel source's `subgroups`. The fragment declares `override WG`.
 */
export function reduceFragment(kernels: Kernels): { lib: string; subgroups: boolean } {
  const { subgroups } = kernels.gpu.features;
  return { lib: subgroups ? withSubgroups : plain, subgroups };
}

/** The largest finite number of an element type: kernels saturate at it instead of writing infinities. */
export function largestFinite(type: Elem): number {
  return type === "f16" ? 65504 : 3.4028234663852886e38;
}

/** Stands at a storage binding that the pipeline's override constants leave unread. 16 bytes. */
export function absentBuffer(device: GPUDevice): GPUBuffer {
  return device.createBuffer({ label: "absent", size: 16, usage: USAGE_STORAGE });
}
