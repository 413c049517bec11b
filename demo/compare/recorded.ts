/**
 * The trace of this page: what its engine has served, kept in IndexedDB as sim/recorder.ts writes it. Lengths and salted
 * hashes of blocks, no text and no token ids. It decides nothing about when to record.
 */
import { Recorder } from "../../src/sim/index.ts";

/** Requests that are kept; beyond it recording stops, because a trace must not lose its beginning. */
export const maxRecorded = 20_000;
const blockTokens = 16;
const saltBytes = 32;
const database = "tidepool-recorded";

/** Adds a finished request: its prompt's tokens, then those of the answer. False where the trace is full. */
export async function recordRequest(sequence: Int32Array, inputTokens: number): Promise<boolean> {
  const db = await open();
  try {
    const salt = await saltIn(db);
    const store = db.transaction("lines", "readwrite").objectStore("lines");
    if ((await result(store.count())) >= maxRecorded) return false;
    const recorder = new Recorder({ blockTokens, salt });
    await result(store.add(recorder.line(Date.now(), sequence, inputTokens)));
    return true;
  } finally {
    db.close();
  }
}

/** The trace as text, in the form that parseTrace reads; undefined where nothing was recorded. Times begin at 0. */
export async function recordedTrace(): Promise<string | undefined> {
  const lines = await inLines((store) => store.getAll() as IDBRequest<string[]>);
  if (lines.length === 0) return undefined;
  const startMs = timestampOf(lines[0]!);
  const shifted = lines.map((line) => {
    const fields = JSON.parse(line) as { timestamp: number };
    return JSON.stringify({ ...fields, timestamp: fields.timestamp - startMs });
  });
  const header = new Recorder({ blockTokens, salt: new Uint8Array(saltBytes) }).header();
  return [header, ...shifted].join("\n");
}

export async function recordedCount(): Promise<number> {
  return await inLines((store) => store.count());
}

/** Forgets the trace and its salt: what is recorded next cannot be compared with it. */
export async function clearRecorded(): Promise<void> {
  const db = await open();
  try {
    const transaction = db.transaction(["lines", "salt"], "readwrite");
    await result(transaction.objectStore("lines").clear());
    await result(transaction.objectStore("salt").clear());
  } finally {
    db.close();
  }
}

function timestampOf(line: string): number {
  return (JSON.parse(line) as { timestamp: number }).timestamp;
}

async function inLines<T>(read: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
  const db = await open();
  try {
    return await result(read(db.transaction("lines").objectStore("lines")));
  } finally {
    db.close();
  }
}

async function saltIn(db: IDBDatabase): Promise<Uint8Array> {
  const fresh = crypto.getRandomValues(new Uint8Array(saltBytes));
  const store = db.transaction("salt", "readwrite").objectStore("salt");
  const kept = (await result(store.get(0) as IDBRequest<Uint8Array | undefined>)) ?? fresh;
  await result(store.put(kept, 0));
  return kept;
}

async function open(): Promise<IDBDatabase> {
  const request = indexedDB.open(database, 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("lines", { autoIncrement: true });
    request.result.createObjectStore("salt");
  };
  return await result(request);
}

function result<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("the browser's database failed"));
  });
}
