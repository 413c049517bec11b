/**
 * Conversations at rest in IndexedDB: heads for the list, bodies apart, both written in one transaction. It keeps
 * nothing in memory, and every failure is the caller's to tell.
 */
import type { Conversation } from "./conversation.ts";

/** What the list needs of a conversation. */
export interface Head {
  id: string;
  title: string;
  updatedAtMs: number;
  /** Counts the writes, so that a tab notices that another one has written since. */
  revision: number;
}

const NAME = "tidepool-page";
const VERSION = 1;
const HEADS = "heads";
const BODIES = "bodies";

/** Somebody else has written the conversation since it was read here. */
export class ChangedElsewhere extends Error {}

export function openDatabase(): Promise<IDBDatabase> {
  const opening = indexedDB.open(NAME, VERSION);
  opening.onupgradeneeded = () => {
    opening.result.createObjectStore(HEADS, { keyPath: "id" });
    opening.result.createObjectStore(BODIES, { keyPath: "id" });
  };
  return new Promise((resolve, reject) => {
    opening.onsuccess = () => {
      const database = opening.result;
      database.onversionchange = () => database.close(); // a newer page in another tab
      resolve(database);
    };
    opening.onerror = () => reject(reasonOf(opening.error));
    opening.onblocked = () => reject(new Error("another tab holds an older version of the page's database"));
  });
}

export async function readHeads(database: IDBDatabase): Promise<Head[]> {
  return (await asked(database.transaction(HEADS).objectStore(HEADS).getAll())) as Head[];
}

/** A conversation and its revision, if it is there. */
export async function readConversation(
  database: IDBDatabase,
  id: string,
): Promise<{ conversation: Conversation; revision: number } | undefined> {
  const transaction = database.transaction([HEADS, BODIES]);
  const reads = [HEADS, BODIES].map((store) => asked(transaction.objectStore(store).get(id)));
  const [head, body] = (await Promise.all(reads)) as [Head | undefined, Conversation | undefined];
  return head && body && { conversation: body, revision: head.revision };
}

/**
 * Writes a conversation over the revision that was read.
 * @returns its new head. @throws ChangedElsewhere when it is another revision by now; a DOMException when there is no room.
 */
export async function writeConversation(
  database: IDBDatabase,
  conversation: Conversation,
  revision: number,
): Promise<Head> {
  const transaction = database.transaction([HEADS, BODIES], "readwrite");
  const ended = completed(transaction);
  const { id, title, updatedAtMs } = conversation;
  const head: Head = { id, title, updatedAtMs, revision: revision + 1 };
  const heads = transaction.objectStore(HEADS);
  const reading = heads.get(id);
  let changed = false;
  reading.onsuccess = () => {
    const found = reading.result as Head | undefined;
    changed = found !== undefined && found.revision !== revision;
    if (changed) return transaction.abort();
    heads.put(head);
    transaction.objectStore(BODIES).put(conversation);
  };
  try {
    await ended;
  } catch (error) {
    throw changed ? new ChangedElsewhere() : error;
  }
  return head;
}

export async function removeConversation(database: IDBDatabase, id: string): Promise<void> {
  const transaction = database.transaction([HEADS, BODIES], "readwrite");
  const ended = completed(transaction);
  transaction.objectStore(HEADS).delete(id);
  transaction.objectStore(BODIES).delete(id);
  await ended;
}

function asked(request: IDBRequest): Promise<unknown> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(reasonOf(request.error));
  });
}

function completed(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(reasonOf(transaction.error));
    transaction.onerror = () => reject(reasonOf(transaction.error));
  });
}

/** An aborted transaction without a reason is a full disk in some browsers. */
function reasonOf(error: DOMException | null): Error {
  return error ?? new DOMException("the browser ended the transaction", "AbortError");
}
