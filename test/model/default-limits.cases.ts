/**
 * Whole models on a device that has exactly WebGPU's default limits, as the weakest adapters offer them. A kernel that
 * needs more does not compile there.
 */
import { assert } from "../../src/base.ts";
import { endDevice, findProvider, openGpu } from "../../src/gpu/device.ts";
import type { Case, CaseEnv } from "../support/cases.ts";
import { loadGolden, nmse, runTokens } from "./golden.ts";

/** https://www.w3.org/TR/webgpu/#limits */
const DEFAULT_LIMITS: Record<string, number> = {
  maxBufferSize: 256 * 1024 * 1024,
  maxStorageBufferBindingSize: 128 * 1024 * 1024,
  maxStorageBuffersPerShaderStage: 8,
  maxComputeWorkgroupStorageSize: 16_384,
  maxComputeInvocationsPerWorkgroup: 256,
};

/** One variant of each kind of layer. */
const VARIANTS = ["llama", "gemma3", "falconh1", "lfm2", "qwen35"];

const GATE = 1e-7;

/** The machine's own WebGPU, its adapter cut down to the default limits. */
async function modestProvider(): Promise<GPU> {
  const provider = await findProvider();
  const requestAdapter = async (): Promise<GPUAdapter | null> => {
    const adapter = await provider.requestAdapter();
    return adapter && modest(adapter);
  };
  return { requestAdapter } as GPU;
}

function modest(adapter: GPUAdapter): GPUAdapter {
  const requestDevice = (descriptor: GPUDeviceDescriptor = {}): Promise<GPUDevice> => {
    for (const [name, value] of Object.entries(descriptor.requiredLimits ?? {}))
      assert(
        (value as number) <= (DEFAULT_LIMITS[name] ?? 0),
        `${name} of ${value} is more than the default`,
      );
    return adapter.requestDevice(descriptor);
  };
  const { features, info } = adapter;
  return { features, info, limits: DEFAULT_LIMITS, requestDevice } as unknown as GPUAdapter;
}

async function run(env: CaseEnv, variant: string): Promise<void> {
  const { golden, expected, model } = await loadGolden(env, `goldens/models/${variant}`);
  const gpu = await openGpu(await modestProvider());
  try {
    const setting = { dtype: "f32", kvDtype: "f32", blockTokens: 16, feed: "chunks of 7" } as const;
    const error = nmse(await runTokens(gpu, model, golden.tokens, setting), expected);
    if (!(error < GATE)) throw new Error(`NMSE ${error.toExponential(2)}, gate ${GATE}`);
  } finally {
    await endDevice(gpu.device);
  }
}

export const cases: Case[] = VARIANTS.map((variant) => ({
  name: `model/default limits/${variant}`,
  // A new device compiles every kernel anew, which takes lavapipe a minute for a hybrid.
  full: variant !== "llama",
  run: (env) => run(env, variant),
}));
