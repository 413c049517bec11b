/** kill -9 in mid-download, a few times (20 times in test/full). */
import { expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { testSeed } from "../support/seed.ts";
import { killDownloads } from "./download-kill.ts";

test(
  "a process killed in mid-download costs little, and locks nobody out",
  { timeout: 120_000 },
  async () => {
    const report = await killDownloads(3, 8_000_000, new Random(testSeed("download kill")));
    console.log(report);
    expect(report.isRight).toBe(true);
    expect(report.sentBytes).toBeLessThan(2 * report.sizeBytes);
  },
);
