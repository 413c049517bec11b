/**
 * The soak's program: one model, one process, so that its memory is the soak's. Arguments: --model FILE --seconds N; SEED in the
 * environment repeats a run, SOAK_MEMORY prints what the process held after each engine. Prints one JSON line with what it did,
 * or with what went wrong.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Random } from "../../src/base.ts";
import { Soak, type SoakCounts } from "../support/soak.ts";
import { growthOf, growthProblem, STEADY_MALLOC, type Growth } from "../support/soak-memory.ts";
import { testSeed } from "../support/seed.ts";

/** What a soak prints. */
export interface SoakLine {
  model: string;
  counts: SoakCounts;
  growth: Growth;
  error?: string;
}

const { values } = parseArgs({ options: { model: { type: "string" }, seconds: { type: "string" } } });

/** Growth can be judged only under STEADY_MALLOC. */
function checkEnvironment(): void {
  const missing = Object.entries(STEADY_MALLOC).filter(([name, value]) => process.env[name] !== value);
  if (missing.length === 0) return;
  throw new Error(`start the soak with ${missing.map((pair) => pair.join("=")).join(" ")}`);
}

/** A cache that gives nothing back would make the comparison empty. */
function cacheProblem({ tokens }: SoakCounts): string | undefined {
  const empty = (["gpu", "disk"] as const).filter((tier) => tokens[tier] === 0);
  return empty.length === 0 ? undefined : `no prompt token came from ${empty.join(", nor from ")}`;
}

async function main(model: string, seconds: number): Promise<number> {
  checkEnvironment();
  const directory = mkdtempSync(join(tmpdir(), "tidepool-soak-"));
  const random = new Random(testSeed(`soak of ${model}`));
  const soak = await Soak.open({ model, directory, random });
  let error: string | undefined;
  try {
    await soak.run(performance.now() + seconds * 1000);
  } catch (thrown) {
    error = thrown instanceof Error ? `${thrown.message}\n${thrown.stack}` : String(thrown);
  }
  const growth = growthOf(soak.memory);
  error ??= growthProblem(growth) ?? cacheProblem(soak.counts);
  const line: SoakLine = { model, counts: soak.counts, growth, ...(error !== undefined && { error }) };
  console.log(JSON.stringify(line));
  if (process.env["SOAK_MEMORY"] !== undefined)
    for (const { rssMiB, heapMiB, threads, files } of soak.memory)
      console.log([rssMiB, heapMiB, threads ?? 0, files ?? 0].map(Math.round).join(" "));
  await soak.close();
  rmSync(directory, { recursive: true, force: true });
  return error === undefined ? 0 : 1;
}

process.exitCode = await main(values.model ?? "demo/models/tide-dense.gguf", Number(values.seconds ?? 30));
setTimeout(() => process.exit(), 50);
