/**
 * A prefill service on another machine, over HTTP. What it answers is bounded and cut into records here; whether they are any good
 * is remote.ts's business.
 */
import {
  FrameFault,
  PREFILL_PATH,
  readFrames,
  type PrefillAsk,
  type PrefillFacts,
  type PrefillRecord,
} from "../../wire/prefill.ts";
import type { PrefillOptions } from "../../wire/protocol.ts";
import { SourceFault, type PrefillSource } from "./source.ts";

/** Bytes of an answer that is no stream of records. */
const MAX_JSON_BYTES = 65_536;

/** Statuses that another time may bring something else than. */
const PASSING = [408, 425, 429, 500, 502, 503, 504];

/** Characters of another's message that are passed on. */
const MAX_MESSAGE_CHARS = 300;

export class HttpSource implements PrefillSource {
  readonly name: string;
  readonly leavesMachine = true;
  private readonly address: string;
  private readonly key: string;

  constructor({ url, key }: PrefillOptions) {
    this.name = url;
    this.address = url.replace(/\/+$/, "") + PREFILL_PATH;
    this.key = key;
  }

  async facts(signal: AbortSignal): Promise<PrefillFacts> {
    const response = await this.ask({ signal });
    const facts = parsed(await textOf(response));
    if (typeof facts["fingerprint"] !== "string" || typeof facts["maxTokens"] !== "number")
      throw new SourceFault("it answers, and is no prefill service", true);
    return facts as unknown as PrefillFacts;
  }

  async *records(
    ask: PrefillAsk,
    maxBytes: number,
    signal: AbortSignal,
  ): AsyncGenerator<PrefillRecord, void, void> {
    const headers = { "Content-Type": "application/json" };
    const response = await this.ask({ method: "POST", headers, body: JSON.stringify(ask), signal });
    if (!response.body) throw new SourceFault("it answered without records");
    try {
      yield* readFrames(response.body, maxBytes);
    } catch (error) {
      throw error instanceof FrameFault ? new SourceFault(error.message) : unreachable(error);
    }
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  /** An answer with status 200. A redirect is refused: it would be shown the key. */
  private async ask(init: RequestInit): Promise<Response> {
    const headers = { ...(init.headers as object), Authorization: `Bearer ${this.key}` };
    const response = await fetch(this.address, { ...init, headers, redirect: "error" }).catch(
      (error: unknown) => {
        throw unreachable(error);
      },
    );
    if (response.status === 200) return response;
    const isLasting = !PASSING.includes(response.status);
    throw new SourceFault(`it answered HTTP ${response.status}${await messageOf(response)}`, isLasting);
  }
}

function unreachable(error: unknown): SourceFault {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  return new SourceFault(`the connection failed (${cause instanceof Error ? cause.message : String(cause)})`);
}

async function messageOf(response: Response): Promise<string> {
  const { error } = parsed(await textOf(response).catch(() => "")) as { error?: { message?: unknown } };
  return typeof error?.message === "string" ? `: ${error.message.slice(0, MAX_MESSAGE_CHARS)}` : "";
}

function parsed(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}

/** A short answer. @throws SourceFault if it is long */
async function textOf({ body }: Response): Promise<string> {
  const reader = body?.getReader();
  const decoder = new TextDecoder();
  let text = "";
  try {
    for (let bytes = 0; reader;) {
      const { done, value } = await reader.read();
      if (done) break;
      bytes += value.length;
      if (bytes > MAX_JSON_BYTES) throw new SourceFault(`its answer has over ${MAX_JSON_BYTES} bytes`, true);
      text += decoder.decode(value, { stream: true });
    }
    return text;
  } catch (error) {
    throw error instanceof SourceFault ? error : unreachable(error);
  } finally {
    await reader?.cancel().catch(() => undefined); // an answer that has failed already
  }
}
