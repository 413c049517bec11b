/**
 * A loaded model at work: takes requests in text or tokens, turns them into scheduler requests, runs the loop, and turns
 * what is committed back into text. It owns the model's file, tokenizer, runner and scheduler; it does not speak the
 * protocol's wire (worker.ts does) and holds no kernels.
 */
import { assert, background, systemClock } from "../base.ts";
import { CostModel } from "../schedule/cost/model.ts";
import { BlockPool } from "../cache/blocks.ts";
import type { PrefixCache } from "../cache/prefix.ts";
import type { AlphaTuner } from "../cache/policy/alpha-tuner.ts";
import { TidepoolError, toWire } from "../errors.ts";
import { unlessLost, type Gpu } from "../gpu/device.ts";
import { guarded } from "../gpu/guard.ts";
import type { ModelFile } from "../load/model-file.ts";
import {
  Runner,
  type RunnerOptions,
  type RunnerRow,
  type StepResult as RunnerResult,
} from "../model/runner.ts";
import type { RunnerProgress } from "../model/runner-parts.ts";
import type { SampledRow } from "../model/sampler.ts";
import type { FetchedRows } from "../model/matrix/row-table.ts";
import { PROMPTS_UNDER_WAY } from "../schedule/options.ts";
import { chunkLimit, type ChunkLimit } from "../schedule/queue/chunk.ts";
import type { Request, RequestSpec } from "../schedule/request.ts";
import { Scheduler, type Move, type Plan, type Save, type Span } from "../schedule/scheduler.ts";
import type { Key } from "../tier/record/keys.ts";
import type { TierStore } from "../tier/store/store.ts";
import { answerCacheCall, exportTokens, importArchive } from "./cache/calls.ts";
import { CacheWatch } from "./cache/watch.ts";
import { PoolGrowth } from "./pool-growth.ts";
import { WeightsFingerprint } from "./fingerprint.ts";
import { changeOf, describe } from "./info.ts";
import { KeptCosts } from "./cache/kept-costs.ts";
import { TierMover } from "./cache/tier-mover.ts";
import { WarmExperts } from "./cache/warm-experts.ts";
import { loadFitting, loadRunner, takeExperts } from "./load-runner.ts";
import { Loop, type StepResult } from "./loop.ts";
import { PrefillJobs, type Computing } from "./prefill/jobs.ts";
import { RemotePrefill } from "./prefill/remote.ts";
import type { PrefillSource } from "./prefill/source.ts";
import type { Embeds } from "./request/embed.ts";
import { Intake, noRoom } from "./request/intake.ts";
import { Prompts, type PromptOptions } from "./request/prompts.ts";
import { cacheCost, costFacts, makeCache, poolSizes } from "./cache/prefix-cache.ts";
import { Recovery, type Reopen, type Reopened } from "./recovery.ts";
import { Requests } from "./request/requests.ts";
import { scoreTokens, type ScoreInput } from "./request/score.ts";
import { makesNoVectors, openEmbeds } from "./request/text-vectors.ts";
import { Desk } from "./slo/desk.ts";
import { StepClock, type RanStep } from "./slo/step-clock.ts";
import type {
  CacheOptions,
  CacheScope,
  Call,
  Capability,
  EmbedInput,
  EmbedParams,
  EngineInfo,
  EngineObjectives,
  EngineStats,
  FromWorker,
  GenerateParams,
  PredictedRequest,
  PrefillCall,
  PrefillOptions,
  PromptUsage,
  RequestInput,
  Resume,
  ScoreResult,
  StatsOptions,
} from "../wire/protocol.ts";

/** How long `close()` waits for records on their way to the disk. */
const CLOSE_DRAIN_MS = 5000;

/** Replays of one recorded request that the tuner does between two looks at the queue. */
const TUNER_SLICE = 4;

export type Post = (message: FromWorker, transfer?: ArrayBuffer[]) => void;

/** Errors of one device that are told; it may have one a step. */
const MAX_GPU_ERROR_NOTICES = 8;

/** How long a failed step waits to hear whether its device was lost. */
const LOSS_GRACE_MS = 250;

export interface SessionOptions extends PromptOptions {
  /** What requests are promised that name no objectives. Default: nothing. */
  objectives?: EngineObjectives | undefined;
  /** For measuring: less than the scheduler can do, and who hears of each step. */
  scheduling?: { promptsUnderWay?: number; sizesChunks?: boolean; onStep?: (step: RanStep) => void };
  /** Opens device and model once more. Default: the loss of the device is the end. */
  reopen?: Reopen;
  /** What the platform lacks. */
  capabilities?: readonly Capability[];
  /** Who computes long prompts for this engine. */
  prefill?: { source: PrefillSource; when: PrefillOptions["when"] } | undefined;
  /** The file of a learned predictor of experts. */
  expertPredictor?: Uint8Array | undefined;
}

export class Session {
  info: EngineInfo;
  /** Another after the device was lost. */
  runner: Runner;
  readonly scheduler: Scheduler;
  readonly cache: PrefixCache;
  /** What work costs on this machine, as far as it has been measured. */
  readonly costs: CostModel;
  readonly mover: TierMover | undefined;
  /** Finds the weight of FLOP efficiency, where the policy has one. */
  readonly tuner: AlphaTuner | undefined;
  readonly watch: CacheWatch;
  private readonly prompts: Prompts;
  private readonly loop: Loop<SampledRow>;
  private readonly chunkLimit: ChunkLimit;
  private readonly steps: StepClock;
  private readonly desk: Desk;
  private readonly requests: Requests;
  /** Long prompts that others compute for us, and prompts that we compute for others. */
  private readonly remote: RemotePrefill | undefined;
  private readonly jobs: PrefillJobs;
  private readonly intake: Intake;
  /** Texts on their way to becoming vectors, in models that make some. */
  private readonly embeds: Embeds | undefined;
  private readonly post: Post;
  private readonly poolGrowth: PoolGrowth;
  private readonly recovery: Recovery;
  private readonly cacheOptions: CacheOptions;
  private capabilities: readonly Capability[];
  /** What `fetchRows` has brought. */
  private fetched: FetchedRows | undefined;
  /** The model's file, if a table of it stays off the GPU. */
  private file: ModelFile | undefined;
  /** Present if not all experts are on the GPU, and something is stored. */
  private warmExperts: WarmExperts | undefined;
  /** Present if something is stored. */
  private keptCosts: KeptCosts | undefined;
  /** Whether a request or the cache wants what a KV slot holds. */
  private readonly isHeld: (slot: number) => boolean;
  private closed = false;
  /** Why nothing can be done any more. */
  private broken: TidepoolError | undefined;
  /** Resolves when a device is there again, or never will be. */
  private recovered: Promise<void> = Promise.resolve();
  /** The end of the last work beside the requests. */
  private scored: Promise<unknown> = Promise.resolve();

  private constructor(
    gpu: Gpu,
    { runner, costs, mover }: { runner: Runner; costs: CostModel; mover: TierMover | undefined },
    prompts: Prompts,
    post: Post,
    cacheOptions: CacheOptions,
    { reopen, capabilities = [], objectives, prefill, scheduling }: SessionOptions,
  ) {
    const { blockTokens, chunkTokens, seats } = runner.options;
    this.runner = runner;
    this.prompts = prompts;
    this.costs = costs;
    this.mover = mover;
    this.post = post;
    this.capabilities = capabilities;
    this.cacheOptions = cacheOptions;
    const pool = new BlockPool(runner.pool.slots);
    this.isHeld = (slot) => !pool.isFree(slot);
    this.tellHeld(runner);
    const { cache, tuner } = makeCache(runner, pool, cacheOptions.policy);
    this.cache = cache;
    this.tuner = tuner;
    this.watch = new CacheWatch({ cache, mover, tuner }, (events, dropped) =>
      post({ type: "cacheEvents", events, dropped }),
    );
    const lower = mover && { lower: mover };
    const states = cache.snapshots && {
      states: { save: (saves: readonly Save[]) => this.save(saves) },
    };
    const { maxBlocks } = runner;
    const { promptsUnderWay = PROMPTS_UNDER_WAY, sizesChunks = true, onStep } = scheduling ?? {};
    this.steps = new StepClock(costs, systemClock.nowMs, onStep);
    const { slow } = this.steps;
    this.chunkLimit = sizesChunks ? chunkLimit({ costs: slow, chunkTokens }) : () => chunkTokens;
    this.scheduler = new Scheduler(cache, pool, {
      ...{ blockTokens, chunkTokens, seats, maxBlocks, ...lower, ...states },
      ...{ promptsUnderWay, chunkLimit: this.chunkLimit, giveWayCosts: costs },
    });
    this.desk = new Desk(
      {
        ...{ scheduler: this.scheduler, costs, steps: this.steps, nowMs: systemClock.nowMs },
        chunkLimit: this.chunkLimit,
        cached: (spec) => this.cachedOf(spec),
      },
      objectives,
    );
    this.requests = new Requests(this.scheduler, this.desk, post, (request, usage) => {
      const nowMs = systemClock.nowMs();
      this.tuner?.record(Int32Array.from(request.tokens), request.promptLength);
      this.costs.credit(usage.cachedTokens);
      this.warmExperts?.ended(nowMs);
      this.keptCosts?.ended(nowMs);
    });
    this.info = describe(runner, prompts, capabilities);
    this.intake = new Intake({
      ...{ prompts, requests: this.requests, scheduler: this.scheduler, desk: this.desk },
      remote: () => this.remote,
      model: () => this.info.model,
      notify: () => this.loop.notify(),
      checkOpen: () => this.checkOpen(),
      checkGenerates: (what) => this.checkGenerates(what),
    });
    this.embeds = openEmbeds({
      session: this,
      info: this.info.model.embedding,
      encode: (text, signal) => this.prompts.encodeWhole(text, signal),
      checkTokens: (tokens) => this.intake.checkTokens(tokens),
      apart: (work) => this.apart(work),
      onceMoreIfLost: (work) => this.onceMoreIfLost(work),
    });
    this.recovery = new Recovery(reopen, () => systemClock.nowMs());
    this.poolGrowth = new PoolGrowth(this.scheduler, {
      runner: () => this.runner,
      grown: () => this.tellInfo(),
      stopped: (notice, stuck) => {
        this.post({ type: "notice", notice });
        for (const request of stuck)
          this.requests.giveUp(request, noRoom(request.tokens.length, this.scheduler.capacityTokens));
      },
      failed: (error) => this.loop.doubtSteps(error),
    });
    this.loop = new Loop(this.scheduler, {
      needsTokens: () => this.runner.needsRows,
      runsInParts: () => this.runner.experts !== undefined,
      prepare: (plan) => this.prepareStep(plan),
      run: (plan) => this.run(plan),
      load: (move) => this.load(move),
      spill: (blocks) => this.mover?.spill(blocks),
      save: (saves) => this.save(saves),
      idle: () => this.tuner?.work(TUNER_SLICE) ?? false,
      committed: (outcomes, samples) => this.requests.committed(outcomes, samples),
      makeRoom: () => {
        if (this.desk.rejectsLate) this.rejectLate();
        const { missingBlocks: blocks } = this.scheduler;
        return this.poolGrowth.makeRoom({ blocks, states: this.scheduler.missingStates() });
      },
      failed: (error, plan) => this.stepFailed(error, plan),
    });
    if (mover) mover.allGood = () => this.loop.allGood;
    this.loop.start();
    this.watchDevice(gpu);
    this.jobs = new PrefillJobs(this);
    this.remote = prefill && mover && this.openRemote(prefill, mover);
  }

  /**
   * Loads weights and compiles pipelines; the file is closed when the weights are on the GPU.
   * @param store the lower tiers, which the session closes; none: the GPU alone
   */
  static async load(
    gpu: Gpu,
    file: ModelFile,
    options: RunnerOptions,
    post: Post,
    store?: TierStore,
    cache: CacheOptions = {},
    more: SessionOptions = {},
  ): Promise<Session> {
    const weightsFingerprint = new WeightsFingerprint();
    const onProgress = (progress: RunnerProgress) => post({ type: "progress", progress });
    // In a worker of its own, while the weights load.
    const [prompts, loaded] = await Promise.allSettled([
      Prompts.open(file, more),
      unlessLost(
        gpu.device,
        loadRunner({
          ...{ gpu, file, options, onProgress, weights: weightsFingerprint, isStored: store !== undefined },
          expertPredictor: more.expertPredictor,
        }),
      ),
    ]);
    if (prompts.status === "rejected" || loaded.status === "rejected") {
      if (prompts.status === "fulfilled") prompts.value.close();
      if (loaded.status === "fulfilled") loaded.value.destroy();
      throw loaded.status === "rejected" ? loaded.reason : (prompts as PromiseRejectedResult).reason;
    }
    const runner = loaded.value;
    if (!runner.readsFile) await file.close();
    const costs = new CostModel(costFacts(runner, store));
    const mover =
      store &&
      new TierMover({
        ...{
          store,
          pool: runner.pool,
          states: runner.states,
          namespace: cache.namespace ?? "",
          restore: cache.restore ?? "auto",
        },
        fingerprint: weightsFingerprint.fingerprint(runner.shape, runner.options),
        ...{ flopsPerToken: cacheCost(runner).flopsLinear, costs },
        nowMs: () => systemClock.nowMs(),
        ...(cache.maxAgeMs !== undefined && { maxAgeMs: cache.maxAgeMs }),
      });
    for (const notice of prompts.value.notices) post({ type: "notice", notice });
    const session = new Session(gpu, { runner, costs, mover }, prompts.value, post, cache, more);
    if (runner.readsFile) session.file = file;
    session.keepCosts();
    if (store && runner.experts) {
      const weights = weightsFingerprint.ofWeights();
      session.keepWarm(store, weights, cache.namespace ?? "");
    }
    return session;
  }

  /** What was learned of this machine goes on from the last time. */
  private keepCosts(): void {
    const { mover, costs, runner } = this;
    if (!mover) return;
    const kept = { model: mover.fingerprint, costs, nowMs: systemClock.nowMs() };
    this.keptCosts = new KeptCosts(mover.store, mover.namespace, runner, kept);
    background(this.keptCosts.start(), "record of what steps cost");
  }

  private openRemote(
    { source, when }: NonNullable<SessionOptions["prefill"]>,
    mover: TierMover,
  ): RemotePrefill | undefined {
    if (this.runner.shape.embedding?.isEncoder) return undefined;
    const runner = (): Runner => this.runner;
    return new RemotePrefill(source, when, {
      ...{ cache: this.cache, mover, nowMs: () => systemClock.nowMs() },
      get runner() {
        return runner();
      },
      computeHere: (tokens) => this.computePrompt(tokens, "off").done,
      notice: (notice) => this.post({ type: "notice", notice }),
    });
  }

  /** Computes a prompt for whoever wants its records; it is not sent on. */
  computePrompt(tokens: readonly number[], cache: CacheScope): Computing {
    let own = 0;
    const done = this.requests.own((id) => {
      own = id;
      this.submit(id, { kind: "tokens", tokens }, { maxTokens: 1, cache, prefill: false });
    });
    return { done, end: () => this.abort(own) };
  }

  private keepWarm(store: TierStore, weights: Key, namespace: string): void {
    const experts = () => this.runner.experts;
    this.warmExperts = new WarmExperts(store, weights, namespace, experts, systemClock.nowMs());
    background(this.warmExperts.start(), "warm start of experts");
  }

  /** Whether the model's file must stay open; the session closes it. */
  get readsFile(): boolean {
    return this.runner.readsFile;
  }

  /** Queues a request; what is wrong with it is posted as `refused`. */
  submit(id: number, input: RequestInput, params: GenerateParams, resume?: Resume): void {
    this.intake.submit(id, input, params, resume);
  }

  /** Ends a request, or a call that can be ended. */
  abort(id: number): void {
    this.embeds?.abort(id);
    this.intake.abort(id);
    this.requests.end(id, "aborted");
    this.loop.notify();
  }

  /** Answers a question; throws what is wrong with it. @param id by which it may be aborted */
  async call(call: Call, id = 0): Promise<unknown> {
    switch (call.method) {
      case "embed":
        return this.embed(id, call.inputs, call.params);
      case "tokenize":
        return this.prompts.tokenize(call.text);
      case "detokenize":
        return this.prompts.detokenize(call.tokens);
      case "tokenBytes":
        return this.prompts.bytesOf(call.tokens);
      case "render":
        return this.prompts.render(call.input);
      case "countTokens":
        return this.countTokens(call.input);
      case "predict":
        return this.predict(call);
      case "stats":
        return this.stats(call);
      case "loseDevice":
        return this.runner.gpu.device.destroy();
      case "check":
        return this.check();
      case "score":
        this.checkGenerates("score");
        this.intake.checkTokens(call.tokens);
        return this.score({
          tokens: call.tokens,
          from: call.from,
          wantLogits: call.logits,
          cache: call.cache,
        });
      case "warm":
        this.checkGenerates("warm");
        return this.warm((await this.prompts.encode(call.input)).tokens, call.cache);
      case "cacheExport":
        this.checkGenerates("cache.export");
        return exportTokens(this, (await this.prompts.encode(call.input)).tokens);
      case "cacheImport":
        return this.apart(() => importArchive(this, call, this.cacheOptions));
      case "prefillFacts":
      case "prefillOpen":
      case "prefillNext":
      case "prefillClose":
        return this.answerPrefill(call);
      default:
        return answerCacheCall(this, call);
    }
  }

  /** Encoders take a text as a whole. */
  private async countTokens(input: RequestInput): Promise<number> {
    const isWhole = input.kind === "text" && this.runner.shape.embedding?.isEncoder;
    const { tokens } = await (isWhole ? this.prompts.encodeWhole(input.text) : this.prompts.encode(input));
    return tokens.length;
  }

  private answerPrefill(call: PrefillCall): unknown {
    this.checkOpen();
    return this.jobs.answer(call);
  }

  private async embed(
    id: number,
    inputs: readonly EmbedInput[],
    params: EmbedParams,
  ): Promise<Float32Array<ArrayBuffer>[]> {
    this.checkOpen();
    if (this.embeds) return this.embeds.embed(id, inputs, params);
    throw makesNoVectors(this.info.model.architecture);
  }

  /** @throws TidepoolError `unsupported` for encoders */
  private checkGenerates(what: string): void {
    const { architecture, embedding } = this.runner.shape;
    if (!embedding?.isEncoder) return;
    const message = `"${architecture}" makes vectors of texts and generates none: use embed instead of ${what}`;
    throw new TidepoolError("unsupported", message, { architecture });
  }

  private async predict({ input, params }: Extract<Call, { method: "predict" }>): Promise<PredictedRequest> {
    this.checkOpen();
    this.checkGenerates("predict");
    const prompt = await this.prompts.encode(this.intake.bounded(input, params));
    const arrivedMs = systemClock.nowMs();
    const { spec } = this.intake.prepare({ id: 0, params, resume: undefined, arrivedMs }, prompt);
    return this.desk.predict(spec, { params, arrivedMs });
  }

  private stats({ eventsAfter }: StatsOptions): EngineStats {
    const schedule = this.desk.figures();
    const { experts } = this.runner;
    if (!experts) return { schedule };
    const events = eventsAfter === undefined ? {} : { expertEvents: experts.log.since(eventsAfter) };
    return { schedule, experts: experts.figures, ...events };
  }

  private score(input: ScoreInput): Promise<ScoreResult> {
    return this.apart(() => scoreTokens(this, input));
  }

  /** Work beside the requests, one at a time: the state pool is planned for the recurrent state of one. */
  private apart<T>(work: () => Promise<T>): Promise<T> {
    const result = this.scored.then(() => this.onceMoreIfLost(work)).finally(() => this.loop.notify());
    this.scored = result.catch(() => {}); // reported to its caller
    return result;
  }

  /** Once more if the device was lost under it, or failed. */
  private async onceMoreIfLost<T>(work: () => Promise<T>): Promise<T> {
    await this.recovered;
    this.checkOpen();
    const { runner } = this;
    try {
      return await work();
    } catch (error) {
      const isFailed = error instanceof TidepoolError && error.code === "gpu_failed";
      if (!(await this.isLost(runner.gpu.device)) && !isFailed) throw error;
      await this.recovered;
      this.checkOpen();
      return work();
    }
  }

  allGood(): Promise<boolean> {
    return this.loop.allGood;
  }

  /** Blocks, and a recurrent state, for work beside the requests. */
  async makeRoom(blocks: number): Promise<void> {
    await this.poolGrowth.makeRoom({ blocks, states: this.scheduler.missingStates(1) });
  }

  /** Computes a prompt, or brings it back, so that it is ready when it is needed. */
  async warm(tokens: readonly number[], cache?: CacheScope): Promise<PromptUsage> {
    const params = { maxTokens: 1, ...(cache && { cache }) };
    const { usage } = await this.requests.own((id) => this.submit(id, { kind: "tokens", tokens }, params));
    return usage;
  }

  /** Ends every request as aborted and frees the GPU's buffers. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    for (const id of [...this.intake.ids, ...this.requests.ids()]) this.abort(id);
    this.embeds?.close();
    this.jobs.closeAll();
    await this.remote?.close();
    this.prompts.close();
    this.recovery.close();
    this.watch.turn(false);
    await this.loop.stop();
    await this.scored; // it ends with the part that the GPU is at
    await this.warmExperts?.write();
    await this.keptCosts?.write();
    await this.mover?.drain(CLOSE_DRAIN_MS);
    await this.mover?.store.close(CLOSE_DRAIN_MS);
    this.runner.destroy();
    await this.file?.close();
  }

  /** The conservation check: blocks, seats and outputs are held by requests that are under way, and by nothing else. */
  check(): { requests: number; blocks: number } {
    this.scheduler.check();
    this.runner.pool.tails?.check();
    this.requests.check((id) => this.intake.has(id));
    const calls = (this.embeds?.count ?? 0) + this.jobs.count;
    return { requests: this.requests.count + this.intake.count + calls, blocks: this.scheduler.usedBlocks };
  }

  /** @throws TidepoolError why nothing can be done any more */
  checkOpen(): void {
    if (this.closed) throw new TidepoolError("closed", "the engine is closed");
    if (this.broken) throw this.broken;
  }

  /** Of requests that wait, those whose objectives have passed. */
  private rejectLate(): void {
    for (const request of this.requests.notBegun()) {
      const error = this.desk.tooLate(request, "start");
      if (error) this.requests.giveUp(request, error);
    }
  }

  /** What of a prompt need not be computed, by tier. */
  private cachedOf({ prompt, storage }: RequestSpec): { tokens: Record<string, number>; loadMs: number } {
    if (storage === "off") return { tokens: { gpu: 0 }, loadMs: 0 };
    const limit = prompt.length - 1; // the last one's logits are wanted
    const { tokens: gpu } = this.cache.match(Int32Array.from(prompt), limit);
    const below = this.mover?.stored({ tokens: prompt, storage: storage ?? "disk" }, gpu, limit);
    return { tokens: { gpu, ...below?.tokens }, loadMs: below?.loadMs ?? 0 };
  }

  private async run(plan: Plan): Promise<StepResult<SampledRow>> {
    const what = `a ${plan.phase} step`;
    const step = this.steps.submitted(plan);
    const { samples, broken } = await guarded(this.runner.gpu.device, what, () => this.submitStep(plan));
    this.steps.ran(step);
    let next = 0;
    const perSpan = plan.spans.map((span) => samples.slice(next, (next += span.samples)));
    return { samples: perSpan, broken };
  }

  /** Nothing may be awaited once the step is being submitted: what the loop copies behind it comes at once. */
  private prepareStep(plan: Plan): Promise<unknown> | undefined {
    const asks = plan.spans.some(
      ({ request, samples }) =>
        samples > 0 && this.requests.outputOf(request).sampling.logprobs !== undefined,
    );
    const compiling = asks ? this.runner.prepareLogprobs() : undefined;
    const fetching = this.fetchRows(plan);
    return compiling && fetching ? Promise.all([compiling, fetching]) : (compiling ?? fetching);
  }

  /** Rows of a table off the GPU, which the step that is submitted next takes. */
  private fetchRows({ spans }: Plan): Promise<void> | undefined {
    const tokens = spans.flatMap(({ request, from, count }) => request.tokens.slice(from, from + count));
    return this.runner.fetchRows(tokens)?.then((rows) => void (this.fetched = rows));
  }

  private submitStep(plan: Plan): Promise<RunnerResult> {
    const { phase, spans } = plan;
    if (phase === "decode")
      return this.runner.decode(
        spans.map((span) => this.rowOf(span)),
        this.fetched,
      );
    const [span] = spans;
    assert(span && spans.length === 1, `${spans.length} prompts in a step, and the runner takes one`);
    return this.submitChunk(span);
  }

  private submitChunk(span: Span): Promise<RunnerResult> {
    const { request, from, count, copyBlock } = span;
    if (copyBlock) this.runner.copyBlock(copyBlock);
    const output = this.requests.outputOf(request);
    output.startPrefill();
    const sample = span.samples > 0;
    if (sample) {
      this.runner.takeSeat(request.seat as number, request.tokens, request.promptLength, output.sampling);
    }
    const tokens = request.tokens.slice(from, from + count);
    return this.runner.prefill({ ...this.rowOf(span), tokens, sample }, this.fetched);
  }

  private async load(move: Move): Promise<void> {
    const tier = await this.mover?.load(move, () => this.scheduler.isWanted(move));
    this.scheduler.moved(move, tier);
  }

  private rowOf({ request, from, states: [state] }: Span): RunnerRow {
    assert(request.seat !== undefined, `request ${request.id} runs without a seat`);
    const [slots = []] = this.scheduler.residency.tablesOf(request.slots);
    const token = request.tokens[from];
    return { seat: request.seat, position: from, slots, token, ...(state && { state }) };
  }

  private save(saves: readonly Save[]): void {
    const { pool, states, gpu } = this.runner;
    const copied = guarded(gpu.device, "to save a state", () => {
      for (const save of saves) {
        if (save.state.from !== save.state.to) states.copySlot(save.state.from, save.state.to);
        if (save.copyBlock) pool.copyPartial(save.copyBlock.from, save.copyBlock.to);
        if (save.tail !== undefined) pool.tails?.keep(save.tail);
      }
    });
    for (const save of saves) this.mover?.spillState(save, copied);
    background(
      copied.catch((error: unknown) => this.loop.doubtSteps(error)),
      "saving of a state",
    );
  }

  /** Requests are computed again from the tokens that they have; those whose step has failed before end by the error. */
  private async stepFailed(error: unknown, plan: Plan | undefined): Promise<void> {
    this.steps.dropped();
    if (await this.isLost(this.runner.gpu.device)) return; // recover() does it on another
    for (const request of this.scheduler.stepFailed(plan))
      this.requests.giveUp(request, stepError(request, error));
  }

  /** A device that was lost says so a moment after its work has failed. */
  private isLost({ lost }: GPUDevice): Promise<boolean> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), LOSS_GRACE_MS);
      const yes = (): void => {
        clearTimeout(timer);
        resolve(true);
      };
      lost.then(yes, yes);
    });
  }

  private watchDevice(gpu: Gpu): void {
    const { device } = gpu;
    let told = 0;
    gpu.onError = (message) => {
      if (++told <= MAX_GPU_ERROR_NOTICES)
        this.post({
          type: "notice",
          notice: { code: "gpu_error", message: `error of the GPU device: ${message}` },
        });
    };
    const lost = device.lost.then((info) => {
      if (this.runner.gpu.device !== device) return;
      const recovered = this.loop.interrupt(() => this.recover(info));
      this.recovered = this.closed ? Promise.resolve() : recovered;
    });
    background(lost, "loss of the device");
  }

  /** A new device in place of the one that was lost; requests go on from the tokens that they have. */
  private async recover(info: GPUDeviceLostInfo): Promise<void> {
    if (this.closed) return;
    this.post({ type: "recovering" });
    this.scheduler.restart();
    this.steps.dropped();
    const old = this.runner;
    try {
      const loaded = await this.recovery.run(info, (opened) => this.loadAgain(opened));
      this.runner = loaded.runner;
      this.tellHeld(loaded.runner);
      await this.file?.close();
      this.file = loaded.keeps;
      this.capabilities = loaded.capabilities;
      this.mover?.moveTo(loaded.runner, loaded.fingerprint);
      takeExperts(loaded.runner, old);
      this.costs.moveTo(costFacts(loaded.runner, this.mover?.store));
      this.keepCosts();
      this.fitTo(loaded.runner);
    } catch (error) {
      this.giveUpAll(error);
      return;
    } finally {
      old.destroy();
    }
    this.tellInfo();
    const why = info.message || info.reason || "no reason is given";
    const message = `the GPU device was lost (${why}); the model was loaded again on ${this.runner.adapterName}, and requests go on where they were${changeOf(old, this.runner)}`;
    this.post({ type: "notice", notice: { code: "device_recovered", message } });
    this.watchDevice(this.runner.gpu);
  }

  /** Counts with what the new device has room for; requests that no longer fit are told. */
  private fitTo(runner: Runner): void {
    const stuck = this.scheduler.moveTo(poolSizes(runner));
    this.cache.recost(cacheCost(runner));
    this.poolGrowth.restart();
    const { capacityTokens } = this.scheduler;
    for (const request of stuck) this.requests.giveUp(request, noRoom(request.tokens.length, capacityTokens));
  }

  /** @throws TidepoolError `invalid_file` where the weights are not those that were loaded first. */
  private async loadAgain({ gpu, file, again, capabilities = this.capabilities }: Reopened) {
    const { options, pool } = this.runner;
    const weightsFingerprint = new WeightsFingerprint();
    const chosen = {
      ...(again?.(options) ?? options),
      poolStartTokens: this.scheduler.poolTokens,
      stateStartSlots: this.cache.snapshots?.slotCount ?? 0,
      poolMayBeLess: true, // requests that fit go on
    };
    const runner = await loadFitting(gpu, file, chosen, () => {}, this.mover && weightsFingerprint);
    const isSame =
      runner.parameters === this.runner.parameters &&
      (runner.pool.slotBytes === pool.slotBytes || chosen.kvDtype !== options.kvDtype) &&
      (!this.mover || this.mover.fingerprint === weightsFingerprint.fingerprint(runner.shape, options));
    if (isSame)
      return {
        ...{ runner, capabilities, fingerprint: weightsFingerprint.fingerprint(runner.shape, chosen) },
        keeps: runner.readsFile ? file : undefined,
      };
    runner.destroy();
    throw new TidepoolError(
      "invalid_file",
      `${file.name} is not the model that was loaded: it has changed since`,
    );
  }

  /** Nothing works any more: ends every request with the error, and those to come. */
  giveUpAll(error: unknown): void {
    if (this.closed) return;
    this.broken =
      error instanceof TidepoolError ? error : new TidepoolError("device_lost", String(error), {});
    this.post({ type: "failed", error: toWire(this.broken) });
    this.requests.giveUpAll(this.broken);
    this.scheduler.forget();
  }

  private tellHeld({ pool: { tails } }: Runner): void {
    if (tails) tails.isHeld = this.isHeld;
  }

  private tellInfo(): void {
    this.info = describe(this.runner, this.prompts, this.capabilities);
    this.post({ type: "info", info: this.info });
  }
}

function stepError({ id, tokens }: Request, error: unknown): TidepoolError {
  const why = error instanceof Error ? error.message : String(error);
  const code = error instanceof TidepoolError ? error.code : "internal";
  const message = `computing the request failed twice, the second time behind token position ${tokens.length - 1}: ${why}`;
  const details = error instanceof TidepoolError ? error.details : {};
  return new TidepoolError(code, message, { ...details, request: id, position: tokens.length - 1 });
}
