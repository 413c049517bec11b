/**
 * Runs the GPU cases in one runtime, as a child process (Node, Deno) or in a page of headless Chromium, and gathers the
 * JSON lines. A runtime that dies, falls silent or gives no summary is a failure.
 */
import { spawn } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { DAWN_NOISE } from "../../src/api/supervise.ts";
import { launchChromium } from "../support/chromium.ts";
import { command, driverEnv } from "../support/machine.ts";
import { serveFolders } from "../support/serve.ts";
import type { Machine, Runtime } from "../support/setup.ts";
import { sharedPresent } from "./counts.ts";
import { CASE_LIMIT_MS, LONGEST_CASE_MS } from "../support/cases.ts";
import type { CaseLine, RunRequest, SummaryLine } from "./run.ts";
import type { Failure, StepResult } from "./result.ts";
import { RESULTS, tail } from "./result.ts";

export interface GpuOptions {
  filter: string;
  full: boolean;
}

/** How long a runtime may say nothing: longer than the limit of a case, which the runner keeps itself. */
const silenceLimitMs = ({ full }: GpuOptions): number => (full ? LONGEST_CASE_MS : CASE_LIMIT_MS) + 80_000;

/** What drivers and Deno's GPU library write on every start, whatever one does. */
const isKnownWarning = (line: string): boolean =>
  DAWN_NOISE.test(line) || line.includes("Unknown user config");

/** Begins a line that a case prints for people, whether it passes or not. */
const MEASURED = "measured: ";

/** Gathers the lines of one run. */
class Lines {
  readonly failures: Failure[] = [];
  summary: SummaryLine | undefined;
  /** As they came, for who wants to know where the time goes. */
  private readonly all: CaseLine[] = [];
  ran = 0;
  passed = 0;
  skipped = 0;
  /** Lines for people, which cases print behind "measured: ". */
  readonly measured: string[] = [];
  private readonly silenceMs: number;
  private lastAt = performance.now();

  constructor(options: GpuOptions) {
    this.silenceMs = silenceLimitMs(options);
  }

  /** What is to be said of a runtime that says nothing for too long. */
  get silence(): string | undefined {
    if (performance.now() - this.lastAt < this.silenceMs) return undefined;
    return `silent for ${this.silenceMs} ms`;
  }

  note(text: string): void {
    const at = text.indexOf(MEASURED);
    if (at >= 0) this.measured.push(text.slice(at + MEASURED.length));
  }

  take(text: string): void {
    this.lastAt = performance.now();
    const line = parse(text);
    if (line === undefined) return;
    if ("broken" in line) this.failures.push({ name: "the runner", error: line.broken });
    else if ("adapter" in line) this.summary = line;
    else this.count(line);
  }

  private count(line: CaseLine): void {
    this.all.push(line);
    if (line.skipped) this.skipped++;
    else {
      this.ran++;
      if (line.ok) this.passed++;
      else this.failures.push({ name: line.case, error: line.error ?? "failed" });
    }
  }

  /**
   * @param file where the lines are left, without its ending
   * @param said what the runtime printed besides, for the case that it ended without a summary
   */
  result(name: string, file: string, durationMs: number, said: string): StepResult {
    mkdirSync(RESULTS, { recursive: true });
    writeFileSync(`${RESULTS}/${file}.json`, JSON.stringify(this.all, undefined, 1));
    if (this.summary === undefined)
      this.failures.push({
        name: `${name} ended early`,
        error: said === "" ? "it said nothing" : tail(said),
      });
    const { adapter, features } = this.summary ?? { adapter: "unknown", features: undefined };
    const words = [
      adapter,
      features?.f16 ? "f16" : "no f16",
      features?.subgroups ? "subgroups" : "no subgroups",
    ];
    const { ran, passed, skipped, failures, measured } = this;
    return { name, ran, passed, skipped, failures, measured, where: words.join(", "), durationMs };
  }
}

function parse(text: string): CaseLine | SummaryLine | { broken: string } | undefined {
  if (!text.startsWith("{")) return undefined;
  try {
    return JSON.parse(text) as CaseLine | SummaryLine | { broken: string };
  } catch {
    return undefined;
  }
}

/** Runs the cases in one runtime, or a part of them. */
export async function gpuSuite(
  runtime: Runtime,
  machine: Machine,
  options: GpuOptions,
  part = { index: 0, of: 1 },
): Promise<StepResult> {
  const started = performance.now();
  const { lines, said } = await ask(runtime, machine, options, { ...choiceOf(runtime, options), part });
  const file = part.of === 1 ? runtime.name : `${runtime.name}.${part.index + 1}`;
  return lines.result(runtime.name, file, performance.now() - started, said);
}

/** How many cases would run in one runtime, and how many would be skipped. */
export async function listGpuSuite(
  runtime: Runtime,
  machine: Machine,
  options: GpuOptions,
): Promise<{ ran: number; skipped: number }> {
  const { lines, said } = await ask(runtime, machine, options, {
    ...choiceOf(runtime, options),
    isList: true,
  });
  const { summary, failures } = lines;
  if (summary === undefined || failures.length > 0)
    throw new Error(`${runtime.name} listed no cases: ${failures[0]?.error ?? tail(said)}`);
  return summary;
}

async function ask(runtime: Runtime, machine: Machine, options: GpuOptions, request: RunRequest) {
  const lines = new Lines(options);
  const said =
    runtime.program === "chromium"
      ? await inChromium(machine.chromium, request, lines)
      : await inProcess(runtime.program, runtime, machine, request, lines);
  return { lines, said };
}

/** Nothing is left out where some are asked for by name, nor in the full run. */
const choiceOf = (
  { leaves = [], keeps = [], cover = "pairs" }: Runtime,
  { full, filter }: GpuOptions,
): RunRequest => (full || filter !== "" ? { full, filter } : { without: leaves, keeping: keeps, cover });

async function inProcess(
  program: "node" | "deno",
  runtime: Runtime,
  machine: Machine,
  request: RunRequest,
  lines: Lines,
): Promise<string> {
  const [file, args] = command(program, machine.deno, "dist/suite/node.js");
  args.push(JSON.stringify(request));
  const child = spawn(file, args, { env: driverEnv(runtime.driverFile), stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  const say = (text: string) => {
    lines.note(text);
    if (!isKnownWarning(text)) said += `${text}\n`;
  };
  const silence = setInterval(() => {
    if (lines.silence === undefined) return;
    say(`${lines.silence}: ended by force`);
    child.kill("SIGKILL");
  }, 1000);
  createInterface(child.stdout).on("line", (text) => (text.startsWith("{") ? lines.take(text) : say(text)));
  createInterface(child.stderr).on("line", say);
  const ending = await new Promise<string>((done) => {
    child.on("error", (error) => done(error.message));
    child.on("close", (code, signal) => done(`ended with ${signal ?? code}`));
  });
  clearInterval(silence);
  const expected = lines.failures.length === 0 ? "ended with 0" : "ended with 1";
  if (lines.summary !== undefined && ending !== expected)
    lines.failures.push({
      name: `the end of ${runtime.name}`,
      error: `${ending} after its last case\n${tail(said)}`,
    });
  return `${said}${ending}`;
}

const PAGE = `<!doctype html><meta charset="utf-8"><title>GPU cases</title>
<script type="module" src="/suite/browser.js"></script>`;

async function inChromium(chromium: string, request: RunRequest, lines: Lines): Promise<string> {
  const folders: Record<string, string> = {
    suite: "dist/suite",
    models: "demo/models",
    goldens: "test/goldens",
  };
  if (sharedPresent()) folders["shared"] = "../shared";
  const server = await serveFolders(folders, { "/cases.html": PAGE });
  const browser = await launchChromium(chromium);
  try {
    const page = await browser.newPage();
    let said = "";
    let ended = false;
    const end = (text: string) => {
      said += `${text}\n`;
      ended = true;
    };
    page.on("console", (message) => {
      lines.note(message.text());
      said += `${message.type()}: ${message.text()}\n`;
    });
    page.on("pageerror", (error) => end(`page error: ${error.stack ?? error.message}`));
    page.on("crash", () => end("the page crashed"));
    browser.on("disconnected", () => end("Chromium ended"));
    await page.exposeFunction("report", (line: string) => lines.take(line));
    const query = new URLSearchParams({ request: JSON.stringify(request) });
    await page.goto(`${server.address}cases.html?${query.toString()}`);
    while (!ended && lines.summary === undefined && lines.failures.at(-1)?.name !== "the runner") {
      if (lines.silence !== undefined) end(lines.silence);
      await new Promise((resume) => setTimeout(resume, 100));
    }
    return said;
  } finally {
    await browser.close();
    await server.close();
  }
}
