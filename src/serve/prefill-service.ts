/**
 * The prefill service: computes prompts for other engines that run the same model, and answers with their records as they are computed.
 * A handler of `Request`s, so that it runs behind any HTTP server; node-server.ts is one. Its asker is `src/worker/prefill/`.
 */
import { onAbort } from "../base.ts";
import { object, text as textRule } from "../check.ts";
import { TidepoolError } from "../errors.ts";
import { HttpRefusal, readJson } from "../http-body.ts";
import type { Engine } from "../engine/engine.ts";
import type { RecordFeed } from "../engine/engine-cache.ts";
import { prefillFields } from "../wire/arguments.ts";
import {
  frameEnd,
  frameHead,
  MAX_PREFILL_TOKENS,
  PREFILL_PATH,
  type PrefillAsk,
  type PrefillFacts,
} from "../wire/prefill.ts";
import { json, refusalOf } from "./answers.ts";
import { hasKey } from "./bearer.ts";

/** Prompts under way at once, unless the options say otherwise. */
const DEFAULT_UNDER_WAY = 4;

/** Bytes of a request's body for each token that the model takes, and besides: token ids in JSON. */
const BYTES_PER_TOKEN = 12;
const BYTES_BESIDES = 4096;

/** An asker that takes no record for so long is gone. */
const STALL_MS = 30_000;

/** When a refused asker may try again. */
const RETRY_AFTER_SECONDS = "2";

/**
 * The settings of a prefill service.
 *
 * @example
 * ```ts
 * const options: PrefillServiceOptions = { key: newKey(), maxUnderWay: 2, origins: ["https://app.example"] };
 * const service = await prefillService(engine, options);
 * const withoutKey = new Request("http://localhost/v1/prefill");
 * console.log((await service.fetch(withoutKey)).status); // 401
 * ```
 */
export interface PrefillServiceOptions {
  /** Askers must send it as a bearer token. */
  key: string;
  /** Prompts that are computed at once, 1 to 16; more are refused with status 503. Default 4. */
  maxUnderWay?: number | undefined;
  /** Origins of pages that may ask (CORS). Default: none. */
  origins?: readonly string[] | undefined;
}

/**
 * A prefill service, ready to be put behind an HTTP server.
 *
 * @example
 * ```ts
 * const service: PrefillService = await prefillService(engine, { key: newKey() });
 * const { status } = await service.fetch(new Request("http://localhost/elsewhere"));
 * console.log(status, service.underWay); // 404 0
 * ```
 */
export interface PrefillService {
  /** Answers a request; never rejects. */
  fetch(request: Request): Promise<Response>;
  /** Prompts that are being computed. */
  readonly underWay: number;
}

const asked = object<PrefillAsk>(
  "fingerprint, tokens, from and cache",
  { fingerprint: textRule(1, 64), ...prefillFields },
  { fingerprint: true, tokens: true, from: true, cache: true },
);

/**
 * Makes a prefill service of an engine. Whoever has the key can have prompts computed, and can tell by the time it takes which
 * beginnings of prompts others have sent. The service sees the prompts' tokens, and its cache keeps what it computes.
 * @throws TidepoolError `unsupported` if the model generates nothing, or the engine has no RAM tier.
 *
 * @example In Deno
 * ```ts
 * const service = await prefillService(engine, { key: newKey() });
 * const deno = globalThis as { Deno?: { serve(options: object, handler: PrefillService["fetch"]): unknown } };
 * deno.Deno?.serve({ hostname: "127.0.0.1", port: 8033 }, service.fetch);
 * ```
 */
export async function prefillService(
  engine: Engine,
  options: PrefillServiceOptions,
): Promise<PrefillService> {
  const { maxTokens } = await engine.cache.prefillFacts();
  const service = new Service(engine, options, maxTokens);
  return {
    fetch: (request) => service.fetch(request),
    get underWay() {
      return service.underWay;
    },
  };
}

class Service {
  underWay = 0;
  private readonly engine: Engine;
  private readonly options: PrefillServiceOptions;
  private readonly maxBodyBytes: number;

  constructor(engine: Engine, options: PrefillServiceOptions, maxTokens: number) {
    this.engine = engine;
    this.options = options;
    this.maxBodyBytes = BYTES_BESIDES + BYTES_PER_TOKEN * Math.min(maxTokens, MAX_PREFILL_TOKENS);
  }

  async fetch(request: Request): Promise<Response> {
    const response = await this.answer(request).catch(refusalOf);
    for (const [name, value] of this.corsOf(request)) response.headers.set(name, value);
    return response;
  }

  private async answer(request: Request): Promise<Response> {
    if (new URL(request.url).pathname !== PREFILL_PATH)
      throw new HttpRefusal(404, "not_found", `nothing is here: expected ${PREFILL_PATH}`);
    if (request.method === "OPTIONS") return new Response(null, { status: 204 });
    if (!hasKey(request, this.options.key))
      throw new HttpRefusal(401, "untrusted", "the key is missing or wrong", {
        "WWW-Authenticate": "Bearer",
      });
    if (request.method === "GET") return json(await this.facts());
    if (request.method === "POST") return this.prefill(request);
    throw new HttpRefusal(405, "unsupported", `${request.method} is not answered`, { Allow: "GET, POST" });
  }

  private facts(): Promise<PrefillFacts> {
    return this.engine.cache.prefillFacts();
  }

  private async prefill(request: Request): Promise<Response> {
    if (this.underWay >= (this.options.maxUnderWay ?? DEFAULT_UNDER_WAY)) {
      const message = `${this.underWay} prompts are being computed already`;
      throw new HttpRefusal(503, "rejected", message, { "Retry-After": RETRY_AFTER_SECONDS });
    }
    this.underWay++; // while its body is read, too
    try {
      const ask = asked.read(await readJson(request, this.maxBodyBytes), "body");
      return this.stream(await this.open(ask), request.signal);
    } catch (error) {
      this.underWay--;
      throw error;
    }
  }

  private async open(ask: PrefillAsk): Promise<RecordFeed> {
    const { fingerprint, maxTokens, blockTokens } = await this.facts();
    if (ask.fingerprint !== fingerprint) {
      const message = `this service's model or settings are others: its fingerprint is ${fingerprint}`;
      throw new HttpRefusal(409, "untrusted", message);
    }
    const { length } = ask.tokens;
    if (length > maxTokens)
      throw new HttpRefusal(413, "too_long", `${length} tokens, expected at most ${maxTokens}`);
    if (ask.from * blockTokens >= length)
      throw new HttpRefusal(
        400,
        "invalid_argument",
        `block ${ask.from} is behind the prompt's ${length} tokens`,
      );
    return this.engine.cache.records(ask);
  }

  /** The records as a body. An asker that goes away, or takes nothing for long, ends the computing. */
  private stream(feed: RecordFeed, signal: AbortSignal): Response {
    const answer = new Answer(feed, signal, () => this.underWay--);
    const body = new ReadableStream<Uint8Array>(
      { pull: (controller) => answer.pull(controller), cancel: () => answer.end() },
      { highWaterMark: 0 },
    );
    const headers = { "Content-Type": "application/octet-stream", "Cache-Control": "no-store" };
    return new Response(body, { headers });
  }

  private corsOf(request: Request): [string, string][] {
    const origin = request.headers.get("origin");
    if (origin === null || !this.options.origins?.includes(origin)) return [];
    return [
      ["Access-Control-Allow-Origin", origin],
      ["Access-Control-Allow-Headers", "Authorization, Content-Type"],
      ["Access-Control-Allow-Methods", "GET, POST"],
      ["Vary", "Origin"],
    ];
  }
}

/** One answer on its way; it ends once, however it ends. */
class Answer {
  private readonly feed: RecordFeed;
  private readonly stopListening: (() => void) | undefined;
  private readonly ended: () => void;
  private stall: ReturnType<typeof setTimeout> | undefined;
  private isOver = false;

  constructor(feed: RecordFeed, signal: AbortSignal, ended: () => void) {
    this.feed = feed;
    this.ended = ended;
    this.stopListening = onAbort(signal, () => this.end());
    if (this.isOver) this.stopListening();
  }

  end(): void {
    clearTimeout(this.stall);
    if (this.isOver) return;
    this.isOver = true;
    this.stopListening?.(); // not yet set if the asker was gone before
    this.feed.close();
    this.ended();
  }

  /** Called when the asker takes more. */
  async pull(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    clearTimeout(this.stall);
    try {
      const record = this.isOver ? undefined : await this.feed.next();
      if (this.isOver) throw new TidepoolError("aborted", "the asker went away");
      if (record) {
        controller.enqueue(frameHead(record));
        controller.enqueue(record.bytes);
        this.stall = setTimeout(() => this.giveUp(controller), STALL_MS);
        return;
      }
      controller.enqueue(frameEnd());
      this.end();
      controller.close();
    } catch (error) {
      this.end();
      controller.error(error);
    }
  }

  private giveUp(controller: ReadableStreamDefaultController<Uint8Array>): void {
    this.end();
    controller.error(new TidepoolError("timed_out", `the asker took nothing for ${STALL_MS} ms`));
  }
}
