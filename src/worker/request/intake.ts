/**
 * Where requests come in: texts become tokens, long prompts may be computed elsewhere first, and what is right enters the queues. What
 * is wrong with one is refused before anything is taken for it. It plans no steps.
 */
import { background, systemClock } from "../../base.ts";
import { TidepoolError } from "../../errors.ts";
import { samplingParams, type SamplingParams } from "../../model/sampling.ts";
import type { RequestSpec } from "../../schedule/request.ts";
import type { Scheduler } from "../../schedule/scheduler.ts";
import type { EngineInfo, GenerateParams, RequestInput, Resume } from "../../wire/protocol.ts";
import type { RemotePrefill } from "../prefill/remote.ts";
import type { AskedTime, Desk } from "../slo/desk.ts";
import type { EncodedPrompt } from "../text/messages.ts";
import { boundInput, fitPrompt } from "./fit-prompt.ts";
import { nothing, Output } from "./output.ts";
import { tokenPrompt, type Prompts } from "./prompts.ts";
import type { Requests } from "./requests.ts";

/** Requests that may wait or run at once; more are refused, so that the queue has an end. */
const MAX_ACTIVE_REQUESTS = 1024;

/** A request as it was asked for. */
export interface AskedRequest extends AskedTime {
  id: number;
  resume: Resume | undefined;
}

/** The rooms around it, and what the session knows. */
export interface IntakeRooms {
  prompts: Prompts;
  requests: Requests;
  scheduler: Scheduler;
  desk: Desk;
  /** Who computes long prompts for us. */
  remote(): RemotePrefill | undefined;
  model(): EngineInfo["model"];
  /** There may be something to do. */
  notify(): void;
  /** @throws TidepoolError why nothing can be done any more */
  checkOpen(): void;
  /** @throws TidepoolError `unsupported` for encoders */
  checkGenerates(what: string): void;
}

export class Intake {
  private readonly rooms: IntakeRooms;
  /** Requests whose text is on its way to becoming ids, or whose prompt is being computed elsewhere. */
  private readonly underWay = new Map<number, AbortController>();

  constructor(rooms: IntakeRooms) {
    this.rooms = rooms;
  }

  /** Requests that have yet to enter the queues. */
  get ids(): number[] {
    return [...this.underWay.keys()];
  }

  get count(): number {
    return this.underWay.size;
  }

  has(id: number): boolean {
    return this.underWay.has(id);
  }

  /** Ends a request that has yet to enter. */
  abort(id: number): void {
    const stop = this.underWay.get(id);
    if (!stop) return;
    this.underWay.delete(id);
    stop.abort();
    this.rooms.requests.tell(id, nothing());
  }

  /** Queues a request; what is wrong with it is posted as `refused`. */
  submit(id: number, input: RequestInput, params: GenerateParams, resume?: Resume): void {
    const asked = { id, params, resume, arrivedMs: systemClock.nowMs() };
    if (input.kind === "tokens") this.begin(asked, tokenPrompt(input.tokens));
    else background(this.encodeFirst(asked, input), "encode");
  }

  /** Decoding goes on meanwhile. */
  private async encodeFirst(asked: AskedRequest, input: RequestInput): Promise<void> {
    const { id, params } = asked;
    const stop = new AbortController();
    try {
      this.checkRoom();
      this.rooms.checkGenerates(input.kind === "chat" ? "chat" : "generate");
      this.underWay.set(id, stop);
      const prompt = await this.rooms.prompts.encode(this.bounded(input, params), stop.signal);
      if (this.underWay.delete(id)) this.begin(asked, prompt);
    } catch (error) {
      // An aborted one has been told already.
      if (!stop.signal.aborted) this.rooms.requests.refuse(id, error);
      this.underWay.delete(id);
    }
  }

  bounded(input: RequestInput, { overflow }: GenerateParams): RequestInput {
    const { longestToken } = this.rooms.prompts;
    return boundInput(input, { limit: this.positions, longestToken, overflow });
  }

  /** Positions that context and pool allow one request. */
  private get positions(): number {
    return Math.min(this.rooms.model().contextTokens, this.rooms.scheduler.capacityTokens);
  }

  private begin(asked: AskedRequest, prompt: EncodedPrompt): void {
    try {
      this.accept(asked, prompt);
    } catch (error) {
      this.rooms.requests.refuse(asked.id, error);
    }
  }

  private checkRoom(): void {
    this.rooms.checkOpen();
    if (this.rooms.requests.count + this.underWay.size >= MAX_ACTIVE_REQUESTS) {
      throw new TidepoolError("rejected", `${MAX_ACTIVE_REQUESTS} requests are waiting or running already`);
    }
  }

  private accept(asked: AskedRequest, prompt: EncodedPrompt): void {
    this.checkRoom();
    this.rooms.checkGenerates("generate");
    const { spec, output } = this.prepare(asked, prompt);
    if (!this.fetchFirst(asked, spec, output)) this.enter(asked, spec, output);
  }

  /** Whether the prompt's records are on their way here from elsewhere: the request enters when they have come. */
  private fetchFirst(asked: AskedRequest, spec: RequestSpec, output: Output): boolean {
    const { cache = "disk", prefill } = asked.params;
    const { id, prompt: tokens, maxAgeMs } = spec;
    const stop = new AbortController();
    const fetching = this.rooms.remote()?.fetch({ tokens, storage: cache, maxAgeMs }, stop.signal, prefill);
    if (!fetching) return false;
    this.underWay.set(id, stop);
    const entered = fetching.then((arrived) => {
      if (!this.underWay.delete(id)) return; // aborted, and told
      if (arrived > 0) output.prefilledTokens = arrived;
      try {
        this.rooms.checkOpen();
        this.enter(asked, this.fitted(spec), output);
      } catch (error) {
        this.rooms.requests.refuse(id, error);
      }
    });
    background(entered, "prefill elsewhere");
    return true;
  }

  /** The pool may have become smaller while a prompt was away. @throws TidepoolError `out_of_memory` */
  private fitted(spec: RequestSpec): RequestSpec {
    const { capacityTokens } = this.rooms.scheduler;
    const room = capacityTokens + 1 - spec.prompt.length;
    if (room < 1) throw noRoom(spec.prompt.length, capacityTokens);
    return { ...spec, maxNewTokens: Math.min(spec.maxNewTokens, room) };
  }

  /** @throws TidepoolError `rejected` */
  private enter(asked: AskedRequest, spec: RequestSpec, output: Output): void {
    const { id } = asked;
    const request = this.rooms.scheduler.submit({ ...spec, ...this.rooms.desk.receive(spec, asked) });
    this.rooms.requests.add(request, output);
    // The engine before may have come to the end and not to saying so.
    if (output.stopped) this.rooms.requests.end(id, "stop");
    else if (request.generatedCount >= spec.maxNewTokens) this.rooms.requests.end(id, "length");
    this.rooms.notify();
  }

  /** All that may refuse a request, before anything is taken for it. */
  prepare(
    { id, params, arrivedMs, resume = { tokens: [] } }: AskedRequest,
    { tokens, protectedTokens }: EncodedPrompt,
  ): { spec: RequestSpec; output: Output } {
    const sampling = samplingParams(samplingOf(params), this.rooms.model().vocabSize);
    this.checkTokens(tokens);
    this.checkTokens(resume.tokens);
    const { prompt, maxNewTokens } = fitPrompt({ tokens, protectedTokens, limit: this.positions, params });
    const stop = [params.stop ?? []].flat();
    const output = new Output(id, arrivedMs, this.rooms.prompts.decoder(prompt), sampling, stop);
    output.resume(resume);
    const { stopIds } = this.rooms.prompts;
    const { cache = "disk", cacheMaxAgeMs: maxAgeMs } = params;
    const spec = { id, prompt, generated: resume.tokens, maxNewTokens, stopIds, storage: cache, maxAgeMs };
    return { spec, output };
  }

  /** @throws TidepoolError `invalid_argument` naming a token that the model does not have */
  checkTokens(tokens: readonly number[]): void {
    const { vocabSize } = this.rooms.model();
    const bad = tokens.find((token) => !Number.isInteger(token) || token < 0 || token >= vocabSize);
    if (bad === undefined) return;
    throw new TidepoolError("invalid_argument", `token ${bad} is not in the vocabulary of ${vocabSize}`);
  }
}

/** The sampling part of a request's settings. */
function samplingOf(params: GenerateParams): Partial<SamplingParams> {
  const { maxTokens: _maxTokens, stop: _stop, overflow: _overflow, ...rest } = params;
  const { cache: _cache, cacheMaxAgeMs: _cacheMaxAgeMs, prefill: _prefill, ...unpromised } = rest;
  const { ttftMs: _ttft, tbtMs: _tbt, deadlineMs: _deadline, priority: _priority, ...sampling } = unpromised;
  return Object.fromEntries(Object.entries(sampling).filter(([, value]) => value !== undefined));
}

/** Requests or prompts that the pool cannot hold. */
export function noRoom(tokens: number, capacityTokens: number): TidepoolError {
  const message = `${tokens} tokens of KV are needed, and the GPU's memory holds ${capacityTokens}: use a shorter prompt, or a smaller model or context`;
  return new TidepoolError("out_of_memory", message, { tokens, capacityTokens });
}
