/**
 * A small server on localhost for browser tests: files below named folders, read-only, cross-origin isolated, with byte
 * ranges. It lists no folders, caches nothing and serves no links out of its folders.
 */
import { createReadStream, realpathSync, statSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, resolve, sep } from "node:path";

export interface FileServer {
  /** "http://127.0.0.1:PORT/", which browsers count as a secure context. */
  address: string;
  close(): Promise<void>;
}

/** By number: a bare container may not even know the name localhost. */
const HOST = "127.0.0.1";

const MEDIA_TYPES: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".json": "application/json",
  ".wasm": "application/wasm",
  ".svg": "image/svg+xml",
};

const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Cache-Control": "no-store",
};

/**
 * Serves `folders` (path prefix without slashes -> folder; "" is the root) and `pages` (path -> HTML) until closed, with
 * `extra` headers in addition to its own or in their place. `onRequest` sees the path of each request.
 */
export async function serveFolders(
  folders: Record<string, string>,
  pages: Record<string, string> = {},
  extra: Record<string, string> = {},
  onRequest: (path: string) => void = () => {},
): Promise<FileServer> {
  const headers = { ...HEADERS, ...extra };
  const server = createServer((request, response) => {
    const path = pathOf(request);
    onRequest(path);
    const page = pages[path];
    if (page !== undefined) {
      response.writeHead(200, { ...headers, "Content-Type": "text/html; charset=utf-8" }).end(page);
      return;
    }
    const file = findFile(folders, path);
    if (file === undefined) response.writeHead(404, headers).end("not found");
    else sendFile(request, response, file, headers);
  });
  await new Promise<void>((done, fail) => server.on("error", fail).listen(0, HOST, done));
  const { port } = server.address() as AddressInfo;
  return {
    address: `http://${HOST}:${port}/`,
    close: () =>
      new Promise((done, fail) => {
        server.close((error) => (error ? fail(error) : done()));
        server.closeAllConnections();
      }),
  };
}

/** The decoded path; one that cannot be decoded names nothing. */
function pathOf(request: IncomingMessage): string {
  try {
    return decodeURIComponent(new URL(request.url ?? "/", `http://${HOST}`).pathname);
  } catch {
    return "/\0";
  }
}

/** The file of a path, if it lies below one of the folders, links resolved. */
function findFile(folders: Record<string, string>, path: string): string | undefined {
  const [, first = "", ...rest] = path.split("/");
  const named = folders[first];
  const folder = named ?? folders[""];
  if (folder === undefined) return undefined;
  const below = named === undefined || first === "" ? path.slice(1) : rest.join("/");
  try {
    const root = realpathSync(folder);
    const file = realpathSync(resolve(root, below === "" ? "index.html" : below));
    return file.startsWith(root + sep) && statSync(file).isFile() ? file : undefined;
  } catch {
    return undefined;
  }
}

function sendFile(
  request: IncomingMessage,
  response: ServerResponse,
  file: string,
  headers: Record<string, string>,
): void {
  const bytes = statSync(file).size;
  const type = { "Content-Type": MEDIA_TYPES[extname(file)] ?? "application/octet-stream" };
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
  const start = range ? Number(range[1]) : 0;
  const end = range?.[2] ? Math.min(Number(range[2]), bytes - 1) : bytes - 1;
  if (range && start > end) {
    response.writeHead(416, { ...headers, "Content-Range": `bytes */${bytes}` }).end();
    return;
  }
  const part = range ? { "Content-Range": `bytes ${start}-${end}/${bytes}` } : {};
  response.writeHead(range ? 206 : 200, {
    ...headers,
    ...type,
    ...part,
    "Accept-Ranges": "bytes",
    "Content-Length": end - start + 1,
  });
  if (request.method === "HEAD" || bytes === 0) response.end();
  else
    createReadStream(file, { start, end })
      .on("error", () => response.destroy())
      .pipe(response);
}
