/**
 * Installs a Vulkan driver, and the tests' browser, on Debian and its relatives, or names the commands with which a person
 * would. It installs only when it is called: when that may be is for its callers to decide. Lavapipe comes
 * from the release itself where that is new enough, else from its backports, enabled in the sources file that is there
 * already. It names no mirror and adds no sources file.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** Dawn refuses lavapipe 22.3 (Debian 12's own); 24 is the oldest that counts as good without a try. */
const MESA_OLDEST_MAJOR = 24;

export type Need = "chromium" | "lavapipe";

const PACKAGES: Record<Need, string> = { chromium: "chromium", lavapipe: "mesa-vulkan-drivers" };

const SOURCES_FOLDER = "/etc/apt/sources.list.d";
const SOURCES_FILE = "/etc/apt/sources.list";

export const hasApt = (): boolean => process.platform === "linux" && existsSync("/usr/bin/apt-get");

export const isRoot = (): boolean => process.getuid?.() === 0;

/**
 * A sources file with `SUITE-backports` enabled beside `SUITE`: one more word in the `Suites:` of the first stanza that
 * has the suite, or, in the one-line form, one more line. `undefined` where the suite is not in this file.
 */
export function withBackports(text: string, suite: string): string | undefined {
  const lines = text.split("\n");
  const index = lines.findIndex((line) => suitesOf(line).includes(suite));
  const line = lines[index];
  if (line === undefined) return undefined;
  if (/^Suites:/i.test(line)) lines[index] = `${line.trimEnd()} ${suite}-backports`;
  else lines.splice(index + 1, 0, line.replace(` ${suite} `, ` ${suite}-backports `));
  return lines.join("\n");
}

/** Whether a sources file has the suite switched on. */
export function hasSuite(text: string, suite: string): boolean {
  return text.split("\n").some((line) => suitesOf(line).includes(suite));
}

function suitesOf(line: string): string[] {
  const stanza = /^Suites:\s*(.*)$/i.exec(line);
  if (stanza?.[1] !== undefined) return stanza[1].trim().split(/\s+/);
  const oneLine = /^deb\s+(?:\[[^\]]*\]\s+)?\S+\s+(\S+)\s/.exec(line);
  return oneLine?.[1] === undefined ? [] : [oneLine[1]];
}

/** The commands with which a person installs what is missing, one a line. */
export function commandsFor(needs: readonly Need[]): string[] {
  if (!hasApt()) return foreignCommands(needs);
  const lines: string[] = [];
  const backports = needs.includes("lavapipe") && candidateMajor() < MESA_OLDEST_MAJOR;
  const suite = `${codename()}-backports`;
  const sources = sourcesToEdit();
  if (backports && sources !== undefined) lines.push(editCommand(sources, codename()));
  lines.push("apt-get update");
  for (const need of needs) {
    const from = need === "lavapipe" && backports ? ` -t ${suite}` : "";
    lines.push(`apt-get install -y --no-install-recommends${from} ${PACKAGES[need]}`);
  }
  return lines;
}

function foreignCommands(needs: readonly Need[]): string[] {
  const lines: string[] = [];
  if (needs.includes("chromium")) {
    lines.push("install Chromium or Chrome (Fedora: dnf install chromium; Arch: pacman -S chromium),");
    lines.push("or set CHROMIUM to the program's path");
  }
  if (needs.includes("lavapipe")) {
    lines.push(`install Mesa's Vulkan drivers with lavapipe, version ${MESA_OLDEST_MAJOR} or later`);
    lines.push("(Fedora: dnf install mesa-vulkan-drivers; Arch: pacman -S vulkan-swrast)");
  }
  return lines;
}

function editCommand(sources: string, suite: string): string {
  return sources.endsWith(".sources")
    ? `sed -i -E '0,/^Suites:.*\\b${suite}( |$)/s/^(Suites:.*\\b${suite}( .*)?)$/\\1 ${suite}-backports/' ${sources}`
    : `sed -i -E 's/^(deb .*) ${suite} (.*)$/&\\n\\1 ${suite}-backports \\2/' ${sources}`;
}

/** Installs as root, printing what it does; what could not be installed shows when the caller looks again. */
export function install(needs: readonly Need[], log: (line: string) => void): void {
  apt(["update"], log);
  if (needs.includes("chromium")) apt(["install", PACKAGES.chromium], log);
  if (needs.includes("lavapipe")) installLavapipe(log);
}

function installLavapipe(log: (line: string) => void): void {
  if (candidateMajor() >= MESA_OLDEST_MAJOR) {
    apt(["install", PACKAGES.lavapipe], log);
    return;
  }
  const suite = `${codename()}-backports`;
  if (!enableBackports(log)) return;
  apt(["update"], log);
  apt(["install", "-t", suite, PACKAGES.lavapipe], log);
}

function enableBackports(log: (line: string) => void): boolean {
  const suite = codename();
  if (sourcesFiles().some((file) => hasSuite(readFileSync(file, "utf8"), `${suite}-backports`))) return true;
  const file = sourcesToEdit();
  const text = file === undefined ? undefined : withBackports(readFileSync(file, "utf8"), suite);
  if (file === undefined || text === undefined) {
    log(`no sources file names the suite ${suite}, so its backports cannot be added`);
    return false;
  }
  writeFileSync(file, text);
  log(`enabled ${suite}-backports in ${file}`);
  return true;
}

/** The first sources file with this release's suite but without its backports; none where they are on already. */
function sourcesToEdit(): string | undefined {
  const files = sourcesFiles().map((file) => ({ file, text: readFileSync(file, "utf8") }));
  if (files.some(({ text }) => hasSuite(text, `${codename()}-backports`))) return undefined;
  return files.find(({ text }) => hasSuite(text, codename()))?.file;
}

function sourcesFiles(): string[] {
  const parts = existsSync(SOURCES_FOLDER) ? readdirSync(SOURCES_FOLDER) : [];
  const files = parts
    .filter((name) => /\.(sources|list)$/.test(name))
    .map((name) => join(SOURCES_FOLDER, name));
  return existsSync(SOURCES_FILE) ? [SOURCES_FILE, ...files] : files;
}

function codename(): string {
  const release = existsSync("/etc/os-release") ? readFileSync("/etc/os-release", "utf8") : "";
  return /^VERSION_CODENAME=(\S+)$/m.exec(release)?.[1] ?? "stable";
}

/** The major version of lavapipe that apt would install by itself; 0 where it knows none. */
function candidateMajor(): number {
  const { stdout } = spawnSync("apt-cache", ["policy", PACKAGES.lavapipe], { encoding: "utf8" });
  return Number(/Candidate:\s*(?:\d+:)?(\d+)\./.exec(stdout ?? "")?.[1] ?? 0);
}

function apt(args: string[], log: (line: string) => void): void {
  const words = ["-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120", ...args];
  log(`apt-get ${args.join(" ")}`);
  try {
    execFileSync("apt-get", words, {
      env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
      stdio: ["ignore", "pipe", "pipe"],
      encoding: "utf8",
    });
  } catch (error) {
    const { stderr } = error as { stderr?: string };
    log(`apt-get ${args.join(" ")} failed: ${(stderr ?? "").trim().split("\n").slice(-3).join("; ")}`);
  }
}
