/**
 * The policy comparison (#/compare): a trace is replayed against several cache policies at several capacities, in
 * workers, and drawn as results arrive. The address holds everything that is needed to see the same again.
 */
import "uplot/dist/uPlot.min.css";
import "./compare.css";
import { background } from "../page/background.ts";
import { button, el } from "../page/dom.ts";
import { Comparison } from "./comparison.ts";
import { SettingsForm } from "./form.ts";
import type { Result, TraceFacts, TraceSource } from "./messages.ts";
import { durationText } from "./numbers.ts";
import type { Findings } from "./plots.ts";
import { ResultsView } from "./results.ts";
import type { Settings } from "./settings.ts";
import { capacitiesOf, fromParams, problemOf, toParams } from "./settings.ts";

export { recordRequest } from "./recorded.ts";

const route = "#/compare";
/** The shortest time between two drawings while results arrive, so that the page stays responsive. */
const showEveryMs = 250;

/** A comparison of another kind, beside the replay: its tab's name and its view. */
export interface OtherComparison {
  name: string;
  element: HTMLElement;
}

/** The view. @param others such as the live race of two policies; without any there are no tabs */
export function compareView(others: readonly OtherComparison[] = []): HTMLElement {
  const replays = new ReplayView().element;
  if (others.length === 0) return replays;
  return tabbed([{ name: "Replay", element: replays }, ...others]);
}

function tabbed(views: readonly OtherComparison[]): HTMLElement {
  const show = (chosen: OtherComparison): void => {
    for (const [i, view] of views.entries()) {
      view.element.hidden = view !== chosen;
      buttons[i]!.ariaPressed = String(view === chosen);
    }
  };
  const buttons = views.map((view) => button(view.name, () => show(view), { class: "quiet" }));
  show(views[0]!);
  const bar = el(
    "div",
    { class: "compare-tabs", role: "group", "aria-label": "Kinds of comparison" },
    ...buttons,
  );
  return el("div", { class: "compare-tabbed" }, bar, ...views.map(({ element }) => element));
}

class ReplayView {
  readonly element: HTMLElement;
  private settings: Settings = fromParams(paramsInAddress());
  private form = this.newForm();
  private results = this.newResults();
  private readonly comparison: Comparison;
  private readonly run = button("Compare", () => this.start(), { class: "main" });
  private readonly cancel = button("Stop", () => this.comparison.cancel(), { hidden: true });
  private readonly link = button("Copy link", () => background(this.copyLink()), { class: "quiet" });
  private readonly bar = el("progress", { max: 1, value: 0, hidden: true, "aria-label": "Replays done" });
  private readonly status = el("p", { class: "compare-status", role: "status" });
  private readonly problem = el("p", { class: "problem", role: "alert" });
  private readonly side = el("div", { class: "compare-side" });
  private facts: TraceFacts | undefined;
  private found: Result[] = [];
  /** What the results on the page belong to. */
  private shown: Settings = this.settings;
  private startedMs = 0;
  private isShowing = false;

  constructor() {
    this.comparison = new Comparison({
      loaded: (facts) => this.take({ facts }),
      result: (result) => this.take({ result }),
      progress: (done, total) => this.tell(done, total),
      ended: (how) => this.ended(how),
    });
    const head = el(
      "div",
      { class: "page-head" },
      el("h2", {}, "Compare cache policies"),
      el(
        "p",
        { class: "lead" },
        "Replay a trace of requests, and see what each policy keeps, saves and evicts.",
      ),
    );
    const actions = el("div", { class: "compare-actions" }, this.run, this.cancel, this.link);
    this.side.append(actions, this.bar, this.status, this.problem, this.form.element);
    const main = el("div", { class: "compare-main" }, this.results.element);
    this.element = el(
      "div",
      { class: "compare-view" },
      head,
      el("div", { class: "compare-columns" }, this.side, main),
    );
    this.listen();
    this.show();
    if (paramsInAddress().size > 0) this.startFromLink();
    else this.start();
  }

  private newForm(): SettingsForm {
    return new SettingsForm(this.settings, () => this.writeAddress());
  }

  private newResults(): ResultsView {
    return new ResultsView(this.settings.look, () => this.writeAddress());
  }

  private listen(): void {
    this.element.addEventListener("dragover", (event) => event.preventDefault());
    this.element.addEventListener("drop", (event) => {
      event.preventDefault();
      event.stopPropagation();
      const files = [...(event.dataTransfer?.files ?? [])];
      if (files.length > 0) this.form.takeFiles(files);
    });
    addEventListener("hashchange", () => {
      const params = paramsInAddress();
      if (params.size > 0 && params.toString() !== toParams(this.settings).toString())
        this.readAddress(params);
    });
  }

  /** Another link was followed while the view was there. */
  private readAddress(params: URLSearchParams): void {
    this.settings = fromParams(params);
    const [form, results] = [this.newForm(), this.newResults()];
    this.form.element.replaceWith(form.element);
    this.results.element.replaceWith(results.element);
    Object.assign(this, { form, results });
    this.startFromLink();
  }

  /** A link cannot carry files: they are asked for. */
  private startFromLink(): void {
    if (this.settings.trace !== "file") this.start();
    else
      this.status.textContent =
        "This link compares policies on a file: choose or drop the file, then compare.";
  }

  private start(): void {
    const wrong = problemOf(this.settings) ?? this.missingFile();
    this.problem.textContent = wrong ?? "";
    if (wrong !== undefined) return;
    this.writeAddress();
    this.shown = structuredClone(this.settings);
    this.facts = undefined;
    this.found = [];
    this.startedMs = performance.now();
    this.cancel.hidden = this.bar.hidden = false;
    this.bar.value = 0;
    this.status.textContent = "Generating the trace…";
    this.show();
    this.comparison.start(this.shown, this.source());
  }

  private missingFile(): string | undefined {
    const isMissing = this.settings.trace === "file" && this.form.files.length === 0;
    return isMissing ? "Choose a trace file, or drop one here." : undefined;
  }

  private source(): TraceSource {
    const { trace, workload } = this.settings;
    if (trace === "file") return { kind: "file", files: this.form.files };
    return trace === "recorded" ? { kind: "recorded" } : { kind: "generated", workload };
  }

  private take({ facts, result }: { facts?: TraceFacts; result?: Result }): void {
    if (facts) this.facts = facts;
    if (result) this.found.push(result);
    if (this.isShowing) return;
    this.isShowing = true;
    setTimeout(() => {
      this.isShowing = false;
      this.show();
    }, showEveryMs);
  }

  private show(): void {
    const { facts, found: results, shown } = this;
    const findings: Findings = { policies: shown.policies, capacities: capacitiesOf(shown), facts, results };
    this.results.show(findings);
  }

  private tell(done: number, total: number): void {
    this.bar.value = total === 0 ? 0 : done / total;
    const words = `${Math.floor(done)} of ${total} replays`;
    if (this.status.textContent !== words) this.status.textContent = words;
  }

  private ended(how: "done" | "cancelled" | { problem: string }): void {
    this.cancel.hidden = this.bar.hidden = true;
    this.show();
    const count = this.found.length;
    const seconds = durationText(performance.now() - this.startedMs);
    this.status.textContent = `${count} replays${how === "cancelled" ? " before it was stopped" : ""}, ${seconds}.`;
    if (typeof how !== "object") return;
    this.problem.textContent = `The comparison failed: ${how.problem}.`;
    this.status.textContent = "";
  }

  /** Every change is in the address at once, without a step in the history. */
  private writeAddress(): void {
    if (location.hash.startsWith(route))
      history.replaceState(null, "", `${route}?${toParams(this.settings).toString()}`);
  }

  private async copyLink(): Promise<void> {
    this.writeAddress();
    await navigator.clipboard.writeText(location.href);
    this.status.textContent = "Link copied: it opens this comparison.";
  }
}

function paramsInAddress(): URLSearchParams {
  const { hash } = location;
  return new URLSearchParams(hash.startsWith(`${route}?`) ? hash.slice(route.length + 1) : "");
}
