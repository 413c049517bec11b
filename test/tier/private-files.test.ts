/** What holds prompts is its owner's alone: modes under every umask, in Node and Deno, and no symbolic link is followed. */
import { execFileSync } from "node:child_process";
import { chmod, lstat, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cacheExport } from "../../src/api/commands/cache.ts";
import type { Engine } from "../../src/engine/engine.ts";
import { openFilesFolder } from "../../src/load/download/kept/folder-files.ts";
import { writePrivateFile } from "../../src/platform/private-files.ts";
import { openFilesBackend } from "../../src/tier/disk/files.ts";
import { bundleForNode } from "../support/bundle.ts";
import { findDeno } from "../support/machine.ts";
import { chain, encoded } from "./make.ts";

let scratch: string;
let script: string;

beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "tidepool-private-"));
  script = fileURLToPath(await bundleForNode(fileURLToPath(new URL("./private-entry.ts", import.meta.url))));
}, 60_000);

afterAll(async () => {
  await rm(scratch, { recursive: true });
  await rm(dirname(script), { recursive: true });
});

const modeOf = async (path: string): Promise<string> => ((await lstat(path)).mode & 0o777).toString(8);

const isLock = (name: string): boolean => name.endsWith(".lock");

async function expectPrivate(program: readonly string[], umask: string): Promise<void> {
  const folder = await mkdtemp(join(scratch, "modes-"));
  const command = `umask ${umask} && exec "$@"`;
  const out = execFileSync("sh", ["-c", command, "sh", ...program, script, folder], { encoding: "utf8" });
  const modes = JSON.parse(out) as Record<string, string>;
  const names = Object.keys(modes);
  expect(names.filter(isLock)).toHaveLength(2);
  expect(names).toEqual(expect.arrayContaining(["deep/kv/W-000000.data", "deep/kv/W-000000.trail"]));
  expect(names).toEqual(expect.arrayContaining(["models/model.bin", "models/note-0.json", "prefix.tide"]));
  for (const [name, mode] of Object.entries(modes)) {
    expect(`${name} ${mode}`).toBe(`${name} ${/\.\w+$/.test(name) ? "600" : "700"}`);
  }
}

describe("modes", { timeout: 60_000 }, () => {
  for (const umask of ["000", "022", "077"]) {
    test(`in Node under umask ${umask}`, () => expectPrivate([process.execPath], umask));
  }

  test("in Deno under umask 000", async () => {
    const deno = await findDeno();
    await expectPrivate([deno, "run", "-A", "--quiet"], "000");
  });
});

describe("an existing folder", () => {
  test("of a store is tightened, with the files in it", async () => {
    const folder = await mkdtemp(join(scratch, "old-"));
    const old = join(folder, "0123456789abcdef-000000.data");
    await writeFile(old, "prompts", { mode: 0o644 });
    await chmod(folder, 0o755);
    const told: string[] = [];
    await openFilesBackend(folder, { onExposed: (message) => told.push(message) });
    expect([await modeOf(folder), await modeOf(old), told]).toEqual(["700", "600", []]);
  });

  test("that holds other files keeps its mode, which is reported", async () => {
    const folder = await mkdtemp(join(scratch, "mixed-"));
    await writeFile(join(folder, "thesis.txt"), "", { mode: 0o644 });
    await chmod(folder, 0o755);
    const told: string[] = [];
    const backend = await openFilesBackend(folder, { onExposed: (message) => told.push(message) });
    await backend.open();
    await backend.append(encoded(chain(1, 1)));
    expect([await modeOf(folder), await modeOf(join(folder, "thesis.txt"))]).toEqual(["755", "644"]);
    expect(told).toEqual([expect.stringContaining(`${folder} can be listed by other users`)]);
    for (const name of await readdir(folder)) {
      if (name !== "thesis.txt") expect(await modeOf(join(folder, name))).toBe("600");
    }
    await backend.close();
  });
});

describe("a symbolic link", () => {
  test("in place of the folder is refused, by the KV store and by the models'", async () => {
    const target = await mkdtemp(join(scratch, "target-"));
    const link = join(scratch, "link");
    await symlink(target, link);
    await expect(openFilesBackend(link)).rejects.toThrow(`${link} is a symbolic link: expected a folder`);
    await expect(openFilesFolder(link)).rejects.toThrow("is a symbolic link");
    expect(await readdir(target)).toEqual([]);
  });

  test("in place of a store's file is neither listed, read, written nor removed with its target", async () => {
    const folder = await mkdtemp(join(scratch, "planted-"));
    const victim = join(scratch, "victim");
    await writeFile(victim, "mine", { mode: 0o644 });
    const writer = "00000000000000aa";
    for (const part of ["data", "trail"]) await symlink(victim, join(folder, `${writer}-000000.${part}`));
    const backend = await openFilesBackend(folder, { writer });
    expect((await backend.open()).added).toEqual([]);
    await expect(backend.append(encoded(chain(1, 1)))).rejects.toThrow("EEXIST");
    await expect(backend.medium.read(`${writer}-000000.data`, 0, 4)).rejects.toThrow("ELOOP");
    await backend.close();
    expect([await readFile(victim, "utf8"), await modeOf(victim)]).toEqual(["mine", "644"]);
  });

  test("in place of a model's file or of an exported archive is not written through", async () => {
    const folder = join(scratch, "models");
    await mkdir(folder);
    const victim = join(scratch, "other-victim");
    await writeFile(victim, "mine", { mode: 0o644 });
    for (const name of ["model.bin", "note-0.json.new", "out.tide"])
      await symlink(victim, join(folder, name));
    const models = await openFilesFolder(folder);
    await expect(models.openPart("model.bin")).rejects.toThrow("ELOOP");
    await expect(models.openKept("model.bin", 4, "m")).resolves.toBeUndefined();
    await expect(models.writeSmall("note-0.json", new Uint8Array(1))).rejects.toThrow("ELOOP");
    await expect(writePrivateFile(join(folder, "out.tide"), new Uint8Array(1))).rejects.toThrow("ELOOP");
    expect([await readFile(victim, "utf8"), await modeOf(victim)]).toEqual(["mine", "644"]);
  });
});

test("an archive exported over a readable file is private, and shorter content leaves no rest", async () => {
  const file = join(scratch, "exported.tide");
  await writeFile(file, "something longer that was there", { mode: 0o644 });
  const cache = {
    drain: () => Promise.resolve({ left: 0 }),
    export: () => Promise.resolve({ archive: Uint8Array.of(1, 2, 3), blocks: 1, missing: 0 }),
  };
  const engine = { warm: () => Promise.resolve(), cache } as unknown as Engine;
  await cacheExport(engine, "prompt", false, file);
  expect([await modeOf(file), [...(await readFile(file))]]).toEqual(["600", [1, 2, 3]]);
});
