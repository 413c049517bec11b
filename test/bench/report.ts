/**
 * Measurements as a table for people and as CSV for machines: one row a metric, with median, spread, machine and commit.
 * It measures nothing.
 */

/** One metric of one case, with the value of each repeat. */
export interface Measurement {
  /** What was run: `28m-q4_0`, `batch of 4`. */
  name: string;
  metric: string;
  unit: string;
  values: readonly number[];
}

/** Where and on what a run was made. */
export interface RunFacts {
  date: string;
  commit: string;
  cpu: string;
  cores: number;
  runtime: string;
  adapter: string;
}

const COLUMNS = ["name", "metric", "unit", "median", "min", "max", "repeats"] as const;
const FACTS = ["date", "commit", "cpu", "cores", "runtime", "adapter"] as const;

/** A CSV file with a head line; text is quoted. */
export function csv(measurements: readonly Measurement[], facts: RunFacts): string {
  const where = FACTS.map((fact) => cell(facts[fact]));
  const rows = measurements.map(({ name, metric, unit, values }) => {
    const { median, min, max } = summary(values);
    return [...[name, metric, unit, median, min, max, values.length].map(cell), ...where].join(",");
  });
  return `${[[...COLUMNS, ...FACTS].join(","), ...rows].join("\n")}\n`;
}

/** Aligned lines: a head line for each case, below it its metrics. */
export function tableLines(measurements: readonly Measurement[]): string[] {
  const metricWidth = Math.max(...measurements.map(({ metric }) => metric.length));
  const lines: string[] = [];
  let last: string | undefined;
  for (const { name, metric, unit, values } of measurements) {
    if (name !== last) lines.push("", name);
    last = name;
    const { median, min, max } = summary(values);
    const spread = values.length > 1 ? `  (${short(min)} to ${short(max)}, ${values.length} repeats)` : "";
    lines.push(`  ${metric.padEnd(metricWidth)}  ${short(median).padStart(10)} ${unit}${spread}`);
  }
  return lines;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  const upper = sorted[Math.floor(middle)] ?? NaN;
  return Number.isInteger(middle) ? ((sorted[middle - 1] ?? NaN) + upper) / 2 : upper;
}

function summary(values: readonly number[]): { median: number; min: number; max: number } {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) };
}

function cell(value: string | number): string {
  return typeof value === "number" ? String(value) : `"${value.replaceAll('"', '""')}"`;
}

/** Four significant digits. */
function short(value: number): string {
  if (value !== 0 && Math.abs(value) < 0.001) return value.toExponential(2);
  return Math.abs(value) >= 1000 ? String(Math.round(value)) : String(Number(value.toPrecision(4)));
}
