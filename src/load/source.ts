/**
 * Where a model file's bytes come from: ranged reads of a URL, a Blob or File, a path, or bytes in memory.
 * Each source hands out pieces; nothing here keeps a file in memory (a small file that a server will not serve in
 * ranges is the one, bounded, exception).
 * It does not parse, cache, retry or resume: a read either gives exactly the bytes asked for or throws.
 */
import { assert } from "../base.ts";
import { TidepoolError } from "../errors.ts";
import { fetchFollowing, messageOf, type Authorization } from "./download/http.ts";
import { release } from "./release.ts";

/** The largest piece that a streamed read hands out, and so the most that one reader holds of a file. */
export const PIECE_BYTES = 8 * 1024 * 1024;

/** What is asked of a Blob at once: it gives arrays of its own, and each is given back before the next. */
const BLOB_READ_BYTES = 1024 * 1024;

/** A server that ignores ranges may still serve files up to this size (config.json and its like); larger is an error. */
export const RANGELESS_BYTES = 64 * 1024 * 1024;

/** One file of known length that can be read in ranges. */
export interface Source {
  /** The file's name, for messages and for finding its siblings. */
  readonly name: string;
  readonly sizeBytes: number;
  /**
   * Reads exactly `length` bytes from `offset`.
   * Throws `source` when the range leaves the file or the bytes cannot be had, `aborted` when the signal fires.
   */
  read(offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array>;
  /** As `read`, but fills `bytes`, where the source can do so without an array of its own. */
  readInto?(offset: number, bytes: Uint8Array, signal?: AbortSignal): Promise<void>;
  /** Its bytes are here, on disk or in memory, and stay as long as it is open. */
  readonly isAtHand?: boolean;
  close(): Promise<void>;
}

export interface UrlOptions {
  headers?: Readonly<Record<string, string>>;
  /** A secret for one origin; it does not follow a redirect to another. */
  authorization?: Authorization | undefined;
  signal?: AbortSignal;
}

export interface PieceOptions {
  signal?: AbortSignal | undefined;
  /** Length of every piece but the last. At most PIECE_BYTES. */
  pieceBytes?: number | undefined;
  /** Reused for all pieces where the source can fill it: each piece is then valid until the next one is asked for. */
  buffer?: Uint8Array | undefined;
}

/** Streams a range in order, in pieces of `pieceBytes` (the last may be shorter). One read is in flight at a time. */
export async function* readBounded(
  source: Source,
  offset: number,
  length: number,
  options: PieceOptions = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  const pieceBytes = options.pieceBytes ?? PIECE_BYTES;
  if (!(pieceBytes > 0 && pieceBytes <= PIECE_BYTES)) {
    throw new TidepoolError("invalid_argument", `pieceBytes must be 1 to ${PIECE_BYTES}, got ${pieceBytes}`);
  }
  checkRange(source, offset, length);
  for (let at = 0; at < length; at += pieceBytes) {
    yield await readPiece(source, offset + at, Math.min(pieceBytes, length - at), options);
  }
}

async function readPiece(
  source: Source,
  offset: number,
  length: number,
  { buffer, signal }: PieceOptions,
): Promise<Uint8Array> {
  if (!source.readInto || !buffer || buffer.length < length) return source.read(offset, length, signal);
  const piece = buffer.subarray(0, length);
  await source.readInto(offset, piece, signal);
  return piece;
}

/** A source over bytes that are already in memory. Reads are views, not copies. */
export function openBytes(bytes: Uint8Array, name: string): Source {
  const source: Source = {
    name,
    sizeBytes: bytes.length,
    isAtHand: true,
    read: (offset, length, signal) => {
      try {
        checkRange(source, offset, length);
        checkSignal(signal, name);
        return Promise.resolve(bytes.subarray(offset, offset + length));
      } catch (error) {
        return Promise.reject(error as Error);
      }
    },
    close: () => Promise.resolve(),
  };
  return source;
}

/** A source over a Blob or File. A file that changed since it was chosen is an error of the read. */
export function openBlob(blob: Blob, name: string): Source {
  const slice = async (offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array> => {
    checkSignal(signal, name);
    const buffer = await blob
      .slice(offset, offset + length)
      .arrayBuffer()
      .catch((error: unknown) => fail(name, `cannot be read: ${messageOf(error)}`));
    checkSignal(signal, name);
    if (buffer.byteLength !== length) {
      fail(name, `gave ${buffer.byteLength} of ${length} bytes at ${offset}`);
    }
    return new Uint8Array(buffer);
  };
  const source: Source = {
    name,
    sizeBytes: blob.size,
    isAtHand: true,
    read: async (offset, length, signal) => {
      checkRange(source, offset, length);
      return slice(offset, length, signal);
    },
    readInto: async (offset, bytes, signal) => {
      checkRange(source, offset, bytes.length);
      for (let at = 0; at < bytes.length; at += BLOB_READ_BYTES) {
        const piece = await slice(offset + at, Math.min(BLOB_READ_BYTES, bytes.length - at), signal);
        bytes.set(piece, at);
        release(piece);
      }
    },
    close: () => Promise.resolve(),
  };
  return source;
}

/** What a path names. Node and Deno only. */
export async function pathKind(path: string): Promise<"file" | "folder" | "absent"> {
  const { stat } = await nodeFiles();
  try {
    return (await stat(path)).isDirectory() ? "folder" : "file";
  } catch (error) {
    if (isAbsent(error)) return "absent";
    return fail(path, `cannot be examined: ${messageOf(error)}`);
  }
}

/** The names of what is in a folder, in order. Node and Deno only. */
export async function namesIn(folder: string): Promise<string[]> {
  const { readdir } = await nodeFiles();
  return (await readdir(folder)).sort();
}

/** A source over a file in the file system, through one open handle. Node and Deno only. Absent: `not_found`. */
export async function openPath(path: string): Promise<Source> {
  const { open } = await nodeFiles();
  const handle = await open(path, "r").catch((error: unknown) => {
    if (isAbsent(error)) throw new TidepoolError("not_found", `${path} does not exist`, { path });
    return fail(path, `cannot be opened: ${messageOf(error)}`);
  });
  const status = await handle.stat();
  if (!status.isFile()) {
    await handle.close();
    throw new TidepoolError("invalid_argument", `${path} is not a file`, { path });
  }
  const fill = async (offset: number, bytes: Uint8Array, signal?: AbortSignal): Promise<void> => {
    for (let filled = 0; filled < bytes.length;) {
      checkSignal(signal, path);
      const { bytesRead } = await handle.read(bytes, filled, bytes.length - filled, offset + filled);
      if (bytesRead === 0) fail(path, `ended after ${offset + filled} of ${source.sizeBytes} bytes`);
      filled += bytesRead;
    }
  };
  const source: Source = {
    name: baseName(path),
    sizeBytes: status.size,
    isAtHand: true,
    read: async (offset, length, signal) => {
      checkRange(source, offset, length);
      const bytes = new Uint8Array(length);
      await fill(offset, bytes, signal);
      return bytes;
    },
    readInto: async (offset, bytes, signal) => {
      checkRange(source, offset, bytes.length);
      await fill(offset, bytes, signal);
    },
    close: () => handle.close(),
  };
  return source;
}

/**
 * A source over a URL that answers range requests. One small request finds the length.
 * Throws `not_found` for 404 and 410; `source` for any other refusal, for a server that answers a large file whole, and for lengths or
 * versions (ETag) that disagree between answers.
 */
export async function openUrl(url: string | URL, options: UrlOptions = {}): Promise<Source> {
  const address = String(url);
  const response = await request(address, 0, 1, options);
  if (response.status === 416) return emptyUrl(address, response);
  if (response.status === 200) return wholeUrl(address, response);
  const total = contentRange(response)?.total ?? (await headLength(address, options));
  await response.body?.cancel();
  return rangedUrl(address, total, response.headers.get("etag"), options);
}

function rangedUrl(url: string, sizeBytes: number, etag: string | null, options: UrlOptions): Source {
  const name = urlName(url);
  const fill = async (offset: number, bytes: Uint8Array, signal?: AbortSignal): Promise<void> => {
    checkRange(source, offset, bytes.length);
    checkSignal(signal, name);
    if (bytes.length === 0) return;
    const response = await request(url, offset, bytes.length, { ...options, ...(signal ? { signal } : {}) });
    try {
      checkAnswer(url, response, offset, bytes.length, sizeBytes, etag);
    } catch (error) {
      await response.body?.cancel();
      throw error;
    }
    await fillFrom(url, response, bytes, signal);
  };
  const source: Source = {
    name,
    sizeBytes,
    read: async (offset, length, signal) => {
      checkRange(source, offset, length);
      const bytes = new Uint8Array(length);
      await fill(offset, bytes, signal);
      return bytes;
    },
    readInto: fill,
    close: () => Promise.resolve(),
  };
  return source;
}

/** A length of 0 cannot be asked for as a range: 416 with a total of 0 is an empty file. */
async function emptyUrl(url: string, response: Response): Promise<Source> {
  await response.body?.cancel();
  if (/\/0$/.test(response.headers.get("content-range") ?? ""))
    return openBytes(new Uint8Array(0), urlName(url));
  return fail(url, "refused a range request (HTTP 416)");
}

/** The server ignored the range. Small files are kept whole; a model must be readable in ranges. */
async function wholeUrl(url: string, response: Response): Promise<Source> {
  const header = response.headers.get("content-length");
  const declared = header === null ? undefined : Number(header);
  if (declared === undefined || !(declared <= RANGELESS_BYTES)) {
    await response.body?.cancel();
    const size = declared === undefined ? "a file of unknown length" : `${declared} bytes`;
    return fail(
      url,
      `answered a range request with the whole file (HTTP 200, ${size}): a server for models must support ranges; ` +
        `without them at most ${RANGELESS_BYTES} bytes are read`,
    );
  }
  // A compressed answer declares its compressed length, so that only uncompressed ones can be checked.
  const encoded = response.headers.get("content-encoding") !== null;
  if (encoded) return openBytes(await readWhole(url, response), urlName(url));
  const bytes = new Uint8Array(declared);
  await fillFrom(url, response, bytes);
  return openBytes(bytes, urlName(url));
}

async function request(url: string, offset: number, length: number, options: UrlOptions): Promise<Response> {
  const headers = { ...options.headers, Range: `bytes=${offset}-${offset + length - 1}` };
  const init: RequestInit = { headers, ...(options.signal ? { signal: options.signal } : {}) };
  const response = await fetchOrFail(url, init, options.authorization);
  if (response.status === 206 || response.status === 200 || response.status === 416) return response;
  await response.body?.cancel();
  if (response.status === 404 || response.status === 410) {
    throw new TidepoolError("not_found", `${url} does not exist (HTTP ${response.status})`, { url });
  }
  return fail(url, `answered HTTP ${response.status}`, { status: response.status });
}

async function fetchOrFail(
  url: string,
  init: RequestInit,
  authorization: Authorization | undefined,
): Promise<Response> {
  try {
    return (await fetchFollowing(url, init, authorization)).response;
  } catch (error) {
    checkSignal(init.signal ?? undefined, url);
    return fail(url, `cannot be reached: ${messageOf(error)}`);
  }
}

/** The length by a HEAD request, for servers that hide Content-Range from other origins. */
async function headLength(url: string, options: UrlOptions): Promise<number> {
  const response = await fetchOrFail(
    url,
    {
      method: "HEAD",
      headers: { ...options.headers },
      ...(options.signal ? { signal: options.signal } : {}),
    },
    options.authorization,
  );
  const length = Number(response.headers.get("content-length") ?? NaN);
  if (!response.ok || !Number.isSafeInteger(length)) fail(url, "does not tell the file's length");
  return length;
}

function checkAnswer(
  url: string,
  response: Response,
  offset: number,
  length: number,
  sizeBytes: number,
  etag: string | null,
): void {
  if (response.status !== 206) {
    fail(
      url,
      `answered bytes ${offset} to ${offset + length - 1} with HTTP ${response.status}, expected 206`,
    );
  }
  const now = response.headers.get("etag");
  if (etag !== null && now !== null && now !== etag) {
    fail(url, `changed while it was read (ETag ${etag}, now ${now})`);
  }
  const range = contentRange(response);
  if (range === undefined) return;
  if (range.first !== offset || range.last !== offset + length - 1) {
    fail(
      url,
      `answered bytes ${range.first} to ${range.last}, asked for ${offset} to ${offset + length - 1}`,
    );
  }
  if (range.total !== sizeBytes) fail(url, `changed its length from ${sizeBytes} to ${range.total} bytes`);
}

function contentRange(response: Response): { first: number; last: number; total: number } | undefined {
  const match = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(response.headers.get("content-range") ?? "");
  if (match === null) return undefined;
  return { first: Number(match[1]), last: Number(match[2]), total: Number(match[3]) };
}

/** Reads a body that must have exactly as many bytes as `bytes`. */
async function fillFrom(
  url: string,
  response: Response,
  bytes: Uint8Array,
  signal?: AbortSignal,
): Promise<void> {
  const filled = await eachChunk(url, response, bytes.length, signal, (chunk, at) => {
    bytes.set(chunk, at);
    release(chunk);
  });
  if (filled !== bytes.length) fail(url, `sent ${filled} of ${bytes.length} bytes`);
}

/** Reads a body of unknown length, at most RANGELESS_BYTES. */
async function readWhole(url: string, response: Response): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  const length = await eachChunk(url, response, RANGELESS_BYTES, undefined, (chunk) => chunks.push(chunk));
  return concatenate(chunks, length);
}

/** Hands out a body's chunks, which are the receiver's own; gives their length, at most `limit`. */
async function eachChunk(
  url: string,
  response: Response,
  limit: number,
  signal: AbortSignal | undefined,
  take: (chunk: Uint8Array, at: number) => void,
): Promise<number> {
  let filled = 0;
  try {
    for await (const chunk of response.body ?? []) {
      if (filled + chunk.length > limit) fail(url, `sent more than the ${limit} bytes asked for`);
      const { length } = chunk;
      take(chunk, filled);
      filled += length;
    }
  } catch (error) {
    checkSignal(signal, url);
    if (error instanceof TidepoolError) throw error;
    fail(url, `was cut after ${filled} of ${limit} bytes: ${messageOf(error)}`);
  }
  return filled;
}

function concatenate(chunks: Uint8Array[], length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

/** Throws `source` unless the range is made of whole numbers and lies inside the file. */
function checkRange(source: Source, offset: number, length: number): void {
  assert(
    Number.isSafeInteger(offset) && Number.isSafeInteger(length),
    `range ${offset}+${length} of ${source.name}`,
  );
  if (offset < 0 || length < 0 || offset + length > source.sizeBytes) {
    fail(source.name, `has ${source.sizeBytes} bytes, cannot read ${length} at ${offset}`);
  }
}

function checkSignal(signal: AbortSignal | undefined, name: string): void {
  if (signal?.aborted) throw new TidepoolError("aborted", `reading ${name} was aborted`);
}

function fail(name: string, what: string, details: Record<string, unknown> = {}): never {
  throw new TidepoolError("source", `${name} ${what}`, { name, ...details });
}

function isAbsent(error: unknown): boolean {
  const code = (error as { code?: unknown } | null)?.code;
  return code === "ENOENT" || code === "ENOTDIR";
}

/** The last component of a path, whichever way its slashes lean. */
export function baseName(path: string): string {
  return path.slice(Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\")) + 1);
}

function urlName(url: string): string {
  return decodeURIComponent(baseName(new URL(url, globalThis.location?.href).pathname));
}

/** Through a variable, so that no bundler tries to put Node's file system into a page. */
function nodeFiles(): Promise<typeof import("node:fs/promises")> {
  const builtin = "node:fs/promises";
  return import(/* @vite-ignore */ /* webpackIgnore: true */ builtin) as Promise<
    typeof import("node:fs/promises")
  >;
}
