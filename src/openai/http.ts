/**
 * OpenAI's API over `Request` and `Response`: routes, bodies within a bound, errors in OpenAI's shape, and answers as server-sent
 * events. The same handler answers in a page, in a service worker and behind a server; keys and connections are a server's business.
 */
import { HttpRefusal, readJson } from "../http-body.ts";
import { faultOf } from "./faults.ts";
import type { ChatBody, EmbeddingsBody, TextBody } from "./bodies.ts";
import type { OpenAi } from "./openai.ts";

/** Bytes of a body, unless a server says otherwise: far more than any context holds. */
const MAX_BODY_BYTES = 16 * 2 ** 20;

/** A reader that takes nothing for so long is gone. */
const STALL_MS = 120_000;

export interface HandlerOptions {
  maxBodyBytes?: number | undefined;
}

type Route = (api: OpenAi, body: unknown, request: Request) => unknown;

/** By what stands behind the version. */
const POST: Readonly<Record<string, Route>> = {
  "/chat/completions": (api, body, { signal }) => api.chat.completions.create(body as ChatBody, { signal }),
  "/completions": (api, body, { signal }) => api.completions.create(body as TextBody, { signal }),
  "/embeddings": (api, body, { signal }) => api.embeddings.create(body as EmbeddingsBody, { signal }),
  "/tokenize": (api, body) => api.tokenize(body),
};

const MODELS = "/models";

/** The path behind the version; all of it if there is none. */
function routeOf(url: string): string {
  const { pathname } = new URL(url);
  return pathname.replace(/^.*\/v1(?=\/)/, "").replace(/(?<=.)\/+$/, "");
}

/** Answers a request; never rejects. */
export async function handle(
  api: OpenAi,
  request: Request,
  { maxBodyBytes = MAX_BODY_BYTES }: HandlerOptions = {},
): Promise<Response> {
  try {
    const answer = await ask(api, request, maxBodyBytes);
    return isStream(answer) ? events(answer) : json(answer);
  } catch (error) {
    return faultResponse(error);
  }
}

/** An error as a response. */
export function faultResponse(error: unknown): Response {
  const { status, body, headers } = faultOf(error);
  return json(body, status, headers);
}

export function json(value: unknown, status = 200, headers: Record<string, string> = {}): Response {
  return Response.json(value, { status, headers: { "Cache-Control": "no-store", ...headers } });
}

async function ask(api: OpenAi, request: Request, maxBodyBytes: number): Promise<unknown> {
  const { method, url } = request;
  const path = routeOf(url);
  const isModels = path === MODELS || path.startsWith(`${MODELS}/`);
  const route = Object.hasOwn(POST, path) ? POST[path] : undefined;
  if (!isModels && !route)
    throw new HttpRefusal(
      404,
      "not_found",
      `nothing is at ${path.slice(0, 200)}, expected ${PATHS.join(", ")}`,
    );
  const allowed = isModels ? "GET" : "POST";
  if (method !== allowed)
    throw new HttpRefusal(405, "unsupported", `${method} is not answered, expected ${allowed}`, {
      Allow: allowed,
    });
  if (route) return route(api, await readJson(request, maxBodyBytes), request);
  return path === MODELS ? api.models.list() : api.models.retrieve(nameIn(path.slice(MODELS.length + 1)));
}

const PATHS: readonly string[] = [MODELS, ...Object.keys(POST)].map((path) => `/v1${path}`);

/** Which of the answered paths an address has, however it is written; undefined: none, or one model's. */
export const pathOf = (url: string): string | undefined =>
  PATHS.find((path) => path === `/v1${routeOf(url)}`);

/** A name with slashes may be escaped or not. */
function nameIn(path: string): string {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

function isStream(answer: unknown): answer is AsyncGenerator<object> {
  return typeof answer === "object" && answer !== null && Symbol.asyncIterator in answer;
}

/** Chunks as server-sent events, made no faster than they are read. A reader that goes away, or stalls, ends the request. */
function events(chunks: AsyncGenerator<object>): Response {
  const encoder = new TextEncoder();
  let stall: ReturnType<typeof setTimeout> | undefined;
  const end = (): void => {
    clearTimeout(stall);
    chunks.return(undefined).catch(() => {}); // it has been told to its reader
  };
  const body = new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        clearTimeout(stall);
        const event = await nextEvent(chunks);
        controller.enqueue(encoder.encode(event.text));
        if (event.isLast) controller.close();
        else
          stall = setTimeout(() => {
            end();
            controller.error(new Error(`nothing was read for ${STALL_MS} ms`));
          }, STALL_MS);
      },
      cancel: end,
    },
    { highWaterMark: 0 },
  );
  return new Response(body, {
    headers: { "Content-Type": "text/event-stream", "Cache-Control": "no-store" },
  });
}

async function nextEvent(chunks: AsyncGenerator<object>): Promise<{ text: string; isLast: boolean }> {
  try {
    const { done, value } = await chunks.next();
    if (done !== true) return { text: `data: ${JSON.stringify(value)}\n\n`, isLast: false };
    return { text: "data: [DONE]\n\n", isLast: true };
  } catch (error) {
    return { text: `data: ${JSON.stringify(faultOf(error).body)}\n\n`, isLast: true };
  }
}

/** `fetch` for a client in the same program: to it, the engine is a server. */
export function fetchOf(api: OpenAi): typeof fetch {
  return async (input, init) => {
    const request = new Request(input, init);
    const { signal } = request;
    signal.throwIfAborted();
    const response = await handle(api, request);
    if (signal.aborted) await response.body?.cancel();
    signal.throwIfAborted();
    return response;
  };
}
