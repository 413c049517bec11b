/**
 * Where the given test material is (Node and Deno only). Tests that need it skip loudly where it is absent, or where the
 * environment says WITHOUT_SHARED=1 to see how that looks.
 */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = new URL(/* @vite-ignore */ "../../../shared/", import.meta.url);

export const sharedPresent: boolean =
  process.env["WITHOUT_SHARED"] !== "1" && existsSync(new URL("README.md", root));

/** The path of a file under `../shared`. */
export function sharedPath(relative: string): string {
  return fileURLToPath(new URL(relative, root));
}

/** Says loudly that `count` cases are skipped because `../shared` is absent. */
export function skipLoudly(suite: string, count: number): void {
  console.warn(`SKIPPED ${count} cases of ${suite}: ../shared is absent`);
}
