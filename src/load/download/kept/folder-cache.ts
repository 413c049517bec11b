/**
 * Where browsers without OPFS keep models: the Cache API, which stores whole answers only. A payload is a row of chunks
 * of CHUNK_BYTES, each an answer of its own; chunks being filled are held in memory until the next flush, whole ones until
 * then too, so that the owner's flushes bound what is held.
 */
import { storageError, type ModelFolder, type Part, type Release } from "./model-folder.ts";
import { quotaLeft, webLock } from "./folder-opfs.ts";
import { release } from "../../release.ts";
import type { Source } from "../../source.ts";

export const CHUNK_BYTES = 1024 * 1024;

/** A host that does not exist, so that no page's own requests are ever answered from here. */
const ROOT = "https://models.tidepool.invalid/";

/** The store of this name; undefined if there is no Cache API either. */
export async function openCacheFolder(name: string): Promise<ModelFolder | undefined> {
  try {
    return new CacheFolder(name, await caches.open(name));
  } catch {
    return undefined;
  }
}

class CacheFolder implements ModelFolder {
  readonly place: string;
  private readonly name: string;
  private readonly cache: Cache;

  constructor(name: string, cache: Cache) {
    this.name = name;
    this.cache = cache;
    this.place = `the browser's cache (${name})`;
  }

  async list(): Promise<string[]> {
    const requests = await this.cache.keys();
    const paths = requests.map(({ url }) => decodeURIComponent(url.slice(ROOT.length)));
    return paths.filter((path) => !path.includes("/"));
  }

  async readSmall(name: string): Promise<Uint8Array | undefined> {
    return readEntry(this.cache, name);
  }

  writeSmall(name: string, bytes: Uint8Array): Promise<void> {
    return writeEntry(this.place, this.cache, name, bytes);
  }

  openPart(name: string): Promise<Part> {
    return Promise.resolve(new CachePart(this.place, this.cache, name));
  }

  async openKept(name: string, sizeBytes: number, title: string): Promise<Source | undefined> {
    const part = new CachePart(this.place, this.cache, name);
    if ((await part.sizeBytes()) !== sizeBytes) return undefined;
    return {
      name: title,
      sizeBytes,
      read: async (offset, length) => {
        const bytes = new Uint8Array(length);
        await part.read(offset, bytes);
        return bytes;
      },
      readInto: (offset, bytes) => part.read(offset, bytes),
      close: () => Promise.resolve(),
    };
  }

  async remove(name: string): Promise<void> {
    await this.cache.delete(ROOT + name);
    for (const index of await chunkIndices(this.cache, name)) await this.cache.delete(chunkUrl(name, index));
  }

  lock(key: string, signal?: AbortSignal): Promise<Release> {
    return webLock(`tidepool model ${this.name} ${key}`, signal);
  }

  freeBytes(): Promise<number | undefined> {
    return quotaLeft();
  }
}

class CachePart implements Part {
  private readonly place: string;
  private readonly cache: Cache;
  private readonly name: string;
  /** Chunks with bytes that are not stored yet. */
  private readonly dirty = new Map<number, Uint8Array<ArrayBuffer>>();
  /** Writes and flushes go one after the other: both replace chunks. */
  private last: Promise<void> = Promise.resolve();

  constructor(place: string, cache: Cache, name: string) {
    this.place = place;
    this.cache = cache;
    this.name = name;
  }

  async sizeBytes(): Promise<number> {
    const last = Math.max(-1, ...(await chunkIndices(this.cache, this.name)));
    if (last < 0) return 0;
    return last * CHUNK_BYTES + ((await readEntry(this.cache, chunkPath(this.name, last)))?.length ?? 0);
  }

  async read(offset: number, bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      const { index, within, count } = pieceAt(offset + at, bytes.length - at);
      const dirty = this.dirty.get(index);
      const chunk = dirty ?? (await readEntry(this.cache, chunkPath(this.name, index)));
      const piece = chunk?.subarray(within, within + count);
      if (chunk === undefined || piece?.length !== count) {
        throw storageError(this.place, "reading", new Error(`bytes at ${offset + at} are gone`));
      }
      bytes.set(piece, at);
      if (!dirty) release(chunk);
      at += count;
    }
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    return this.inTurn(async () => {
      for (let at = 0; at < bytes.length;) {
        const { index, within, count } = pieceAt(offset + at, bytes.length - at);
        const chunk = await this.chunkFor(index, within + count);
        chunk.set(bytes.subarray(at, at + count), within);
        at += count;
      }
    });
  }

  flush(): Promise<void> {
    return this.inTurn(async () => {
      for (const [index, chunk] of [...this.dirty]) {
        await writeEntry(this.place, this.cache, chunkPath(this.name, index), chunk);
        this.dirty.delete(index);
      }
    });
  }

  private inTurn(work: () => Promise<void>): Promise<void> {
    const done = this.last.then(work);
    this.last = done.catch(() => undefined); // who asked hears of it
    return done;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  /** The chunk to write into, at least `length` long. */
  private async chunkFor(index: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    const stored = this.dirty.has(index)
      ? undefined
      : await readEntry(this.cache, chunkPath(this.name, index));
    const before = this.dirty.get(index) ?? stored;
    if (before && before.length >= length) {
      this.dirty.set(index, before);
      return before;
    }
    const chunk = new Uint8Array(length);
    if (before) {
      chunk.set(before);
      release(before);
    }
    this.dirty.set(index, chunk);
    return chunk;
  }
}

/** Which chunk holds a byte, where in it, and how many of `length` bytes. */
function pieceAt(offset: number, length: number): { index: number; within: number; count: number } {
  const within = offset % CHUNK_BYTES;
  return { index: Math.floor(offset / CHUNK_BYTES), within, count: Math.min(length, CHUNK_BYTES - within) };
}

const chunkPath = (name: string, index: number): string => `${name}/${index}`;
const chunkUrl = (name: string, index: number): string => ROOT + chunkPath(name, index);

async function chunkIndices(cache: Cache, name: string): Promise<number[]> {
  const prefix = `${ROOT}${name}/`;
  const urls = (await cache.keys()).map(({ url }) => url).filter((url) => url.startsWith(prefix));
  return urls.map((url) => Number(url.slice(prefix.length)));
}

async function readEntry(cache: Cache, path: string): Promise<Uint8Array<ArrayBuffer> | undefined> {
  const response = await cache.match(ROOT + path);
  return response && new Uint8Array(await response.arrayBuffer());
}

async function writeEntry(place: string, cache: Cache, path: string, bytes: Uint8Array): Promise<void> {
  try {
    await cache.put(ROOT + path, new Response(bytes as Uint8Array<ArrayBuffer>));
  } catch (error) {
    throw storageError(place, "writing", error);
  }
}
