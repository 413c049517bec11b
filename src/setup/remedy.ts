/** What a person can do on a machine without a usable adapter, and whether it can be done from here. It does nothing. */
import { existsSync, readFileSync } from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { hasApt, isRoot } from "./apt.ts";

/** The command, as it is built. */
const COMMAND = "../lib/cli.js";

/** Whether `install` in apt.ts can do something here. */
export const canInstall = (): boolean => hasApt() && isRoot();

/** The distributions, by ID or ID_LIKE in os-release, with their own command. */
const COMMANDS: readonly [RegExp, string][] = [
  [/\b(fedora|rhel|centos)\b/, "sudo dnf install -y mesa-vulkan-drivers vulkan-loader"],
  [/\barch\b/, "sudo pacman -S --needed vulkan-swrast vulkan-icd-loader"],
  [/\b(suse|opensuse)\b/, "sudo zypper install -y libvulkan_lvp libvulkan1"],
];

/** The one command that installs a driver here; `undefined` if none is known. */
export function installCommand(): string | undefined {
  if (process.platform !== "linux") return undefined;
  if (hasApt())
    return `${isRoot() ? "" : "sudo "}${quoted(process.execPath)} ${quoted(cliFile())} doctor --install`;
  return COMMANDS.find(([like]) => like.test(distribution()))?.[1];
}

/** Lines for people, below the error that there is no adapter. */
export function remedy(): string[] {
  const command = installCommand();
  if (command !== undefined)
    return ["This installs Mesa's software driver (lavapipe), which needs no GPU:", "", `  ${command}`, ""];
  if (process.platform !== "linux") return ["Install or update the driver of this machine's GPU."];
  return ["Install a Vulkan driver: that of the GPU, or Mesa's lavapipe of version 24 or later."];
}

function cliFile(): string {
  const here = import.meta.url; // not written inside of the URL: bundlers would take the file in
  return fileURLToPath(new URL(COMMAND, here));
}

function distribution(): string {
  const file = "/etc/os-release";
  const text = existsSync(file) ? readFileSync(file, "utf8") : "";
  return [...text.matchAll(/^(?:ID|ID_LIKE)=(.*)$/gm)].map(([, value]) => value ?? "").join(" ");
}

const quoted = (path: string): string => (/^[\w./:@+-]+$/.test(path) ? path : `"${path}"`);
