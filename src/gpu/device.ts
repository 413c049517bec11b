/**
 * A GPU in a browser, Deno or Node (through Dawn): finds the provider, chooses the adapter, asks for the features and
 * limits that Tidepool can use, and reports what it got. It compiles nothing and holds no buffers.
 */
import { RUNTIME } from "../base.ts";
import { TidepoolError } from "../errors.ts";
import { allAnswered, findDawn } from "./dawn.ts";

/** What a caller may say about the choice of GPU. */
export interface GpuOptions {
  /** Part of the adapter's name (vendor, architecture, device or description), case-insensitive. */
  adapter?: string;
  /** Of several adapters, the one that is asked for. Default "high-performance". */
  powerPreference?: GPUPowerPreference;
  /** false: do not use subgroup operations even where the adapter has them. Default: use them. */
  subgroups?: boolean;
  /** false: do not ask for 16-bit floats even where the adapter has them. Default: ask. */
  f16?: boolean;
  /** true: ask for timestamp queries (benchmarks). Default: false, since they slow some drivers down. */
  timestamps?: boolean;
}

/** What the adapter offers of what Tidepool can use. */
export interface GpuFeatures {
  f16: boolean;
  subgroups: boolean;
  timestamps: boolean;
}

/** The adapter's own words about itself, empty where it keeps silent. */
export interface AdapterDescription {
  vendor: string;
  architecture: string;
  device: string;
  description: string;
  software: boolean;
}

export interface Gpu {
  readonly device: GPUDevice;
  readonly adapter: AdapterDescription;
  readonly features: GpuFeatures;
  readonly limits: GPUSupportedLimits;
  /** Told of each error of the device that belongs to no work under way. Default: the runtime prints it. */
  onError?: (message: string) => void;
}

/** The largest binding that any kernel asks for, in bytes; larger tensors are split by rows. */
export const MAX_BINDING_BYTES = 128 * 1024 * 1024;

/** Storage buffers that a kernel may bind at once: WebGPU's default, which every adapter offers. */
export const MAX_STORAGE_BUFFERS = 8;

/** Finds WebGPU: `navigator.gpu` where there is one, else npm `webgpu` (Dawn) in Node. */
export async function findProvider(): Promise<GPU> {
  const native = (globalThis.navigator as Navigator | undefined)?.gpu;
  if (native) return native;
  if (RUNTIME === "browser") {
    throw new TidepoolError(
      "no_adapter",
      globalThis.isSecureContext === false
        ? "WebGPU needs a secure page, and this page is not secure: serve it over https or from localhost"
        : "this browser has no WebGPU: navigator.gpu is missing; use a current Chromium, Safari 26 or Firefox 141+",
    );
  }
  return findDawn();
}

/**
 * Opens a device on the provider's best adapter.
 * @throws TidepoolError `no_adapter` when there is none, when its name does not contain `options.adapter`, or when a
 * limit that every kernel relies on is missing.
 */
export async function openGpu(provider: GPU, options: GpuOptions = {}): Promise<Gpu> {
  const { powerPreference = "high-performance" } = options;
  const adapter = (await provider.requestAdapter({ powerPreference })) ?? (await provider.requestAdapter());
  if (!adapter) {
    throw new TidepoolError(
      "no_adapter",
      "WebGPU is available but offers no adapter: there is no GPU driver that it can use, or the browser's hardware acceleration is off; install a driver with Vulkan, Metal or Direct3D 12, or turn on hardware acceleration",
      { missing: "adapter" },
    );
  }
  const description = describeAdapter(adapter);
  requireNamed(description, options.adapter);
  const features = chooseFeatures(adapter, options);
  const device = await adapter.requestDevice({
    requiredFeatures: featureNames(features),
    requiredLimits: chooseLimits(adapter),
  });
  const gpu: Gpu = { device, adapter: description, features, limits: device.limits };
  listenForErrors(gpu);
  return gpu;
}

/** Errors that no scope catches. */
function listenForErrors(gpu: Gpu): void {
  gpu.device.addEventListener("uncapturederror", (event) => {
    if (!gpu.onError) return;
    event.preventDefault();
    gpu.onError(event.error.message);
  });
}

/**
 * The result of work on a device, unless that is lost before the work ends.
 * @throws TidepoolError `device_lost`, at once; the work is left to itself.
 */
export function unlessLost<T>(device: GPUDevice, work: Promise<T>): Promise<T> {
  const lost = device.lost.then(({ reason, message }): never => {
    const text = `the GPU device was lost while the model was loaded: ${message || reason || "no reason is given"}`;
    throw new TidepoolError("device_lost", text, { reason });
  });
  return Promise.race([work, lost]);
}

/** How long a device may take to answer for what was under way when it was freed. */
const END_DEVICE_MS = 2000;

/**
 * Frees a device and all of its memory. In Node it waits until what was asked of the device has been answered: a thread that ends
 * before that takes the whole process with it.
 */
export async function endDevice(device: GPUDevice): Promise<void> {
  if (RUNTIME !== "node") return device.destroy();
  device.destroy();
  await allAnswered(END_DEVICE_MS);
}

/** One line for people: vendor, architecture and the driver's description. */
export function adapterLine(adapter: AdapterDescription): string {
  const words = [adapter.vendor, adapter.architecture, adapter.device, adapter.description];
  return (
    words.filter((word, index) => word !== "" && words.indexOf(word) === index).join(" ") || "unnamed adapter"
  );
}

function describeAdapter(adapter: GPUAdapter): AdapterDescription {
  const { vendor, architecture, device, description } = adapter.info;
  const all = `${vendor} ${architecture} ${device} ${description}`.toLowerCase();
  const software = /swiftshader|llvmpipe|lavapipe|software|warp|basic render/.test(all);
  return { vendor, architecture, device, description, software };
}

function requireNamed(adapter: AdapterDescription, part: string | undefined): void {
  if (part === undefined || adapterLine(adapter).toLowerCase().includes(part.toLowerCase())) return;
  throw new TidepoolError(
    "no_adapter",
    `the adapter is "${adapterLine(adapter)}", whose name does not contain "${part}"; the platform offers no choice by name`,
    { adapter: adapterLine(adapter), wanted: part },
  );
}

function chooseFeatures(adapter: GPUAdapter, options: GpuOptions): GpuFeatures {
  return {
    f16: options.f16 !== false && adapter.features.has("shader-f16"),
    subgroups: options.subgroups !== false && adapter.features.has("subgroups"),
    timestamps: options.timestamps === true && adapter.features.has("timestamp-query"),
  };
}

function featureNames(features: GpuFeatures): GPUFeatureName[] {
  const names: GPUFeatureName[] = [];
  if (features.f16) names.push("shader-f16");
  if (features.subgroups) names.push("subgroups");
  if (features.timestamps) names.push("timestamp-query");
  return names;
}

function chooseLimits(adapter: GPUAdapter): Record<string, number> {
  const { limits } = adapter;
  requireLimit(limits, "maxStorageBuffersPerShaderStage", MAX_STORAGE_BUFFERS);
  requireLimit(limits, "maxStorageBufferBindingSize", MAX_BINDING_BYTES);
  requireLimit(limits, "maxBufferSize", MAX_BINDING_BYTES);
  return {
    maxStorageBuffersPerShaderStage: MAX_STORAGE_BUFFERS,
    maxStorageBufferBindingSize: MAX_BINDING_BYTES,
    maxBufferSize: limits.maxBufferSize,
    maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
  };
}

function requireLimit(
  limits: GPUSupportedLimits,
  name: "maxStorageBuffersPerShaderStage" | "maxStorageBufferBindingSize" | "maxBufferSize",
  least: number,
): void {
  if (limits[name] >= least) return;
  throw new TidepoolError(
    "no_adapter",
    `the adapter's limit ${name} is ${limits[name]}, and Tidepool needs ${least}: another adapter, or a newer driver or browser, may offer it`,
    { limit: name, value: limits[name], needed: least },
  );
}
