/**
 * The engine's options with defaults filled in; arguments.ts has their ranges. It opens nothing.
 */
import { refuseValue } from "../check.ts";
import { TidepoolError } from "../errors.ts";
import { adapterLine, type Gpu, type GpuOptions } from "../gpu/device.ts";
import { packedBits } from "../gpu/packed.ts";
import { f32Reason } from "../model/arch/sizes.ts";
import { exactDtype } from "../model/memory.ts";
import type { RunnerOptions } from "../model/runner.ts";
import type { ModelShape } from "../shape/shape.ts";
import type { EngineOptions } from "../wire/protocol.ts";

const DEFAULTS = { blockTokens: 32, chunkTokens: 256, maxRequests: 8 } as const;

/** Tokens of a step of an encoder where the caller names no number: those of its longest text, too. */
const ENCODER_CHUNK_TOKENS = 2048;

/** Tokens of a prefill step at most: other requests wait for its end. */
const MAX_CHUNK_TOKENS = 512;

/**
 * Fills in defaults. @throws TidepoolError `invalid_argument` for a pool that is smaller than a block, or a chunk that is larger
 * than the model takes.
 */
export function runnerOptions(
  gpu: Gpu,
  options: EngineOptions,
  shape?: Pick<ModelShape, "embedding" | "altUp">,
): RunnerOptions {
  const { dtype = "auto", blockTokens = DEFAULTS.blockTokens, poolTokens } = options;
  const isEncoder = shape?.embedding?.isEncoder ?? false;
  const { chunkTokens = isEncoder ? ENCODER_CHUNK_TOKENS : DEFAULTS.chunkTokens } = options;
  const { maxRequests: seats = DEFAULTS.maxRequests } = options;
  if (!isEncoder && chunkTokens > MAX_CHUNK_TOKENS)
    refuseValue("chunkTokens", chunkTokens, `a whole number from 1 to ${MAX_CHUNK_TOKENS} for this model`);
  const automatic = shape && f32Reason(shape) ? "f32" : automaticDtype(gpu);
  const chosen = dtype === "auto" ? automatic : dtype;
  if (poolTokens !== undefined && poolTokens < blockTokens)
    refuseValue("poolTokens", poolTokens, `at least one block of ${blockTokens} tokens`);
  const { poolBytes, poolStartTokens, memoryBytes } = options;
  return {
    ...(poolBytes !== undefined && { poolBytes }),
    ...(poolStartTokens !== undefined && { poolStartTokens }),
    ...(memoryBytes !== undefined && { memoryBytes }),
    ...(options.tables !== undefined && { tables: options.tables }),
    ...expertOptions(options),
    ...(poolTokens === undefined ? { poolMayBeLess: true } : { poolTokens }),
    dtype: chosen,
    ...kvTypes(options.kvDtype, dtype === "auto" && gpu.features.f16 ? "f16" : chosen),
    blockTokens,
    chunkTokens,
    seats,
  };
}

/** @param exact the type of keys and values where the caller names none, and of those that are not packed yet */
function kvTypes(
  kvDtype: EngineOptions["kvDtype"],
  exact: RunnerOptions["dtype"],
): Pick<RunnerOptions, "kvDtype" | "tailDtype"> {
  return kvDtype !== undefined && packedBits(kvDtype)
    ? { kvDtype, tailDtype: exact }
    : { kvDtype: kvDtype ?? exact };
}

function expertOptions({
  expertMemory,
  expertRamBytes,
  expertPolicy,
  expertPrediction,
  experts,
}: EngineOptions): Partial<RunnerOptions> {
  return {
    ...(expertMemory !== undefined && { expertMemory }),
    ...(expertRamBytes !== undefined && { expertRamBytes }),
    ...(expertPolicy !== undefined && { expertPolicy }),
    ...(expertPrediction !== undefined && { expertAblation: { predicts: expertPrediction } }),
    ...(experts === "bounded" && { experts }),
  };
}

/**
 * The options on a device that came in place of another: as they were where it can, so that stored KV stays valid. Where
 * it has no f16 and the caller left the choice to us, f32. @throws TidepoolError `unsupported` where f16 was asked for.
 */
export function optionsAgain(
  { features, adapter }: Gpu,
  { dtype = "auto", kvDtype }: EngineOptions,
  before: RunnerOptions,
): RunnerOptions {
  const wants = [before.dtype, exactDtype(before)].includes("f16");
  if (!wants || features.f16) return before;
  const asked = kvDtype === "f16" ? "kvDtype" : dtype === "f16" ? "dtype" : undefined;
  if (asked === undefined) return { ...before, dtype: "f32", ...kvTypes(kvDtype, "f32") };
  throw new TidepoolError(
    "unsupported",
    `${asked} "f16" was asked for, and the adapter "${adapterLine(adapter)}" that is left has no shader-f16; with dtype "auto" or "f32" it goes on in f32`,
    { option: asked },
  );
}

/** f16 where it is faster: software adapters emulate it. Keys and values are f16 there too, since it halves their bytes. */
function automaticDtype(gpu: Gpu): "f32" | "f16" {
  return gpu.features.f16 && !gpu.adapter.software ? "f16" : "f32";
}

export function gpuOptions(options: EngineOptions): GpuOptions {
  const { adapter, subgroups, powerPreference } = options;
  return {
    ...(adapter !== undefined && { adapter }),
    ...(powerPreference !== undefined && { powerPreference }),
    ...(subgroups !== undefined && { subgroups }),
  };
}
