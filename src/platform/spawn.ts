/**
 * Starts workers: in browsers also from a script of another origin, in Node as threads. It knows nothing of what is said
 * to them.
 */
import { RUNTIME } from "../base.ts";
import { TidepoolError } from "../errors.ts";
import { findScript, spawnInNode } from "./spawn-node.ts";
import type { Spawned } from "./spawned.ts";

export type { Spawned } from "./spawned.ts";

/**
 * Starts a worker. `onWeb` must be `() => new Worker(new URL(FILE, import.meta.url), { type: "module", name })`, all
 * of it spelled out where it is called: bundlers find a worker by that very expression. `thread` names
 * the built file for Node, and the file that it lies beside.
 * `clonesBlobs` says whether it will be posted blobs.
 */
export function spawn<ToIt, FromIt>(
  onWeb: () => Worker,
  thread: { file: string; here: string | undefined },
  clonesBlobs: boolean,
): Spawned<ToIt, FromIt> {
  return RUNTIME === "node"
    ? spawnInNode(findScript(thread.file, thread.here), clonesBlobs)
    : spawnWeb(startWebWorker(onWeb));
}

/** What is most likely wrong if a browser says nothing more. */
const NOT_STARTED =
  'its script could not be loaded; a bundler that leaves `new Worker(new URL(...))` as it is, such as esbuild, needs Tidepool\'s workers as entry points (see "built by esbuild" in README.md)';

function spawnWeb<ToIt, FromIt>(worker: Worker): Spawned<ToIt, FromIt> {
  return {
    post: (message, transfer = []) => worker.postMessage(message, transfer),
    listen(onMessage, onDeath) {
      worker.onmessage = (event: MessageEvent<FromIt>) => onMessage(event.data);
      worker.onerror = (event) => {
        event.preventDefault();
        onDeath(event.message || NOT_STARTED);
      };
    },
    keepAlive: () => {},
    terminate() {
      worker.terminate();
      return Promise.resolve();
    },
  };
}

/**
 * Starts a Web Worker whose script may lie on another origin, which browsers refuse: then a script of our own origin, a
 * blob, takes it in. The other origin must allow it (CORS), and the page's policy must have both in `worker-src`.
 *
 * Only the bundler knows where the script will lie, and it replaces nothing but the whole expression in `start`. So the
 * address is seen where the expression hands it over: while `start` runs, `Worker` is ours.
 */
export function startWebWorker(start: () => Worker): Worker {
  const Native = globalThis.Worker as typeof Worker | undefined;
  if (typeof Native !== "function") {
    const message =
      "no worker can be started here: this platform has no Worker (service workers, server-side rendering and jsdom have none); use Tidepool in a page or in a dedicated worker";
    throw new TidepoolError("unsupported", message);
  }
  globalThis.Worker = class extends Native {
    constructor(script: string | URL, options?: WorkerOptions) {
      const { href } = new URL(script, globalThis.location?.href);
      super(isElsewhere(href) ? scriptHere(href, options?.type) : script, options);
    }
  };
  try {
    return start();
  } finally {
    globalThis.Worker = Native;
  }
}

/** Whether a script lies on another web origin. Files and blobs do not, nor does anything in Deno without `--location`. */
export function isElsewhere(href: string, here = globalThis.location?.origin): boolean {
  const { protocol, origin } = new URL(href);
  return /^https?:$/.test(protocol) && here !== undefined && here !== "null" && origin !== here;
}

/** Addresses of the scripts made here, by what they take in: as many as there are kinds of worker. */
const scriptsHere = new Map<string, string>();

/** The address of a script of our own origin that takes in the one at `href`. */
function scriptHere(href: string, type: WorkerType | undefined): string {
  // Imported statically or by importScripts, so that no message arrives before the script listens.
  const quoted = JSON.stringify(href);
  const code = type === "module" ? `import ${quoted};` : `importScripts(${quoted});`;
  const made = scriptsHere.get(code);
  if (made !== undefined) return made;
  const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  scriptsHere.set(code, address);
  return address;
}
