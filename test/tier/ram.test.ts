/** The memory backend against the conformance suite. */
import { describe, test } from "vitest";
import { RamBackend } from "../../src/tier/disk/ram.ts";
import { casesFor } from "./conformance.ts";

describe("ram", () => {
  for (const { name, run } of casesFor({ persistent: false })) {
    test(name, () =>
      run({ make: () => Promise.resolve(new RamBackend()), cleanUp: () => Promise.resolve() }),
    );
  }
});
