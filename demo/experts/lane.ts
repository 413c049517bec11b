/**
 * One side of the experts lab: an engine with one way of keeping experts, which exists while its run goes on; the grid of
 * what is on the GPU, and what each step did. It reads the engine's events as they come, and draws when somebody looks.
 */
import { Engine, TidepoolError, type GenerationResult } from "../../src/index.ts";
import { el } from "../page/dom.ts";
import { countedTokens } from "../page/format.ts";
import { Grid } from "./grid.ts";
import { ExpertHistory, type StepRecord } from "./history.ts";
import type { Outcome } from "./measures.ts";
import { Strip } from "./strip.ts";
import { isExact, WAYS, type Run, type Way } from "./way.ts";

export const NEW_TOKENS = 64;

/** How often events are read during a run. */
const READ_EVERY_MS = 100;

const CHOSEN = [
  { name: "there", colour: "--gpu", of: (step: StepRecord) => step.hits },
  { name: "by low-bit copies", colour: "--disk", of: (step: StepRecord) => step.low },
  { name: "not there", colour: "--wrong", of: (step: StepRecord) => step.missing },
];
const FETCHED = [
  { name: "ahead", colour: "--ram", of: (step: StepRecord) => step.ahead },
  { name: "because a layer waited", colour: "--wrong", of: (step: StepRecord) => step.demanded },
];
const WAITED = [{ name: "in all", colour: "--disk", of: (step: StepRecord) => step.stallMs }];

const oneOf = (count: number, what: string): string => `${count} ${what}${count === 1 ? "" : "s"}`;

export class Lane {
  readonly element: HTMLElement;
  outcome: Outcome | undefined;
  private readonly select: HTMLSelectElement;
  private readonly said = el("p", { class: "note", role: "status" });
  private readonly grid = new Grid();
  private readonly strips = [
    {
      strip: new Strip("Experts chosen", CHOSEN),
      most: (most: number) => `at most ${oneOf(most, "expert")} a token`,
    },
    {
      strip: new Strip("Experts fetched", FETCHED),
      most: (most: number) => `at most ${oneOf(most, "expert")} a token`,
    },
    { strip: new Strip("Waiting", WAITED), most: (most: number) => `at most ${most.toFixed(1)} ms a token` },
  ];
  private readonly slider: HTMLInputElement;
  private readonly words = el("p", { class: "note step-words" });
  private readonly drawn = el("div", { class: "lane-drawn", hidden: true });
  private history: ExpertHistory | undefined;
  private next = 0;
  private isSeen = true;

  constructor(name: string, way: Way) {
    const id = `experts-${name.toLowerCase()}`;
    this.select = el("select", { id });
    for (const [value, { label }] of Object.entries(WAYS))
      this.select.append(el("option", { value, selected: value === way }, label));
    this.slider = el("input", { id: `${id}-step`, type: "range", min: 0, max: 0, value: 0 });
    this.slider.addEventListener("input", () => this.draw());
    const head = el("div", { class: "lane-head" }, el("label", { for: id }, name), this.select);
    const look = el(
      "div",
      { class: "field" },
      el("label", { for: this.slider.id }, "Step"),
      this.slider,
      this.words,
    );
    this.drawn.append(this.grid.element, ...this.strips.map(({ strip }) => strip.element), look);
    this.element = el(
      "article",
      { class: "tier lane expert-lane", "aria-label": name },
      head,
      this.said,
      this.drawn,
    );
    new ResizeObserver(() => this.draw()).observe(this.drawn);
  }

  set locked(locked: boolean) {
    this.select.disabled = locked;
  }

  set seen(seen: boolean) {
    this.isSeen = seen;
    this.draw();
  }

  get name(): string {
    return WAYS[this.way].label;
  }

  get isExact(): boolean {
    return isExact(this.way);
  }

  private get way(): Way {
    return this.select.value as Way;
  }

  clear(): void {
    this.outcome = this.history = undefined;
    this.next = 0;
    this.drawn.hidden = true;
    this.said.textContent = "Waits for its turn.";
  }

  /** Loads an engine, runs the prompt and ends the engine; `changed` after each reading. */
  async run(
    { model, expertMemory, copyBytes, prompt }: Run,
    signal: AbortSignal,
    changed: () => void,
  ): Promise<GenerationResult> {
    this.said.textContent = "Loading the model…";
    // What is not on the GPU is read from the model's file each time; nothing is known of the prompt.
    const onGpu = expertMemory + (this.isExact ? 0 : copyBytes);
    const memory = { expertMemory: onGpu, expertRamBytes: 0, maxRequests: 1 };
    const cache = { disk: false, ramBytes: 0 };
    const engine = await Engine.load(model, { ...memory, cache, ...WAYS[this.way].options, signal });
    try {
      await this.read(engine); // events are noted from now on
      const generation = engine.generate(prompt, { maxTokens: NEW_TOKENS, signal });
      const result = await this.readWhile(engine, generation.result(), changed);
      if (result.finishReason === "aborted") throw new TidepoolError("aborted", "the run was stopped");
      if (this.outcome) this.outcome = { ...this.outcome, result };
      this.said.textContent = `${countedTokens(result.usage.promptTokens)} of prompt, ${countedTokens(result.tokens.length)} generated.`;
      changed();
      return result;
    } finally {
      await engine.close();
    }
  }

  private async readWhile<T>(engine: Engine, work: Promise<T>, changed: () => void): Promise<T> {
    let isDone = false;
    const done = work.finally(() => (isDone = true));
    done.catch(() => {}); // awaited below
    while (!isDone) {
      await Promise.race([
        done.catch(() => {}),
        new Promise((resolve) => setTimeout(resolve, READ_EVERY_MS)),
      ]);
      await this.read(engine);
      this.draw();
      changed();
    }
    return done;
  }

  private async read(engine: Engine): Promise<void> {
    const { experts, expertEvents } = await engine.stats({ eventsAfter: this.next });
    if (!experts || !expertEvents) throw new Error("all experts of this model are on the GPU");
    this.history ??= new ExpertHistory(experts);
    this.history.take(expertEvents.events, expertEvents.dropped, experts.residents);
    this.next = expertEvents.next;
    this.outcome = { figures: experts };
    this.said.textContent = `${experts.resident} of ${experts.layers * experts.experts} experts are on the GPU, which has room for ${experts.slots}.`;
    this.followSteps(this.history.steps.length);
  }

  /** The slider stays at the end if it is there. */
  private followSteps(steps: number): void {
    const { slider } = this;
    const isAtEnd = slider.value === slider.max;
    slider.max = String(Math.max(0, steps - 1));
    if (isAtEnd) slider.value = slider.max;
  }

  draw(): void {
    const { history } = this;
    if (!history || !this.isSeen) return;
    this.drawn.hidden = false;
    const chosen = Number(this.slider.value);
    this.grid.draw(history, chosen);
    for (const { strip, most } of this.strips) strip.draw(history.steps, chosen, most);
    const step = history.steps[chosen];
    this.words.textContent = step ? stepWords(step, history.forgotten + chosen + 1) : "No step yet.";
    this.slider.setAttribute("aria-valuetext", this.words.textContent);
  }
}

function stepWords(step: StepRecord, number: number): string {
  const what = step.phase === "prefill" ? `prompt, ${countedTokens(step.rows)}` : "one token";
  const copies = step.low > 0 ? `, low-bit copies stood for ${step.low}` : "";
  const there = `${step.hits} of ${step.hits + step.missing + step.low} chosen experts were there${copies}`;
  const fetched = `${step.ahead} fetched ahead, ${step.demanded} because a layer waited`;
  return `Step ${number} (${what}, ${step.ms.toFixed(1)} ms): ${there}; ${fetched}; ${step.stallMs.toFixed(1)} ms of waiting.`;
}
