/** What is told of an engine: its model, adapter, memory and limits, and what a new device changes in it. */
import type { Runner } from "../model/runner.ts";
import { stepRows } from "../model/memory.ts";
import { missingOfPlan } from "./capabilities.ts";
import type { Prompts } from "./request/prompts.ts";
import type { Capability, EmbeddingInfo, EngineInfo } from "../wire/protocol.ts";

export function describe(runner: Runner, prompts: Prompts, capabilities: readonly Capability[]): EngineInfo {
  const { shape, options, memory, gpu } = runner;
  return {
    role: "alone",
    model: {
      name: shape.name,
      architecture: shape.architecture,
      parameters: runner.parameters,
      contextTokens: shape.contextTokens,
      vocabSize: shape.vocabSize,
      layers: shape.layers.length,
      generates: shape.embedding?.isEncoder !== true,
      ...embeddingOf(runner),
    },
    adapter: { name: runner.adapterName, software: gpu.adapter.software },
    kernels: { dtype: options.dtype, kvDtype: options.kvDtype, subgroups: gpu.features.subgroups },
    memory: { ...memory, kvPoolTokens: runner.pool.slots * options.blockTokens },
    limits: {
      blockTokens: options.blockTokens,
      chunkTokens: options.chunkTokens,
      maxRequests: options.seats,
      poolTokens: runner.maxBlocks * options.blockTokens,
    },
    tokenizer: prompts.tokenizerState,
    chatTemplate: prompts.templateState,
    reasons: prompts.reasons,
    textWorker: prompts.textState,
    capabilities: [...capabilities, ...missingOfPlan(runner.plan)],
  };
}

function embeddingOf({ shape, dimensions, plan, options }: Runner): { embedding?: EmbeddingInfo } {
  const { embedding } = shape;
  if (!embedding) return {};
  const { pooling, tasks, isEncoder } = embedding;
  const most = isEncoder ? stepRows(shape, options) : plan.maxBlocks * options.blockTokens;
  const maxTokens = Math.min(shape.contextTokens, most);
  return { embedding: { dimensions, pooling, maxTokens, tasks: Object.keys(tasks) } };
}

/** What a new device computes otherwise than the one before. */
export function changeOf(before: Runner, now: Runner): string {
  return changeOfTypes(before, now) + changeOfPool(before, now);
}

function changeOfPool(
  { maxBlocks: before }: Runner,
  { maxBlocks, options: { blockTokens } }: Runner,
): string {
  if (maxBlocks >= before) return "";
  return `; its KV pool holds ${maxBlocks * blockTokens} tokens, not ${before * blockTokens}: longer requests end there or fail`;
}

function changeOfTypes({ options: before }: Runner, { options }: Runner): string {
  if (before.dtype === options.dtype && before.kvDtype === options.kvDtype) return "";
  return `; it has no 16-bit floats: from now on the model computes in ${options.dtype}, and what was stored in ${before.kvDtype} is computed again`;
}
