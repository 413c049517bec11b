/** What a step of the test run reports, and how that is shown. It runs nothing. */

export interface StepResult {
  /** Also the key in test/expected-counts.json. */
  name: string;
  /** Cases that were executed, failed ones included; what the expected counts are about. */
  ran: number;
  passed: number;
  skipped: number;
  /** Failed cases, and what else went wrong. */
  failures: Failure[];
  /** What cases measured, for people. */
  measured?: string[];
  /** Where it ran: adapter and features; empty for steps without a GPU. */
  where: string;
  durationMs: number;
}

export interface Failure {
  name: string;
  error: string;
}

/** Where the results of each step are left as JSON, with what each case took. */
export const RESULTS = "dist/results";

/** How much of one failure is printed. */
const FAILURE_LINES = 20;

/** The results of a step's parts as one; `durationMs` is the sum. */
export function merged(name: string, parts: readonly StepResult[]): StepResult {
  const sum = (of: (part: StepResult) => number) => parts.reduce((total, part) => total + of(part), 0);
  return {
    name,
    ran: sum(({ ran }) => ran),
    passed: sum(({ passed }) => passed),
    skipped: sum(({ skipped }) => skipped),
    failures: parts.flatMap(({ failures }) => failures),
    measured: parts.flatMap(({ measured = [] }) => measured),
    where: [...new Set(parts.map(({ where }) => where))].join("; "),
    durationMs: sum(({ durationMs }) => durationMs),
  };
}

/** One line for a finished step, and its failures below. */
export function describeStep(result: StepResult): string[] {
  const skipped = result.skipped > 0 ? `, ${result.skipped} skipped` : "";
  const where = result.where === "" ? "" : `  on ${result.where}`;
  const counts = `${result.passed} passed, ${result.failures.length} failed${skipped}`;
  const head = `${result.name}: ${counts}, ${seconds(result.durationMs)}${where}`;
  const measured = (result.measured ?? []).map((line) => `  ${line}`);
  return [head, ...measured, ...result.failures.flatMap(describeFailure)];
}

function describeFailure({ name, error }: Failure): string[] {
  const lines = error.trimEnd().split("\n");
  const shown = lines.slice(0, FAILURE_LINES);
  if (lines.length > shown.length) shown.push(`... ${lines.length - shown.length} more lines`);
  return [`  FAILED ${name}`, ...shown.map((line) => `    ${line}`)];
}

/** The table at the end. */
export function table(results: readonly StepResult[]): string[] {
  const head = ["step", "passed", "failed", "skipped", "time", "where"];
  const rows = results.map((result) => [
    result.name,
    String(result.passed),
    String(result.failures.length),
    String(result.skipped),
    seconds(result.durationMs),
    result.where,
  ]);
  const widths = head.map((_, column) => Math.max(...[head, ...rows].map((row) => row[column]?.length ?? 0)));
  return [head, ...rows].map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}

export const seconds = (durationMs: number): string => `${(durationMs / 1000).toFixed(1)} s`;

/** The last lines of a text, for errors of programs that say much before they fail. */
export function tail(text: string, lines = FAILURE_LINES): string {
  return text.trimEnd().split("\n").slice(-lines).join("\n");
}
