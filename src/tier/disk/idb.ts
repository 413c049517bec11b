/**
 * A Backend on IndexedDB, for browsers where OPFS is missing or refuses. Raw IndexedDB rather than idb-keyval, because a
 * record's list entry and its bytes must be written in one transaction over two stores, with strict durability, and the
 * loss of the connection must be heard; idb-keyval has none of the three.
 * The database does the sharing between tabs, the crash safety and the reuse of space, so there are no segments, locks
 * or compaction here.
 */
import {
  MediumError,
  noDelta,
  type Backend,
  type BackendUsage,
  type Delta,
  type MaintainResult,
  type MediumFault,
} from "./backend.ts";
import type { Key } from "../record/keys.ts";
import { FORMAT_VERSION, infoOf, type RecordInfo } from "../record/record.ts";
import { TierIndex } from "../tiers/tier-index.ts";

/** With the record format: what an older version wrote is a miss, and goes. */
const SCHEMA_VERSION = FORMAT_VERSION;
const HEADS = "heads"; // Key -> RecordInfo
const BODIES = "bodies"; // Key -> the whole record

export class IdbBackend implements Backend {
  readonly name = "idb";
  private readonly database: string;
  private connection: IDBDatabase | undefined;
  private readonly known = new Map<Key, RecordInfo>();

  /** @param database the database's name; it is made if it is missing */
  constructor(database: string) {
    this.database = database;
  }

  async open(): Promise<Delta> {
    if (typeof indexedDB === "undefined") throw new MediumError("unsupported", "no IndexedDB here");
    this.connection = await connect(this.database);
    this.connection.onversionchange = () => this.lose(); // somebody deletes the database: let them
    this.connection.onclose = () => this.lose();
    return this.refresh();
  }

  private lose(): void {
    this.connection?.close();
    this.connection = undefined;
  }

  /** Runs one transaction over both stores; on return it is complete. */
  private async inTransaction<T>(
    mode: IDBTransactionMode,
    work: (heads: IDBObjectStore, bodies: IDBObjectStore) => IDBRequest<T> | undefined,
  ): Promise<T | undefined> {
    if (this.connection === undefined)
      throw new MediumError("closed", `${this.database}: no connection to the database`);
    try {
      const transaction = this.connection.transaction([HEADS, BODIES], mode, { durability: "strict" });
      const done = completed(transaction);
      const request = work(transaction.objectStore(HEADS), transaction.objectStore(BODIES));
      await done;
      return request?.result;
    } catch (error) {
      throw toMediumError(error, this.database);
    }
  }

  async append(records: readonly Uint8Array[]): Promise<Delta> {
    const delta = noDelta();
    const infos = records.map(infoOf);
    await this.inTransaction("readwrite", (heads, bodies) => {
      infos.forEach((info, i) => {
        bodies.put(records[i], info.key);
        heads.put(info, info.key);
      });
      return undefined;
    });
    for (const info of infos) {
      if (!this.known.has(info.key)) delta.added.push(info);
      this.known.set(info.key, info);
    }
    return delta;
  }

  async read(key: Key): Promise<Uint8Array | undefined> {
    const found = await this.inTransaction<unknown>("readonly", (_, bodies) => bodies.get(key));
    return found instanceof Uint8Array ? found : undefined;
  }

  async remove(keys: readonly Key[]): Promise<Delta> {
    await this.inTransaction("readwrite", (heads, bodies) => {
      for (const key of keys) {
        heads.delete(key);
        bodies.delete(key);
      }
      return undefined;
    });
    return { added: [], removed: [...new Set(keys)].filter((key) => this.known.delete(key)) };
  }

  async refresh(): Promise<Delta> {
    const heads = (await this.inTransaction<unknown[]>("readonly", (store) => store.getAll())) ?? [];
    const delta = noDelta();
    const present = new Set<Key>();
    for (const head of heads) {
      if (!isInfo(head)) continue;
      present.add(head.key);
      if (!this.known.has(head.key)) delta.added.push(head);
      this.known.set(head.key, head);
    }
    for (const key of [...this.known.keys()]) {
      if (present.has(key)) continue;
      this.known.delete(key);
      delta.removed.push(key);
    }
    return delta;
  }

  maintain(): Promise<MaintainResult> {
    return Promise.resolve({ ...noDelta(), bytesCopied: 0, more: false });
  }

  /** Drops the oldest chains, from their far ends. */
  reclaim(bytes: number): Promise<Delta> {
    const left = new TierIndex();
    const oldestFirst = [...this.known.values()].sort((a, b) => a.createdAtMs - b.createdAtMs);
    for (const info of oldestFirst) left.set(info);
    const keys: Key[] = [];
    for (const before = left.bytes; before - left.bytes < bytes && left.size > 0;) {
      const key = left.victim("disk", undefined, new Set()) as Key;
      left.delete(key);
      keys.push(key);
    }
    return this.remove(keys);
  }

  usage(): Promise<BackendUsage> {
    let bytesOnMedium = 0;
    for (const info of this.known.values()) bytesOnMedium += info.bytes;
    return Promise.resolve({ bytesOnMedium, segments: 0, badEntries: 0 });
  }

  close(): Promise<void> {
    this.lose();
    return Promise.resolve();
  }
}

function connect(name: string): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(name, SCHEMA_VERSION);
    let isGivenUp = false;
    request.onupgradeneeded = () => {
      for (const old of [...request.result.objectStoreNames]) request.result.deleteObjectStore(old);
      request.result.createObjectStore(HEADS);
      request.result.createObjectStore(BODIES);
    };
    request.onsuccess = () => {
      // A connection that nobody has would hold up the next version's upgrade.
      if (isGivenUp) request.result.close();
      else resolve(request.result);
    };
    request.onerror = () => reject(toMediumError(request.error, name));
    request.onblocked = () => {
      isGivenUp = true;
      reject(new MediumError("io", `${name}: another tab keeps an older version open`));
    };
  });
}

function completed(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error ?? new Error("transaction aborted"));
    transaction.onerror = () => reject(transaction.error ?? new Error("transaction failed"));
  });
}

/** A list entry's shape; the record itself is checked when it is read. */
function isInfo(value: unknown): value is RecordInfo {
  const info = value as Partial<RecordInfo> | null;
  const texts = [
    info?.key,
    info?.parentKey,
    info?.kind,
    info?.fingerprint,
    info?.namespaceHash,
    info?.encoding,
    info?.coarsest,
  ];
  const numbers = [info?.blockIndex, info?.tokenCount, info?.bytes, info?.createdAtMs, info?.expiresAtMs];
  return (
    texts.every((text) => typeof text === "string") && numbers.every((number) => Number.isFinite(number))
  );
}

const FAULTS: Readonly<Record<string, MediumFault>> = {
  QuotaExceededError: "full",
  NotFoundError: "gone",
  InvalidStateError: "closed",
  SecurityError: "unsupported",
};

function toMediumError(error: unknown, name: string): MediumError {
  if (error instanceof MediumError) return error;
  const { name: kind, message } = error as { name?: string; message?: string };
  return new MediumError(FAULTS[kind ?? ""] ?? "io", `${name}: ${message ?? String(error)}`);
}
