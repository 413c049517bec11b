/**
 * The race: two cache policies live side by side, each in an engine of its own with the shipped hybrid model and a small pool,
 * with the same requests one after the other; what each had to compute and how long its first tokens took; and whether the
 * answers are equal, as they must be. The requests are made by `race-requests.ts`; the comparison of policies by replay is another
 * view.
 */
import {
  Engine,
  TidepoolError,
  type CacheOptions,
  type ChatMessage,
  type GenerationResult,
} from "../../src/index.ts";
import { background } from "../page/background.ts";
import "./race.css";
import { button, el } from "../page/dom.ts";
import { bytesText, errorText, numberText, secondsText } from "../page/format.ts";
import { raceRequests, type RaceRequest } from "./race-requests.ts";
import { shippedModels } from "../page/model/shipped.ts";

type Policy = NonNullable<CacheOptions["policy"]>;

const POLICIES: Readonly<Record<Policy, string>> = {
  marconi: "Marconi",
  lru: "Least recently used",
  lfu: "Least frequently used",
  "length-aware": "Length-aware",
  vllm: "vLLM-like",
  sglang: "SGLang-like",
};

const MODEL = "tide-hybrid";
/** Small, so that there is something to evict. */
const POOL_TOKENS = 768;
const REQUESTS = 48;
const NEW_TOKENS = 8;
const SEED = 7;

/** What one side has done so far. */
interface Score {
  computed: number;
  cached: number;
  ttftMs: number[];
}

class Lane {
  readonly element: HTMLElement;
  private readonly select: HTMLSelectElement;
  private readonly computed = el("span", { class: "part from-computed" });
  private readonly cached = el("span", { class: "part from-gpu" });
  private readonly words = el("p", { class: "note" });
  private readonly kept = el("p", { class: "note" });
  private readonly first = el("p", { class: "amount" });
  private readonly dots = el("div", { class: "race-dots", role: "img", "aria-label": "No request yet" });
  private engine: Engine | undefined;
  private score: Score = { computed: 0, cached: 0, ttftMs: [] };

  constructor(name: string, policy: Policy) {
    const id = `race-${name.toLowerCase()}`;
    this.select = el("select", { id });
    for (const [value, label] of Object.entries(POLICIES))
      this.select.append(el("option", { value, selected: value === policy }, label));
    const bar = el("div", { class: "race-bar", "aria-hidden": "true" }, this.cached, this.computed);
    const label = el("label", { for: id }, name);
    const head = el("div", { class: "race-head" }, label, this.select);
    this.element = el(
      "article",
      { class: "tier race-lane" },
      head,
      this.first,
      bar,
      this.words,
      this.kept,
      this.dots,
    );
    this.draw(0);
  }

  set locked(locked: boolean) {
    this.select.disabled = locked;
  }

  get name(): string {
    return this.select.selectedOptions[0]?.textContent ?? "";
  }

  get tokensComputed(): number {
    return this.score.computed;
  }

  async load(signal: AbortSignal): Promise<void> {
    const shipped = shippedModels.find(({ name }) => name === MODEL);
    if (!shipped) throw new Error(`this build of the page does not include ${MODEL}`);
    this.score = { computed: 0, cached: 0, ttftMs: [] };
    this.dots.replaceChildren();
    this.kept.textContent = "";
    this.draw(0);
    const policy = this.select.value as Policy;
    // Nothing below the GPU: what is evicted is gone.
    const cache = { policy, disk: false, ramBytes: 0, restore: "compute" } as const;
    this.engine = await Engine.load(shipped.url, { cache, poolTokens: POOL_TOKENS, maxRequests: 1, signal });
  }

  async run(messages: readonly ChatMessage[], signal: AbortSignal): Promise<GenerationResult> {
    if (!this.engine) throw new TidepoolError("closed", "the engine is closed");
    const result = await this.engine.chat(messages, { maxTokens: NEW_TOKENS, signal }).result();
    if (result.finishReason === "aborted") throw new TidepoolError("aborted", "the race was stopped");
    const { promptTokens, computedTokens } = result.usage;
    this.score.computed += computedTokens;
    this.score.cached += promptTokens - computedTokens;
    this.score.ttftMs.push(result.timing.ttftMs);
    const dot = el("i", {
      title: `${numberText(promptTokens - computedTokens)} of ${numberText(promptTokens)} tokens cached`,
    });
    dot.style.setProperty("--share", `${(100 * (promptTokens - computedTokens)) / promptTokens}%`);
    this.dots.append(dot);
    const { gpu } = await this.engine.cache.stats();
    this.kept.textContent = `keeps ${bytesText(gpu.bytes)} of keys and values, ${bytesText(gpu.snapshots.bytes)} of states`;
    return result;
  }

  /** @param most tokens that the bar has room for */
  draw(most: number): void {
    const { computed, cached, ttftMs } = this.score;
    const share = (tokens: number): string => `${most > 0 ? (100 * tokens) / most : 0}%`;
    this.cached.style.inlineSize = share(cached);
    this.computed.style.inlineSize = share(computed);
    const asked = computed + cached;
    const rate = asked === 0 ? 0 : Math.round((100 * cached) / asked);
    this.words.textContent = `${numberText(computed)} tokens computed, ${numberText(cached)} from the cache (${rate}%)`;
    const mean = ttftMs.reduce((sum, ms) => sum + ms, 0) / Math.max(1, ttftMs.length);
    this.first.textContent =
      ttftMs.length === 0
        ? "not started"
        : `first token after ${secondsText(mean)} on average, ${secondsText(median(ttftMs))} median`;
    this.dots.ariaLabel = `${ttftMs.length} requests; each bar is the share of its prompt that was cached`;
  }

  get asked(): number {
    return this.score.computed + this.score.cached;
  }

  async close(): Promise<void> {
    await this.engine?.close();
    this.engine = undefined;
  }
}

/** The whole view; engines exist only while a race runs. */
export function raceView(): HTMLElement {
  return new Race().element;
}

class Race {
  readonly element: HTMLElement;
  private readonly lanes = [new Lane("First", "marconi"), new Lane("Second", "vllm")] as const;
  private readonly start = button("Start the race", () => background(this.run()), { class: "main" });
  private readonly stop = button("Stop", () => this.running?.abort(), { hidden: true });
  private readonly said = el("p", { class: "note", role: "status" });
  private readonly equal = el("p", { class: "note race-equal" });
  private readonly problem = el("p", { class: "problem", role: "alert" });
  private running: AbortController | undefined;

  constructor() {
    const lead = `The same ${REQUESTS} requests, conversations over a few log books, go to two engines with ${MODEL} and room for ${numberText(POOL_TOKENS)} tokens each. They differ in what they keep. This model's states are small beside its keys and values, so that many of them cost little; Compare has models where they are large.`;
    this.element = el(
      "section",
      { class: "race", "aria-label": "Race" },
      el("h2", {}, "Race"),
      el("p", { class: "lead" }, lead),
      el("div", { class: "actions" }, this.start, this.stop),
      this.said,
      this.problem,
      el("div", { class: "tiers" }, ...this.lanes.map(({ element }) => element)),
      this.equal,
    );
  }

  private async run(): Promise<void> {
    const running = new AbortController();
    this.running = running;
    this.show(true);
    this.problem.textContent = this.equal.textContent = "";
    try {
      this.said.textContent = "Loading both engines…";
      for (const lane of this.lanes) await lane.load(running.signal);
      await this.ask(raceRequests(REQUESTS, SEED), running.signal);
      this.said.textContent = this.outcome();
    } catch (error) {
      if (running.signal.aborted) this.said.textContent = "Stopped.";
      else this.problem.textContent = errorText(error);
    } finally {
      for (const lane of this.lanes) await lane.close();
      this.running = undefined;
      this.show(false);
    }
  }

  /** One after the other, and who begins changes, so that neither has the GPU to itself more than the other. */
  private async ask(requests: Iterable<RaceRequest>, signal: AbortSignal): Promise<void> {
    let [done, equal] = [0, 0];
    for (const request of requests) {
      const order = done % 2 === 0 ? [0, 1] : [1, 0];
      const answers: GenerationResult[] = [];
      for (const index of order) {
        answers.push(await this.lanes[index as 0 | 1].run(request.messages, signal));
        this.draw();
      }
      const [a, b] = answers as [GenerationResult, GenerationResult];
      done++;
      if (a.tokens.join() === b.tokens.join()) equal++;
      request.answered(a.text, a.tokens);
      this.said.textContent = `${done} of ${REQUESTS} requests.`;
      this.equal.textContent = `${equal} of ${done} answers are equal, token by token.`;
      this.equal.classList.toggle("problem", equal < done);
    }
  }

  private draw(): void {
    const most = Math.max(...this.lanes.map(({ asked }) => asked));
    for (const lane of this.lanes) lane.draw(most);
  }

  private outcome(): string {
    const [first, second] = this.lanes;
    const less = first.tokensComputed - second.tokensComputed;
    if (less === 0) return "Both had to compute the same number of tokens.";
    const [winner, other] = less < 0 ? [first, second] : [second, first];
    const share = Math.round((100 * Math.abs(less)) / other.tokensComputed);
    return `${winner.name} computed ${numberText(Math.abs(less))} tokens less than ${other.name}, ${share}%.`;
  }

  private show(isRunning: boolean): void {
    this.start.hidden = isRunning;
    this.stop.hidden = !isRunning;
    (isRunning ? this.stop : this.start).focus();
    for (const lane of this.lanes) lane.locked = isRunning;
  }
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? 0;
}
