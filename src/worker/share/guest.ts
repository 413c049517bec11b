/**
 * A page's side of a shared engine: passes on what the page asks, remembers it with all that was answered until it has ended, and
 * asks again, with the tokens that are there, when another engine takes the place of the one before. It does not know where
 * the engine is; member.ts connects it.
 *
 *     page --ask--> journal --ask--> engine (this worker's, or another tab's)
 *     page <--say-- journal <--say--
 */
import { TidepoolError, toWire } from "../../errors.ts";
import type { Ask } from "../local.ts";
import { nothing } from "../request/output.ts";
import type {
  Call,
  EngineInfo,
  GenerationResult,
  Resume,
  StepOutput,
  TokenLogprob,
} from "../../wire/protocol.ts";
import type { Post } from "../session.ts";
import type { Say } from "./messages.ts";

/** The call that listens to the cache again for the page; its answer is for nobody. */
const WATCH_ID = 0;

type Submit = Extract<Ask, { type: "submit" }>;

/** A request and what the page has been given of it. */
interface Running {
  ask: Submit;
  text: string;
  tokens: number[];
  logprobs: TokenLogprob[];
  /** Text that came without a token: it belongs to the end, and would come again with another. */
  rest: StepOutput | undefined;
  aborted: boolean;
  /** An engine had it and has not refused it: the next one goes on with it, whatever it has promised others. */
  isTaken: boolean;
}

export class ShareClient {
  private readonly toPage: Post;
  private readonly running = new Map<number, Running>();
  private readonly calls = new Map<number, Call>();
  private send: ((ask: Ask) => void) | undefined;
  private role: EngineInfo["role"] = "guest";
  private isLoaded = false;
  private isWatching = false;

  constructor(toPage: Post) {
    this.toPage = toPage;
  }

  /** Whether the page waits for anything. */
  get isBusy(): boolean {
    return !this.isLoaded || this.running.size > 0 || this.calls.size > 0;
  }

  get isConnected(): boolean {
    return this.send !== undefined;
  }

  fromPage(ask: Ask): void {
    if (ask.type === "abort") this.abort(ask);
    else {
      if (ask.type === "submit") this.running.set(ask.id, started(ask, this.isConnected));
      else this.note(ask.id, ask.call);
      this.sendOrRefuse(ask);
    }
  }

  /** What cannot be sent is refused here: no owner will ever answer it. */
  private sendOrRefuse(ask: Exclude<Ask, { type: "abort" }>): void {
    try {
      this.send?.(ask);
    } catch (error) {
      this.say({ type: "refused", id: ask.id, error: toWire(error) });
    }
  }

  /** An engine is ready: it gets what is under way. */
  connect(send: (ask: Ask) => void, info: EngineInfo, role: EngineInfo["role"]): void {
    this.send = send;
    this.role = role;
    this.toPage({ type: this.isLoaded ? "info" : "loaded", info: { ...info, role } });
    this.isLoaded = true;
    for (const [id, request] of [...this.running]) {
      if (request.aborted) this.endHere(id, request);
      else this.sendOrRefuse({ ...request.ask, ...resumeOf(request) });
      request.isTaken = true;
    }
    for (const [id, call] of [...this.calls]) {
      // The device that was to be lost is gone already.
      if (call.method === "loseDevice") this.say({ type: "answer", id, value: undefined });
      else this.sendOrRefuse({ type: "call", id, call });
    }
    if (this.isWatching) send({ type: "call", id: WATCH_ID, call: { method: "cacheWatch", on: true } });
  }

  /** The engine is gone; another will come. */
  disconnect(): void {
    if (this.send) this.toPage({ type: "recovering" });
    this.send = undefined;
    for (const request of this.running.values()) request.rest = undefined;
  }

  /** The engine says something, in the page's ids. */
  say(say: Say, transfer?: ArrayBuffer[]): void {
    switch (say.type) {
      case "step":
        return this.step(say.outputs);
      case "finished":
        return this.finished(say.id, say.result);
      case "refused":
        if (this.forget(say.id)) this.toPage(say);
        return;
      case "answer":
        if (this.forget(say.id)) this.toPage(say, transfer);
        return;
      case "info":
        return this.toPage({ type: "info", info: { ...say.info, role: this.role } });
      case "cacheEvents":
        if (this.isWatching) this.toPage(say);
        return;
      default:
        return this.toPage(say);
    }
  }

  /** Ends every request as aborted, with what there is of it. */
  end(): void {
    this.send = undefined;
    for (const [id, request] of [...this.running]) this.endHere(id, request);
    this.calls.clear();
  }

  private note(id: number, call: Call): void {
    if (call.method === "cacheWatch") this.isWatching = call.on;
    this.calls.set(id, call);
  }

  private abort(ask: Extract<Ask, { type: "abort" }>): void {
    if (this.calls.get(ask.id)?.method === "embed") return this.abortCall(ask);
    const request = this.running.get(ask.id);
    if (!request) return;
    request.aborted = true;
    if (this.send) this.send(ask);
    else this.endHere(ask.id, request);
  }

  private abortCall(ask: Extract<Ask, { type: "abort" }>): void {
    if (this.send) return this.send(ask);
    const error = toWire(new TidepoolError("aborted", "the call was aborted"));
    this.say({ type: "refused", id: ask.id, error });
  }

  private step(outputs: readonly StepOutput[]): void {
    const shown = outputs.filter((output) => this.take(output));
    if (shown.length > 0) this.toPage({ type: "step", outputs: shown });
  }

  /** Whether the page may see it now. */
  private take(output: StepOutput): boolean {
    const request = this.running.get(output.id);
    if (!request) return false;
    if (output.tokens.length === 0) {
      request.rest = output;
      return false;
    }
    request.text += output.text;
    request.tokens.push(...output.tokens);
    request.logprobs.push(...(output.logprobs ?? []));
    return true;
  }

  private finished(id: number, result: GenerationResult): void {
    const request = this.running.get(id);
    if (!request) return;
    this.running.delete(id);
    if (request.rest) this.toPage({ type: "step", outputs: [request.rest] });
    // Aborted before it was under way again, it knows nothing of what was there.
    const isLess = result.tokens.length < request.tokens.length;
    this.toPage({ type: "finished", id, result: isLess ? soFar(request) : result });
  }

  private endHere(id: number, request: Running): void {
    this.running.delete(id);
    this.toPage({ type: "finished", id, result: soFar(request) });
  }

  private forget(id: number): boolean {
    return this.running.delete(id) || this.calls.delete(id);
  }
}

function started(ask: Submit, isTaken: boolean): Running {
  return { ask, text: "", tokens: [], logprobs: [], rest: undefined, aborted: false, isTaken };
}

function resumeOf({ tokens, logprobs, isTaken }: Running): { resume?: Resume } {
  if (!isTaken) return {};
  return { resume: { tokens: [...tokens], ...(logprobs.length > 0 && { logprobs: [...logprobs] }) } };
}

/** What an aborted request has, where no engine is there to say it. */
function soFar({ ask, text, tokens, logprobs }: Running): GenerationResult {
  const { usage, ...rest } = nothing();
  return {
    ...{ ...rest, text, tokens, usage: { ...usage, completionTokens: tokens.length } },
    ...(ask.params.logprobs !== undefined && { logprobs }),
  };
}
