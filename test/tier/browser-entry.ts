/**
 * The tier's tests that need a browser: the conformance suite on OPFS and IndexedDB, and the calls by which a test drives
 * one or several tabs. A page loads this and finds `tierTests` on its global object.
 */
import { background } from "../../src/base.ts";
import type { Backend } from "../../src/tier/disk/backend.ts";
import { sameBytes } from "../../src/tier/record/checksum.ts";
import { IdbBackend } from "../../src/tier/disk/idb.ts";
import { spawnOpfsBackend } from "../../src/tier/disk/opfs-start.ts";
import type { NoticeCode } from "../../src/tier/tiers/disk-tier.ts";
import { TierStore } from "../../src/tier/store/store.ts";
import { runCases, TEST_SEGMENT_BYTES, type Fixture, type SuiteResult } from "./conformance.ts";
import { chain, keyOf, payloadOf } from "./make.ts";

export type BrowserBackend = "opfs" | "idb";

const CHAIN_BLOCKS = 6;
const PAYLOAD_BYTES = 50_000;
const SPILL_SEGMENT_BYTES = 1_000_000;

let nextPlace = 0;

function opfsFixture(): Promise<Fixture> {
  const folder = `conformance-${Date.now()}-${nextPlace++}`;
  return Promise.resolve({
    make: () => Promise.resolve(spawnOpfsBackend({ folder, segmentBytes: TEST_SEGMENT_BYTES })),
    cleanUp: async () => {
      const root = await navigator.storage.getDirectory();
      await root.removeEntry(folder, { recursive: true });
    },
  });
}

function idbFixture(): Promise<Fixture> {
  const database = `conformance-${Date.now()}-${nextPlace++}`;
  return Promise.resolve({
    make: () => Promise.resolve(new IdbBackend(database)),
    cleanUp: () =>
      new Promise((resolve, reject) => {
        const request = indexedDB.deleteDatabase(database);
        request.onsuccess = () => resolve();
        request.onerror = () => reject(request.error ?? new Error("database not deleted"));
      }),
  });
}

/** Runs the conformance suite on both backends of a browser. */
export async function run(): Promise<SuiteResult> {
  const results = [
    await runCases("opfs", { persistent: true }, opfsFixture),
    await runCases("idb", { persistent: true }, idbFixture),
  ];
  return {
    passed: results.reduce((sum, { passed }) => sum + passed, 0),
    failed: results.reduce((sum, { failed }) => sum + failed, 0),
    failures: results.flatMap(({ failures }) => failures),
  };
}

function makeBackend(kind: BrowserBackend, place: string): Backend {
  return kind === "opfs"
    ? spawnOpfsBackend({ folder: place, segmentBytes: SPILL_SEGMENT_BYTES })
    : new IdbBackend(place);
}

let store: TierStore | undefined;
const notices: NoticeCode[] = [];

function opened(): TierStore {
  if (store === undefined) throw new Error("no store is open in this tab");
  return store;
}

/** Opens this tab's store. */
async function open(kind: BrowserBackend, place: string): Promise<string> {
  store = await TierStore.open({
    ramBytes: 0,
    diskBytes: 1e9,
    disk: () => makeBackend(kind, place),
    hintsChannel: place,
    refreshAfterMs: 0,
    reopenDelayMs: 0,
    onNotice: (code) => notices.push(code),
  });
  return store.stateOf("disk");
}

const draftsOf = (seed: number) => chain(seed, CHAIN_BLOCKS, { payloadBytes: PAYLOAD_BYTES });

/** Stores a chain and waits for the disk. */
async function write(seed: number): Promise<number> {
  for (const draft of draftsOf(seed)) opened().put(draft);
  return (await opened().drain(30_000)).left;
}

/** How many of a chain's records are served, rightly. */
async function read(seed: number): Promise<number> {
  let right = 0;
  for (const draft of draftsOf(seed)) {
    const key = keyOf(draft);
    const found = await opened().get(key);
    if (!found.hit) continue;
    if (!sameBytes(found.record.payload, payloadOf(key, PAYLOAD_BYTES)))
      throw new Error(`wrong bytes: ${key}`);
    right++;
  }
  return right;
}

const drained: number[] = [];

/** Writes chain after chain until the tab is killed. */
function spill(firstSeed: number): void {
  const forEver = async (): Promise<void> => {
    for (let seed = firstSeed; ; seed++) {
      if ((await write(seed)) === 0) drained.push(seed);
      if (seed % 4 === 3) await opened().maintain();
    }
  };
  background(forEver(), "spilling");
}

/** Checks the whole store, does all idle work, and says what is bad. */
async function verify(): Promise<{ checked: number; bad: object }> {
  await opened().refresh();
  const result = await opened().verify();
  for (let step = 0; step < 50 && (await opened().maintain()); step++);
  return result;
}

/** Clears the store and closes it; says whether that was complete, and what is left in an OPFS folder. */
async function finish(place: string): Promise<{ complete: boolean; files: string[] }> {
  const { complete } = await opened().clear();
  await opened().close();
  const files: string[] = [];
  const root = await navigator.storage.getDirectory();
  const folder = await root.getDirectoryHandle(place, { create: true });
  for await (const name of folder.keys()) files.push(name);
  return { complete, files };
}

/** Removes the store's files under its feet, as a user does who clears a site's data. */
async function clearByUser(place: string): Promise<number> {
  const root = await navigator.storage.getDirectory();
  const folder = await root.getDirectoryHandle(place, { create: true });
  let refused = 0;
  for await (const name of folder.keys()) {
    await folder.removeEntry(name).catch(() => refused++); // open files cannot be removed; a browser can
  }
  return refused;
}

const tierTests = { run, open, write, read, spill, verify, finish, clearByUser, drained, notices };
export type TierTests = typeof tierTests;
(globalThis as unknown as { tierTests: TierTests }).tierTests = tierTests;
