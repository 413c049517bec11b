/**
 * A soak: an engine of the public library, with its worker and a real folder, is opened, asked many things at once and in any
 * order, closed and opened again, by a seed. Every answer equals that of an engine without a cache; when nothing runs, nothing is
 * held; every step has a deadline; and memory stays where it was.
 */
import type { Random } from "../../src/base.ts";
import { Engine, TidepoolError, type Generation } from "../../src/index.ts";
import { LEAST_POINTS, memoryPoint, type MemoryPoint } from "./soak-memory.ts";
import { MISTAKES, SoakPlan, type PlannedRequest, type Reading } from "./soak-plan.ts";
import { ended, LOGPROBS, Reference, start } from "./soak-reference.ts";

/** How long one step may take on a busy machine before it counts as hung. */
const DEADLINE_MS = 90_000;

/** What empties or shrinks the tiers: rarely, or nothing would ever come from them. */
const FORGETTING = ["clear", "budgets"] as const;

/** What else can be asked beside requests. */
const CALLS = [
  "stats",
  "list",
  "verify",
  "tree",
  "drain",
  "export",
  "score",
  "warm",
  "count",
  "mistake",
] as const;

type Asked = (typeof CALLS)[number] | (typeof FORGETTING)[number];

/** Errors that small budgets explain. */
const EXPECTED: ReadonlySet<string> = new Set(["out_of_memory", "too_long"]);

export interface SoakCounts {
  engines: number;
  requests: number;
  aborted: number;
  refused: number;
  calls: number;
  mistakes: number;
  losses: number;
  /** Tokens of answers that were compared. */
  compared: number;
  ties: number;
  /** Prompt tokens by where they came from. */
  tokens: { computed: number; gpu: number; ram: number; disk: number };
}

export interface SoakOptions {
  model: string;
  directory: string;
  random: Random;
}

export class Soak {
  readonly memory: MemoryPoint[] = [];
  readonly counts: SoakCounts = {
    ...{
      engines: 0,
      requests: 0,
      aborted: 0,
      refused: 0,
      calls: 0,
      mistakes: 0,
      losses: 0,
      compared: 0,
      ties: 0,
    },
    tokens: { computed: 0, gpu: 0, ram: 0, disk: 0 },
  };
  private readonly options: SoakOptions;
  private readonly random: Random;
  private readonly plan: SoakPlan;
  private readonly reference: Reference;
  /** What runs now, for the message of a deadline. */
  private readonly running = new Set<string>();

  private constructor(options: SoakOptions, reference: Reference) {
    this.options = options;
    this.random = options.random;
    this.plan = new SoakPlan(options.random, options.directory);
    this.reference = reference;
  }

  static async open(options: SoakOptions): Promise<Soak> {
    return new Soak(options, await Reference.open(options.model));
  }

  /** Opens engines one after another until the time is over, and there were enough of them to judge by. */
  async run(untilMs: number): Promise<void> {
    while (performance.now() < untilMs || !this.hasEnough()) {
      await this.oneEngine(untilMs);
      this.memory.push(memoryPoint());
    }
    const { tokens: compared, ties } = this.reference;
    Object.assign(this.counts, { compared, ties });
  }

  /** On a slow machine there are few engines in the time, and by chance few that find something on the disk. */
  private hasEnough(): boolean {
    const engines = this.memory.length;
    return engines >= (this.counts.tokens.disk > 0 ? LEAST_POINTS : 2 * LEAST_POINTS);
  }

  close(): Promise<void> {
    return this.reference.close();
  }

  private async oneEngine(untilMs: number): Promise<void> {
    const { random, options } = this;
    const engineOptions = this.plan.nextEngine();
    const setting = JSON.stringify(engineOptions);
    try {
      const engine = await this.within("load", Engine.load(options.model, engineOptions));
      this.counts.engines++;
      const losesDevice = random.below(16) === 0;
      const rounds = 2 + random.below(4);
      for (let round = 0; round < rounds && (round === 0 || performance.now() < untilMs); round++)
        await this.round(engine, losesDevice && round === 0);
      const left = random.below(3) === 0 ? [this.request(engine, this.plan.nextRequest(), true)] : [];
      await this.within("close", engine.close());
      await Promise.all(left);
    } catch (error) {
      throw new Error(`${(error as Error).message}\nengine ${this.counts.engines}: ${setting}`, {
        cause: error,
      });
    }
  }

  /** Many things at once, then nothing, when nothing may be held. */
  private async round(engine: Engine, losesDevice: boolean): Promise<void> {
    const { random } = this;
    const work: Promise<void>[] = [];
    const add = (one: Promise<void>): void => {
      one.catch(() => {}); // thrown at the end of the round
      work.push(one);
    };
    for (let i = 1 + random.below(9); i > 0; i--) {
      add(this.request(engine, this.plan.nextRequest(), false));
      if (random.below(3) === 0)
        add(this.call(engine, random.below(20) === 0 ? random.pick(FORGETTING) : random.pick(CALLS)));
      if (random.below(3) === 0) await new Promise((resolve) => setTimeout(resolve, random.below(60)));
    }
    if (losesDevice) {
      this.counts.losses++;
      add(engine.debug.loseDevice());
    }
    await all(work);
    await this.checkIdle(engine);
  }

  private async checkIdle(engine: Engine): Promise<void> {
    const held = await this.within("check", engine.debug.check());
    if (held.requests !== 0 || held.blocks !== 0) throw new Error(`held while idle: ${JSON.stringify(held)}`);
    const { gpu } = await this.within("stats", engine.cache.stats());
    if (gpu.blocks.inUse !== 0 || gpu.snapshots.inUse !== 0)
      throw new Error(`in use while idle: ${JSON.stringify([gpu.blocks, gpu.snapshots])}`);
  }

  private async request(engine: Engine, planned: PlannedRequest, isClosing: boolean): Promise<void> {
    const { reading, storage, params, ask } = planned;
    const controller = new AbortController();
    const signal = reading.way === "signal" ? { signal: controller.signal } : {};
    const generation = start(engine, ask, { ...params, ...storage, logprobs: LOGPROBS, ...signal });
    this.counts.requests++;
    const label = `${JSON.stringify(planned)}`;
    try {
      const streamed = await this.within(label, read(generation, reading, controller));
      const got = await this.within(label, ended(generation.result()));
      if (isClosing && "error" in got && got.error.code === "closed") return;
      this.count(got);
      await this.within(`reference of ${label}`, this.reference.compare(planned, got, streamed));
    } catch (error) {
      throw new Error(`${(error as Error).message}\nrequest ${label}`, { cause: error });
    }
  }

  private count(got: Awaited<ReturnType<typeof ended>>): void {
    if ("error" in got) {
      this.counts.refused++;
      return;
    }
    if (got.result.finishReason === "aborted") this.counts.aborted++;
    const { promptTokens, computedTokens, cachedTokens } = got.result.usage;
    const parts = { computed: computedTokens, ...cachedTokens };
    const sum = Object.values(parts).reduce((total, count) => total + count, 0);
    if (sum !== promptTokens)
      throw new Error(`${JSON.stringify(parts)} come to ${sum} prompt tokens, expected ${promptTokens}`);
    for (const tier of ["computed", "gpu", "ram", "disk"] as const) this.counts.tokens[tier] += parts[tier];
  }

  private async call(engine: Engine, what: Asked): Promise<void> {
    this.counts.calls++;
    try {
      await this.within(what, this.doCall(engine, what));
    } catch (error) {
      if (!(error instanceof TidepoolError) || !EXPECTED.has(error.code))
        throw new Error(`${what}: ${(error as Error).message}`, { cause: error });
    }
  }

  private async doCall(engine: Engine, what: Asked): Promise<unknown> {
    const { random } = this;
    const { cache } = engine;
    const { ask } = this.plan.nextRequest();
    const prompt =
      ask.kind === "chat" ? ask.messages : typeof ask.prompt === "string" ? ask.prompt : "The tide";
    switch (what) {
      case "stats":
        return cache.stats();
      case "list":
        return cache.list();
      case "verify":
        return this.noneBad(await cache.verify());
      case "tree":
        return cache.tree(1 + random.below(50));
      case "drain":
        return cache.drain(random.below(200));
      case "clear":
        return cache.clear(random.below(2) === 0 ? {} : { namespace: "one" });
      case "budgets":
        return cache.setBudgets({
          ramBytes: random.pick([0, 500_000]),
          diskBytes: random.pick([100_000, 4_000_000]),
        });
      case "export": {
        const { archive } = await cache.export(prompt);
        return cache.import(archive);
      }
      case "score":
        return this.score(engine);
      case "warm":
        return engine.warm(prompt);
      case "count":
        return engine.countTokens(prompt);
      case "mistake":
        return this.mistake(engine);
    }
  }

  private noneBad({ bad }: { bad: Record<string, number> }): void {
    // Others evict and clear beside it.
    const { expired: _expired, gone: _gone, ...others } = bad;
    if (Object.values(others).some((count) => count > 0))
      throw new Error(`bad records: ${JSON.stringify(bad)}`);
  }

  private async score(engine: Engine): Promise<void> {
    const tokens = Array.from({ length: 2 + this.random.below(80) }, (_, i) => 100 + ((i * 11) % 300));
    const from = this.random.below(tokens.length - 1);
    const { logprobs } = await engine.score(tokens, { from });
    if (logprobs.length !== tokens.length - 1 - from || logprobs.some((value) => !(value <= 0)))
      throw new Error(`scores ${JSON.stringify(logprobs)}`);
  }

  private async mistake(engine: Engine): Promise<void> {
    const [options, name] = this.random.pick(MISTAKES);
    const got = await ended(engine.generate("The tide was", options).result());
    this.counts.mistakes++;
    const isRefused =
      "error" in got && got.error.code === "invalid_argument" && got.error.details["option"] === name;
    if (!isRefused) throw new Error(`${JSON.stringify(options)} was not refused by name`);
  }

  private async within<T>(label: string, work: Promise<T>): Promise<T> {
    this.running.add(label);
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      const tell = () =>
        reject(new Error(`nothing in ${DEADLINE_MS} ms; under way: ${[...this.running].join("; ")}`));
      timer = setTimeout(tell, DEADLINE_MS);
    });
    try {
      return await Promise.race([work, late]);
    } finally {
      clearTimeout(timer);
      this.running.delete(label);
    }
  }
}

/** Waits for all, then throws the first failure. */
async function all(work: readonly Promise<void>[]): Promise<void> {
  const results = await Promise.allSettled(work);
  for (const result of results) if (result.status === "rejected") throw result.reason;
}

/** The text that was streamed; undefined where not all of it was to be read. */
async function read(
  generation: Generation,
  reading: Reading,
  controller: AbortController,
): Promise<string | undefined> {
  if (reading.way === "result") return undefined;
  let text = "";
  let chunks = 0;
  const after = "after" in reading ? reading.after : Infinity;
  const end = (): void => {
    if (reading.way === "signal") controller.abort();
    if (reading.way === "abort") generation.abort();
  };
  if (after === 0) end();
  try {
    for await (const chunk of generation) {
      text += chunk.text;
      if (++chunks < after) continue;
      if (reading.way === "break") return undefined;
      end();
    }
  } catch (error) {
    if (error instanceof TidepoolError) return undefined; // the result says it again
    throw error;
  }
  return text;
}
