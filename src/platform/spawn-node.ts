/**
 * Workers in Node: threads of the main thread, and processes for callers that are threads themselves. It sees to it that
 * neither takes its host along: Dawn aborts the whole process if a thread ends while an answer of the GPU is awaited, and
 * nothing can be run in a thread that its host terminates. What is said to a worker is not known here.
 */
import type { ChildProcess } from "node:child_process";
import type { MessagePort, Worker as Thread, WorkerOptions } from "node:worker_threads";
import { TidepoolError } from "../errors.ts";
import type { Spawned } from "./spawned.ts";

/** What a thread gets to hear when its end has come, and to say when it is ready for it. */
export interface ThreadData {
  /** Any message to it: end. Any message from it: it is ready. */
  end: MessagePort;
  /** One number: 1 when the thread has ended its work and blocks. */
  ended: Int32Array;
}

/** How long a worker may take to end its work before it is ended by force. */
const END_LIMIT_MS = 10_000;

const threads = () => process.getBuiltinModule("node:worker_threads");

/**
 * Starts a worker. In a thread it is a process, since a host may terminate its threads at any moment.
 * @param clonesBlobs whether it will be posted blobs, which reach threads alone
 */
export function spawnInNode<ToIt, FromIt>(file: URL, clonesBlobs: boolean): Spawned<ToIt, FromIt> {
  return threads().isMainThread || clonesBlobs ? spawnThread(file) : spawnProcess(file);
}

/**
 * A script of the library that lies beside the file at `here`; if a bundler took that file in and left the script behind, the
 * one of the installed package.
 * @throws TidepoolError `unsupported`
 */
export function findScript(name: string, here: string | undefined): URL {
  const { existsSync } = process.getBuiltinModule("node:fs");
  const { createRequire } = process.getBuiltinModule("node:module");
  const { pathToFileURL } = process.getBuiltinModule("node:url");
  const beside = here === undefined ? undefined : new URL(name, here);
  if (beside && existsSync(beside)) return beside;
  try {
    const from = here ?? pathToFileURL(process.argv[1] ?? "./x");
    const installed = new URL(name, pathToFileURL(createRequire(from).resolve("tidepool")));
    if (existsSync(installed)) return installed;
  } catch {
    // It is not installed: told below.
  }
  const message = `${beside?.href ?? name} is missing: a bundler took Tidepool in without its workers; install the package beside the bundle, or leave it outside (esbuild: --external:tidepool)`;
  throw new TidepoolError("unsupported", message);
}

interface Living {
  end: MessagePort;
  ended: Int32Array;
}

/** Threads that may use the GPU. */
const living = new Set<Living>();

function spawnThread<ToIt, FromIt>(file: URL): Spawned<ToIt, FromIt> {
  const { Worker, MessageChannel } = threads();
  const { port1, port2 } = new MessageChannel();
  const ended = new Int32Array(new SharedArrayBuffer(4));
  const data: ThreadData = { end: port2, ended };
  const settings = { name: "tidepool", workerData: data, transferList: [port2] };
  const thread: Thread = new Worker(file, { ...settings, ...inherited() });
  port1.unref();
  const one = { end: port1, ended };
  if (living.size === 0) process.on("exit", endThreads);
  living.add(one);
  const gone = new Promise<void>((resolve) => thread.once("exit", () => resolve()));
  const forget = (): void => {
    port1.close();
    living.delete(one);
    if (living.size === 0) process.off("exit", endThreads);
  };
  let onExit: (code: number) => void = () => {};
  let onError: (error: unknown) => void = () => {};
  let onMessage: (message: FromIt) => void = () => {};
  thread.on("message", (message: FromIt) => onMessage(message));
  thread.on("error", (error: unknown) => onError(error));
  thread.on("exit", (code) => (forget(), onExit(code)));
  return {
    post: (message, transfer = []) => thread.postMessage(message, transfer as ArrayBuffer[]),
    listen(hear, onDeath) {
      onMessage = hear;
      onError = (error) => onDeath(error instanceof Error ? error.message : String(error));
      onExit = (code) => onDeath(`it ended with code ${code}`);
    },
    keepAlive: (on) => (on ? thread.ref() : thread.unref()),
    async terminate() {
      [onMessage, onError, onExit] = [() => {}, () => {}, () => {}];
      thread.ref();
      const isReady = new Promise<void>((resolve) => port1.once("message", () => resolve()));
      port1.postMessage("end");
      await within(END_LIMIT_MS, Promise.race([gone, isReady]));
      await thread.terminate();
    },
  };
}

/** The process ends: its threads end their work first, for which it waits. */
function endThreads(): void {
  const until = performance.now() + END_LIMIT_MS;
  for (const { end } of living) end.postMessage("end");
  for (const { ended } of living) Atomics.wait(ended, 0, 0, Math.max(0, until - performance.now()));
}

function spawnProcess<ToIt, FromIt>(file: URL): Spawned<ToIt, FromIt> {
  const { fork } = process.getBuiltinModule("node:child_process");
  const child: ChildProcess = fork(process.getBuiltinModule("node:url").fileURLToPath(file), {
    serialization: "advanced",
    execArgv: loadingFlags(process.execArgv),
    stdio: ["ignore", "inherit", "inherit", "ipc"],
    ...environment(),
  });
  const gone = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  let hear: (message: FromIt) => void = () => {};
  let onDeath: (why: string) => void = () => {};
  child.on("message", (message) => hear(message as FromIt));
  child.on("error", (error) => onDeath(error.message));
  child.on("exit", (code, signal) =>
    onDeath(signal ? `it was killed by ${signal}` : `it ended with code ${code}`),
  );
  return {
    post: (message) => void (child.connected && child.send(message as object)),
    listen: (onMessage, onItsDeath) => ([hear, onDeath] = [onMessage, onItsDeath]),
    keepAlive(on) {
      const { channel } = child;
      if (on) (child.ref(), channel?.ref());
      else (child.unref(), channel?.unref());
    },
    async terminate() {
      [hear, onDeath] = [() => {}, () => {}];
      child.ref();
      if (child.connected) child.disconnect(); // it ends its work, then itself
      await within(END_LIMIT_MS, gone);
      child.kill("SIGKILL");
      await gone;
    },
  };
}

/** Waits for something, but not for ever. */
async function within(ms: number, work: Promise<void>): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  await Promise.race([work, new Promise<void>((resolve) => (timer = setTimeout(resolve, ms)))]);
  clearTimeout(timer);
}

/** Of flags that say what text given to `node` is, a worker would say that it is none. Others a worker may inherit. */
const INPUT_TYPE = /^--(input-type|experimental-default-type)(=|$)/;

/** Flags that say how modules are found and loaded. */
const LOADING = /^(--import|--require|-r|--(experimental-)?loader|--conditions|-C)(=|$)/;

/** Settings of a worker thread: those of this one, but for what would keep it from starting. */
function inherited(): Pick<WorkerOptions, "execArgv" | "env"> {
  const isGivenText = process.execArgv.some((flag) => INPUT_TYPE.test(flag));
  return { ...(isGivenText && { execArgv: loadingFlags(process.execArgv) }), ...environment() };
}

function environment(): { env?: NodeJS.ProcessEnv } {
  const flags = (process.env["NODE_OPTIONS"] ?? "").split(" ");
  const kept = flags.filter((flag) => !INPUT_TYPE.test(flag));
  return kept.length < flags.length ? { env: { ...process.env, NODE_OPTIONS: kept.join(" ") } } : {};
}

/** The flags for loading modules, with the values that follow them. */
export function loadingFlags(flags: readonly string[]): string[] {
  return flags.filter((flag, index) => {
    const before = flags[index - 1] ?? "";
    return LOADING.test(flag) || (LOADING.test(before) && !before.includes("="));
  });
}
