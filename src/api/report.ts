/** A model's report as lines for people. */
import type { ModelReport } from "../engine.ts";

/** Aligned "name  value" lines. */
export function reportLines(report: ModelReport): string[] {
  const { shape, memory } = report;
  const pairs: [string, string][] = [
    ["model", shape?.name ?? report.name],
    ["format", report.format],
    ["architecture", report.architecture],
    ["parameters", report.parameters.toLocaleString("en")],
    ["file", bytes(report.fileBytes)],
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
  }
  pairs.push(["tokenizer", report.tokenizer], ["chat template", report.chatTemplate]);
  if (report.adapter !== undefined) pairs.push(["adapter", report.adapter]);
  if (memory) {
    pairs.push(["arithmetic", `${memory.dtype}, keys and values ${memory.kvDtype}`]);
    pairs.push(["weights on the GPU", bytes(memory.weightBytes)]);
    pairs.push([
      "KV",
      `${bytes(memory.kvBytesPerToken)} a token, ${bytes(memory.kvPoolBytes)} for ${memory.kvPoolTokens} tokens at most`,
    ]);
    if (memory.statePoolBytes > 0) pairs.push(["recurrent states", bytes(memory.statePoolBytes)]);
    pairs.push(["workspace", bytes(memory.workspaceBytes)]);
    pairs.push(["together", `${bytes(memory.startBytes)} at first, ${bytes(memory.maxBytes)} at most`]);
  }
  pairs.push(["runs here", report.runs ? "yes" : `no: ${report.problems.join("; ")}`]);
  const width = Math.max(...pairs.map(([name]) => name.length));
  return pairs.map(([name, value]) => `${name.padEnd(width)}  ${value}`);
}

const UNITS = ["B", "KiB", "MiB", "GiB"];

function bytes(count: number): string {
  const power = count > 0 ? Math.min(UNITS.length - 1, Math.floor(Math.log2(count) / 10)) : 0;
  const value = count / 1024 ** power;
  return `${power === 0 ? value : value.toFixed(1)} ${UNITS[power]}`;
}
