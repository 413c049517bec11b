/**
 * READ THIS FIRST. The engine's heart: plan -> run -> commit, for ever. A step is submitted to the GPU before the one
 * before it has been read back, so that the GPU never waits for the host; what was sampled is learned one step late.
 */
import type { BrokenRow, FullBlock, Move, Outcome, Plan, Save, Scheduler } from "../schedule/scheduler.ts";
import { background, systemClock } from "../base.ts";

/** The queue of the one device. */
const QUEUE = 0;

/** Steps submitted and not committed yet, at most. */
const MAX_STEPS_IN_FLIGHT = 2;

/** While loads are all there is to wait for, the scheduler is asked so often: a late one changes what should be computed. */
const ASK_AGAIN_MS = 4;

/** What a step has brought: for each span the samples that were accepted, and spans of requests that cannot go on. */
export interface StepResult<S> {
  samples: readonly (readonly S[])[];
  broken: readonly BrokenRow[];
}

/** What the loop needs of the outer rooms. `S` is whatever a sample carries beside its token. */
export interface LoopHooks<S extends { token: number }> {
  /** Brings what must be there before a step can be submitted: rows of a table, kernels. Undefined: there is nothing to wait for. */
  prepare?(plan: Plan): Promise<unknown> | undefined;
  /**
   * Whether `prepare` must know a step's tokens, so that no step is submitted before the one before it has been read back. Default:
   * false.
   */
  needsTokens?(): boolean;
  /**
   * Whether a step waits in its middle, so that it has not been submitted as a whole when `run` returns: then one runs at a time, and
   * what is copied behind it waits for its result. Default: false.
   */
  runsInParts?(): boolean;
  /** Submits a step to the GPU; resolves when it has run, and rejects if not all of it did. */
  run(plan: Plan): Promise<StepResult<S>>;
  /** Brings a block from a lower tier and says so to the scheduler; never rejects. */
  load(move: Move): Promise<void>;
  /** Copies blocks that a step has just completed to the lower tiers, behind that step and before any other. Must not wait. */
  spill(blocks: readonly FullBlock[]): void;
  /** Copies states to where they are kept, behind the steps submitted so far. Must not wait. */
  save(saves: readonly Save[]): void;
  /** Nothing else is to be done: a slice of work that can wait. Whether there is more. */
  idle(): boolean;
  /** Called once a step with what was committed. */
  committed(outcomes: readonly Outcome[], samples: StepResult<S>["samples"]): void;
  /** Blocks are short, perhaps: adds some where it may, before the next plan. Undefined: there is nothing to wait for. */
  makeRoom?(): Promise<void> | undefined;
  /** A step failed, or GPU work between steps did (`plan` is undefined). The steps in flight have been dropped. */
  failed(error: unknown, plan: Plan | undefined): Promise<void>;
}

interface StepInFlight<S> {
  plan: Plan;
  /** It runs in parts: nothing is copied behind it yet. */
  inParts: boolean;
  result: Promise<StepResult<S>>;
}

export class Loop<S extends { token: number }> {
  private readonly scheduler: Scheduler;
  private readonly hooks: LoopHooks<S>;
  private wake: () => void = () => {};
  private notified = false;
  private stopped = false;
  private interruption: { work(): Promise<void>; done(): void } | undefined;
  private onInterrupt: () => void = () => {};
  private readonly inFlight: StepInFlight<S>[] = [];
  /** GPU work between steps that failed. */
  private doubt: { error: unknown } | undefined;
  /** A failure or an interruption is being dealt with. */
  private recovering = false;
  private loads = 0;
  private ended: Promise<void> = Promise.resolve();

  constructor(scheduler: Scheduler, hooks: LoopHooks<S>) {
    this.scheduler = scheduler;
    this.hooks = hooks;
  }

  start(): void {
    this.ended = this.forever();
    background(this.ended, "loop");
  }

  /** Says that there may be something to do. */
  notify(): void {
    this.notified = true;
    this.wake();
  }

  /** Whether all steps submitted so far have run, once that is known. */
  get allGood(): Promise<boolean> {
    if (this.doubt || this.recovering || this.interruption) return Promise.resolve(false);
    const { tickets } = this.scheduler;
    const last = tickets.last(QUEUE);
    return new Promise((resolve) => (last ? tickets.whenDecided(last, resolve) : resolve(true)));
  }

  /** GPU work between steps failed, so that none of the steps behind it can be trusted. */
  doubtSteps(error: unknown): void {
    this.doubt ??= { error };
    this.notify();
  }

  /** Ends after the steps in flight. */
  async stop(): Promise<void> {
    this.stopped = true;
    this.wake();
    await this.ended;
  }

  /**
   * Drops the steps in flight, without waiting for them, and does `work` before the next plan. Resolves when it is done,
   * or when another interruption takes its place.
   */
  interrupt(work: () => Promise<void>): Promise<void> {
    this.interruption?.done();
    return new Promise((done) => {
      this.interruption = { work, done };
      this.onInterrupt();
      this.notify();
    });
  }

  private async forever(): Promise<void> {
    while (!this.stopped || this.inFlight.length > 0) {
      await this.handleInterruption();
      await this.handleDoubt();
      await this.fill();
      const oldest = this.inFlight[0];
      if (oldest) await this.commit(oldest);
      else if (!this.interruption && !this.doubt) await this.sleep();
      await nextEvent();
    }
  }

  private async handleInterruption(): Promise<void> {
    const { interruption } = this;
    if (!interruption) return;
    this.drop();
    this.interruption = undefined;
    await this.recover(() => interruption.work()).finally(() => interruption.done());
  }

  private async handleDoubt(): Promise<void> {
    if (this.doubt) await this.fail(this.doubt.error, undefined);
  }

  /** Steps in flight are not committed. */
  private drop(): void {
    this.inFlight.length = 0;
    this.scheduler.tickets.voidAll();
    this.doubt = undefined;
  }

  private async fail(error: unknown, plan: Plan | undefined): Promise<void> {
    this.drop();
    await this.recover(() => this.hooks.failed(error, plan));
  }

  private async recover(work: () => Promise<void>): Promise<void> {
    this.recovering = true;
    await work().finally(() => (this.recovering = false));
  }

  private async fill(): Promise<void> {
    const { inFlight } = this;
    const isAlone = this.hooks.needsTokens?.() || this.hooks.runsInParts?.();
    const most = isAlone ? 1 : MAX_STEPS_IN_FLIGHT;
    while (!this.stopped && inFlight.length < most) {
      const room = this.hooks.makeRoom?.();
      if (room) await room;
      if (this.interruption || this.doubt) return;
      const plan = this.scheduler.next(QUEUE);
      this.startMoves();
      if (!plan) return;
      if (!(await this.prepared(plan))) return;
      this.submit(plan);
    }
  }

  /** Whether the step can be submitted; if not, it is dropped as one in flight would be. */
  private async prepared(plan: Plan): Promise<boolean> {
    const preparing = this.hooks.prepare?.(plan);
    if (!preparing) return true;
    try {
      await preparing;
    } catch (error) {
      await this.fail(error, plan);
      return false;
    }
    return !this.interruption && !this.doubt;
  }

  /** Also when one ends, so that loading goes on while a step is computed. */
  private startMoves(): void {
    for (const move of this.scheduler.takeMoves()) {
      this.loads++;
      const done = this.hooks.load(move).then(() => {
        this.loads--;
        if (!this.stopped) this.startMoves();
        this.notify();
      });
      background(done, "load of a block");
    }
  }

  private submit(plan: Plan): void {
    const result = this.hooks.run(plan);
    result.catch(() => {}); // reported where it is awaited, in commit
    const inParts = this.hooks.runsInParts?.() ?? false;
    this.inFlight.push({ plan, result, inParts });
    if (!inParts) this.copyBehind(plan);
  }

  /** Blocks before the states that stand behind them. */
  private copyBehind(plan: Plan): void {
    if (plan.completes.length > 0) this.hooks.spill(plan.completes);
    if (plan.saves.length > 0) this.hooks.save(plan.saves);
  }

  private async commit(step: StepInFlight<S>): Promise<void> {
    const { plan } = step;
    try {
      const result = await this.orInterrupted(step.result);
      if (!result || this.interruption) return;
      if (this.doubt) throw this.doubt.error;
      this.inFlight.shift();
      if (step.inParts) this.copyBehind(plan);
      const accepted = result.samples.map((samples) => samples.map(({ token }) => token));
      const outcomes = this.scheduler.commit(plan, accepted, result.broken, systemClock.nowMs());
      this.hooks.committed(outcomes, result.samples);
    } catch (error) {
      await this.fail(error, this.doubt ? undefined : plan);
    }
  }

  /** A step's result; undefined where an interruption comes first. */
  private orInterrupted(result: Promise<StepResult<S>>): Promise<StepResult<S> | undefined> {
    return new Promise((resolve, reject) => {
      this.onInterrupt = () => resolve(undefined);
      result.then(resolve, reject);
    });
  }

  /** Until there may be something to do: a request, a load that ended, an abort. */
  private async sleep(): Promise<void> {
    while (!this.notified && !this.stopped && this.loads === 0 && this.hooks.idle()) await nextEvent();
    if (!this.notified && !this.stopped) {
      const timer = this.loads > 0 ? setTimeout(() => this.wake(), ASK_AGAIN_MS) : undefined;
      await new Promise<void>((resolve) => (this.wake = resolve));
      clearTimeout(timer);
    }
    this.notified = false;
  }
}

const channel = new MessageChannel();
const turns: (() => void)[] = [];
channel.port1.onmessage = () => turns.shift()?.();
(channel.port1 as { unref?: () => void }).unref?.();

/**
 * Lets messages that wait be handled: Deno's `mapAsync` starves the event loop, and an abort would arrive late.
 * A message to oneself, because timers are clamped to 4 ms in pages.
 */
function nextEvent(): Promise<void> {
  return new Promise((resolve) => {
    turns.push(resolve);
    channel.port2.postMessage(0);
  });
}
