/**
 * Builds the library and its command (dist/lib) unless it is newer than its sources; says nothing when all is well.
 * npm runs it after an install (`prepare`) and before the command (`npm run tidepool`). Plain JavaScript, because it
 * runs before anything is built.
 */
import { existsSync, mkdirSync, readdirSync, rmdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const BUILT = "dist/lib/cli.js";
const SOURCES = ["src", "shaders", "vite.config.ts", "package-lock.json"];
const LOCK = "dist/lib.building";
/** How long to wait for another process that builds. */
const LOCK_LIMIT_MS = 60_000;

function newest(path) {
  const about = statSync(path);
  if (!about.isDirectory()) return about.mtimeMs;
  return Math.max(0, ...readdirSync(path).map((name) => newest(join(path, name))));
}

function isFresh() {
  return existsSync(BUILT) && statSync(BUILT).mtimeMs > Math.max(...SOURCES.map(newest));
}

async function takeLock() {
  mkdirSync("dist", { recursive: true });
  for (const until = Date.now() + LOCK_LIMIT_MS; ; await sleep(100)) {
    try {
      mkdirSync(LOCK);
      return;
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
      if (Date.now() > until) throw new Error(`${LOCK} is in the way: if no build is running, remove it`);
    }
  }
}

async function buildOnce() {
  await takeLock();
  try {
    if (isFresh()) return;
    const { build } = await import("vite");
    await build({ mode: "lib", logLevel: "error" });
  } finally {
    rmdirSync(LOCK);
  }
}

if (!isFresh()) await buildOnce();
