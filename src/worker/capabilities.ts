/**
 * What this platform lacks, each in a sentence: what is lost and what can be done. What makes the engine impossible is an
 * error where it is found (gpu/device.ts), not listed here; nor is cross-origin isolation, which nothing here needs: no
 * memory is shared between threads.
 */
import { RUNTIME } from "../base.ts";
import { adapterLine, type Gpu } from "../gpu/device.ts";
import type { ExpertPlan } from "../model/experts/plan.ts";
import { bytesText, type MemoryPlan } from "../model/memory.ts";
import { kvLayers } from "../model/mixer/kinds.ts";
import { commonKvLayer, type ModelShape } from "../shape/shape.ts";
import { hasOpfs, NO_OPFS } from "./cache/open-store.ts";
import type { CacheOptions, Capability, EngineOptions } from "../wire/protocol.ts";

/** Of a device and of the storage that the options ask for. */
export async function missingCapabilities(gpu: Gpu, options: EngineOptions): Promise<Capability[]> {
  const disk = RUNTIME === "browser" && options.cache?.disk !== false;
  return [...missingOfGpu(gpu, options), ...(disk && !(await hasOpfs()) ? [NO_OPFS] : [])];
}

/** What became of the pool that was asked for, and of tables that do not fit beside it. */
export function missingOfPlan({
  limited,
  offGpuBytes,
  experts,
}: Pick<MemoryPlan, "limited" | "offGpuBytes" | "experts">): Capability[] {
  const message = `the table of per-layer embeddings (${bytesText(offGpuBytes)}) stays off the GPU: its rows are read for each token, and a step waits for the one before it; the option tables: "gpu" puts it there`;
  return [
    ...(limited === undefined ? [] : [{ code: "pool_limited", message: limited }]),
    ...(offGpuBytes > 0 ? [{ code: "table_off_gpu", message }] : []),
    ...(experts ? [{ code: "experts_off_gpu", message: slotsMessage(experts) }] : []),
  ];
}

function slotsMessage({ experts, layers, classes, bytes, copyBytes }: ExpertPlan): string {
  const slots = classes.reduce((sum, each) => sum + each.slots, 0);
  const copies = copyBytes > 0 ? `, and low-bit copies of all (${bytesText(copyBytes)})` : "";
  return `${slots} of the ${experts * layers.length} experts are on the GPU at a time (${bytesText(bytes)})${copies}: the others are read when they are needed, and steps wait for them; more expertMemory makes it faster`;
}

/** What the store cannot do for a model of this shape. */
export function missingOfStore(shape: ModelShape, { atRestBits }: CacheOptions): Capability[] {
  const layers = kvLayers(shape);
  if (!atRestBits || layers.length === 0 || commonKvLayer(layers)) return [];
  const message = `blocks of this model are stored exactly, not in ${atRestBits} bits (atRestBits): what its layers keep differs in size or has no values, and only blocks of like layers are quantised`;
  return [{ code: "at_rest_exact", message }];
}

/** What was asked of experts, of a model that has none. */
export function missingOfExperts(
  { architecture, layers }: Pick<ModelShape, "architecture" | "layers">,
  { expertMemory, experts }: Pick<EngineOptions, "expertMemory" | "experts">,
): Capability[] {
  const asked = [expertMemory !== undefined && "expertMemory", experts === "bounded" && "experts"];
  const names = asked.filter((name) => name !== false).join(" and ");
  if (!names || layers.some(({ ffn }) => ffn?.kind === "experts")) return [];
  const message = `the model (${architecture}) is no mixture of experts, so that ${names} changes nothing; the option memoryBytes limits what any model takes on the GPU`;
  return [{ code: "no_experts", message }];
}

function missingOfGpu({ adapter, features }: Gpu, options: EngineOptions): Capability[] {
  const name = adapterLine(adapter);
  const missing: Capability[] = [];
  if (adapter.software) {
    const message = `the adapter "${name}" is software: the processor does the GPU's work, tens of times slower; a browser with hardware acceleration switched on, or a GPU driver with Vulkan, Metal or Direct3D 12, helps`;
    missing.push({ code: "software_adapter", message });
  }
  if (!features.f16) {
    const message = `the adapter "${name}" has no 16-bit floats (shader-f16): it computes in f32, and KV takes twice the memory; a newer driver or browser may offer them`;
    missing.push({ code: "no_f16", message });
  }
  if (!features.subgroups && options.subgroups !== false) {
    const message = `the adapter "${name}" has no subgroup operations: sums over a row go through workgroup memory, and decoding is somewhat slower; a newer driver or browser may offer them`;
    missing.push({ code: "no_subgroups", message });
  }
  return missing;
}
