/**
 * A Backend on the other side of a port: the storage worker serves one, the engine's worker calls it. The protocol is this
 * file: one request or reply a message, matched by id, and now and then a message that work goes on. It is local to this room; wire/protocol.ts knows nothing of it.
 * It has no timeouts: the store bounds every call.
 */
import {
  MediumError,
  type Backend,
  type BackendUsage,
  type Delta,
  type MaintainResult,
  type MediumFault,
} from "./backend.ts";
import { background } from "../../base.ts";
import type { Key } from "../record/keys.ts";
import { Progress } from "./progress.ts";

/** What can be asked for, and what comes back. */
interface Calls {
  open: { args: []; result: Delta };
  append: { args: [readonly Uint8Array[]]; result: Delta };
  read: { args: [Key]; result: Uint8Array | undefined };
  remove: { args: [readonly Key[]]; result: Delta };
  refresh: { args: []; result: Delta };
  maintain: { args: [wasteShare?: number]; result: MaintainResult };
  reclaim: { args: [number]; result: Delta };
  usage: { args: []; result: BackendUsage };
  close: { args: []; result: void };
}
type Verb = keyof Calls;

export type BackendRequest = { [V in Verb]: { id: number; verb: V; args: Calls[V]["args"] } }[Verb];

export type BackendReply =
  { id: number; ok: true; result: unknown } | { id: number; ok: false; fault: MediumFault; message: string };

/** Instead of a reply: work goes on. */
type ProgressMessage = { progress: true };

/** Progress is told at most once in this time. */
const PROGRESS_INTERVAL_MS = 250;

/** The part of a Worker, a MessagePort or a worker's own scope that is used. */
export interface Port {
  postMessage(message: unknown, transfer: Transferable[]): void;
  addEventListener(type: "message", listener: (event: MessageEvent) => void): void;
}

/** Answers a port's requests with a backend that is made at the first one. */
export function serveBackend(
  port: Port,
  make: () => Promise<Backend>,
  progressIntervalMs = PROGRESS_INTERVAL_MS,
): void {
  const makeWatched = async (): Promise<Backend> => {
    const made = await make();
    made.progress?.on(teller(port, progressIntervalMs));
    return made;
  };
  let backend: Promise<Backend> | undefined;
  const answer = async (request: BackendRequest): Promise<void> => {
    try {
      backend ??= makeWatched();
      const result = await dispatch(await backend, request);
      const moved = result instanceof Uint8Array && result.byteLength === result.buffer.byteLength;
      const transfer = moved ? [result.buffer as ArrayBuffer] : [];
      port.postMessage({ id: request.id, ok: true, result } satisfies BackendReply, transfer);
    } catch (error) {
      port.postMessage(failure(request.id, error), []);
    }
  };
  port.addEventListener("message", (event) => {
    background(answer(event.data as BackendRequest), "storage worker");
  });
}

function teller(port: Port, intervalMs: number): () => void {
  let nextMs = 0;
  return () => {
    const nowMs = performance.now();
    if (nowMs < nextMs) return;
    nextMs = nowMs + intervalMs;
    port.postMessage({ progress: true } satisfies ProgressMessage, []);
  };
}

function failure(id: number, error: unknown): BackendReply {
  const fault = error instanceof MediumError ? error.fault : "io";
  return { id, ok: false, fault, message: error instanceof Error ? error.message : String(error) };
}

function dispatch(backend: Backend, request: BackendRequest): Promise<unknown> {
  switch (request.verb) {
    case "open":
      return backend.open();
    case "append":
      return backend.append(...request.args);
    case "read":
      return backend.read(...request.args);
    case "remove":
      return backend.remove(...request.args);
    case "refresh":
      return backend.refresh();
    case "maintain":
      return backend.maintain(...request.args);
    case "reclaim":
      return backend.reclaim(...request.args);
    case "usage":
      return backend.usage();
    case "close":
      return backend.close();
  }
}

interface Waiting {
  resolve(result: unknown): void;
  reject(error: Error): void;
}

/** The caller's side. `end` is called after close() or abandon(), to stop the worker. */
export class RemoteBackend implements Backend {
  readonly name: string;
  readonly progress = new Progress();
  private readonly port: Port;
  private readonly end: () => void;
  private readonly waiting = new Map<number, Waiting>();
  private nextId = 1;
  private closed = false;
  /** Why the other side will never answer again. */
  private dead: string | undefined;

  constructor(name: string, port: Port, end: () => void = () => undefined) {
    this.name = name;
    this.port = port;
    this.end = end;
    port.addEventListener("message", (event) => this.hear(event.data as BackendReply | ProgressMessage));
  }

  /** Ends the worker, whatever it is doing: its locks and handles go with it. */
  abandon(): void {
    this.closed = true;
    this.end();
    this.fail("the backend was abandoned");
  }

  /** Fails all calls, under way and to come: for the owner of the worker, when it dies. */
  fail(message: string): void {
    this.dead ??= message;
    for (const { reject } of this.waiting.values()) reject(new MediumError("closed", message));
    this.waiting.clear();
  }

  open = (): Promise<Delta> => this.call("open");
  /** The records are copied to the worker; the caller keeps its own. */
  append = (records: readonly Uint8Array[]): Promise<Delta> => this.call("append", records);
  read = (key: Key): Promise<Uint8Array | undefined> => this.call("read", key);
  remove = (keys: readonly Key[]): Promise<Delta> => this.call("remove", keys);
  refresh = (): Promise<Delta> => this.call("refresh");
  maintain = (wasteShare?: number): Promise<MaintainResult> => this.call("maintain", wasteShare);
  reclaim = (bytes: number): Promise<Delta> => this.call("reclaim", bytes);
  usage = (): Promise<BackendUsage> => this.call("usage");

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    try {
      await this.send("close");
    } finally {
      this.end();
      this.fail("the backend is closed");
    }
  }

  private async call<V extends Verb>(verb: V, ...args: Calls[V]["args"]): Promise<Calls[V]["result"]> {
    if (this.closed) throw new MediumError("closed", `${this.name}: the backend is closed`);
    return this.send(verb, ...args);
  }

  private send<V extends Verb>(verb: V, ...args: Calls[V]["args"]): Promise<Calls[V]["result"]> {
    if (this.dead !== undefined) return Promise.reject(new MediumError("closed", this.dead));
    const id = this.nextId++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve: resolve as (result: unknown) => void, reject });
      this.port.postMessage({ id, verb, args }, []);
    });
  }

  private hear(message: BackendReply | ProgressMessage): void {
    if ("progress" in message) this.progress.tell();
    else this.settle(message);
  }

  private settle(reply: BackendReply): void {
    const waiting = this.waiting.get(reply.id);
    this.waiting.delete(reply.id);
    if (reply.ok) waiting?.resolve(reply.result);
    else waiting?.reject(new MediumError(reply.fault, reply.message));
  }
}
