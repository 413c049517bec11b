/** The conformance suite on folders, for any runtime with `node:fs`: Node and Deno run it through run(). */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openFilesBackend } from "../../src/tier/disk/files.ts";
import { runCases, TEST_SEGMENT_BYTES, type Fixture, type SuiteResult } from "./conformance.ts";

export async function folderFixture(): Promise<Fixture> {
  const folder = await mkdtemp(join(tmpdir(), "tidepool-files-"));
  return {
    make: () => openFilesBackend(folder, { segmentBytes: TEST_SEGMENT_BYTES }),
    cleanUp: () => rm(folder, { recursive: true }),
  };
}

export function run(): Promise<SuiteResult> {
  return runCases("files", { persistent: true }, folderFixture);
}
