/**
 * Locks between processes that share a folder, for Node and Deno, which have none. A writer's lock is a file
 * `<writer>-<generation>.lock`, made exclusively; the highest generation holds. When a holder is dead, whoever makes the
 * next generation has taken over: exclusive creation lets only one win, and no file is ever replaced.
 *
 * A holder is dead if its process id, in this process's own namespace of ids, is gone or belongs to a process that started at
 * another time. Two containers may share a folder, a host name and even ids without seeing each other's processes: of a holder
 * elsewhere, or whose place is unknown, only the heartbeat counts. It must stand still for STALE_MS of the looker's own waking
 * time, so that neither clocks that differ nor a machine that slept make a living holder look dead.
 *
 * A process that is stopped for long enough loses its lock all the same. A lock is advice: who writes asks isHeld() afterwards,
 * before it believes that what it wrote counts.
 */
import { lstat, readdir, readFile, readlink, unlink, utimes } from "node:fs/promises";
import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { background, systemClock, type Clock } from "../base.ts";
import { codeOf, createPrivateFile, readPrivateFile } from "./private-files.ts";

const HEARTBEAT_MS = 10_000;
export const STALE_MS = 60_000;

/** A heartbeat older than this by the file's time is nobody's: what is left of containers that are gone. */
export const ABANDONED_MS = 24 * 3_600_000;
/** Heartbeats remembered between two looks. */
const MAX_WATCHED = 4096;

export interface FileLock {
  release(): Promise<void>;
  /** Whether it has not been taken over, by others who held this process for dead, nor removed. */
  isHeld(): Promise<boolean>;
}

const LOCK_FILE = /^([0-9a-f]{16})-(\d{1,9})\.lock$/;

interface Holder {
  /** Random: which of all locks this is. */
  id: string;
  pid: number;
  /** Where the process id means something; "" if that is unknown. */
  place: string;
  /** The kernel's start time of the process, where it tells. */
  started: string;
}

interface LockFile {
  path: string;
  generation: number;
}

/** Heartbeats of others, and since when they have stood still by this process's clock. */
const watched = new Map<string, { beat: string; sinceMs: number }>();

/** Takes `writer`'s lock in `folder`; undefined if a living process holds it, or one of which that is not known yet. */
export async function takeFileLock(
  folder: string,
  writer: string,
  clock: Clock = systemClock,
): Promise<FileLock | undefined> {
  const held = await newest(folder, writer);
  if (held !== undefined && !(await isDead(held.path, clock))) return undefined;
  const generation = (held?.generation ?? 0) + 1;
  const path = join(folder, `${writer}-${generation}.lock`);
  const id = randomUUID();
  if (!(await makeLock(path, id))) return undefined;
  const latest = await newest(folder, writer);
  if (latest?.generation !== generation) {
    await discard(path); // others took it over and passed it on since we looked
    return undefined;
  }
  if (held !== undefined) await discard(held.path);
  return keepAlive(path, id);
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

async function makeLock(path: string, id: string): Promise<boolean> {
  const holder: Holder = { id, pid: process.pid, place: await placeOfIds(), started: await startOf("self") };
  try {
    const file = await createPrivateFile(path);
    await file.writeFile(JSON.stringify(holder)).finally(() => file.close());
    return true;
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false;
    throw error;
  }
}

function keepAlive(path: string, id: string): FileLock {
  const beat = (): void => background(touch(path), "heartbeat of a writer's lock");
  const timer = setInterval(beat, HEARTBEAT_MS);
  unref(timer);
  const isHeld = async (): Promise<boolean> => (await holderOf(path))?.id === id;
  const release = async (): Promise<void> => {
    clearInterval(timer);
    if (await isHeld()) await discard(path);
  };
  return { release, isHeld };
}

async function touch(path: string): Promise<void> {
  const now = new Date();
  try {
    await utimes(path, now, now);
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error; // the folder was cleared by its user
  }
}

async function isDead(path: string, clock: Clock): Promise<boolean> {
  const holder = await holderOf(path);
  const place = await placeOfIds();
  if (holder === undefined || place === "" || holder.place !== place) return isStale(path, clock);
  const alive = isAlive(holder.pid);
  if (alive === false) return true;
  const started = holder.pid === process.pid ? await startOf("self") : await startOf(holder.pid);
  const isOther = started !== "" && holder.started !== "" && started !== holder.started;
  if (isOther) return true;
  // A thread of this very process may have been ended with its lock: its heartbeat tells.
  const isCertain = holder.pid !== process.pid && started !== "" && holder.started !== "";
  return !isCertain && (await isStale(path, clock));
}

/** What a lock file says; undefined if it is unreadable, as when its maker died in between. */
async function holderOf(path: string): Promise<Holder | undefined> {
  try {
    const file = await readPrivateFile(path);
    const text = await file.readFile("utf8").finally(() => file.close());
    const value = JSON.parse(text) as Partial<Holder>;
    const { id, pid, place, started } = value;
    if (typeof pid !== "number" || typeof started !== "string") return undefined;
    if (typeof id !== "string" || typeof place !== "string") return undefined;
    return { id, pid, place, started };
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

/** Whether a heartbeat has stood still for long enough since it was first looked at. */
async function isStale(path: string, clock: Clock): Promise<boolean> {
  let mtimeMs: number;
  let beat: string;
  try {
    const found = await lstat(path);
    mtimeMs = found.mtimeMs;
    beat = `${found.ino} ${mtimeMs}`;
  } catch (error) {
    if (codeOf(error) === "ENOENT") return true;
    throw error;
  }
  if (Date.now() - mtimeMs > ABANDONED_MS) return true;
  const before = watched.get(path);
  if (before?.beat === beat) return clock.nowMs() - before.sinceMs > STALE_MS;
  watched.delete(path);
  if (watched.size >= MAX_WATCHED) watched.delete(watched.keys().next().value as string);
  watched.set(path, { beat, sinceMs: clock.nowMs() });
  return false;
}

let place: Promise<string> | undefined;

/** The namespace of process ids that this process lives in, on this run of this machine; "" if that cannot be known. */
export function placeOfIds(): Promise<string> {
  place ??= process.platform === "linux" ? linuxPlace() : Promise.resolve(hostPlace());
  return place;
}

async function linuxPlace(): Promise<string> {
  try {
    const boot = await readFile("/proc/sys/kernel/random/boot_id", "utf8");
    return `${boot.trim()} ${await readlink("/proc/self/ns/pid")}`;
  } catch {
    return "";
  }
}

/** Other systems have one namespace; a Linux container on them says where it is otherwise. */
function hostPlace(): string {
  try {
    return `${process.platform} ${hostname()}`;
  } catch {
    return ""; // Deno without --allow-sys
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
