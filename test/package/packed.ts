/**
 * The packages as a consumer gets them: packed by npm, unpacked into the node_modules of a temporary folder, beside links
 * to the dependencies that they name, and nothing else. It needs no network.
 */
import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

/** Building and packing, on a machine that does other work too. */
const PACK_LIMIT_MS = 180_000;

export interface Consumer {
  /** The folder that has node_modules. */
  root: string;
  /** A folder below it with these files, as a project of its own. */
  project(name: string, files: Record<string, string>): string;
  remove(): void;
}

interface Package {
  name: string;
  version: string;
  dependencies?: Record<string, string>;
}

/** Packs tidepool and tidepool-models and installs them into a new folder. */
export async function installPacked(): Promise<Consumer> {
  const root = mkdtempSync(join(tmpdir(), "tidepool-package-"));
  for (const folder of [".", "./demo/models"]) await install(folder, root);
  return {
    root,
    project(name, files) {
      const folder = join(root, name);
      const all = { "package.json": '{ "type": "module", "dependencies": { "tidepool": "*" } }', ...files };
      for (const [file, text] of Object.entries(all)) {
        mkdirSync(dirname(join(folder, file)), { recursive: true });
        writeFileSync(join(folder, file), text);
      }
      return folder;
    },
    remove: () => rmSync(root, { recursive: true, force: true }),
  };
}

async function install(folder: string, root: string): Promise<void> {
  const {
    name,
    version,
    dependencies = {},
  } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as Package;
  await npm(["pack", folder, "--pack-destination", root]);
  const place = join(root, "node_modules", name);
  mkdirSync(place, { recursive: true });
  await run("tar", ["-xzf", `${name}-${version}.tgz`, "-C", place, "--strip-components=1"], { cwd: root });
  for (const dependency of Object.keys(dependencies)) {
    const link = join(root, "node_modules", dependency);
    mkdirSync(dirname(link), { recursive: true });
    symlinkSync(resolve("node_modules", dependency), link, "junction");
  }
}

/** npm as it was started, or the one on the PATH. */
async function npm(args: string[]): Promise<void> {
  const script = process.env["npm_execpath"];
  const options = { timeout: PACK_LIMIT_MS, maxBuffer: 2 ** 26 };
  if (script !== undefined && script.endsWith(".js")) await run(process.execPath, [script, ...args], options);
  else await run("npm", args, { ...options, shell: process.platform === "win32" });
}
