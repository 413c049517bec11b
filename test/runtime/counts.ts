/**
 * Compares how many cases each step executed with test/expected-counts.json, so that a case that silently no longer
 * runs is a failure. The file has one table for each kind of run: normal or full, with ../shared or without.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import type { Failure, StepResult } from "./result.ts";

const FILE = "test/expected-counts.json";

export type Counts = Record<string, { ran: number; skipped: number }>;
type CountsFile = Record<string, Counts>;

/** Steps that exist only on some machines, so that no number is committed: other drivers, and PyTorch's. */
const UNCOUNTED = /-(gpu|alone)$|^training$/;

/** Whether the given material is beside the checkout, and not hidden by WITHOUT_SHARED=1. */
export const sharedPresent = (): boolean =>
  process.env["WITHOUT_SHARED"] !== "1" && existsSync("../shared/README.md");

/** The name of this kind of run. */
export function kindOfRun(full: boolean): string {
  return (full ? "full" : "normal") + (sharedPresent() ? "" : " without shared");
}

/** The expected number of cases of a step; undefined where no number is committed for it. */
export function expectedRan(kind: string, step: string): number | undefined {
  return readCounts()[kind]?.[step]?.ran;
}

/** What differs from the committed numbers. A runtime of this machine's own is only named. */
export function compareCounts(
  kind: string,
  results: readonly StepResult[],
  log: (line: string) => void,
  expected: Counts = readCounts()[kind] ?? {},
): Failure[] {
  const failures: Failure[] = [];
  for (const { name, ran, skipped } of results) {
    const want = expected[name];
    const label = `count of ${name} (${kind})`;
    if (want === undefined && UNCOUNTED.test(name)) {
      log(
        `${name}: its ${ran} cases are compared with no number, since not every machine has what they need`,
      );
    } else if (want === undefined) {
      failures.push({ name: label, error: `ran ${ran} and skipped ${skipped}, but ${FILE} has no number` });
    } else if (want.ran !== ran || want.skipped !== skipped) {
      const error = `ran ${ran} and skipped ${skipped}, but ${FILE} expects ${want.ran} and ${want.skipped}`;
      failures.push({ name: label, error });
    }
  }
  return failures;
}

/** Rewrites the numbers of this kind of run; those of other kinds and of steps that are not named stay. */
export function writeCounts(kind: string, found: Counts): void {
  const file = readCounts();
  const counts: Counts = { ...file[kind] };
  for (const [name, { ran, skipped }] of Object.entries(found))
    if (!UNCOUNTED.test(name)) counts[name] = { ran, skipped };
  writeFileSync(FILE, JSON.stringify({ ...file, [kind]: counts }, null, 2) + "\n");
}

function readCounts(): CountsFile {
  return existsSync(FILE) ? (JSON.parse(readFileSync(FILE, "utf8")) as CountsFile) : {};
}
