/**
 * A program that writes one of everything that holds prompts, or is kept beside it, into the folder given as its argument,
 * and prints the mode of each file and folder while all of it is open. For Node and Deno, bundled.
 */
import { lstat, readdir } from "node:fs/promises";
import { join } from "node:path";
import { openFilesFolder } from "../../src/load/download/kept/folder-files.ts";
import { writePrivateFile } from "../../src/platform/private-files.ts";
import { openFilesBackend } from "../../src/tier/disk/files.ts";
import { chain, encoded } from "./make.ts";

async function modesIn(folder: string): Promise<Record<string, string>> {
  const modes: Record<string, string> = {};
  for (const name of await readdir(folder, { recursive: true })) {
    const kind = name.replace(/[0-9a-f]{16}/, "W");
    modes[kind] = ((await lstat(join(folder, name))).mode & 0o777).toString(8);
  }
  return modes;
}

const [folder] = process.argv.slice(2) as [string];
const backend = await openFilesBackend(join(folder, "deep", "kv"));
await backend.open();
await backend.append(encoded(chain(1, 2)));
const models = await openFilesFolder(join(folder, "models"));
const release = await models.lock("0123456789abcdef");
await models.writeSmall("note-0.json", new Uint8Array(8));
const part = await models.openPart("model.bin");
await writePrivateFile(join(folder, "prefix.tide"), new Uint8Array(8));
console.log(JSON.stringify(await modesIn(folder)));
await part.close();
await release();
await backend.close();
