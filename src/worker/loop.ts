/**
 * READ THIS FIRST. The engine's heart: plan -> run -> commit, for ever. A step is submitted to the GPU before the one
 * before it has been read back, so that the GPU never waits for the host; what was sampled is learned one step late.
 */
import type { FullBlock, Move, Outcome, Plan, Save, Scheduler } from "../schedule/scheduler.ts";
import { background } from "../base.ts";

/** Steps submitted and not committed yet, at most. */
const MAX_STEPS_IN_FLIGHT = 2;

/** While loads are all there is to wait for, the scheduler is asked so often: a late one changes what should be computed. */
const ASK_AGAIN_MS = 4;

/** What the loop needs of the outer rooms. `S` is whatever a sample carries beside its token. */
export interface LoopHooks<S extends { token: number }> {
  /** Submits a step to the GPU; resolves with the samples in row order, none for a chunk that is not the last. */
  run(plan: Plan): Promise<readonly S[]>;
  /** Brings a block from a lower tier and says so to the scheduler; never rejects. */
  load(move: Move): Promise<void>;
  /** Copies blocks that a step has just completed to the lower tiers, behind that step. Must not wait. */
  spill(blocks: readonly FullBlock[]): void;
  /** Copies states to where they are kept, behind the steps submitted so far. Must not wait. */
  save(saves: readonly Save[]): void;
  /** Nothing else is to be done: a slice of work that can wait. Whether there is more. */
  idle(): boolean;
  /** Called once a step with what was committed. */
  committed(outcomes: readonly Outcome[], samples: readonly S[]): void;
  /** Blocks are short, perhaps: adds some where it may, before the next plan. Undefined: there is nothing to wait for. */
  makeRoom?(): Promise<void> | undefined;
  /** A step failed: nothing that is running can go on, unless the loop is interrupted before this resolves. */
  failed(error: unknown): Promise<void>;
}

interface StepInFlight<S> {
  plan: Plan;
  samples: Promise<readonly S[]>;
}

export class Loop<S extends { token: number }> {
  private readonly scheduler: Scheduler;
  private readonly hooks: LoopHooks<S>;
  private wake: () => void = () => {};
  private notified = false;
  private stopped = false;
  private interruption: (() => Promise<void>) | undefined;
  private onInterrupt: () => void = () => {};
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

  /** Ends after the steps in flight. */
  async stop(): Promise<void> {
    this.stopped = true;
    this.wake();
    await this.ended;
  }

  /** Drops the steps in flight, without waiting for them, and does `work` before the next plan. */
  interrupt(work: () => Promise<void>): void {
    this.interruption = work;
    this.onInterrupt();
    this.notify();
  }

  private async forever(): Promise<void> {
    const inFlight: StepInFlight<S>[] = [];
    while (!this.stopped || inFlight.length > 0) {
      await this.handleInterruption(inFlight);
      await this.fill(inFlight);
      const oldest = inFlight.shift();
      if (oldest) await this.commit(oldest);
      else if (!this.interruption) await this.sleep();
      await nextEvent();
    }
  }

  private async handleInterruption(inFlight: StepInFlight<S>[]): Promise<void> {
    const { interruption } = this;
    if (!interruption) return;
    inFlight.length = 0;
    this.interruption = undefined;
    await interruption();
  }

  private async fill(inFlight: StepInFlight<S>[]): Promise<void> {
    while (!this.stopped && inFlight.length < MAX_STEPS_IN_FLIGHT) {
      const room = this.hooks.makeRoom?.();
      if (room) await room;
      if (this.interruption) return;
      const plan = this.scheduler.next();
      this.startMoves();
      if (!plan) return;
      inFlight.push({ plan, samples: this.submit(plan) });
    }
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

  private submit(plan: Plan): Promise<readonly S[]> {
    const samples = this.hooks.run(plan);
    samples.catch(() => {}); // reported where it is awaited, in commit
    if (plan.kind === "prefill" && plan.saves.length > 0) this.hooks.save(plan.saves);
    if (plan.kind === "prefill" && plan.completes.length > 0) this.hooks.spill(plan.completes);
    return samples;
  }

  private async commit({ plan, samples: pending }: StepInFlight<S>): Promise<void> {
    try {
      const samples = await this.orInterrupted(pending);
      if (!samples || this.interruption) return;
      const outcomes = this.scheduler.commit(
        plan,
        samples.map((sample) => sample.token),
      );
      this.hooks.committed(outcomes, samples);
    } catch (error) {
      await this.hooks.failed(error);
    }
  }

  /** A step's samples; undefined where an interruption comes first. */
  private orInterrupted(samples: Promise<readonly S[]>): Promise<readonly S[] | undefined> {
    return new Promise((resolve, reject) => {
      this.onInterrupt = () => resolve(undefined);
      samples.then(resolve, reject);
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
