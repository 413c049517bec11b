/**
 * Runs the GPU cases in a page. The address says what to run (`?request=JSON, a RunRequest`); each line goes to `report`, which
 * the orchestrator puts into the page. ../shared comes over HTTP from the server that served this page.
 */
import { allCases } from "./cases.ts";
import { FileAbsent, runSuite, type RunRequest } from "./run.ts";

declare global {
  /** Put into the page by the orchestrator: takes one JSON line, or the reason why no case could run. */
  var report: (line: string) => Promise<void>;
}

const root = new URL("/shared/", location.href);
const present = (await fetch(new URL("README.md", root))).ok;

async function shared(path: string): Promise<Uint8Array<ArrayBuffer>> {
  const response = await fetch(new URL(path, root));
  if (!response.ok) throw new Error(`../shared/${path}: HTTP ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

async function shipped(path: string): Promise<Uint8Array<ArrayBuffer>> {
  const response = await fetch(new URL(`/models/${path}`, location.href));
  if (response.status === 404) throw new FileAbsent(`demo/models/${path} is absent`);
  if (!response.ok) throw new Error(`demo/models/${path}: HTTP ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

/** Sent one after another: a later line never overtakes an earlier one. */
let sent: Promise<void> = Promise.resolve();
const log = (line: string): void => {
  sent = sent.then(() => report(line));
};

async function golden(path: string): Promise<Uint8Array<ArrayBuffer>> {
  const response = await fetch(new URL(`/goldens/${path}`, location.href));
  if (!response.ok) throw new Error(`test/goldens/${path}: HTTP ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

try {
  const request = JSON.parse(new URLSearchParams(location.search).get("request") ?? "{}") as RunRequest;
  const files = { shared: present ? shared : undefined, shipped, golden };
  await runSuite(allCases, files, { ...request, log });
} catch (error) {
  log(JSON.stringify({ broken: error instanceof Error ? (error.stack ?? error.message) : String(error) }));
}
await sent;
