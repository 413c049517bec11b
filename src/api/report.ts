/** A model's report as lines for people. */
import type { CopyFigures, ExpertFigures, ModelReport, Usage } from "../wire/protocol.ts";

/** How long a request took beside what was predicted. */
export function paceLine({ pace }: Usage): string {
  if (!pace) return "the request ended before it began";
  const { predicted, ttftMs, tbtMs, kept } = pace;
  const expected = (ms: number | undefined) => (ms === undefined ? "" : ` (${ms.toFixed(0)} predicted)`);
  const verdict =
    kept === undefined ? "" : kept ? "; its objectives were kept" : "; its objectives were missed";
  return `first token after ${ttftMs.toFixed(0)} ms${expected(predicted?.ttftMs)}, then ${tbtMs.toFixed(0)} ms a token${expected(predicted?.tbtMs)}${verdict}`;
}

/** How often experts that were chosen were on the GPU, and what it cost that others were not. */
export function expertsLine(figures: ExpertFigures): string {
  const { slots, layers, experts, cache, rates, read, waits, copies } = figures;
  const sum = (of: "uses" | "hits") => cache.layers.reduce((total, layer) => total + layer[of], 0);
  const hits = `${sum("hits")} of ${sum("uses")} chosen experts were on the GPU`;
  const bytes = `${byteText(read.fileBytes)} read from the file, ${byteText(read.ramBytes)} from RAM`;
  return `${slots} of ${layers * experts} experts fit on the GPU: ${hits}, ${bytes}, ${(waits.stallMs / 1000).toFixed(1)} s waited${predictionsText(rates)}${copiesText(copies)}`;
}

function predictionsText({ accuracy, fetchRate, goodPred }: ExpertFigures["rates"]): string {
  if (accuracy === undefined) return "";
  const [right, inTime, both] = [accuracy, fetchRate, goodPred].map((share = 0) => (100 * share).toFixed(0));
  return `; of the predictions ${right}% were right, ${inTime}% in time, ${both}% both`;
}

function copiesText(copies: CopyFigures | undefined): string {
  if (!copies) return "";
  const { bytes, choices, choicesLow, weight, weightLow, error } = copies;
  const percent = (part: number, all: number) => `${((100 * part) / (all || 1)).toFixed(1)} %`;
  return `; low-bit copies (${byteText(bytes)}, squared error ${percent(error, 1)}) computed ${percent(choicesLow, choices)} of the choices in decode, with ${percent(weightLow, weight)} of their weight`;
}

/** Aligned "name  value" lines. */
export function reportLines(report: ModelReport): string[] {
  const { shape, memory } = report;
  const pairs: [string, string][] = [
    ["model", shape?.name ?? report.name],
    ["format", report.format],
    ["architecture", report.architecture],
    ["parameters", report.parameters.toLocaleString("en")],
    ["file", byteText(report.fileBytes)],
    [
      "tensors",
      Object.entries(report.tensors)
        .map(([type, count]) => `${count} ${type}`)
        .join(", ") || "none",
    ],
  ];
  if (shape) {
    const mixers = Object.entries(shape.mixers).map(([kind, count]) => `${count} ${kind}`);
    pairs.push(["layers", `${shape.layers} (${mixers.join(", ")})`]);
    pairs.push(["hidden size", String(shape.hiddenSize)]);
    pairs.push(["vocabulary", String(shape.vocabSize)]);
    pairs.push(["context", `${shape.contextTokens} tokens`]);
    if (shape.experts) pairs.push(["experts", expertsText(shape.experts, memory?.expertBytes)]);
  }
  pairs.push(["tokenizer", report.tokenizer], ["chat template", report.chatTemplate]);
  if (report.adapter !== undefined) pairs.push(["adapter", report.adapter]);
  if (memory) {
    pairs.push(["arithmetic", `${memory.dtype}, keys and values ${memory.kvDtype}`]);
    pairs.push(["weights on the GPU", byteText(memory.weightBytes)]);
    pairs.push([
      "KV",
      `${byteText(1024 * memory.kvBytesPerToken)} per 1,024 tokens, at most ${byteText(memory.kvPoolBytes)} for ${memory.kvPoolTokens} tokens`,
    ]);
    if (memory.kvTailBytes !== undefined)
      pairs.push(["exact KV of the newest tokens", byteText(memory.kvTailBytes)]);
    if (memory.statePoolBytes > 0) {
      const states = `${byteText(memory.stateStartBytes)} at the start, at most ${byteText(memory.statePoolBytes)}`;
      pairs.push(["recurrent states", states]);
    }
    pairs.push(["workspace", byteText(memory.workspaceBytes)]);
    pairs.push([
      "together",
      `${byteText(memory.startBytes)} at the start, at most ${byteText(memory.maxBytes)}`,
    ]);
  }
  pairs.push(["runs here", report.runs ? "yes" : `no: ${report.problems.join("; ")}`]);
  if (report.nearest) pairs.push(["nearest known", nearestText(report.nearest)]);
  return aligned(pairs);
}

function expertsText(
  { layers, count, chosen, bytes, leastBytes }: NonNullable<NonNullable<ModelReport["shape"]>["experts"]>,
  slotBytes = bytes,
): string {
  const onGpu = `${byteText(slotBytes)} of ${byteText(bytes)} on the GPU, at least ${byteText(leastBytes)}`;
  return `${count} in each of ${layers} layers, ${chosen} for a token; ${onGpu}`;
}

function nearestText({ architecture, differences }: NonNullable<ModelReport["nearest"]>): string {
  return differences.length === 0
    ? `${architecture}, which reads every key and tensor of this model`
    : `${architecture}, which ${differences.join("; ")}`;
}

/** Names and values, the values one below the other. */
export function aligned(pairs: readonly [string, string][]): string[] {
  const width = Math.max(...pairs.map(([name]) => name.length));
  return pairs.map(([name, value]) => `${name.padEnd(width)}  ${value}`);
}

const UNITS = ["B", "KiB", "MiB", "GiB"];

export function byteText(count: number): string {
  const power = count > 0 ? Math.min(UNITS.length - 1, Math.floor(Math.log2(count) / 10)) : 0;
  const value = count / 1024 ** power;
  return `${power === 0 ? value : value.toFixed(1)} ${UNITS[power]}`;
}
