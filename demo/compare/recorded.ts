/**
 * The trace of this page: what its engine has served, kept in IndexedDB as sim/recorder.ts writes it. Lengths and salted
 * hashes of blocks, no text and no token ids. It decides nothing about when to record.
 *
 * idb-keyval, because a trace is a list of lines under keys and no more.
 */
import { clear, createStore, entries, promisifyRequest, set, update, type UseStore } from "idb-keyval";
import { Recorder } from "../../src/sim/index.ts";

/** Requests that are kept; beyond it recording stops, because a trace must not lose its beginning. */
const maxRecorded = 20_000;
const blockTokens = 16;
const saltBytes = 32;
/** A string, so that it stands before all lines, whose keys are arrays: times, and chance for those of one time. */
const saltKey = "salt";

let opened: UseStore | undefined;

/** Adds a finished request: its prompt's tokens, then those of the answer. False where the trace is full. */
export async function recordRequest(sequence: Int32Array, inputTokens: number): Promise<boolean> {
  if ((await recordedCount()) >= maxRecorded) return false;
  const recorder = new Recorder({ blockTokens, salt: await keptSalt() });
  const now = Date.now();
  await set([now, Math.random()], recorder.line(now, sequence, inputTokens), lines());
  return true;
}

/** The trace as text, in the form that parseTrace reads; undefined if nothing was recorded. Times begin at 0. */
export async function recordedTrace(): Promise<string | undefined> {
  const kept = await entries<IDBValidKey, string>(lines());
  const found = kept.filter(([key]) => key !== saltKey).map(([, line]) => line);
  if (found.length === 0) return undefined;
  const startMs = timestampOf(found[0]!);
  const shifted = found.map((line) => {
    const fields = JSON.parse(line) as { timestamp: number };
    return JSON.stringify({ ...fields, timestamp: fields.timestamp - startMs });
  });
  const header = new Recorder({ blockTokens, salt: new Uint8Array(saltBytes) }).header();
  return [header, ...shifted].join("\n");
}

export function recordedCount(): Promise<number> {
  const allLines = IDBKeyRange.lowerBound([]);
  return lines()("readonly", (store) => promisifyRequest(store.count(allLines)));
}

/** Forgets the trace and its salt: what is recorded next cannot be compared with it. */
export async function clearRecorded(): Promise<void> {
  await clear(lines());
}

function timestampOf(line: string): number {
  return (JSON.parse(line) as { timestamp: number }).timestamp;
}

/** The salt of all lines: made with the first, in one transaction, so that two tabs agree. */
async function keptSalt(): Promise<Uint8Array> {
  let salt = crypto.getRandomValues(new Uint8Array(saltBytes));
  await update<Uint8Array<ArrayBuffer>>(saltKey, (kept) => (salt = kept ?? salt), lines());
  return salt;
}

const lines = (): UseStore => (opened ??= createStore("tidepool-recorded-trace", "lines"));
