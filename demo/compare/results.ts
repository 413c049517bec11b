/** The results of a comparison on the page: four plots, the numbers at one capacity, everything as CSV. It runs nothing. */
import { quantile } from "../../src/sim/index.ts";
import { button, el } from "../page/dom.ts";
import { saveFile } from "../chat/save-file.ts";
import type { Result, TraceFacts } from "./messages.ts";
import { capacityText, countText, durationText, percentText, shortText } from "./numbers.ts";
import { PlotCard, swatch } from "./plot.ts";
import type { Findings } from "./plots.ts";
import { evictionDrawing, hitDrawing, resultAt, savedDrawing, ttftDrawing } from "./plots.ts";
import type { Look } from "./settings.ts";

export class ResultsView {
  readonly element: HTMLElement;
  private readonly look: Look;
  private readonly looked: () => void;
  private readonly trace = el("p", { class: "trace-line" });
  private readonly capacity = el("input", { type: "range", id: "compare-at", min: 0, step: 1 });
  private readonly capacityWords = el("output", { for: "compare-at" });
  private readonly body = el("tbody");
  private readonly hit: PlotCard;
  private readonly saved: PlotCard;
  private readonly ttft = new PlotCard("compare-ttft");
  private readonly evictions = new PlotCard("compare-evictions");
  private findings: Findings = { policies: [], capacities: [], facts: undefined, results: [] };

  /** @param look is written to; `looked` is called then */
  constructor(look: Look, looked: () => void) {
    this.look = look;
    this.looked = looked;
    this.hit = new PlotCard("compare-hit", this.choice("hit", { token: "Tokens", block: "Blocks" }));
    this.saved = new PlotCard("compare-saved", this.choice("saved", { tokens: "Tokens", flops: "FLOPs" }));
    this.capacity.addEventListener("input", () => {
      this.look.at = Number(this.capacity.value);
      this.change();
    });
    const cards = (...plots: PlotCard[]): HTMLElement =>
      el("div", { class: "plots" }, ...plots.map(({ element }) => element));
    this.element = el(
      "div",
      { class: "results" },
      this.trace,
      cards(this.hit, this.saved),
      this.capacityBar(),
      this.summary(),
      cards(this.ttft, this.evictions),
    );
  }

  show(findings: Findings): void {
    this.findings = findings;
    const { capacities, facts } = findings;
    this.look.at = Math.max(0, Math.min(this.look.at, capacities.length - 1));
    this.capacity.max = String(Math.max(0, capacities.length - 1));
    this.capacity.value = String(this.look.at);
    this.trace.textContent = facts ? factsWords(facts) : "";
    this.redraw();
  }

  private change(): void {
    this.redraw();
    this.looked();
  }

  private redraw(): void {
    const { findings, look } = this;
    this.hit.draw(hitDrawing(findings, look));
    this.saved.draw(savedDrawing(findings, look));
    const words = capacityText(findings.capacities[look.at] ?? 0);
    this.capacityWords.value = words;
    this.capacity.setAttribute("aria-valuetext", words);
    this.ttft.draw(ttftDrawing(findings, look));
    this.evictions.draw(evictionDrawing(findings, look));
    this.body.replaceChildren(...this.rows());
  }

  private rows(): HTMLElement[] {
    const { findings, look } = this;
    const capacity = findings.capacities[look.at] ?? 0;
    return findings.policies.map((policy) => {
      const result = resultAt(findings, policy, capacity);
      const cells = result ? cellsOf(result, findings.facts) : columns.map(() => "");
      const head = el("th", { scope: "row" }, swatch(policy), policy);
      return el("tr", {}, head, ...cells.map((cell) => el("td", {}, cell)));
    });
  }

  private capacityBar(): HTMLElement {
    const label = el("label", { for: "compare-at" }, "Capacity shown");
    const save = button("All results as CSV", () => saveAll(this.findings), { class: "quiet" });
    return el("div", { class: "capacity-bar" }, label, this.capacity, this.capacityWords, save);
  }

  private summary(): HTMLElement {
    const heads = ["Policy", ...columns].map((name) => el("th", { scope: "col" }, name));
    const caption = el("caption", { class: "spoken" }, "Results at the chosen capacity");
    const table = el("table", {}, caption, el("thead", {}, el("tr", {}, ...heads)), this.body);
    const scroller = el("div", { class: "plot-table summary", tabindex: 0, role: "region" }, table);
    scroller.ariaLabel = "Results at the chosen capacity";
    return scroller;
  }

  /** Two or more words of which one is chosen. */
  private choice<Field extends "hit" | "saved">(
    name: Field,
    words: Record<Look[Field], string>,
  ): HTMLElement {
    const options = Object.entries(words) as [Look[Field], string][];
    const inputs = options.map(([value, label]) => {
      const input = el("input", {
        type: "radio",
        name: `compare-${name}`,
        value,
        checked: this.look[name] === value,
      });
      input.addEventListener("change", () => {
        this.look[name] = value;
        this.change();
      });
      return el("label", {}, input, el("span", {}, label));
    });
    return el("div", { class: "choice", role: "radiogroup", "aria-label": "Counted in" }, ...inputs);
  }
}

const columns = [
  "Tokens reused",
  "Blocks reused",
  "Tokens saved",
  "FLOPs saved",
  "TTFT p50",
  "p90",
  "p99",
  "Evictions",
  "Snapshots",
  "Alpha",
];

function cellsOf({ row, series }: Result, facts: TraceFacts | undefined): string[] {
  const at = (share: number): string => (series.ttftMs ? durationText(quantile(series.ttftMs, share)) : "–");
  return [
    ...[percentText(row.tokenHitRate), percentText(row.blockHitRate)],
    ...[shortText(row.tokenHitRate * (facts?.inputTokens ?? 0)), shortText(row.flopsSaved)],
    ...[at(0.5), at(0.9), at(0.99), countText(row.evictions), countText(row.snapshotsTaken)],
    row.alpha === null ? "–" : String(row.alpha),
  ];
}

function factsWords(facts: TraceFacts): string {
  const { name, requests, inputTokens, outputTokens, durationMs } = facts;
  const length = durationMs > 0 ? ` over ${durationText(durationMs)}` : "";
  const tokens = `${shortText(inputTokens)} prompt tokens, ${shortText(outputTokens)} answered`;
  return `${name}: ${countText(requests)} requests${length}, ${tokens}.`;
}

function saveAll({ results }: Findings): void {
  const names = [
    "policy",
    "capacityBytes",
    "requests",
    "tokenHitRate",
    "blockHitRate",
    "flopsSaved",
    "bytesPeak",
  ];
  const more = ["snapshotsTaken", "evictions", "alpha", "ttftP50Ms", "ttftP90Ms", "ttftP99Ms"];
  const lines = results.map(({ job, row, series }) => {
    const times = [0.5, 0.9, 0.99].map((share) => (series.ttftMs ? quantile(series.ttftMs, share) : ""));
    const { requests, tokenHitRate, blockHitRate, flopsSaved, bytesPeak, snapshotsTaken, evictions, alpha } =
      row;
    const first = [
      job.policy,
      job.capacityBytes,
      requests,
      tokenHitRate,
      blockHitRate,
      flopsSaved,
      bytesPeak,
    ];
    return [...first, snapshotsTaken, evictions, alpha ?? "", ...times].join(",");
  });
  const text = [[...names, ...more].join(","), ...lines].join("\n");
  saveFile(new File([`${text}\n`], "comparison.csv", { type: "text/csv" }));
}
