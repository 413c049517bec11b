/**
 * Locks between processes that share a folder, for Node and Deno, which have none. A writer's lock is a file
 * `<writer>-<generation>.lock`, made exclusively; the highest generation holds. When a holder is dead, whoever makes the
 * next generation has taken over: exclusive creation lets only one win, and no file is ever replaced.
 *
 * A holder is dead if it is of this machine and its process id is gone, or belongs to a process that started at another
 * time; where that cannot be known (another machine, no rights) its heartbeat must be older than STALE_MS.
 * A lock is advice: should a sleeping holder lose it, its later records are merely not found.
 */
import { lstat, readdir, readFile, unlink, utimes } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { background } from "./base.ts";
import { codeOf, createPrivateFile, readPrivateFile } from "./private-files.ts";

export const HEARTBEAT_MS = 10_000;
export const STALE_MS = 60_000;

/** Gives a lock back. */
type Release = () => Promise<void>;

const LOCK_FILE = /^([0-9a-f]{16})-(\d{1,9})\.lock$/;

interface Holder {
  pid: number;
  host: string;
  /** The kernel's start time of the process, where it tells. */
  started: string;
}

interface LockFile {
  path: string;
  generation: number;
}

/** Takes `writer`'s lock in `folder`; undefined if a living process holds it. */
export async function takeFileLock(folder: string, writer: string): Promise<Release | undefined> {
  const held = await newest(folder, writer);
  if (held !== undefined && !(await isDead(held.path))) return undefined;
  const generation = (held?.generation ?? 0) + 1;
  const path = join(folder, `${writer}-${generation}.lock`);
  if (!(await makeLock(path))) return undefined;
  const latest = await newest(folder, writer);
  if (latest?.generation !== generation) {
    await discard(path); // others took it over and passed it on since we looked
    return undefined;
  }
  if (held !== undefined) await discard(held.path);
  return keepAlive(path);
}

async function newest(folder: string, writer: string): Promise<LockFile | undefined> {
  let best: LockFile | undefined;
  for (const name of await readdir(folder)) {
    const match = LOCK_FILE.exec(name);
    if (match?.[1] !== writer) continue;
    const generation = Number(match[2]);
    if (generation > (best?.generation ?? 0)) best = { path: join(folder, name), generation };
  }
  return best;
}

async function makeLock(path: string): Promise<boolean> {
  const holder: Holder = { pid: process.pid, host: hostOf(), started: await startOf("self") };
  try {
    const file = await createPrivateFile(path);
    await file.writeFile(JSON.stringify(holder)).finally(() => file.close());
    return true;
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false;
    throw error;
  }
}

function keepAlive(path: string): Release {
  const beat = (): void => background(touch(path), "heartbeat of a writer's lock");
  const timer = setInterval(beat, HEARTBEAT_MS);
  unref(timer);
  return async () => {
    clearInterval(timer);
    await discard(path);
  };
}

async function touch(path: string): Promise<void> {
  const now = new Date();
  try {
    await utimes(path, now, now);
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error; // the folder was cleared by its user
  }
}

async function isDead(path: string): Promise<boolean> {
  const holder = await holderOf(path);
  if (holder === undefined || holder.host !== hostOf()) return isStale(path);
  const alive = isAlive(holder.pid);
  if (alive === false) return true;
  const started = holder.pid === process.pid ? await startOf("self") : await startOf(holder.pid);
  // A thread of this very process may have been ended with its lock: its heartbeat tells.
  if (holder.pid === process.pid) return (await isStale(path)) || started !== holder.started;
  if (started !== "" && holder.started !== "") return started !== holder.started;
  return isStale(path);
}

/** What a lock file says; undefined if it is unreadable, as when its maker died in between. */
async function holderOf(path: string): Promise<Holder | undefined> {
  try {
    const file = await readPrivateFile(path);
    const text = await file.readFile("utf8").finally(() => file.close());
    const value = JSON.parse(text) as Partial<Holder>;
    const { pid, host, started } = value;
    if (typeof pid !== "number" || typeof host !== "string" || typeof started !== "string") return undefined;
    return { pid, host, started };
  } catch {
    return undefined;
  }
}

/** Undefined where the platform does not let us ask. */
function isAlive(pid: number): boolean | undefined {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    if (codeOf(error) === "ESRCH") return false;
    return codeOf(error) === "EPERM" ? true : undefined;
  }
}

/** The kernel's start time of a process (field 22 of Linux's stat); "" where there is none to be had. */
async function startOf(pid: number | "self"): Promise<string> {
  try {
    const text = await readFile(`/proc/${pid}/stat`, "utf8");
    return text.slice(text.lastIndexOf(")") + 2).split(" ")[19] ?? "";
  } catch {
    return "";
  }
}

async function isStale(path: string): Promise<boolean> {
  try {
    return Date.now() - (await lstat(path)).mtimeMs > STALE_MS;
  } catch (error) {
    if (codeOf(error) === "ENOENT") return true;
    throw error;
  }
}

function hostOf(): string {
  try {
    return hostname();
  } catch {
    return "unknown"; // Deno without --allow-sys
  }
}

async function discard(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error;
  }
}

/** Lets the process end although a timer is set. */
function unref(timer: unknown): void {
  (timer as { unref?: () => void }).unref?.();
}
