/** The page's own engine in the lab: its queues, what it accepted and rejected, and what it would promise a prompt. It polls when seen. */
import type { EngineStats, PredictedRequest } from "../../src/index.ts";
import { background } from "../page/background.ts";
import { button, el, labelled } from "../page/dom.ts";
import { errorText, secondsText } from "../page/format.ts";
import type { Host } from "../page/model/host.ts";

const POLL_MS = 1000;
/** Shorter parts of a prediction are left out, but not its own prompt's. */
const LEAST_TOLD_MS = 5;
const OWN = 2;

export class LiveSchedule {
  readonly element: HTMLElement;
  private readonly host: Host;
  private readonly figures = el("dl", { class: "schedule-figures" });
  private readonly absent = el(
    "p",
    { class: "note" },
    "No model is loaded. Send a message in the chat to load one.",
  );
  private readonly prompt = el("textarea", { id: "schedule-prompt", rows: 2 }, "The harbour was quiet, and");
  private readonly ask = button("Predict", () => background(this.predict()));
  private readonly said = el("p", { class: "note", role: "status" });
  private isSeen = false;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(host: Host) {
    this.host = host;
    const field = labelled("How long would this prompt take?", this.prompt);
    this.element = el(
      "section",
      { class: "tier", "aria-label": "This page's engine" },
      el("h3", {}, "This page's engine"),
      ...[this.absent, this.figures, field, el("div", { class: "actions" }, this.ask), this.said],
    );
    host.watch(() => this.show());
  }

  set seen(seen: boolean) {
    this.isSeen = seen;
    clearTimeout(this.timer);
    if (seen) background(this.poll());
  }

  private get engine() {
    const { engine } = this.host.state;
    return engine?.state === "ready" ? engine : undefined;
  }

  private show(): void {
    const { engine } = this;
    this.absent.hidden = engine !== undefined;
    this.figures.hidden = engine === undefined;
    this.ask.disabled = engine === undefined;
  }

  private async poll(): Promise<void> {
    this.show();
    const stats = await this.engine?.stats().catch(() => undefined); // an engine that ends meanwhile says so elsewhere
    if (stats) this.figures.replaceChildren(...figuresOf(stats).map(([name, words]) => pair(name, words)));
    clearTimeout(this.timer);
    if (this.isSeen) this.timer = setTimeout(() => background(this.poll()), POLL_MS);
  }

  private async predict(): Promise<void> {
    try {
      const prediction = await this.engine?.predict(this.prompt.value);
      if (prediction) this.said.textContent = predictionText(prediction);
    } catch (error) {
      this.said.textContent = errorText(error);
    }
  }
}

function pair(name: string, words: string): HTMLElement {
  return el("div", {}, el("dt", {}, name), el("dd", {}, words));
}

function figuresOf({ schedule }: EngineStats): [string, string][] {
  const { waiting, prefilling, decoding, accepted, goodput, errors } = schedule;
  const rejected = Object.values(goodput.rejected).reduce((sum, count) => sum + count, 0);
  const time = (ms: number | undefined): string => (ms === undefined ? "–" : secondsText(ms));
  const { median } = errors.ttft;
  return [
    ["Waiting, in prefill, decoding", `${waiting}, ${prefilling}, ${decoding}`],
    ["Accepted, rejected", `${accepted}, ${rejected}`],
    ["Kept, late", `${goodput.kept}, ${goodput.late}`],
    ["First token, half and nine in ten", `${time(goodput.ttftMs.p50)}, ${time(goodput.ttftMs.p90)}`],
    ["Predictions of it are off by", median === undefined ? "–" : `${(100 * median).toFixed(0)}% (median)`],
  ];
}

function predictionText({ ttftMs, tbtMs, parts, computedTokens, ahead }: PredictedRequest): string {
  const whole = `First token after ${secondsText(ttftMs)}, then one each ${tbtMs.toFixed(0)} ms`;
  const { queueMs, loadMs, prefillMs, decodeMs } = parts;
  const times: [number, string][] = [
    [queueMs, ahead === 1 ? "behind one prompt" : `behind ${ahead} prompts`],
    [loadMs, "for loading what is stored"],
    [prefillMs, computedTokens === 1 ? "for one token" : `for ${computedTokens} tokens`],
    [decodeMs, "for others' tokens between"],
  ];
  const told = times.filter(([ms], index) => ms >= LEAST_TOLD_MS || index === OWN);
  return `${whole}: ${told.map(([ms, what]) => `${secondsText(ms)} ${what}`).join(", ")}.`;
}
