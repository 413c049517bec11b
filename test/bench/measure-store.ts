/**
 * Measures the disk tier by itself: bytes per second through TierStore on a folder, against the raw rate of the same
 * medium in the same run. Raw is the same work without a store: the same bytes to one file, in as large buffers, as many
 * in a write, synced as often; and read back in as large pieces, as many at once, into memory of their own. What large
 * reads into one buffer give is shown beside it ("bulk"). Reads are measured twice where the operating system lets its
 * cache of a file be dropped: from the medium, and from that cache. Reading the GPU is no part of this.
 */
import { Buffer } from "node:buffer";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Random } from "../../src/base.ts";
import { openFilesBackend } from "../../src/tier/disk/files.ts";
import { chainKeys, fingerprintOf, rootKey, type Key } from "../../src/tier/record/keys.ts";
import { headerBytesOf } from "../../src/tier/record/record.ts";
import { TierStore, WRITE_BATCH_BYTES } from "../../src/tier/store/store.ts";
import { MAX_LOADS } from "../../src/schedule/restore/restore.ts";
import type { Measurement } from "./report.ts";

const SEED = 5;
const TOTAL_BYTES = 128 * 2 ** 20;
/** Blocks of tide-dense, and of a model with four times its KV. */
const PAYLOADS_BYTES = [128 * 2 ** 10, 512 * 2 ** 10];
const BLOCK_TOKENS = 32;
const BULK_CHUNK_BYTES = 2 ** 20;
/** A prefill step of 256 tokens. */
const BLOCKS_A_STEP = 8;
const DRAIN_MS = 120_000;

interface Rates {
  spill: number[];
  rawWrite: number[];
  restore: number[];
  rawRead: number[];
  restoreCached: number[];
  rawReadCached: number[];
  bulkRead: number[];
  bulkReadCached: number[];
}

/** @param log told of what cannot be measured here */
export async function measureStore(
  name: string,
  repeats: number,
  log: (line: string) => void,
): Promise<Measurement[]> {
  const out: Measurement[] = [];
  for (const payloadBytes of PAYLOADS_BYTES) {
    const rates = noRates();
    for (let repeat = 0; repeat <= repeats; repeat++) {
      const one = await measureOnce(payloadBytes, repeat);
      if (repeat === 0) continue; // the compiler's
      for (const key of Object.keys(one) as (keyof Rates)[]) rates[key].push(...one[key]);
    }
    out.push(...tableOf(`${name}, blocks of ${payloadBytes / 2 ** 10} KiB`, rates));
  }
  if (!out.some(({ metric }) => metric === "restore, from the medium")) {
    log("reads come from the operating system's cache: there is no dd that drops it");
  }
  return out;
}

function noRates(): Rates {
  const reads = { restore: [], rawRead: [], bulkRead: [] };
  return { spill: [], rawWrite: [], ...reads, restoreCached: [], rawReadCached: [], bulkReadCached: [] };
}

function tableOf(name: string, rates: Rates): Measurement[] {
  const against = (metric: string, raw: string, ours: number[], theirs: number[]): Measurement[] =>
    ours.length === 0
      ? []
      : [
          { name, metric, unit: "MB/s", values: ours.map((rate) => rate / 1e6) },
          { name, metric: raw, unit: "MB/s", values: theirs.map((rate) => rate / 1e6) },
          {
            ...{ name, metric: `${metric}, of raw`, unit: "%" },
            values: ours.map((rate, index) => (100 * rate) / (theirs[index] as number)),
          },
        ];
  const bulk = (metric: string, rates: number[]): Measurement[] =>
    rates.length === 0 ? [] : [{ name, metric, unit: "MB/s", values: rates.map((rate) => rate / 1e6) }];
  return [
    ...against("spill", "raw write and sync", rates.spill, rates.rawWrite),
    ...against("restore, from the medium", "raw read, from the medium", rates.restore, rates.rawRead),
    ...bulk("bulk read, from the medium", rates.bulkRead),
    ...against(
      "restore, from the system's cache",
      "raw read, from the system's cache",
      rates.restoreCached,
      rates.rawReadCached,
    ),
    ...bulk("bulk read, from the system's cache", rates.bulkReadCached),
  ];
}

/** Each rate in bytes a second, none where it cannot be measured. Raw and ours take turns at being first. */
async function measureOnce(payloadBytes: number, turn: number): Promise<Rates> {
  const folder = mkdtempSync(join(tmpdir(), "tidepool-store-"));
  try {
    const data = randomBytes(TOTAL_BYTES, SEED + turn);
    const raw = async () => rawRates(folder, data, payloadBytes);
    const ours = async () => storeRates(join(folder, "store"), data, payloadBytes);
    if (turn % 2 === 0) return { ...(await raw()), ...(await ours()) };
    return { ...(await ours()), ...(await raw()) };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function randomBytes(count: number, seed: number): Uint8Array {
  const random = new Random(seed);
  return new Uint8Array(Uint32Array.from({ length: count / 4 }, () => random.uint32()).buffer);
}

type RawRates = Pick<Rates, "rawWrite" | "rawRead" | "rawReadCached" | "bulkRead" | "bulkReadCached">;

async function rawRates(folder: string, data: Uint8Array, pieceBytes: number): Promise<RawRates> {
  const path = join(folder, "raw");
  const rawWrite = [await rateOf(() => rawWriteOf(path, data, pieceBytes))];
  const rawRead = dropFromCache(path) ? [await rateOf(() => rawReadOf(path, pieceBytes))] : [];
  const rawReadCached = [await rateOf(() => rawReadOf(path, pieceBytes))];
  const bulkRead = dropFromCache(path) ? [await rateOf(() => bulkReadOf(path))] : [];
  const bulkReadCached = [await rateOf(() => bulkReadOf(path))];
  return { rawWrite, rawRead, rawReadCached, bulkRead, bulkReadCached };
}

/** In the store's batches, each synced. */
async function rawWriteOf(path: string, data: Uint8Array, pieceBytes: number): Promise<void> {
  const file = await open(path, "wx");
  for (let start = 0; start < data.length; start += WRITE_BATCH_BYTES) {
    const pieces = Array.from({ length: WRITE_BATCH_BYTES / pieceBytes }, (_, index) => {
      const at = start + index * pieceBytes;
      return data.subarray(at, at + pieceBytes);
    });
    await file.writev(pieces);
    await file.datasync();
  }
  await file.close();
}

/** As many reads at once as a restore has, each into new memory: what is read is kept. */
async function rawReadOf(path: string, pieceBytes: number): Promise<void> {
  const file = await open(path, "r");
  let next = 0;
  const reader = async (): Promise<void> => {
    while (next < TOTAL_BYTES) {
      const at = next;
      next += pieceBytes;
      const bytes = new Uint8Array(Buffer.allocUnsafeSlow(pieceBytes).buffer);
      await file.read(bytes, 0, pieceBytes, at);
    }
  };
  await Promise.all(Array.from({ length: MAX_LOADS }, reader));
  await file.close();
}

/** One reader into one buffer: nothing is kept, as little as possible is allocated. */
async function bulkReadOf(path: string): Promise<void> {
  const file = await open(path, "r");
  const buffer = new Uint8Array(BULK_CHUNK_BYTES);
  for (let at = 0; at < TOTAL_BYTES; at += BULK_CHUNK_BYTES) await file.read(buffer, 0, BULK_CHUNK_BYTES, at);
  await file.close();
}

async function storeRates(
  folder: string,
  data: Uint8Array,
  payloadBytes: number,
): Promise<Pick<Rates, "spill" | "restore" | "restoreCached">> {
  const chain = makeChain(TOTAL_BYTES / payloadBytes);
  // No RAM, and a queue that holds all: what is measured is the disk.
  const budgets = { ramBytes: 0, diskBytes: 4 * TOTAL_BYTES, queueBytes: 2 * TOTAL_BYTES };
  const store = await TierStore.open({ ...budgets, disk: () => openFilesBackend(folder) });
  const payloads = chain.keys.map((_, block) =>
    withHeaderRoom(data.subarray(block * payloadBytes, (block + 1) * payloadBytes)),
  );
  try {
    const spill = [await rateOf(() => spillAll(store, chain, payloads))];
    const dropped = readdirSync(folder).filter((file) => dropFromCache(join(folder, file)));
    const restore = dropped.length > 0 ? [await rateOf(() => restoreAll(store, chain))] : [];
    const restoreCached = [await rateOf(() => restoreAll(store, chain))];
    return { spill, restore, restoreCached };
  } finally {
    await store.close();
  }
}

/** One long prompt's blocks. */
interface Chain {
  fingerprint: Key;
  tokens: Uint32Array;
  keys: Key[];
}

function makeChain(blocks: number): Chain {
  const fingerprint = fingerprintOf({ bench: "store" });
  const tokens = Uint32Array.from({ length: blocks * BLOCK_TOKENS }, (_, index) => index);
  return { fingerprint, tokens, keys: chainKeys(fingerprint, "", tokens, BLOCK_TOKENS) };
}

const tokensOf = ({ tokens }: Chain, block: number) =>
  tokens.subarray(block * BLOCK_TOKENS, (block + 1) * BLOCK_TOKENS);

/** As the pool reads a slot from the GPU: a record can be made around it. */
function withHeaderRoom(payload: Uint8Array): Uint8Array {
  const room = headerBytesOf(BLOCK_TOKENS);
  const bytes = new Uint8Array(room + payload.length);
  bytes.set(payload, room);
  return bytes.subarray(room);
}

const nextTurn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** As fast as records can be made, as many at a time as a prefill step completes. */
async function spillAll(store: TierStore, chain: Chain, payloads: readonly Uint8Array[]): Promise<void> {
  for (let block = 0; block < chain.keys.length; block++) {
    if (block % BLOCKS_A_STEP === 0) await nextTurn();
    const outcome = store.put({
      kind: "block",
      parentKey: chain.keys[block - 1] ?? rootKey(chain.fingerprint, ""),
      fingerprint: chain.fingerprint,
      namespace: "",
      blockIndex: block,
      tokens: tokensOf(chain, block),
      payload: payloads[block] as Uint8Array,
      hasHeaderRoom: true,
    });
    if (outcome !== "stored") throw new Error(`block ${block} was ${outcome}`);
  }
  const { left } = await store.drain(DRAIN_MS);
  const { records } = (await store.stats()).disk;
  if (left > 0 || records !== chain.keys.length) throw new Error(`${records} records arrived, ${left} wait`);
}

/** As many reads at once as a restore has under way. */
async function restoreAll(store: TierStore, chain: Chain): Promise<void> {
  let next = 0;
  const reader = async (): Promise<void> => {
    while (next < chain.keys.length) {
      const block = next++;
      const asked = { tokens: tokensOf(chain, block), fingerprint: chain.fingerprint };
      const found = await store.get(chain.keys[block] as Key, asked);
      if (!found.hit) throw new Error(`block ${block}: ${found.reason}`);
    }
  };
  await Promise.all(Array.from({ length: MAX_LOADS }, reader));
}

async function rateOf(work: () => Promise<void>): Promise<number> {
  const started = performance.now();
  await work();
  return (TOTAL_BYTES * 1000) / (performance.now() - started);
}

/** Makes the next read of a file come from the medium; false where this cannot be had. */
function dropFromCache(path: string): boolean {
  if (process.platform !== "linux") return false;
  try {
    execFileSync("dd", [`of=${path}`, "oflag=nocache", "conv=notrunc,fdatasync", "count=0"], {
      stdio: "ignore",
    });
    return true;
  } catch {
    return false; // said once, by measureStore
  }
}
