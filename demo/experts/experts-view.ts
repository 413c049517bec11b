/**
 * The experts lab: a mixture of experts with fewer experts on the GPU than it has, run with two ways of keeping them, one
 * after the other. It takes the settings, runs the lanes and compares what they measured; a lane draws itself.
 */
import { inspect, type ModelReport } from "../../src/index.ts";
import { background } from "../page/background.ts";
import { forgetColours, onRecolour } from "../page/colours.ts";
import { button, el, labelled } from "../page/dom.ts";
import { bytesText, errorText, numberText } from "../page/format.ts";
import type { Choice, Host } from "../page/model/host.ts";
import { shippedModels } from "../page/model/shipped.ts";
import { Lane, NEW_TOKENS } from "./lane.ts";
import { hitsOfLayer, MEASURES, type Outcome } from "./measures.ts";
import type { Run } from "./way.ts";
import "./lab.css";
import "./experts.css";

const SHIPPED = "tide-moe";
const PROMPT = "The harbour was quiet, and";
/** Per cent of the experts that are on the GPU: at first, and what may be chosen. */
const SHARE = { first: 25, min: 5, max: 90, step: 5 } as const;

type Experts = NonNullable<NonNullable<ModelReport["shape"]>["experts"]>;

const RANGE = { min: SHARE.min, max: SHARE.max, step: SHARE.step };

const LEAD =
  "A mixture of experts sends each token through a few experts of each layer. The GPU need not hold them all: the others are read from the model's file when they are needed or, if they can be predicted, before. The same text is continued twice, with two ways of choosing what to keep and what to read.";

export class ExpertsView {
  readonly element: HTMLElement;
  private readonly host: Host;
  private readonly lanes = [new Lane("First", "promoe"), new Lane("Second", "on-demand")] as const;
  private readonly models = el("select", { id: "experts-model" });
  private readonly share = el("input", { id: "experts-share", type: "range", value: SHARE.first, ...RANGE });
  private readonly amount = el("output", { class: "note", for: "experts-share" });
  private readonly prompt = el("textarea", { id: "experts-prompt", rows: 2 }, PROMPT);
  private readonly start = button("Run both", () => background(this.run()), {
    class: "main",
    disabled: true,
  });
  private readonly stop = button("Stop", () => this.running?.abort(), { hidden: true });
  private readonly said = el("p", { class: "note", role: "status" });
  private readonly problem = el("p", { class: "problem", role: "alert" });
  private readonly outcome = el("div", { class: "expert-outcome", hidden: true });
  private choices: Choice[] = [];
  private experts: Experts | undefined;
  private running: AbortController | undefined;

  constructor(host: Host) {
    this.host = host;
    this.element = el(
      "section",
      { class: "lab", "aria-label": "Experts" },
      el("h2", {}, "Experts"),
      el("p", { class: "lead" }, LEAD),
      this.settings(),
      el("div", { class: "actions" }, this.start, this.stop),
      this.said,
      this.problem,
      legend(),
      el("div", { class: "tiers" }, ...this.lanes.map(({ element }) => element)),
      this.outcome,
    );
    this.models.addEventListener("change", () => background(this.look()));
    this.share.addEventListener("input", () => this.showAmount());
    onRecolour(() => {
      forgetColours();
      for (const lane of this.lanes) lane.draw();
    });
    host.watch(() => this.offer());
  }

  /** Nothing is drawn while nobody looks; a run goes on. */
  setSeen(seen: boolean): void {
    for (const lane of this.lanes) lane.seen = seen;
  }

  private settings(): HTMLElement {
    const model = el("div", { class: "field" }, el("label", { for: this.models.id }, "Model"), this.models);
    const memory = labelled("Experts on the GPU", this.share);
    memory.append(this.amount);
    const prompt = labelled(
      "Text to continue",
      this.prompt,
      `${NEW_TOKENS} tokens at most are generated, always the likeliest.`,
    );
    return el("div", { class: "expert-settings" }, model, memory, prompt);
  }

  /** The shipped mixture of experts, and the model that is loaded. */
  private offer(): void {
    const shipped = shippedModels
      .filter(({ name }) => name === SHIPPED)
      .map(({ name, url }) => ({ name, model: url }));
    const { loaded } = this.host;
    const isOther = loaded && !shippedModels.some(({ url }) => url === loaded.model);
    const choices = isOther ? [...shipped, loaded] : shipped;
    if (
      choices.length === this.choices.length &&
      choices.every(({ model }, i) => model === this.choices[i]?.model)
    )
      return;
    this.choices = choices;
    const { value } = this.models;
    this.models.replaceChildren(
      ...choices.map(({ name }, i) => el("option", { value: i, selected: String(i) === value }, name)),
    );
    background(this.look());
  }

  private get choice(): Choice | undefined {
    return this.choices[Number(this.models.value)];
  }

  /** Reads from the model's header what its experts take. */
  private async look(): Promise<void> {
    const { choice } = this;
    this.experts = undefined;
    this.start.disabled = true;
    this.problem.textContent = choice
      ? ""
      : `This build of the page does not include ${SHIPPED}. Load a mixture of experts in the chat.`;
    if (!choice) return;
    try {
      const { shape } = await inspect(choice.model);
      if (choice !== this.choice) return;
      this.experts = shape?.experts;
      if (!this.experts)
        this.problem.textContent = `${choice.name} is no mixture of experts. Choose another model.`;
    } catch (error) {
      this.problem.textContent = errorText(error);
    }
    this.start.disabled = this.experts === undefined;
    this.showAmount();
  }

  private get expertMemory(): number {
    const { bytes = 0, leastBytes = 0 } = this.experts ?? {};
    return Math.max(leastBytes, Math.ceil((bytes * Number(this.share.value)) / 100));
  }

  private showAmount(): void {
    if (!this.experts) return;
    const { layers, count, chosen, bytes } = this.experts;
    const all = `${numberText(layers * count)} experts (${count} in each of ${layers} layers, ${chosen} for a token)`;
    this.amount.textContent = `${this.share.value}%: ${bytesText(this.expertMemory)} of ${bytesText(bytes)} for ${all}`;
    this.share.setAttribute("aria-valuetext", `${this.share.value}%, ${bytesText(this.expertMemory)}`);
  }

  private async run(): Promise<void> {
    const { choice } = this;
    const { copyBytes = 0 } = this.experts ?? {};
    if (!choice) return;
    const running = new AbortController();
    this.running = running;
    this.show(true);
    this.problem.textContent = "";
    for (const lane of this.lanes) lane.clear();
    this.outcome.hidden = true;
    try {
      await this.runLanes(
        { model: choice.model, expertMemory: this.expertMemory, copyBytes, prompt: this.prompt.value },
        running.signal,
      );
    } catch (error) {
      if (running.signal.aborted) this.said.textContent = "Stopped.";
      else this.problem.textContent = errorText(error);
    } finally {
      this.show(false);
    }
  }

  private async runLanes(run: Run, signal: AbortSignal): Promise<void> {
    const texts: string[] = [];
    for (const lane of this.lanes) {
      this.said.textContent = `Running: ${lane.name}.`;
      const { text, tokens } = await lane.run(run, signal, () => this.compare());
      texts.push(`${text}\n${tokens.join()}`);
    }
    const isEqual = texts.every((text) => text === texts[0]);
    const mayDiffer = this.lanes.some(({ isExact }) => !isExact);
    const differ = mayDiffer
      ? "The two texts differ: low-bit copies stood for some experts."
      : "The two texts differ, which they must not.";
    this.said.textContent = isEqual ? "Both texts are equal, token by token." : differ;
    this.said.classList.toggle("problem", !isEqual && !mayDiffer);
  }

  /** What both have measured so far. */
  private compare(): void {
    const outcomes = this.lanes.map(({ outcome }) => outcome);
    this.outcome.hidden = false;
    const names = this.lanes.map(({ name }) => name);
    const cells = (of: (outcome: Outcome) => string): string[] =>
      outcomes.map((one) => (one ? of(one) : "–"));
    const layers = outcomes[0]?.figures.layers ?? 0;
    const byLayer = Array.from({ length: layers }, (_, layer): [string, string[]] => [
      `Layer ${layer + 1}`,
      cells(
        ({ figures }) => `${hitsOfLayer(figures, layer)}, ${figures.residents[layer]?.length ?? 0} there now`,
      ),
    ]);
    const isOpen = this.outcome.querySelector("details")?.open ?? false;
    const text = this.lanes.find(({ outcome }) => outcome?.result)?.outcome?.result?.text;
    this.outcome.replaceChildren(
      table(
        "Both compared",
        names,
        MEASURES.map(({ name, of }) => [name, cells(of)]),
      ),
      el(
        "details",
        { open: isOpen },
        el("summary", {}, "Hits by layer"),
        table("Hits by layer", names, byLayer),
      ),
      ...(text === undefined
        ? []
        : [
            el("h3", {}, "The text"),
            el("p", { class: "expert-text" }, this.prompt.value, el("b", {}, text)),
          ]),
    );
  }

  private show(isRunning: boolean): void {
    this.start.hidden = isRunning;
    this.stop.hidden = !isRunning;
    (isRunning ? this.stop : this.start).focus();
    for (const control of [this.models, this.share, this.prompt]) control.disabled = isRunning;
    for (const lane of this.lanes) lane.locked = isRunning;
  }
}

/** What the marks of the grids mean. */
function legend(): HTMLElement {
  const mark = (kind: string, words: string): HTMLElement =>
    el("li", {}, el("i", { class: `cell ${kind}`, "aria-hidden": "true" }), words);
  return el(
    "ul",
    { class: "legend", "aria-label": "Marks of the grids: a row is a layer, a cell an expert" },
    mark("resident", "on the GPU"),
    mark("arriving", "arriving"),
    mark("predicted", "predicted for the step"),
    mark("used", "used by the step"),
    mark("", "not on the GPU"),
  );
}

function table(caption: string, names: readonly string[], rows: readonly [string, string[]][]): HTMLElement {
  const heads = ["", ...names].map((name) => (name === "" ? el("td", {}) : el("th", { scope: "col" }, name)));
  const body = rows.map(([name, cells]) =>
    el("tr", {}, el("th", { scope: "row" }, name), ...cells.map((cell) => el("td", {}, cell))),
  );
  const made = el(
    "table",
    { class: "numbers" },
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, ...heads)),
    el("tbody", {}, ...body),
  );
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, made);
}
