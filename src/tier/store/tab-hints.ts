/**
 * Hints between the tabs and workers of one origin that share a store: something changed, or something was cleared. A
 * hint may be lost or late; the truth is on the disk. Where there is no BroadcastChannel nobody is told.
 */
import type { Key } from "../record/keys.ts";
import type { RecordInfo } from "../record/record.ts";

/** What to forget; a record matches if all given fields do. */
export interface ClearFilter {
  namespaceHash?: Key;
  fingerprint?: Key;
}

export function matcher(filter: ClearFilter): (info: RecordInfo) => boolean {
  return (info) =>
    (filter.namespaceHash === undefined || info.namespaceHash === filter.namespaceHash) &&
    (filter.fingerprint === undefined || info.fingerprint === filter.fingerprint);
}

export type TabHint = { type: "changed" } | { type: "cleared"; filter: ClearFilter };

export interface TabHints {
  post(message: TabHint): void;
  close(): void;
}

/** Joins the channel of this name. */
export function openTabHints(name: string, onMessage: (message: TabHint) => void): TabHints {
  if (typeof BroadcastChannel === "undefined") {
    return { post: () => undefined, close: () => undefined };
  }
  const channel = new BroadcastChannel(name);
  channel.onmessage = (event: MessageEvent) => onMessage(event.data as TabHint);
  (channel as unknown as { unref?: () => void }).unref?.(); // Node: hints alone keep no process alive
  return { post: (message) => channel.postMessage(message), close: () => channel.close() };
}
