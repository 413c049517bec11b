/**
 * That the training script trains: twenty steps of a tiny model, whose loss must fall. Needs a Python with PyTorch;
 * skipped loudly where there is none. And that its text keeps away from the evaluation's, for which any Python will do.
 */
import { execFileSync } from "node:child_process";
import { expect, test } from "vitest";
import { findTorch, TORCH_MISSING } from "../bench/eval-torch.ts";

const python = findTorch();
if (python === undefined) console.warn(`SKIPPED 1 case of training: ${TORCH_MISSING}`);

test("no sentence of the evaluation stands among the forms of training", () => {
  const out = execFileSync("python3", ["-B", "demo/models/train/apart.py"], { encoding: "utf8" });
  expect(out).toContain(" 0 too alike");
});

/** Six seconds on a quiet machine. */
const LIMIT_MS = 300_000;

test.skipIf(python === undefined)(
  "twenty steps of training make the loss fall",
  () => {
    const env = { ...process.env, OPENBLAS_NUM_THREADS: "1" };
    const args = ["-B", "demo/models/train/train.py", "--smoke"];
    const out = execFileSync(python as string, args, { encoding: "utf8", env, timeout: LIMIT_MS });
    const { firstLoss, lastLoss } = JSON.parse(out.trim().split("\n").at(-1) ?? "") as Record<string, number>;
    expect(lastLoss).toBeLessThan((firstLoss as number) - 0.5);
  },
  LIMIT_MS,
);
