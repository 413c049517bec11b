/** What WebGPU offers in this process: the adapter, what Tidepool can use of it, and why it would not run on it. */
import { TidepoolError } from "../errors.ts";
import {
  adapterLine,
  endDevice,
  findProvider,
  MAX_BINDING_BYTES,
  MAX_STORAGE_BUFFERS,
  openGpu,
} from "../gpu/device.ts";

export interface AdapterReport {
  /** Empty if there is none. */
  name: string;
  isSoftware: boolean;
  features: Record<"shader-f16" | "subgroups", boolean>;
  limits: { name: string; value: number; needed: number }[];
  /** Why nothing can run; undefined: it can. */
  problem?: string;
}

const NEEDED = {
  maxStorageBuffersPerShaderStage: MAX_STORAGE_BUFFERS,
  maxStorageBufferBindingSize: MAX_BINDING_BYTES,
  maxBufferSize: MAX_BINDING_BYTES,
} as const;

/** Opens the adapter that an engine would get, and a device on it, and frees both. */
export async function lookAtAdapter(): Promise<AdapterReport> {
  const report: AdapterReport = {
    ...{ name: "", isSoftware: false, features: { "shader-f16": false, subgroups: false }, limits: [] },
  };
  try {
    const provider = await findProvider();
    await describe(provider, report);
    const gpu = await openGpu(provider);
    report.name = adapterLine(gpu.adapter);
    report.isSoftware = gpu.adapter.software;
    await endDevice(gpu.device);
  } catch (error) {
    if (!(error instanceof TidepoolError)) throw error;
    report.problem = error.message;
  }
  return report;
}

/** What the adapter says of itself, also if no device can be had from it. */
async function describe(provider: GPU, report: AdapterReport): Promise<void> {
  const adapter = await provider.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) return;
  report.name = adapter.info.description || adapter.info.device || "unnamed adapter";
  for (const name of ["shader-f16", "subgroups"] as const) report.features[name] = adapter.features.has(name);
  report.limits = Object.entries(NEEDED).map(([name, needed]) => ({
    ...{ name, needed, value: adapter.limits[name as keyof typeof NEEDED] },
  }));
}
