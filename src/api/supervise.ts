/**
 * Runs a command that opens the GPU in a process beneath this one, for two reasons. Dawn writes warnings that concern
 * nobody straight to the file descriptor of standard error, which no code in its process can hold back
 * (https://dawn.googlesource.com/dawn/+/refs/heads/main/src/dawn/native/Limits.cpp). And a process that found no Vulkan driver
 * finds none later, so that after an installation another one must try. It does not know what the command does.
 */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { install } from "../setup/apt.ts";
import { hasRenderNode } from "../setup/driver.ts";
import { canInstall } from "../setup/remedy.ts";

/** The exit code of a command that found no adapter, if the process above it may install a driver. */
export const NEEDS_DRIVER = 75;

/** The environment variables that pass a process's standing and terminal to the process beneath it. */
const STANDING = "TIDEPOOL_SUPERVISED";
const COLUMNS = "TIDEPOOL_COLUMNS";

/** Commands that open no GPU; those of `cache` by their second word. */
const WITHOUT_GPU = [
  "tokenize",
  "render",
  "models",
  "replay",
  "replay-experts",
  "help",
  "ls",
  "stats",
  "verify",
  "clear",
  "import",
  "keygen",
];

/** A line of Dawn's about limits of the driver that Tidepool does not use. */
export const DAWN_NOISE =
  /^Warning: maxDynamic(?:Uniform|Storage)BuffersPerPipelineLayout artificially reduced /;
const NOISE_BEGINS = "Warning: maxDynamic";

type Standing = "alone" | "may install" | "supervised";

/** Whether a process above this one runs the command, and what that may do. */
export function standing(): Standing {
  return (process.env[STANDING] as Standing | undefined) ?? "alone";
}

/** With --verbose the command runs in this process, and what Dawn writes is seen. Elsewhere than on Linux it writes nothing. */
export function needsSupervision(words: readonly string[]): boolean {
  const name = words[0] === "cache" ? words[1] : words[0];
  const asksForHelp = words.includes("--help") || words.includes("-h");
  if (process.platform !== "linux" || "Deno" in globalThis || standing() !== "alone") return false;
  const isCommand = name !== undefined && !name.startsWith("-");
  return isCommand && !WITHOUT_GPU.includes(name) && !asksForHelp && !words.includes("--verbose");
}

/** The terminal of standard error, also if a process above passes it on. */
export function errorTerminal(): { isTTY: boolean; columns: number; write(text: string): unknown } {
  const above = process.env[COLUMNS];
  const { isTTY, columns } = process.stderr;
  return {
    isTTY: isTTY || above !== undefined,
    columns: above === undefined ? columns : Number(above),
    write: (text) => process.stderr.write(text),
  };
}

/**
 * Runs the command and takes over how it ends. If it found no adapter, and this command may install a driver, it installs
 * one and runs the command again.
 */
export async function supervise(words: readonly string[]): Promise<void> {
  const mayInstall = asksToInstall(words) && canInstall();
  let ended = await runBeneath(words, mayInstall ? "may install" : "supervised");
  if (ended.code === NEEDS_DRIVER && mayInstall) {
    installDriver();
    ended = await runBeneath(words, "supervised");
  }
  if (ended.signal !== null) process.kill(process.pid, ended.signal);
  process.exitCode = ended.code ?? 1;
}

/**
 * System packages are installed on request (`doctor --install`), and by the command of a checkout, which promises all of the
 * set-up. An installed package, and the library, never do it by themselves.
 */
export function asksToInstall(
  words: readonly string[],
  env: NodeJS.ProcessEnv = process.env,
  root = fileURLToPath(checkout()),
): boolean {
  if (words[0] === "doctor") return words.includes("--install");
  const isNpmScript =
    env["npm_lifecycle_event"] === "tidepool" && env["npm_package_json"] === `${root}package.json`;
  return isNpmScript && existsSync(`${root}test/support/fresh.mjs`);
}

/** Two folders up, from src/api and from dist/lib. */
function checkout(): URL {
  const here = import.meta.url; // not written inside of the URL: bundlers would take the file in
  return new URL("../../", here);
}

function installDriver(): void {
  const log = (line: string): void => void process.stderr.write(`tidepool: ${line}\n`);
  log("there is no adapter that WebGPU can use: installing Mesa's software driver (lavapipe)");
  if (hasRenderNode()) log("this machine has a GPU, whose own driver would be faster");
  install(["lavapipe"], log);
}

interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
}

function runBeneath(words: readonly string[], standing: Standing): Promise<Ended> {
  const { isTTY, columns } = process.stderr;
  const terminal = isTTY ? { [COLUMNS]: String(columns) } : {};
  const env = { ...process.env, ...terminal, [STANDING]: standing };
  const command = [...process.execArgv, process.argv[1] as string, ...words];
  const child = spawn(process.execPath, command, { env, stdio: ["inherit", "inherit", "pipe", "ipc"] });
  const filter = new NoiseFilter((text) => process.stderr.write(text));
  child.stderr?.setEncoding("utf8").on("data", (text: string) => filter.write(text));
  const letGo = passSignals((signal) => child.kill(signal));
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => {
      letGo();
      filter.end();
      resolve({ code, signal });
    });
  });
}

const SIGNALS: readonly NodeJS.Signals[] = ["SIGINT", "SIGTERM", "SIGHUP"];

/** Hands signals on, so that the command decides how it ends; until the returned function is called. */
function passSignals(pass: (signal: NodeJS.Signals) => void): () => void {
  for (const signal of SIGNALS) process.on(signal, pass);
  return () => {
    for (const signal of SIGNALS) process.off(signal, pass);
  };
}

/** Passes text on, at once, without the lines that are known noise. */
export class NoiseFilter {
  /** The beginning of a line that may turn out to be noise. */
  private held = "";
  private isAtLineStart = true;
  private readonly pass: (text: string) => void;

  constructor(pass: (text: string) => void) {
    this.pass = pass;
  }

  write(text: string): void {
    const lines = (this.held + text).split(/(?<=\n)/);
    this.held = "";
    for (const line of lines) this.take(line);
  }

  /** What is held back was no whole line: it is passed on. */
  end(): void {
    if (this.held !== "") this.pass(this.held);
    this.held = "";
  }

  private take(line: string): void {
    const isWhole = line.endsWith("\n");
    if (this.isAtLineStart && !isWhole && mayBeNoise(line)) this.held = line;
    else if (!this.isAtLineStart || !DAWN_NOISE.test(line)) {
      this.pass(line);
      this.isAtLineStart = isWhole;
    }
  }
}

function mayBeNoise(text: string): boolean {
  return text.startsWith(NOISE_BEGINS) || NOISE_BEGINS.startsWith(text);
}
