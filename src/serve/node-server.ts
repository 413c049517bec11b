/**
 * A handler of `Request`s behind Node's HTTP server: loopback unless told otherwise, bounded in connections and in time, closed in
 * order. Own code, because the adapters on npm bring a web framework along for these hundred lines. It knows no handler.
 */
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import type { ReadableStream as NodeStream } from "node:stream/web";

/** Connections at once, unless the options say otherwise. */
const MAX_CONNECTIONS = 64;

/** How long a request's head, and all of it, may take to arrive, and a connection may idle. */
const HEAD_LIMIT_MS = 10_000;
const REQUEST_LIMIT_MS = 60_000;
const IDLE_LIMIT_MS = 5000;

/** While answers end: how often connections that carry none any more are closed. */
const IDLE_LOOK_MS = 50;

/**
 * Where a server listens.
 *
 * @example
 * ```ts
 * const options: ServeOptions = { host: "127.0.0.1", port: 0 };
 * const server = await serveHttp(async () => new Response("ok"), options);
 * await server.close();
 * ```
 */
export interface ServeOptions {
  /** Default "127.0.0.1": this machine alone. */
  host?: string | undefined;
  /** 0: any that is free. */
  port: number;
  /** Connections at once; more are dropped. Default 64. */
  maxConnections?: number | undefined;
}

/**
 * A server that listens.
 *
 * @example
 * ```ts
 * const server: RunningServer = await serveHttp(async () => new Response("ok"), { port: 0 });
 * console.log(await (await fetch(server.url)).text()); // ok
 * await server.close();
 * ```
 */
export interface RunningServer {
  url: string;
  /** Takes no more connections, and ends those that are open: those that carry an answer after `drainMs` at the latest. Default 0. */
  close(drainMs?: number): Promise<void>;
}

/**
 * Serves a handler over HTTP in Node. A request's signal fires when its asker goes away.
 *
 * @example
 * ```ts
 * const service = await prefillService(engine, { key: newKey() });
 * const server = await serveHttp(service.fetch, { port: 0 });
 * const withoutKey = await fetch(`${server.url}/v1/prefill`);
 * console.log(withoutKey.status); // 401
 * await server.close();
 * ```
 */
export async function serveHttp(
  handler: (request: Request) => Promise<Response>,
  { host = "127.0.0.1", port, maxConnections = MAX_CONNECTIONS }: ServeOptions,
): Promise<RunningServer> {
  const server = createServer((incoming, outgoing) => void answer(handler, incoming, outgoing));
  server.maxConnections = maxConnections;
  server.headersTimeout = HEAD_LIMIT_MS;
  server.requestTimeout = REQUEST_LIMIT_MS;
  server.keepAliveTimeout = IDLE_LIMIT_MS;
  server.listen(port, host);
  await once(server, "listening");
  const { port: bound } = server.address() as AddressInfo;
  const shownHost = host.includes(":") ? `[${host}]` : host;
  return { url: `http://${shownHost}:${bound}`, close: (drainMs = 0) => close(server, drainMs) };
}

async function close(server: Server, drainMs: number): Promise<void> {
  const closed = once(server, "close");
  server.close(); // connections that carry no answer end too
  if (drainMs <= 0) server.closeAllConnections();
  const late = setTimeout(() => server.closeAllConnections(), drainMs);
  const idle = setInterval(() => server.closeIdleConnections(), IDLE_LOOK_MS); // clients keep theirs after an answer
  await closed;
  clearTimeout(late);
  clearInterval(idle);
}

/** Never rejects: a connection that breaks concerns its asker alone. */
async function answer(
  handler: (request: Request) => Promise<Response>,
  incoming: IncomingMessage,
  outgoing: ServerResponse,
): Promise<void> {
  const gone = new AbortController();
  outgoing.on("close", () => gone.abort());
  outgoing.on("error", () => gone.abort());
  incoming.on("error", () => gone.abort());
  try {
    await send(await handler(requestOf(incoming, gone.signal)), outgoing);
  } catch {
    if (outgoing.headersSent)
      outgoing.destroy(); // cut short, and seen to be
    else outgoing.writeHead(400, { Connection: "close" }).end();
  }
}

/** @throws TypeError if the head makes no request */
function requestOf(incoming: IncomingMessage, signal: AbortSignal): Request {
  const headers = new Headers();
  for (const [name, value] of Object.entries(incoming.headers))
    for (const each of [value ?? []].flat()) headers.append(name, each);
  const { method = "GET", url = "/" } = incoming;
  const hasBody = method !== "GET" && method !== "HEAD";
  return new Request(new URL(url, "http://localhost"), {
    ...{ method, headers, signal },
    ...(hasBody && { body: Readable.toWeb(incoming) as ReadableStream, duplex: "half" }),
  } as RequestInit);
}

/** Writes no faster than the asker reads. */
async function send({ status, headers, body }: Response, outgoing: ServerResponse): Promise<void> {
  if (outgoing.destroyed) {
    await body?.cancel(); // its asker went away while it was made
    return;
  }
  outgoing.writeHead(status, Object.fromEntries(headers));
  if (!body) {
    outgoing.end();
    return;
  }
  const from = Readable.fromWeb(body as NodeStream);
  outgoing.flushHeaders();
  outgoing.on("close", () => from.destroy());
  from.pipe(outgoing);
  await once(from, "close");
  if (from.errored) throw from.errored;
}
