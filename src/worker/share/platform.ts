/**
 * Locks, channel and key of a shared engine in a browser. Which tab does what is member.ts's business.
 */
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { background, systemTimer } from "../../base.ts";
import type { Capability, EngineOptions, ModelSpec } from "../../wire/protocol.ts";
import type { ShareChannel, ShareLocks, ShareSetting } from "./member.ts";
import { SHARE_VERSION, type ShareMessage } from "./messages.ts";

type Platform = Omit<ShareSetting, "toPage" | "makeEngine">;

/** What sharing needs here, or what is missing for it. */
export async function sharePlatform(key: string): Promise<Platform | Capability> {
  const missing = await missingForSharing();
  if (missing !== undefined) return notShared(missing);
  return {
    ...{ key, locks: webLocks, channel: webChannel(`tidepool-engine:${key}`), timer: systemTimer },
    id: crypto.randomUUID(),
    nowMs: () => Date.now(),
  };
}

/**
 * The same for tabs that may share: they load the same model with the same options by the same version of this code, which
 * bundlers show in its address.
 */
export function shareKey(name: string, model: ModelSpec, options: EngineOptions): string {
  const files = typeof model === "string" ? model : model.map(fileFingerprint);
  const { expertPredictor: _changesNoResult, ...rest } = options;
  const parts = [SHARE_VERSION, import.meta.url, name, files, rest];
  return bytesToHex(sha256(new TextEncoder().encode(JSON.stringify(parts, sorted)))).slice(0, KEY_LENGTH);
}

/** Hexadecimal digits: 128 bits. */
const KEY_LENGTH = 32;

function fileFingerprint({ name, blob }: Exclude<ModelSpec, string>[number]): unknown[] {
  return [name, blob.size, blob instanceof File ? blob.lastModified : 0];
}

/** Options in one order, however they were written. */
function sorted(_key: string, value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}

async function missingForSharing(): Promise<string | undefined> {
  if (!("locks" in navigator)) return "Web Locks";
  if (!("BroadcastChannel" in globalThis)) return "BroadcastChannel";
  try {
    await navigator.locks.query();
    return undefined;
  } catch {
    return "Web Locks"; // as in a frame without an origin of its own
  }
}

function notShared(missing: string): Capability {
  const message = `${missing} cannot be used here, so this tab does not share its engine: each tab loads the model for itself, and takes GPU memory of its own; a current browser has it on pages that come over https`;
  return { code: "no_sharing", message };
}

const webLocks: ShareLocks = {
  take: (name, signal, onLost) => takeLock(name, { signal }, onLost),
  steal: (name, onLost) => takeLock(name, { steal: true }, onLost),
};

function takeLock(name: string, options: LockOptions, onLost?: () => void): Promise<() => void> {
  return new Promise((resolve, reject) => {
    let isHeld = false;
    const held = (): Promise<void> => {
      isHeld = true;
      return new Promise((release) => resolve(release));
    };
    const ended = (error: unknown): void => {
      if (isHeld) onLost?.();
      else reject(error as Error);
    };
    background(navigator.locks.request(name, options, held).catch(ended), "lock");
  });
}

function webChannel(name: string): ShareChannel {
  const channel = new BroadcastChannel(name);
  return {
    post: (message: ShareMessage) => channel.postMessage(message),
    listen: (onMessage) => (channel.onmessage = (event: MessageEvent<unknown>) => onMessage(event.data)),
    close: () => channel.close(),
  };
}
