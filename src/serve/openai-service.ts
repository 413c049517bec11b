/**
 * OpenAI's API as a service: the handler of openai/http.ts behind a key, for pages of named origins only, with health and metrics. A
 * function of `Request`s, so that it runs behind any HTTP server. Own routing of eight paths: the same handler answers in pages, where
 * a web framework would be downloaded for them.
 */
import { HttpRefusal } from "../http-body.ts";
import { faultResponse, handle, json, pathOf } from "../openai/http.ts";
import { OpenAi } from "../openai/openai.ts";
import { hasKey } from "./bearer.ts";
import { Metrics } from "./metrics.ts";
import type { ModelShelf } from "./model-shelf.ts";

export interface OpenAiServiceOptions {
  /** Askers must send it as a bearer token. Default: everybody may ask. */
  key?: string | undefined;
  /** Origins of pages that may ask (CORS). Default: none. */
  origins?: readonly string[] | undefined;
  /** Bytes of a request's body at most. */
  maxBodyBytes?: number | undefined;
}

export class OpenAiService {
  /** Requests under way, until the last byte of their answers is taken. */
  open = 0;
  /** Set when the server is about to end: health says so, and what comes new is refused. */
  isDraining = false;
  private readonly api: OpenAi;
  private readonly metrics: Metrics;
  private readonly shelf: ModelShelf;
  private readonly options: OpenAiServiceOptions;

  constructor(shelf: ModelShelf, options: OpenAiServiceOptions = {}) {
    this.shelf = shelf;
    this.options = options;
    this.metrics = new Metrics(shelf);
    this.api = new OpenAi(shelf, (model, usage) => this.metrics.used(model, usage));
  }

  /** Answers a request; never rejects. */
  async fetch(request: Request): Promise<Response> {
    const { pathname } = new URL(request.url);
    const response = await this.answer(request, pathname).catch(faultResponse);
    this.metrics.answered(pathOf(request.url) ?? "other", response.status);
    response.headers.set("x-request-id", crypto.randomUUID());
    for (const [name, value] of this.corsOf(request)) response.headers.set(name, value);
    return response;
  }

  /** @throws HttpRefusal */
  private async answer(request: Request, pathname: string): Promise<Response> {
    this.checkOrigin(request);
    if (request.method === "OPTIONS") return new Response(null, { status: 204 });
    if (pathname === "/health") return this.health();
    this.checkKey(request);
    if (pathname === "/metrics") {
      const headers = { "Content-Type": this.metrics.contentType };
      return new Response(await this.metrics.text(this.open), { headers });
    }
    if (this.isDraining) throw new HttpRefusal(503, "closed", "the server is about to end");
    return this.counted(await this.begin(request));
  }

  private begin(request: Request): Promise<Response> {
    this.open++;
    return handle(this.api, request, { maxBodyBytes: this.options.maxBodyBytes });
  }

  /** Counts an answer as under way until its body has ended. */
  private counted(response: Response): Response {
    const { body, status, headers } = response;
    let isOver = false;
    const over = (): void => {
      if (!isOver) this.open--; // a body that is left while it is read ends twice
      isOver = true;
    };
    if (!body) {
      over();
      return response;
    }
    const reader = body.getReader();
    const passed = new ReadableStream<Uint8Array>(
      {
        async pull(controller) {
          try {
            const { done, value } = await reader.read();
            if (!done) return controller.enqueue(value);
            over();
            controller.close();
          } catch (error) {
            over();
            controller.error(error);
          }
        },
        cancel(reason) {
          over();
          return reader.cancel(reason);
        },
      },
      { highWaterMark: 0 },
    );
    return new Response(passed, { status, headers });
  }

  private health(): Response {
    const status = this.isDraining ? "draining" : "ok";
    const loaded = this.shelf.loaded.map(({ name, engine }) => ({ name, state: engine.state }));
    return json({ status, models: this.shelf.names, loaded }, this.isDraining ? 503 : 200);
  }

  /** A page of another origin could ask without hearing the answer, even with CORS off. @throws HttpRefusal 403 */
  private checkOrigin(request: Request): void {
    const origin = request.headers.get("origin");
    if (origin === null || this.options.origins?.includes(origin)) return;
    const message = `pages of ${origin.slice(0, 200)} may not ask: expected an origin given with --allow-origin`;
    throw new HttpRefusal(403, "origin_not_allowed", message);
  }

  /** @throws HttpRefusal 401 */
  private checkKey(request: Request): void {
    const { key } = this.options;
    if (key === undefined || hasKey(request, key)) return;
    throw new HttpRefusal(401, "invalid_api_key", "the API key is missing or wrong", {
      "WWW-Authenticate": "Bearer",
    });
  }

  private corsOf(request: Request): [string, string][] {
    const origin = request.headers.get("origin");
    if (origin === null || !this.options.origins?.includes(origin)) return [];
    const wanted = request.headers.get("access-control-request-headers");
    return [
      ["Access-Control-Allow-Origin", origin],
      ["Access-Control-Allow-Headers", wanted ?? "Authorization, Content-Type"],
      ["Access-Control-Allow-Methods", "GET, POST"],
      ["Vary", "Origin"],
    ];
  }
}
