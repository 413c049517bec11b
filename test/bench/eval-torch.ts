/**
 * Scores a shipped model whose architecture the engine cannot run yet, with the PyTorch evaluator of demo/models/train on
 * the same file and the same set.
 */
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { EvalSet, Scores } from "./eval-set.ts";

/** Debian's own Python, for which Debian packages PyTorch; elsewhere the one on the PATH. */
const PYTHONS = ["/usr/bin/python3", "python3"];

/** A Python that has PyTorch. */
export function findTorch(): string | undefined {
  return PYTHONS.find((python) => {
    try {
      execFileSync(python, ["-c", "import torch, numpy"], { stdio: "ignore" });
      return true;
    } catch {
      return false;
    }
  });
}

export const TORCH_MISSING =
  "there is no Python with PyTorch here: on Debian, apt-get install python3-torch python3-numpy libopenblas0-pthread";

/** @throws Error that says what to install where there is no PyTorch. */
export async function scoreWithTorch(
  name: string,
  path: string,
  set: EvalSet,
  limit: number,
): Promise<Scores> {
  const python = findTorch();
  if (python === undefined) throw new Error(TORCH_MISSING);
  const folder = mkdtempSync(join(tmpdir(), "tidepool-eval-"));
  const results = join(folder, "results.json");
  try {
    const groups = set.groups.map((group) => group.name).join(",");
    const given = ["--name", name, "--groups", groups, "--limit", String(limit), "--results", results];
    await run(python, ["-B", "demo/models/train/evaluate.py", path, ...given]);
    const all = JSON.parse(readFileSync(results, "utf8")) as Record<string, { groups: Scores }>;
    return all[name]?.groups ?? {};
  } finally {
    rmSync(folder, { recursive: true });
  }
}

async function run(python: string, args: string[]): Promise<void> {
  const env = { ...process.env, OPENBLAS_NUM_THREADS: "1" };
  const child = spawn(python, args, { env, stdio: ["ignore", "ignore", "inherit"] });
  const code = await new Promise<number | null>((done, fail) => child.on("error", fail).on("close", done));
  if (code !== 0) throw new Error(`${args[1]} ended with code ${code}`);
}
