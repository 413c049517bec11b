/** kill -9 in mid-download, 20 times: what each kill costs is bounded, whatever the file's size. */
import { expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { killDownloads } from "../fault/download-kill.ts";
import { testSeed } from "../support/seed.ts";

/** Not noted yet, gathered for a write, and on its way through four sockets. */
const LOST_A_KILL_BYTES = 4_000_000;

test("20 kills in one download cost little each", { timeout: 300_000 }, async () => {
  const report = await killDownloads(20, 200_000_000, new Random(testSeed("download kills")));
  const lost = (report.sentBytes - report.sizeBytes) / report.kills;
  console.log(report, `${(lost / 1e6).toFixed(2)} MB a kill`);
  expect(report.isRight).toBe(true);
  expect(lost).toBeLessThan(LOST_A_KILL_BYTES);
});
