/** Ten thousand mutated model files: each loads or is refused by name (test/fault/load-fuzz.ts). */
import { expect, test } from "vitest";
import { sharedPath, sharedPresent, skipLoudly } from "../support/shared.ts";
import { testSeed } from "../support/seed.ts";
import { fuzzLoading } from "../fault/load-fuzz.ts";
import { GOLDENS } from "../fault/load-seeds.ts";

const MUTANTS = 10_000;

test(`${MUTANTS} mutants: success or a typed error that names the file`, { timeout: 600_000 }, async () => {
  if (!sharedPresent) skipLoudly("mutated goldens (models)", GOLDENS.length);
  const goldens = sharedPresent ? sharedPath("goldens/models") : undefined;
  const seed = testSeed("mutated model files");
  const { failures, ...counts } = await fuzzLoading({ root: process.cwd(), goldens, seed, count: MUTANTS });
  console.log("mutated model files:", counts);
  expect(failures).toEqual([]);
});
