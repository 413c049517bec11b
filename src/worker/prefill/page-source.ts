/**
 * A prefill engine on another device of this machine: the page has both engines, and hands over what this one asks of the other. The
 * calls are those by which the HTTP service asks its engine too.
 */
import { onAbort } from "../../base.ts";
import { SourceFault, type PrefillSource } from "./source.ts";
import type { PrefillAsk, PrefillFacts, PrefillRecord } from "../../wire/prefill.ts";
import type { FromWorker, PrefillCall, ToWorker } from "../../wire/protocol.ts";

type Answer = Extract<ToWorker, { type: "prefillAnswer" }>;

interface Waiting {
  resolve(value: unknown): void;
  reject(error: SourceFault): void;
}

export class PageSource implements PrefillSource {
  readonly name = "on the other device";
  readonly leavesMachine = false;
  private readonly post: (message: FromWorker) => void;
  private readonly waiting = new Map<number, Waiting>();
  private nextId = 1;
  /** Asked before the page listens. */
  private early: FromWorker[] | undefined = [];

  constructor(post: (message: FromWorker) => void) {
    this.post = post;
  }

  /** The page listens from now on. */
  start(): void {
    for (const message of this.early ?? []) this.post(message);
    this.early = undefined;
  }

  /** The other engine's answer. */
  hear({ id, value, error }: Answer): void {
    const waiting = this.waiting.get(id);
    this.waiting.delete(id);
    if (error) waiting?.reject(new SourceFault(error.message, error.code === "closed"));
    else waiting?.resolve(value);
  }

  async facts(signal: AbortSignal): Promise<PrefillFacts> {
    return (await this.ask({ method: "prefillFacts" }, signal)) as PrefillFacts;
  }

  async *records(
    { tokens, from, cache }: PrefillAsk,
    _maxBytes: number,
    signal: AbortSignal,
  ): AsyncGenerator<PrefillRecord, void, void> {
    const job = (await this.ask({ method: "prefillOpen", tokens, from, cache }, signal)) as number;
    try {
      for (;;) {
        const record = (await this.ask({ method: "prefillNext", job }, signal)) as PrefillRecord | undefined;
        if (!record) return;
        yield record;
      }
    } finally {
      this.send({ method: "prefillClose", job });
    }
  }

  close(): Promise<void> {
    for (const { reject } of this.waiting.values()) reject(new SourceFault("this engine is closed"));
    this.waiting.clear();
    return Promise.resolve();
  }

  private send(call: PrefillCall): number {
    const id = this.nextId++;
    const message = { type: "prefillAsk", id, call } as const;
    if (this.early) this.early.push(message);
    else this.post(message);
    return id;
  }

  private ask(call: PrefillCall, signal: AbortSignal): Promise<unknown> {
    const id = this.send(call);
    const answer = new Promise<unknown>((resolve, reject) => this.waiting.set(id, { resolve, reject }));
    const stopListening = onAbort(signal, () => {
      this.waiting.get(id)?.reject(new SourceFault("it was not waited for any longer"));
      this.waiting.delete(id);
    });
    return answer.finally(stopListening);
  }
}
