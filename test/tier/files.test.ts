/** The folder backend against the conformance suite, and what only folders have: locks between processes. */
import { mkdtemp, readdir, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { ABANDONED_MS, placeOfIds, STALE_MS, takeFileLock } from "../../src/platform/file-lock.ts";
import { FilesMedium, openFilesBackend } from "../../src/tier/disk/files.ts";
import { testSeed } from "../support/seed.ts";
import { casesFor } from "./conformance.ts";
import { folderFixture } from "./files-entry.ts";

describe("files", () => {
  for (const { name, run } of casesFor({ persistent: true })) {
    test(name, async () => {
      const fixture = await folderFixture();
      await run(fixture);
      await fixture.cleanUp();
    });
  }
});

describe("file locks", () => {
  const writer = "0123456789abcdef";

  async function inFolder(work: (folder: string) => Promise<void>): Promise<void> {
    const folder = await mkdtemp(join(tmpdir(), "tidepool-lock-"));
    await work(folder);
    await rm(folder, { recursive: true });
  }

  test("a held lock is refused and a released one is free", () =>
    inFolder(async (folder) => {
      const lock = await takeFileLock(folder, writer);
      expect(await lock?.isHeld()).toBe(true);
      expect(await takeFileLock(folder, writer)).toBeUndefined();
      await lock?.release();
      expect(await lock?.isHeld()).toBe(false);
      expect(await readdir(folder)).toEqual([]);
      expect(await takeFileLock(folder, writer)).toBeDefined();
    }));

  test("a dead process's lock is taken over, and by one taker only", () =>
    inFolder(async (folder) => {
      const dead = JSON.stringify({ id: "a", pid: 2 ** 22 + 1, place: await placeOfIds(), started: "1" });
      await writeFile(join(folder, `${writer}-3.lock`), dead);
      const takers = await Promise.all(Array.from({ length: 8 }, () => takeFileLock(folder, writer)));
      expect(takers.filter((release) => release !== undefined)).toHaveLength(1);
      expect(await readdir(folder)).toEqual([`${writer}-4.lock`]);
    }));

  test("a process id that was given out again does not keep a dead lock alive", () =>
    inFolder(async (folder) => {
      const reused = JSON.stringify({ id: "a", pid: process.pid, place: await placeOfIds(), started: "1" });
      await writeFile(join(folder, `${writer}-1.lock`), reused);
      expect(await takeFileLock(folder, writer)).toBeDefined();
    }));

  test("an unreadable lock counts while its heartbeat may go on, and not when nobody has touched it for a day", () =>
    inFolder(async (folder) => {
      const path = join(folder, `${writer}-1.lock`);
      await writeFile(path, "{");
      expect(await takeFileLock(folder, writer)).toBeUndefined();
      const old = new Date(Date.now() - ABANDONED_MS - 1000);
      await utimes(path, old, old);
      expect(await takeFileLock(folder, writer)).toBeDefined();
    }));

  test("a process id of another namespace says nothing: only a heartbeat that is seen to stand still does", () =>
    inFolder(async (folder) => {
      const path = join(folder, `${writer}-1.lock`);
      const elsewhere = { id: "a", pid: 2 ** 22 + 1, place: "this-boot pid:[1]", started: "1" };
      await writeFile(path, JSON.stringify(elsewhere));
      const slow = new Date(Date.now() - 2 * STALE_MS); // the holder's clock is behind, or it is the file server's
      await utimes(path, slow, slow);
      let nowMs = 0;
      const clock = { nowMs: () => nowMs };
      expect(await takeFileLock(folder, writer, clock)).toBeUndefined();
      nowMs += STALE_MS - 1;
      await utimes(path, slow, new Date(slow.getTime() + 10_000)); // a heartbeat
      expect(await takeFileLock(folder, writer, clock)).toBeUndefined();
      nowMs += STALE_MS;
      expect(await takeFileLock(folder, writer, clock)).toBeUndefined();
      nowMs += 2;
      expect(await takeFileLock(folder, writer, clock)).toBeDefined();
    }));
});

test("the lock of a process that died before it wrote anything goes with the next idle work", async () => {
  const folder = await mkdtemp(join(tmpdir(), "tidepool-lock-"));
  const dead = JSON.stringify({ id: "a", pid: 2 ** 22 + 1, place: await placeOfIds(), started: "1" });
  await writeFile(join(folder, "0123456789abcdef-1.lock"), dead);
  const backend = await openFilesBackend(folder);
  await backend.open();
  await backend.maintain();
  await backend.close();
  expect(await readdir(folder)).toEqual([]);
  await rm(folder, { recursive: true });
});

test("reads asked for at once bring what each would alone, also across the end of the file", async () => {
  const folder = await mkdtemp(join(tmpdir(), "tidepool-reads-"));
  const bytes = Uint8Array.from({ length: 1000 }, (_, index) => index % 251);
  await writeFile(join(folder, "file"), bytes);
  const random = new Random(testSeed("gathered reads"));
  const medium = new FilesMedium(folder);
  for (let round = 0; round < 50; round++) {
    const lengths = Array.from({ length: 1 + random.below(12) }, () => random.below(150));
    let at = random.below(200);
    const wanted = lengths.map((length) => {
      const offset = at;
      at += length + (random.below(3) === 0 ? random.below(5) : 0);
      return { offset, length };
    });
    const found = await Promise.all(wanted.map(({ offset, length }) => medium.read("file", offset, length)));
    expect(found).toEqual(wanted.map(({ offset, length }) => bytes.slice(offset, offset + length)));
    expect(new Set(found.map(({ buffer }) => buffer)).size).toBe(found.length);
  }
  await expect(medium.read("nothing", 0, 1)).rejects.toMatchObject({ fault: "gone" });
  await medium.close();
  await rm(folder, { recursive: true });
});
