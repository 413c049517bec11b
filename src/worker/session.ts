/**
 * A loaded model at work: takes requests in text or tokens, turns them into scheduler requests, runs the loop, and turns
 * what is committed back into text. It owns the model's file, tokenizer, runner and scheduler; it does not speak the
 * protocol's wire (worker.ts does) and holds no kernels.
 */
import { assert } from "../base.ts";
import { BlockPool } from "../cache/blocks.ts";
import { costOf, type Cost } from "../cache/cost.ts";
import { createPrefixCache } from "../cache/create.ts";
import { TidepoolError, toWire } from "../errors.ts";
import type { Gpu } from "../gpu/device.ts";
import type { ModelFile } from "../load/model-file.ts";
import { Runner, type RunnerOptions } from "../model/runner.ts";
import type { SampledRow } from "../model/sampler.ts";
import { samplingParams, type SamplingParams } from "../model/sampling.ts";
import type { Lease } from "../cache/prefix.ts";
import type { Request } from "../schedule/request.ts";
import { Scheduler, type Outcome, type Plan } from "../schedule/scheduler.ts";
import { fitPrompt } from "./limits.ts";
import { Loop } from "./loop.ts";
import { Output } from "./output.ts";
import { Prompts } from "./prompts.ts";
import type {
  Call,
  EngineInfo,
  FromWorker,
  GenerateParams,
  PromptUsage,
  RequestInput,
  ScoreResult,
  StepOutput,
} from "./protocol.ts";

/** Requests that may wait or run at once; more are refused, so that the queue has an end. */
const MAX_ACTIVE_REQUESTS = 1024;

export type Post = (message: FromWorker, transfer?: ArrayBuffer[]) => void;

export class Session {
  readonly info: EngineInfo;
  readonly runner: Runner;
  readonly scheduler: Scheduler;
  private readonly prompts: Prompts;
  private readonly loop: Loop<SampledRow>;
  private readonly outputs = new Map<Request, Output>();
  private readonly requests = new Map<number, Request>();
  private readonly post: Post;
  private closed = false;

  constructor(gpu: Gpu, runner: Runner, prompts: Prompts, post: Post) {
    const { blockTokens, chunkTokens, seats } = runner.options;
    this.runner = runner;
    this.prompts = prompts;
    this.post = post;
    const pool = new BlockPool(runner.pool.options.slots);
    const { cache } = createPrefixCache({ policy: "lru", blockTokens, cost: cacheCost(runner), pool });
    this.scheduler = new Scheduler(cache, pool, { blockTokens, chunkTokens, seats });
    this.info = describe(gpu, runner, prompts);
    this.loop = new Loop(this.scheduler, {
      run: (plan) => this.run(plan),
      committed: (outcomes, samples) => this.committed(outcomes, samples),
      failed: (error) => this.fail(error),
    });
    this.loop.start();
  }

  /** Loads weights and compiles pipelines. The file is closed when the weights are on the GPU. */
  static async load(gpu: Gpu, file: ModelFile, options: RunnerOptions, post: Post): Promise<Session> {
    const runner = await Runner.load(gpu, file, options, (progress) => post({ type: "progress", progress }));
    const prompts = new Prompts(file);
    await file.close();
    return new Session(gpu, runner, prompts, post);
  }

  /** Queues a request; what is wrong with it is posted as `refused`. */
  submit(id: number, input: RequestInput, params: GenerateParams): void {
    try {
      this.accept(id, input, params);
    } catch (error) {
      this.post({ type: "refused", id, error: toWire(error) });
    }
  }

  abort(id: number): void {
    const request = this.requests.get(id);
    if (!request) return;
    this.scheduler.abort(request);
    this.finish(request, "aborted");
  }

  /** Answers a question; throws what is wrong with it. */
  async call(call: Call): Promise<unknown> {
    switch (call.method) {
      case "tokenize":
        return this.prompts.tokenizer.encode(call.text);
      case "detokenize":
        return this.prompts.tokenizer.decode([...call.tokens]);
      case "countTokens":
        return this.prompts.encode(call.input).tokens.length;
      case "score":
        return this.score(call.tokens, call.from, call.logits);
    }
  }

  /** Ends every request as aborted and frees the GPU's buffers. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    for (const id of [...this.requests.keys()]) this.abort(id);
    await this.loop.stop();
    this.runner.destroy();
  }

  private accept(id: number, input: RequestInput, params: GenerateParams): void {
    if (this.closed) throw new TidepoolError("closed", "the engine is closed");
    if (this.requests.size >= MAX_ACTIVE_REQUESTS) {
      throw new TidepoolError("rejected", `${MAX_ACTIVE_REQUESTS} requests are waiting or running already`);
    }
    const sampling = samplingParams(samplingOf(params), this.info.model.vocabSize);
    const { tokens, keep } = this.prompts.encode(input);
    this.checkTokens(tokens);
    const limit = Math.min(this.info.model.contextTokens, this.scheduler.capacityTokens);
    const { prompt, maxNewTokens } = fitPrompt({ tokens, keep, limit, params });
    const request = this.scheduler.submit({ id, prompt, maxNewTokens, stopIds: this.prompts.stopIds });
    this.requests.set(id, request);
    const decoder = this.prompts.decoder(prompt);
    this.outputs.set(request, new Output(id, decoder, sampling, params.stop ?? []));
    this.loop.notify();
  }

  private checkTokens(tokens: readonly number[]): void {
    const { vocabSize } = this.info.model;
    const bad = tokens.find((token) => !Number.isInteger(token) || token < 0 || token >= vocabSize);
    if (bad === undefined) return;
    throw new TidepoolError("invalid_argument", `token ${bad} is not in the vocabulary of ${vocabSize}`);
  }

  private run(plan: Plan): Promise<readonly SampledRow[]> {
    if (plan.kind === "decode") {
      return this.runner.decode(plan.rows.map(({ request, position }) => this.rowOf(request, position)));
    }
    const { request, start, count, sample } = plan;
    const output = this.outputOf(request);
    if (start === 0) output.startPrefill();
    if (sample) {
      this.runner.takeSeat(request.seat as number, request.tokens, request.promptLength, output.sampling);
    }
    const tokens = request.tokens.slice(start, start + count);
    return this.runner.prefill({ ...this.rowOf(request, start), tokens, sample });
  }

  private rowOf(request: Request, position: number) {
    assert(request.seat !== undefined, `request ${request.id} runs without a seat`);
    return { seat: request.seat, position, slots: request.slots };
  }

  private outputOf(request: Request): Output {
    const output = this.outputs.get(request);
    assert(output, `request ${request.id} has no output`);
    return output;
  }

  private committed(outcomes: readonly Outcome[], samples: readonly SampledRow[]): void {
    const steps: StepOutput[] = [];
    const done: [Request, "stop" | "length"][] = [];
    for (const { request, token, sampleIndex, finished } of outcomes) {
      const output = this.outputs.get(request);
      if (!output) continue;
      if (token !== undefined) {
        const step = output.accept(samples[sampleIndex] as SampledRow);
        if (step) steps.push(step);
      }
      if (output.stopped) this.scheduler.abort(request, "stop");
      if (output.stopped) done.push([request, "stop"]);
      else if (finished === "stop" || finished === "length") done.push([request, finished]);
    }
    if (steps.length > 0) this.post({ type: "step", outputs: steps });
    for (const [request, reason] of done) this.finish(request, reason);
  }

  private finish(request: Request, reason: "stop" | "length" | "aborted"): void {
    const output = this.outputs.get(request);
    if (!output) return;
    this.outputs.delete(request);
    this.requests.delete(output.id);
    const rest = output.flush();
    if (rest) this.post({ type: "step", outputs: [rest] });
    this.post({
      type: "finished",
      id: output.id,
      result: output.result(reason, promptUsage(request.promptLength, request.cachedTokens ?? 0)),
    });
  }

  private fail(error: unknown): void {
    for (const [id, request] of this.requests) {
      this.scheduler.abort(request, "error");
      this.outputs.delete(request);
      this.post({ type: "refused", id, error: toWire(error) });
    }
    this.requests.clear();
    this.scheduler.forget();
  }

  /** Runs given tokens through prefill, reading the logits of the rows from `from` on. */
  private async score(tokens: readonly number[], from: number, wantLogits: boolean): Promise<ScoreResult> {
    this.checkTokens(tokens);
    const limit = Math.min(this.info.model.contextTokens, this.scheduler.capacityTokens);
    if (tokens.length === 0) throw new TidepoolError("invalid_argument", "score needs at least one token");
    if (tokens.length > limit) {
      throw new TidepoolError("too_long", `${tokens.length} tokens are over the limit of ${limit}`, {
        limit,
      });
    }
    if (!Number.isInteger(from) || from < 0 || from >= tokens.length) {
      throw new TidepoolError("invalid_argument", `from is ${from}, expected 0 to ${tokens.length - 1}`);
    }
    const lease = this.scheduler.borrow(tokens, Math.min(from, tokens.length - 1));
    let done = lease.tokens;
    try {
      return await this.scoreIn(lease, tokens, from, wantLogits, (end) => (done = end));
    } finally {
      this.scheduler.giveBack(lease, tokens.slice(0, done));
      this.loop.notify();
    }
  }

  private async scoreIn(
    lease: Lease,
    tokens: readonly number[],
    from: number,
    wantLogits: boolean,
    onDone: (end: number) => void,
  ): Promise<ScoreResult> {
    const { vocabSize } = this.info.model;
    const logprobs: number[] = [];
    const kept = wantLogits ? new Float32Array((tokens.length - from) * vocabSize) : undefined;
    const chunk = this.runner.scoreRows;
    for (let start = lease.tokens; start < tokens.length; start += chunk) {
      const part = tokens.slice(start, start + chunk);
      const firstRow = Math.min(Math.max(from - start, 0), part.length);
      const logits = await this.runner.score({ slots: lease.table, position: start, tokens: part, firstRow });
      for (let row = firstRow; row < part.length; row++) {
        const values = logits.subarray((row - firstRow) * vocabSize, (row - firstRow + 1) * vocabSize);
        kept?.set(values, (start + row - from) * vocabSize);
        const next = tokens[start + row + 1];
        if (next !== undefined) logprobs.push(logprobOf(values, next));
      }
      onDone(start + part.length);
    }
    const usage = promptUsage(tokens.length, lease.tokens);
    return { from, logprobs, usage, ...(kept && { logits: kept }) };
  }
}

function promptUsage(promptTokens: number, gpu: number): PromptUsage {
  return { promptTokens, computedTokens: promptTokens - gpu, cachedTokens: { gpu, ram: 0, disk: 0 } };
}

/** What a token of this model costs in FLOPs and bytes, for the cache's policies. */
function cacheCost({ shape, options }: Runner): Cost {
  return costOf({
    name: shape.name,
    hiddenSize: shape.hiddenSize,
    kvElementBytes: options.kvDtype === "f16" ? 2 : 4,
    stateElementBytes: 4,
    layers: shape.layers.flatMap(({ mixer, ffn }) => [
      { kind: mixer.kind, count: 1, heads: mixer.heads, kvHeads: mixer.kvHeads, headDim: mixer.headDim },
      { kind: ffn.kind, count: 1, inner: ffn.width, matrices: 3 },
    ]),
  });
}

/** The sampling part of a request's settings; greedy where the caller says nothing. */
function samplingOf(params: GenerateParams): Partial<SamplingParams> {
  const { maxTokens: _maxTokens, stop: _stop, overflow: _overflow, ...sampling } = params;
  return { temperature: 0, ...sampling };
}

/** log softmax(values)[token], in float64. */
function logprobOf(values: Float32Array, token: number): number {
  let max = -Infinity;
  for (const value of values) if (value > max) max = value;
  let sum = 0;
  for (const value of values) sum += Math.exp(value - max);
  return (values[token] as number) - max - Math.log(sum);
}

function describe(gpu: Gpu, runner: Runner, prompts: Prompts): EngineInfo {
  const { shape, options, memory } = runner;
  return {
    model: {
      name: shape.name,
      architecture: shape.architecture,
      parameters: runner.parameters,
      contextTokens: shape.contextTokens,
      vocabSize: shape.vocabSize,
      layers: shape.layers.length,
    },
    adapter: { name: runner.adapterName, software: gpu.adapter.software },
    kernels: { dtype: options.dtype, kvDtype: options.kvDtype, subgroups: gpu.features.subgroups },
    memory,
    limits: {
      blockTokens: options.blockTokens,
      chunkTokens: options.chunkTokens,
      maxRequests: options.seats,
      poolTokens: options.poolTokens,
    },
    tokenizer: prompts.tokenizerState,
    chatTemplate: prompts.templateState,
  };
}
