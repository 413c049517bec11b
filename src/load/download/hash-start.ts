/**
 * SHA-256 of bytes that come in order, piece by piece, computed beside the thread that asks: by Node's and Deno's own
 * implementation, which is fast, and in browsers, which have none that takes pieces, in a worker.
 */
import { RUNTIME } from "../../base.ts";
import { startWebWorker } from "../../platform/spawn.ts";
import type { FromHashWorker, ToHashWorker } from "./hash-worker.ts";

export interface Hash {
  /** Takes bytes in; they may change once this has returned. Resolves when more may come. */
  update(bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  /** The digest of all bytes, in hexadecimal. @throws Error if the worker has died */
  hex(): Promise<string>;
  /** Frees what it holds; may be called more than once. */
  end(): void;
}

export function startHash(): Hash {
  return RUNTIME === "browser" ? new HashInWorker() : nativeHash();
}

function nativeHash(): Hash {
  const hash = process.getBuiltinModule("node:crypto").createHash("sha256");
  return {
    update: (bytes) => {
      hash.update(bytes);
      return Promise.resolve();
    },
    hex: () => Promise.resolve(hash.digest("hex")),
    end: () => {},
  };
}

class HashInWorker implements Hash {
  private readonly worker = startWebWorker(
    () => new Worker(new URL("./hash-worker.ts", import.meta.url), { type: "module" }),
  );
  private sent = 0;
  private taken = 0;
  private failure: Error | undefined;
  /** Woken at every answer, and when the worker has died. */
  private waiting: (() => void)[] = [];
  private digest: string | undefined;

  constructor() {
    this.worker.onmessage = ({ data }: MessageEvent<FromHashWorker>) => {
      if (typeof data === "string") this.digest = data;
      else this.taken = data;
      this.wake();
    };
    this.worker.onerror = (event) => {
      event.preventDefault();
      this.failure = new Error(`the hash worker died: ${event.message || "it could not be started"}`);
      this.wake();
    };
  }

  async update(bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    // Transferred, because a message that is cloned is kept until Chromium collects it.
    const copy = bytes.slice();
    this.worker.postMessage(copy satisfies ToHashWorker, [copy.buffer]);
    const mine = ++this.sent;
    await this.until(() => this.taken >= mine);
  }

  async hex(): Promise<string> {
    this.worker.postMessage(null satisfies ToHashWorker);
    await this.until(() => this.digest !== undefined);
    this.end();
    return this.digest as string;
  }

  end(): void {
    this.failure ??= new Error("the hash was ended");
    this.worker.terminate();
    this.wake();
  }

  private wake(): void {
    for (const resume of this.waiting.splice(0)) resume();
  }

  private async until(isSo: () => boolean): Promise<void> {
    while (!isSo()) {
      if (this.failure) throw this.failure;
      await new Promise<void>((resolve) => this.waiting.push(resolve));
    }
  }
}
