/**
 * A server of files for download tests, which misbehaves as it is told: throttles, stalls, cuts, ignores ranges, refuses,
 * redirects, and lies about lengths and versions. It counts what it sends. It also speaks the part of the Hub's API that a
 * download needs: a repository's listing, and files that lie on another server.
 */
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

/** What one request is answered with, where that differs from the truth. */
export interface Answer {
  status: number;
  headers: Record<string, string>;
  /** Ranges are answered with the whole file. */
  ignoreRange: boolean;
  /** The connection is cut after so many bytes of the body. */
  cutAfter: number;
  /** Nothing more is sent after so many bytes of the body, and the connection stays open. */
  stallAfter: number;
  /** What is served in place of the file. */
  bytes: Uint8Array;
  etag: string;
  /** The total that the answer claims. */
  claimedTotal: number;
  redirect: string;
}

export interface Asked {
  path: string;
  /** The n-th request to this server, from 0. */
  index: number;
  start: number;
  end: number;
  isRange: boolean;
  headers: IncomingMessage["headers"];
}

export interface UnreliableServer {
  /** Without a slash at its end. */
  address: string;
  /** By path, with a slash at its start. */
  files: Map<string, Uint8Array>;
  /** Says what to do with a request; honest where it says nothing. */
  behave: (asked: Asked) => Partial<Answer> | undefined;
  /** Of each connection; 0: as fast as it goes. */
  bytesPerSecond: number;
  requests: Asked[];
  /** Bytes of bodies that left. */
  bytesSent: number;
  /** The most answers that were under way at once. */
  mostAtOnce: number;
  close(): Promise<void>;
  /** Ends all connections and hears no more, until `resume`. */
  pause(): Promise<void>;
  resume(): Promise<void>;
}

const HOST = "127.0.0.1";
const CHUNK_BYTES = 16 * 1024;
/** A throttled answer's chunks are this far apart. */
const TICK_MS = 5;

const CORS = {
  "Access-Control-Allow-Origin": "*",
  "Access-Control-Allow-Headers": "*",
  "Access-Control-Expose-Headers": "ETag, Content-Range, X-Linked-Etag, X-Linked-Size",
  "Cross-Origin-Resource-Policy": "cross-origin",
  "Cache-Control": "no-store",
};

export async function serveUnreliably(files: Record<string, Uint8Array> = {}): Promise<UnreliableServer> {
  let open = 0;
  let port = 0;
  const http: Server = createServer((request, response) => {
    self.mostAtOnce = Math.max(self.mostAtOnce, ++open);
    response.on("close", () => open--);
    answer(self, request, response).catch(() => response.destroy());
  });
  const listen = async (): Promise<void> => {
    await new Promise<void>((done, fail) => http.on("error", fail).listen(port, HOST, done));
    port = (http.address() as AddressInfo).port;
  };
  const pause = (): Promise<void> =>
    new Promise((done) => {
      http.close(() => done());
      http.closeAllConnections();
    });
  const self: UnreliableServer = {
    ...{ address: "", files: new Map(Object.entries(files)), behave: () => undefined },
    ...{ bytesPerSecond: 0, requests: [], bytesSent: 0, mostAtOnce: 0 },
    ...{ pause, close: pause, resume: listen },
  };
  await listen();
  self.address = `http://${HOST}:${port}`;
  return self;
}

async function answer(
  server: UnreliableServer,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  if (request.method === "OPTIONS") return void response.writeHead(204, CORS).end();
  const path = decodeURIComponent(new URL(request.url ?? "/", server.address).pathname);
  const match = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
  const known = server.files.get(path);
  const size = known?.length ?? 0;
  const asked: Asked = {
    ...{ path, index: server.requests.length, isRange: match !== null, headers: request.headers },
    start: match ? Number(match[1]) : 0,
    end: match ? Math.min(Number(match[2]) + 1, size) : size,
  };
  server.requests.push(asked);
  const told = server.behave(asked) ?? {};
  if (told.redirect !== undefined) {
    return void response.writeHead(302, { ...CORS, Location: told.redirect, ...told.headers }).end();
  }
  const bytes = told.bytes ?? known;
  if (told.status !== undefined || bytes === undefined) {
    return void response.writeHead(told.status ?? 404, { ...CORS, ...told.headers }).end("no");
  }
  await sendFile(server, response, asked, bytes, told);
}

async function sendFile(
  server: UnreliableServer,
  response: ServerResponse,
  asked: Asked,
  bytes: Uint8Array,
  told: Partial<Answer>,
): Promise<void> {
  const isPart = asked.isRange && told.ignoreRange !== true;
  const total = told.claimedTotal ?? bytes.length;
  if (isPart && asked.start >= bytes.length) {
    return void response.writeHead(416, { ...CORS, "Content-Range": `bytes */${bytes.length}` }).end();
  }
  const body = isPart ? bytes.subarray(asked.start, asked.end) : bytes;
  const range = isPart
    ? { "Content-Range": `bytes ${asked.start}-${asked.start + body.length - 1}/${total}` }
    : {};
  const length = { "Content-Length": String(isPart ? body.length : total) };
  const etag = { ETag: told.etag ?? etagOf(bytes) };
  response.writeHead(isPart ? 206 : 200, { ...CORS, ...etag, ...range, ...length, ...told.headers });
  await sendBody(server, response, body, told);
}

async function sendBody(
  server: UnreliableServer,
  response: ServerResponse,
  body: Uint8Array,
  { cutAfter = Infinity, stallAfter = Infinity }: Partial<Answer>,
): Promise<void> {
  const until = Math.min(body.length, cutAfter, stallAfter);
  for (let at = 0; at < until && !response.destroyed;) {
    const { bytesPerSecond } = server;
    const most = bytesPerSecond > 0 ? Math.ceil((bytesPerSecond * TICK_MS) / 1000) : CHUNK_BYTES;
    const chunk = body.subarray(at, Math.min(until, at + Math.min(most, CHUNK_BYTES)));
    await new Promise<void>((done) => response.write(chunk, () => done()));
    server.bytesSent += chunk.length;
    at += chunk.length;
    if (bytesPerSecond > 0) await sleep((chunk.length / bytesPerSecond) * 1000);
  }
  if (stallAfter <= body.length) return;
  if (cutAfter <= body.length) response.socket?.destroySoon();
  else response.end();
}

const etags = new WeakMap<Uint8Array, string>();

function etagOf(bytes: Uint8Array): string {
  const known = etags.get(bytes) ?? `"${createHash("md5").update(bytes).digest("hex")}"`;
  etags.set(bytes, known);
  return known;
}

export function sha256Of(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/**
 * Makes `front` speak like the Hub for one repository, whose large files lie on `store`: the front only redirects there.
 * @param commits what each revision means
 */
export function actAsHub(
  front: UnreliableServer,
  store: UnreliableServer,
  repo: string,
  files: Record<string, Uint8Array>,
  options: { commits?: Record<string, string>; token?: string; withHashes?: boolean } = {},
): void {
  const { commits = { main: "c0ffee" }, token, withHashes = true } = options;
  for (const [name, bytes] of Object.entries(files)) store.files.set(`/cdn/${name}`, bytes);
  const siblings = Object.entries(files).map(([rfilename, bytes]) => ({
    ...{ rfilename, size: bytes.length },
    ...(withHashes && { lfs: { sha256: sha256Of(bytes), size: bytes.length } }),
  }));
  front.behave = ({ path, headers }) => {
    if (token !== undefined && headers.authorization !== `Bearer ${token}`) return { status: 401 };
    const revision = path.startsWith(`/api/models/${repo}/revision/`)
      ? path.split("/").slice(6).join("/")
      : undefined;
    if (revision !== undefined) {
      const sha = commits[revision];
      const listing = new TextEncoder().encode(JSON.stringify({ sha, siblings }));
      return sha === undefined ? { status: 404 } : { bytes: listing, ignoreRange: true };
    }
    const [, commit = "", file = ""] = new RegExp(`^/${repo}/resolve/([^/]+)/(.+)$`).exec(path) ?? [];
    const bytes = files[file];
    if (bytes === undefined || !Object.values(commits).includes(commit)) return { status: 404 };
    const linked = { "X-Linked-Size": String(bytes.length), "X-Linked-Etag": `"${sha256Of(bytes)}"` };
    return { redirect: `${store.address}/cdn/${file}`, ...(withHashes && { headers: linked }) };
  };
}
