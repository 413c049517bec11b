/**
 * A tab of headless Chromium whose network nobody observes, for measuring the memory of its processes. Playwright enables
 * the protocol's Network domain in every tab and worker, and Chromium then keeps up to 200 MB of response bodies in the
 * renderer for whoever may ask for them (https://chromedevtools.github.io/devtools-protocol/tot/Network/#method-enable).
 * Here the protocol's pipe is spoken directly, with the few commands that a measurement needs. Linux only: it reads /proc.
 */
import { spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import type { Readable, Writable } from "node:stream";
import { chromiumArguments } from "./chromium.ts";

const OPEN_LIMIT_MS = 30_000;
const POLL_MS = 50;

export interface UnobservedTab {
  /** Runs a function in the page and gives its result, which JSON can hold. */
  evaluate<A, R>(work: (given: A) => R | Promise<R>, given: A): Promise<R>;
  /** Chooses a file in the page's first `<input type="file">`. */
  choose(file: string): Promise<void>;
  /** Resident bytes of the browser's largest renderer and of its GPU process. */
  memory(): TabMemory;
  /** Ends the browser. */
  close(): Promise<void>;
}

export interface TabMemory {
  renderer: number;
  gpu: number;
}

/** Launches Chromium on a profile folder and opens the address in it; the page is ready when `isReady` says so. */
export async function openUnobservedTab(
  profile: string,
  address: string,
  isReady: () => boolean,
): Promise<UnobservedTab> {
  const { executablePath, args } = chromiumArguments();
  const own = ["--headless", "--remote-debugging-pipe", `--user-data-dir=${profile}`, "about:blank"];
  const child = spawn(executablePath, [...args, ...own], {
    stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
  });
  const ended = new Promise<void>((done) => child.on("close", () => done()));
  const browser = new Protocol(child.stdio[3] as Writable, child.stdio[4] as Readable);
  const close = async (): Promise<void> => {
    child.kill();
    await ended;
  };
  try {
    const { targetId } = await browser.send("Target.createTarget", { url: address });
    const { sessionId } = await browser.send("Target.attachToTarget", { targetId, flatten: true });
    const session = sessionId as string;
    await untilReady(() => evaluated(browser, session, isReady, undefined));
    return {
      evaluate: (work, given) => evaluated(browser, session, work, given),
      choose: (file) => choose(browser, session, file),
      memory: () => memoryBelow(child.pid as number),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

async function untilReady(isReady: () => Promise<boolean>): Promise<void> {
  const until = performance.now() + OPEN_LIMIT_MS;
  // A page that is still being opened has nothing to run code in.
  while (!(await isReady().catch(() => false))) {
    if (performance.now() > until) throw new Error(`the page was not ready after ${OPEN_LIMIT_MS} ms`);
    await new Promise((done) => setTimeout(done, POLL_MS));
  }
}

async function evaluated<A, R>(
  browser: Protocol,
  session: string,
  work: (given: A) => R | Promise<R>,
  given: A,
): Promise<R> {
  const expression = `(${String(work)})(${JSON.stringify(given) ?? ""})`;
  const how = { expression, awaitPromise: true, returnByValue: true };
  const { result, exceptionDetails } = await browser.send("Runtime.evaluate", how, session);
  if (exceptionDetails) throw new Error(`in the page: ${JSON.stringify(exceptionDetails)}`);
  return (result as { value: R }).value;
}

async function choose(browser: Protocol, session: string, file: string): Promise<void> {
  const expression = `document.querySelector("input[type=file]")`;
  const { result } = await browser.send("Runtime.evaluate", { expression }, session);
  const { objectId } = result as { objectId: string };
  await browser.send("DOM.setFileInputFiles", { objectId, files: [file] }, session);
}

type Values = Record<string, unknown>;

/** Commands and answers of the DevTools protocol, as JSON texts that end with a zero byte. */
class Protocol {
  private readonly to: Writable;
  private lastId = 0;
  private rest = "";
  private readonly waiting = new Map<number, { resolve(value: Values): void; reject(error: Error): void }>();

  constructor(to: Writable, from: Readable) {
    this.to = to;
    from.setEncoding("utf8").on("data", (text: string) => this.take(text));
    from.on("close", () => this.end(new Error("Chromium ended")));
    to.on("error", (error) => this.end(error));
  }

  send(method: string, params: Values, sessionId?: string): Promise<Values> {
    const id = ++this.lastId;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.to.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    });
  }

  private take(text: string): void {
    const messages = (this.rest + text).split("\0");
    this.rest = messages.pop() as string;
    for (const message of messages) this.answer(JSON.parse(message) as Values);
  }

  private answer({ id, result, error }: Values): void {
    const asker = this.waiting.get(id as number);
    this.waiting.delete(id as number);
    if (error) asker?.reject(new Error(JSON.stringify(error)));
    else asker?.resolve(result as Values);
  }

  private end(error: Error): void {
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }
}

/** Of the browser whose main process this is. */
function memoryBelow(main: number): TabMemory {
  const processes = readdirSync("/proc").flatMap(processOf);
  const family = new Set([main]);
  for (const { pid, parent } of processes.sort((a, b) => a.pid - b.pid))
    if (family.has(parent)) family.add(pid);
  const largest = (type: string): number =>
    Math.max(
      0,
      ...processes
        .filter(({ pid, command }) => family.has(pid) && command.includes(`--type=${type}`))
        .map(({ pid }) => residentBytes(pid)),
    );
  return { renderer: largest("renderer"), gpu: largest("gpu-process") };
}

function processOf(entry: string): { pid: number; parent: number; command: string }[] {
  if (!/^\d+$/.test(entry)) return [];
  try {
    const command = readFileSync(`/proc/${entry}/cmdline`, "utf8").replaceAll("\0", " ");
    const [, parent = ""] = /^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${entry}/status`, "utf8")) ?? [];
    return [{ pid: Number(entry), parent: Number(parent), command }];
  } catch {
    return []; // it has ended
  }
}

function residentBytes(pid: number): number {
  try {
    const [, kib = "0"] = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8")) ?? [];
    return 1024 * Number(kib);
  } catch {
    return 0; // it has ended
  }
}
