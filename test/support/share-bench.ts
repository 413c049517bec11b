/**
 * Tabs that share an engine, without a browser: a channel whose messages wait to be delivered, in each sender's order and in no
 * other; locks that fall free when a tab dies; an engine whose tokens follow from the prompt alone. The test decides what
 * happens when.
 */
import { assert, type Random, type Timer } from "../../src/base.ts";
import { TidepoolError } from "../../src/errors.ts";
import type { Ask } from "../../src/worker/local.ts";
import { nothing } from "../../src/worker/request/output.ts";
import type { EngineInfo, FromWorker, GenerationResult, StepOutput } from "../../src/wire/protocol.ts";
import type { Post } from "../../src/worker/session.ts";
import {
  Share,
  type ShareChannel,
  type SharedEngine,
  type ShareLocks,
} from "../../src/worker/share/member.ts";
import { FakeTimer } from "../fault/fake-timer.ts";

/** What the fake engine says: token i of a prompt, and when it ends. */
export function tokensOf(prompt: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => (prompt * 31 + i * i * 7 + 3) % 97);
}

export const textOf = (tokens: readonly number[]): string => tokens.map((token) => `${token} `).join("");

/** Rounds of questions after which whoever followed the wrong owner has found the right one; fewer than make a silent owner. */
const PINGS = 3;

/** Said behind the last token, without one: as text that was held back for a stop string. */
const REST = "end";

/** A turn of the event loop: every promise has been followed by then. */
export const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

interface Place {
  member: string;
  grant: () => void;
  lost: () => void;
}

class Locks {
  private readonly queues = new Map<string, Place[]>();
  /** What members that are suspended have not heard of. */
  private readonly unheard = new Map<string, (() => void)[]>();

  of(member: string): ShareLocks {
    return {
      steal: (name, lost) =>
        new Promise((resolve) => {
          const queue = this.queues.get(name) ?? [];
          this.queues.set(name, queue);
          const grant = (): void => resolve(() => this.leave(name, entry));
          const entry: Place = { member, grant, lost };
          const [robbed] = queue.splice(0, 1, entry);
          if (robbed) this.tell(robbed.member, robbed.lost);
          entry.grant();
        }),
      take: (name, signal, lost = () => {}) =>
        new Promise((resolve, reject) => {
          const queue = this.queues.get(name) ?? [];
          this.queues.set(name, queue);
          let isGranted = false;
          const grant = (): void => {
            if (signal.aborted) return;
            isGranted = true;
            resolve(() => this.leave(name, entry));
          };
          const entry: Place = { member, grant, lost };
          signal.addEventListener("abort", () => {
            if (!isGranted) this.leave(name, entry);
            reject(new Error("called off"));
          });
          queue.push(entry);
          if (queue[0] === entry) entry.grant();
        }),
    };
  }

  /** A tab is gone: what it held falls free. */
  die(member: string): void {
    this.unheard.delete(member);
    for (const [name, queue] of this.queues)
      for (const entry of queue.filter((each) => each.member === member)) this.leave(name, entry);
  }

  suspend(member: string): void {
    this.unheard.set(member, []);
  }

  wake(member: string): void {
    const unheard = this.unheard.get(member) ?? [];
    this.unheard.delete(member);
    for (const hear of unheard) hear();
  }

  private tell(member: string, hear: () => void): void {
    const unheard = this.unheard.get(member);
    if (unheard) unheard.push(hear);
    else queueMicrotask(hear);
  }

  holder(name: string): string | undefined {
    return this.queues.get(name)?.[0]?.member;
  }

  get heldCount(): number {
    return [...this.queues.values()].filter((queue) => queue.length > 0).length;
  }

  private leave(name: string, entry: Place): void {
    const queue = this.queues.get(name) ?? [];
    const index = queue.indexOf(entry);
    if (index < 0) return;
    queue.splice(index, 1);
    const [next] = queue;
    if (index === 0 && next) this.tell(next.member, next.grant);
  }
}

/** Messages on their way, by sender and addressee. */
class Wires {
  private readonly members = new Map<string, (data: unknown) => void>();
  private readonly pairs = new Map<string, { to: string; queue: unknown[] }>();
  readonly suspended = new Set<string>();

  of(member: string): ShareChannel {
    return {
      listen: (onMessage) => void this.members.set(member, onMessage),
      close: () => void this.members.delete(member),
      post: (message) => {
        for (const to of this.members.keys()) {
          if (to === member) continue;
          const pair = this.pairs.get(`${member}>${to}`) ?? { to, queue: [] };
          this.pairs.set(`${member}>${to}`, pair);
          pair.queue.push(structuredClone(message));
        }
      },
    };
  }

  /** What a member hears of somebody outside. */
  inject(to: string, data: unknown): void {
    this.members.get(to)?.(data);
  }

  cut(member: string): void {
    this.members.delete(member);
  }

  /** One message of any pair arrives. Whether there was one. */
  deliver(random: Random): boolean {
    const waiting = [...this.pairs.values()].filter(
      ({ to, queue }) => queue.length > 0 && !this.suspended.has(to),
    );
    if (waiting.length === 0) return false;
    const { to, queue } = random.pick(waiting);
    const message = queue.shift();
    this.members.get(to)?.(message);
    return true;
  }
}

interface Request {
  prompt: number;
  want: number;
  tokens: number[];
}

export class FakeEngine implements SharedEngine {
  /** Fails to load with this. */
  failure: Error | undefined;
  state: "new" | "loading" | "loaded" | "closed" = "new";
  readonly requests = new Map<number, Request>();
  readonly watched: boolean[] = [];
  /** Tokens computed again, for requests that were taken over. */
  resumedTokens = 0;
  readonly post: Post;
  private finishLoading: () => void = () => {};
  private failLoading: (error: Error) => void = () => {};

  constructor(post: Post) {
    this.post = post;
  }

  load(): Promise<EngineInfo> {
    this.state = "loading";
    this.post({ type: "progress", progress: { phase: "weights", done: 1, total: 2 } });
    return new Promise((resolve, reject) => {
      this.failLoading = reject;
      this.finishLoading = () => {
        if (this.failure) return reject(this.failure);
        this.state = "loaded";
        resolve(INFO);
      };
    });
  }

  loaded(): void {
    if (this.state === "loading") this.finishLoading();
  }

  receive(ask: Ask): void {
    assert(this.state === "loaded", `an engine that is ${this.state} is asked`);
    if (ask.type === "submit") this.submit(ask);
    else if (ask.type === "abort") this.end(ask.id, "aborted");
    else if (ask.call.method === "cacheWatch") {
      this.watched.push(ask.call.on);
      this.post({ type: "answer", id: ask.id, value: undefined });
    } else {
      const value = ask.call.method === "tokenize" ? ask.call.text : undefined;
      this.post({ type: "answer", id: ask.id, value });
    }
  }

  /** A token for every request. */
  step(): void {
    const outputs: StepOutput[] = [];
    const done: number[] = [];
    for (const [id, request] of this.requests) {
      const token = tokensOf(request.prompt, request.want)[request.tokens.length];
      if (token === undefined) done.push(id);
      else {
        request.tokens.push(token);
        outputs.push({ id, text: textOf([token]), tokens: [token] });
      }
    }
    if (outputs.length > 0) this.post({ type: "step", outputs });
    for (const id of done) this.end(id, "length");
  }

  close(): Promise<void> {
    if (this.state === "loading") this.failLoading(new TidepoolError("aborted", "closed"));
    for (const id of [...this.requests.keys()]) this.end(id, "aborted");
    this.state = "closed";
    return Promise.resolve();
  }

  private submit({ id, input, params, resume }: Extract<Ask, { type: "submit" }>): void {
    assert(input.kind === "tokens", "the fake engine takes tokens");
    const [prompt = 0] = input.tokens;
    const want = params.maxTokens ?? 1;
    const tokens = [...(resume?.tokens ?? [])];
    assert(
      tokens.join() === tokensOf(prompt, want).slice(0, tokens.length).join(),
      "resumed behind other tokens",
    );
    this.resumedTokens += tokens.length;
    this.requests.set(id, { prompt, want, tokens });
  }

  private end(id: number, finishReason: GenerationResult["finishReason"]): void {
    const request = this.requests.get(id);
    if (!request) return;
    this.requests.delete(id);
    const rest = finishReason === "aborted" ? "" : REST;
    if (rest) this.post({ type: "step", outputs: [{ id, text: rest, tokens: [] }] });
    const { tokens } = request;
    this.post({
      type: "finished",
      id,
      result: { ...nothing(), finishReason, tokens, text: textOf(tokens) + rest },
    });
  }
}

const INFO = { role: "alone", model: { name: "fake" }, limits: {} } as unknown as EngineInfo;

/** A request as its page sees it. */
export interface PageRequest {
  prompt: number;
  want: number;
  streamed: string;
  tokens: number[];
  ends: (GenerationResult | { code: string })[];
}

export class Tab {
  readonly id: string;
  readonly share: Share;
  readonly engines: FakeEngine[] = [];
  readonly requests = new Map<number, PageRequest>();
  readonly answers = new Map<number, unknown[]>();
  readonly heard: FromWorker[] = [];
  readonly timer = new FakeTimer();
  isAlive = true;
  private nextId = 1;

  constructor(bench: Bench, id: string, failure?: Error) {
    this.id = id;
    this.share = new Share({
      ...{ key: "key", id, locks: bench.locks.of(id), channel: bench.wires.of(id) },
      timer: this.timer as Timer,
      nowMs: () => (bench.nowMs += 0.001), // no lock passes on in no time
      toPage: (message) => this.isAlive && this.hear(message),
      makeEngine: (post) => {
        const engine = new FakeEngine((message, transfer) => this.isAlive && post(message, transfer));
        engine.failure = failure;
        this.engines.push(engine);
        return engine;
      },
    });
  }

  get engine(): FakeEngine | undefined {
    return this.engines.at(-1);
  }

  get isLoaded(): boolean {
    return this.heard.some(({ type }) => type === "loaded");
  }

  /** What the page was told last of its part. */
  get role(): string | undefined {
    const infos = this.heard.flatMap((message) =>
      message.type === "loaded" || message.type === "info" ? [message.info.role] : [],
    );
    return infos.at(-1);
  }

  get error(): string | undefined {
    return this.heard.flatMap((message) => (message.type === "failed" ? [message.error.code] : []))[0];
  }

  submit(prompt: number, want: number): number {
    const id = this.nextId++;
    this.requests.set(id, { prompt, want, streamed: "", tokens: [], ends: [] });
    this.share.fromPage({
      type: "submit",
      id,
      input: { kind: "tokens", tokens: [prompt] },
      params: { maxTokens: want },
    });
    return id;
  }

  call(call: Extract<Ask, { type: "call" }>["call"]): number {
    const id = this.nextId++;
    this.answers.set(id, []);
    this.share.fromPage({ type: "call", id, call });
    return id;
  }

  private hear(message: FromWorker): void {
    if (message.type === "step") {
      for (const { id, text, tokens } of message.outputs) {
        const request = this.requests.get(id)!;
        assert(request.ends.length === 0, `request ${id} goes on behind its end`);
        request.streamed += text;
        request.tokens.push(...tokens);
      }
    } else if (message.type === "finished") this.requests.get(message.id)!.ends.push(message.result);
    else if (message.type === "refused") this.requests.get(message.id)!.ends.push(message.error);
    else if (message.type === "answer") this.answers.get(message.id)!.push(message.value);
    else this.heard.push(message);
  }
}

export class Bench {
  readonly locks = new Locks();
  readonly wires = new Wires();
  readonly tabs: Tab[] = [];
  readonly random: Random;
  nowMs = 0;

  constructor(random: Random) {
    this.random = random;
  }

  get alive(): Tab[] {
    return this.tabs.filter(({ isAlive }) => isAlive);
  }

  /** Engines that have a model, or are about to. */
  get engines(): FakeEngine[] {
    return this.active.flatMap(({ engines }) =>
      engines.filter(({ state }) => state === "loading" || state === "loaded"),
    );
  }

  async open(failure?: Error): Promise<Tab> {
    const tab = new Tab(this, `tab${this.tabs.length}`, failure);
    this.tabs.push(tab);
    await tab.share.start();
    await turn();
    return tab;
  }

  /** Its renderer is gone: it says nothing any more. What it has said may still be on its way. */
  async kill(tab: Tab): Promise<void> {
    tab.isAlive = false;
    tab.timer.advance(0);
    this.wires.cut(tab.id);
    this.locks.die(tab.id);
    await turn();
  }

  /** Its page and worker stand still, as where the system suspends tabs in the background. */
  suspend(tab: Tab): void {
    this.wires.suspended.add(tab.id);
    this.locks.suspend(tab.id);
  }

  /** It hears of what it has missed: of messages or of its locks first. */
  async wake(tab: Tab): Promise<void> {
    this.wires.suspended.delete(tab.id);
    for (let i = this.random.below(10); i > 0; i--) this.wires.deliver(this.random);
    this.locks.wake(tab.id);
    await turn();
  }

  /** Time passes for all who do not stand still. */
  pass(ms: number): void {
    this.nowMs += ms;
    for (const tab of this.active) tab.timer.advance(ms);
  }

  get active(): Tab[] {
    return this.alive.filter(({ id }) => !this.wires.suspended.has(id));
  }

  /** Until nothing is on its way any more. */
  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 2; quiet++) {
      while (this.wires.deliver(this.random)) quiet = 0;
      await turn();
    }
  }

  /** Everything that can happen without anybody dying, until all that was asked is done; also where somebody must ask once more. */
  async finish(): Promise<void> {
    await this.work();
    for (let i = 0; i < PINGS; i++) {
      this.pass(5000);
      await this.work();
    }
  }

  private async work(): Promise<void> {
    for (let round = 0; round < 200; round++) {
      await this.settle();
      if (this.engines.every(({ state, requests }) => state === "loaded" && requests.size === 0)) return;
      for (const engine of this.engines) {
        engine.loaded();
        engine.step();
      }
    }
    throw new Error("it does not come to an end");
  }
}
