/** Where the given test material is (Node only). Tests that need it skip loudly where it is absent. */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = new URL("../../../shared/", import.meta.url);

export const sharedPresent: boolean = existsSync(new URL("README.md", root));

/** The path of a file under `../shared`. */
export function sharedPath(relative: string): string {
  return fileURLToPath(new URL(relative, root));
}

/** Says loudly that `count` cases are skipped because `../shared` is absent. */
export function skipLoudly(suite: string, count: number): void {
  console.warn(`SKIPPED ${count} cases of ${suite}: ../shared is absent`);
}
