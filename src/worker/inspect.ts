/**
 * What can be known from a model's header alone: its shape, its sizes, its text side, and whether it would run here and
 * why not. It loads no weights.
 */
import { inFile, TidepoolError } from "../errors.ts";
import { adapterLine, findProvider, openGpu } from "../gpu/device.ts";
import type { ModelFile } from "../load/model-file.ts";
import { nearestKnown } from "../model/arch/nearest.ts";
import { shapeOf } from "../model/arch/rows.ts";
import { checkTensors, namesIn } from "../model/arch/tensor-names.ts";
import { expertsOf, type ModelExperts } from "../model/experts/plan.ts";
import { planMemory } from "../model/memory.ts";
import { mixersOf, type ModelShape } from "../shape/shape.ts";
import { missingCapabilities, missingOfPlan } from "./capabilities.ts";
import { gpuOptions, runnerOptions } from "./options.ts";
import type { EngineOptions, ModelReport } from "../wire/protocol.ts";
import { checkChatTemplate } from "../text/chat.ts";
import { checkTokenizer } from "../text/tokenizer.ts";
import { textParts } from "./text/messages.ts";

type ExpertsSummary = NonNullable<NonNullable<ModelReport["shape"]>["experts"]>;

/** Describes an open model; never throws for a model that would not run: the report says why. */
export async function inspectModel(file: ModelFile, options: EngineOptions): Promise<ModelReport> {
  const report: ModelReport = {
    name: file.name,
    format: file.format,
    architecture: architectureOf(file),
    fileBytes: file.sources.reduce((sum, source) => sum + source.sizeBytes, 0),
    tensors: tensorTypes(file),
    parameters: elements(file),
    ...textStates(file),
    runs: false,
    problems: [],
    capabilities: [],
  };
  const shape = attempt(report, () => shapeOf(file));
  const nearest = shape ? undefined : nearestKnown(file);
  if (nearest) report.nearest = nearest;
  const experts = shape && attempt(report, () => wholeExperts(file, shape));
  if (shape) report.shape = { ...shapeSummary(shape), ...experts };
  await inspectDevice(report, file, experts && shape, options);
  report.runs = report.problems.length === 0;
  return report;
}

/** The experts of a file that has all of its tensors, if it has any. */
function wholeExperts(file: ModelFile, shape: ModelShape): { experts?: ExpertsSummary } {
  checkTensors(file, shape);
  const experts = expertsOf(namesIn(file, shape), shape);
  return experts ? { experts: expertsSummary(experts) } : {};
}

/** "ready", or why there is none. Nothing is built: a vocabulary takes seconds and hundreds of MiB. */
function textStates(file: ModelFile): Pick<ModelReport, "tokenizer" | "chatTemplate"> {
  const parts = textParts(file);
  const state = (check: () => void): string => {
    try {
      check();
      return "ready";
    } catch (error) {
      if (error instanceof TidepoolError) return inFile(file.name, error).message;
      throw error;
    }
  };
  const tokenizer = state(() => checkTokenizer(parts));
  const chatTemplate = tokenizer === "ready" ? state(() => checkChatTemplate(parts)) : tokenizer;
  return { tokenizer, chatTemplate };
}

function attempt<T>(report: ModelReport, look: () => T): T | undefined {
  try {
    return look();
  } catch (error) {
    if (!(error instanceof TidepoolError)) throw error;
    report.problems.push(error.message);
    return undefined;
  }
}

async function inspectDevice(
  report: ModelReport,
  file: ModelFile,
  shape: ModelShape | undefined,
  options: EngineOptions,
): Promise<void> {
  try {
    const gpu = await openGpu(await findProvider(), gpuOptions(options));
    report.adapter = adapterLine(gpu.adapter);
    report.capabilities.push(...(await missingCapabilities(gpu, options)));
    gpu.device.destroy();
    const resolved = runnerOptions(gpu, options, shape);
    if (!shape) return;
    const { blockTokens, kvDtype, dtype } = resolved;
    const {
      startBlocks,
      maxBlocks,
      limited,
      states: _states,
      experts,
      startTails: _tails,
      kvTailBytes,
      ...plan
    } = planMemory(file, shape, resolved);
    report.capabilities.push(...missingOfPlan({ limited, offGpuBytes: plan.offGpuBytes, experts }));
    report.memory = {
      ...plan,
      ...(kvTailBytes > 0 && { kvTailBytes }),
      ...(experts && { expertBytes: experts.bytes + experts.copyBytes }),
      kvStartTokens: startBlocks * blockTokens,
      kvPoolBytes: maxBlocks * blockTokens * plan.kvBytesPerToken,
      kvPoolTokens: maxBlocks * blockTokens,
      dtype,
      kvDtype,
    };
  } catch (error) {
    if (!(error instanceof TidepoolError)) throw error;
    report.problems.push(error.message);
  }
}

function architectureOf(file: ModelFile): string {
  const name = file.format === "gguf" ? file.metadata.get("general.architecture") : file.config["model_type"];
  return typeof name === "string" ? name : "unnamed";
}

function tensorTypes(file: ModelFile): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { type } of file.tensors.values()) counts[type] = (counts[type] ?? 0) + 1;
  return counts;
}

function elements(file: ModelFile): number {
  let sum = 0;
  for (const { shape } of file.tensors.values()) sum += shape.reduce((product, size) => product * size, 1);
  return sum;
}

function shapeSummary(shape: ModelShape): NonNullable<ModelReport["shape"]> {
  const { name, layers, hiddenSize, vocabSize, contextTokens } = shape;
  const mixers: Record<string, number> = {};
  for (const { kind } of mixersOf(shape)) mixers[kind] = (mixers[kind] ?? 0) + 1;
  return { name, layers: layers.length, mixers, hiddenSize, vocabSize, contextTokens };
}

function expertsSummary({ layers, experts: count, chosen, ...bytes }: ModelExperts): ExpertsSummary {
  const { bytes: all, leastBytes, copyBytes } = bytes;
  return { layers: layers.length, count, chosen, bytes: all, leastBytes, copyBytes };
}
