/**
 * The requests of a session from acceptance to the end, with their outputs: what was committed becomes text that is posted,
 * and each ends once, by its result or by an error. It plans and computes nothing.
 */
import { assert } from "../../base.ts";
import { toWire } from "../../errors.ts";
import { notFinite } from "../../model/runner.ts";
import type { SampledRow } from "../../model/sampler.ts";
import type { Request } from "../../schedule/request.ts";
import type { Outcome, Scheduler } from "../../schedule/scheduler.ts";
import type { Desk } from "../slo/desk.ts";
import type { Output } from "./output.ts";
import type { FromWorker, GenerationResult, PromptUsage, StepOutput } from "../../wire/protocol.ts";

/** Where the times of requests are noted, and what comes of them. */
export type Paces = Pick<Desk, "tokens" | "ended">;

export class Requests {
  private readonly scheduler: Scheduler;
  private readonly paces: Paces;
  private readonly post: (message: FromWorker) => void;
  /** Hears of each that has ended with a result, before that is posted. */
  private readonly ended: (request: Request, usage: PromptUsage) => void;
  private readonly outputs = new Map<Request, Output>();
  private readonly byId = new Map<number, Request>();
  /** Requests of our own, by negative ids: their outcome is not posted. */
  private readonly hidden = new Map<
    number,
    { resolve(r: GenerationResult): void; reject(e: unknown): void }
  >();
  private nextHiddenId = -1;

  constructor(
    scheduler: Scheduler,
    paces: Paces,
    post: (message: FromWorker) => void,
    ended: Requests["ended"],
  ) {
    this.scheduler = scheduler;
    this.paces = paces;
    this.post = post;
    this.ended = ended;
  }

  get count(): number {
    return this.byId.size;
  }

  ids(): number[] {
    return [...this.byId.keys()];
  }

  /** Those that wait for their turn, and have not had one before. */
  notBegun(): Request[] {
    return [...this.byId.values()].filter(
      ({ status, cachedTokens }) => status === "waiting" && cachedTokens === undefined,
    );
  }

  add(request: Request, output: Output): void {
    this.byId.set(output.id, request);
    this.outputs.set(request, output);
  }

  /** A request whose outcome is for us: `submit` gets its id, and is answered by `finish` or `refuse`. */
  own(submit: (id: number) => void): Promise<GenerationResult> {
    return new Promise((resolve, reject) => {
      const id = this.nextHiddenId--;
      this.hidden.set(id, { resolve, reject });
      submit(id);
    });
  }

  outputOf(request: Request): Output {
    const output = this.outputs.get(request);
    assert(output, `request ${request.id} has no output`);
    return output;
  }

  /** Takes in what a step has brought: posts text, and ends what is finished. */
  committed(outcomes: readonly Outcome[], samples: readonly (readonly SampledRow[])[]): void {
    const steps: StepOutput[] = [];
    const done: [Request, "stop" | "length"][] = [];
    for (const { request, tokens, spanIndex, finished, brokenAt } of outcomes) {
      const output = this.outputs.get(request);
      if (!output) continue;
      this.orGiveUp(request, () => {
        if (brokenAt !== undefined) throw notFinite(brokenAt, { request: request.id });
        this.paces.tokens(request, tokens.length);
        for (const sample of (samples[spanIndex] ?? []).slice(0, tokens.length)) {
          if (output.stopped) break; // tokens behind a stop in the text
          const step = output.accept(sample);
          if (step && output.id > 0) steps.push(step);
        }
        if (output.stopped) this.scheduler.abort(request, "stop");
        if (output.stopped) done.push([request, "stop"]);
        else if (finished === "stop" || finished === "length") done.push([request, finished]);
      });
    }
    if (steps.length > 0) this.post({ type: "step", outputs: steps });
    for (const [request, reason] of done) this.finish(request, reason);
  }

  /** A failure of one request's text is that request's alone. */
  private orGiveUp(request: Request, work: () => void): void {
    try {
      work();
    } catch (error) {
      this.giveUp(request, error);
    }
  }

  /** Ends one by its id, where it is still under way. */
  end(id: number, reason: "stop" | "length" | "aborted"): void {
    const request = this.byId.get(id);
    if (!request) return;
    this.orGiveUp(request, () => {
      this.scheduler.abort(request, reason);
      this.finish(request, reason);
    });
  }

  private finish(request: Request, reason: "stop" | "length" | "aborted"): void {
    const output = this.outputs.get(request);
    if (!output) return;
    this.forget(request);
    const pace = this.paces.ended(request, reason === "aborted" ? "aborted" : "finished");
    try {
      const rest = output.flush();
      const { prefilledTokens } = output;
      const usage = { ...usageOf(request), ...(prefilledTokens !== undefined && { prefilledTokens }) };
      this.ended(request, usage);
      this.tell(output.id, output.result(reason, usage, pace), rest);
    } catch (error) {
      this.refuse(output.id, error);
    }
  }

  /** Posts the result of a request that is over. */
  tell(id: number, result: GenerationResult, rest?: StepOutput): void {
    const hidden = this.hidden.get(id);
    if (hidden) {
      this.hidden.delete(id);
      hidden.resolve(result);
      return;
    }
    if (rest) this.post({ type: "step", outputs: [rest] });
    this.post({ type: "finished", id, result });
  }

  private forget(request: Request): void {
    this.outputs.delete(request);
    this.byId.delete(request.id);
  }

  /** Says that one is not done, and why. */
  refuse(id: number, error: unknown): void {
    const hidden = this.hidden.get(id);
    this.hidden.delete(id);
    if (hidden) hidden.reject(error);
    else this.post({ type: "refused", id, error: toWire(error) });
  }

  /** Ends all that are under way by an error. */
  giveUpAll(error: unknown): void {
    for (const request of this.byId.values()) this.giveUp(request, error);
  }

  /** Ends one by an error. */
  giveUp(request: Request, error: unknown): void {
    this.paces.ended(request, "failed");
    this.forget(request);
    this.scheduler.abort(request, "error");
    this.refuse(request.id, error);
  }

  /**
   * The conservation check: the scheduler's requests are those here, each has an output, and no other is waited for, but those of
   * which `isToCome` says that they have yet to enter.
   */
  check(isToCome: (id: number) => boolean): void {
    const { byId, outputs, hidden, scheduler } = this;
    assert(outputs.size === byId.size, `${outputs.size} outputs for ${byId.size} requests`);
    assert(scheduler.activeCount === byId.size, `${scheduler.activeCount} scheduled, ${byId.size} under way`);
    for (const id of hidden.keys())
      assert(byId.has(id) || isToCome(id), `request ${id} is waited for and not under way`);
  }
}

function usageOf({ promptLength, cachedTokens = 0, loadedTokens, restoredBy }: Request): PromptUsage {
  const loaded = Object.values(loadedTokens).reduce((sum, tokens) => sum + tokens, 0);
  return {
    promptTokens: promptLength,
    computedTokens: promptLength - cachedTokens - loaded,
    cachedTokens: { gpu: cachedTokens, ram: 0, disk: 0, ...loadedTokens },
    ...(restoredBy && { restore: restoredBy }),
  };
}
