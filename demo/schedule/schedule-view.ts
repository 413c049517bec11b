/**
 * The scheduler lab: one trace of requests on a simulated cluster, with three ways of rejecting requests under load, side by
 * side, and four ways of choosing an instance; beside them what Mooncake's paper measured. And what the page's own engine has
 * to do. It takes the settings and shows what comes from the worker; lanes draw themselves.
 */
import { schedulerNames, selectionNames, type ClusterRow } from "../../src/sim/cluster/index.ts";
import { forgetColours, onRecolour } from "../page/colours.ts";
import { button, el, labelled } from "../page/dom.ts";
import { numberText, secondsText } from "../page/format.ts";
import type { Host } from "../page/model/host.ts";
import { LiveSchedule } from "./live.ts";
import type { ForCluster, FromWorker, LabSettings } from "./messages.ts";
import { ModeLane, MODES, type Scales } from "./mode-lane.ts";
import { PAPER_REJECTED, PAPER_REQUESTS, PAPER_TTFT_SECONDS } from "./paper.ts";
import { BINS, type Bin } from "./tally.ts";
import "../experts/lab.css";
import "./schedule.css";

const LEAD =
  "Under more load than it can bear, a server keeps its promises only if it rejects some requests. When it rejects them decides how many it can serve in time. The same requests run on a simulated cluster (8 A800 in each machine, LLaMA3-70B) in three ways.";
const TRACE_NOTE =
  "Without a file, 20 minutes of conversations are generated, with the rates and lengths of Mooncake's trace.";

/** What the settings are at first, and their limits. */
const FIELDS = {
  speed: { label: "Offered load (times the trace's)", first: 2, min: 0.1, max: 20, step: 0.1 },
  prefill: { label: "Prefill instances", first: 8, min: 1, max: 64, step: 1 },
  decode: { label: "Decode instances", first: 2, min: 1, max: 64, step: 1 },
  ttft: { label: "First token within (s)", first: 30, min: 0.1, max: 3600, step: 0.1 },
  tbt: { label: "Between tokens at most (ms)", first: 50, min: 1, max: 10_000, step: 1 },
} as const;

type Field = keyof typeof FIELDS;

export class ScheduleView {
  readonly element: HTMLElement;
  private readonly fields: Record<Field, HTMLInputElement>;
  private readonly file = el("input", { id: "schedule-file", type: "file" });
  private readonly start = button("Run", () => this.run(), { class: "main" });
  private readonly stop = button("Stop", () => this.end("Stopped."), { hidden: true });
  private readonly bar = el("progress", { max: 1, value: 0, hidden: true, "aria-label": "Replay under way" });
  private readonly said = el("p", { class: "note", role: "status" });
  private readonly problem = el("p", { class: "problem", role: "alert" });
  private readonly time = el("input", {
    id: "schedule-time",
    type: "range",
    min: 0,
    max: BINS - 1,
    value: 0,
  });
  private readonly timeField = labelled("Time", this.time);
  private readonly lanes: Record<ClusterRow["scheduler"], ModeLane>;
  private readonly tables = el("div", { class: "schedule-tables" });
  private readonly live: LiveSchedule;
  private rows: { modes: ClusterRow[]; selections: ClusterRow[] } = { modes: [], selections: [] };
  private worker: Worker | undefined;
  private isSeen = true;

  constructor(host: Host) {
    this.live = new LiveSchedule(host);
    const input = (name: Field): HTMLInputElement => {
      const { first, min, max, step } = FIELDS[name];
      return el("input", {
        id: `schedule-${name}`,
        type: "number",
        value: first,
        min,
        max,
        step,
        required: true,
      });
    };
    this.fields = {
      ...{ speed: input("speed"), prefill: input("prefill"), decode: input("decode") },
      ...{ ttft: input("ttft"), tbt: input("tbt") },
    };
    this.lanes = {
      ...{ none: new ModeLane("none"), early: new ModeLane("early"), predicted: new ModeLane("predicted") },
    };
    const lanes = el("div", { class: "tiers" }, ...schedulerNames.map((name) => this.lanes[name].element));
    this.timeField.hidden = true;
    this.element = el(
      "section",
      { class: "lab", "aria-label": "Schedule" },
      el("h2", {}, "Schedule"),
      el("p", { class: "lead" }, LEAD),
      this.settings(),
      el("div", { class: "actions" }, this.start, this.stop, this.bar),
      ...[this.said, this.problem, this.timeField, lanes, this.tables, this.live.element],
    );
    this.time.addEventListener("input", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(lanes);
    onRecolour(() => {
      forgetColours();
      this.draw();
    });
  }

  /** Nothing is drawn or polled while nobody looks; a replay goes on. */
  setSeen(seen: boolean): void {
    this.isSeen = seen;
    this.live.seen = seen;
    this.draw();
  }

  private settings(): HTMLElement {
    const numbers = (Object.keys(FIELDS) as Field[]).map((name) =>
      labelled(FIELDS[name].label, this.fields[name]),
    );
    const trace = labelled("Trace (Mooncake's form)", this.file, TRACE_NOTE);
    return el("div", { class: "lab-settings" }, el("div", { class: "schedule-settings" }, ...numbers), trace);
  }

  private read(): LabSettings {
    const { speed, prefill, decode, ttft, tbt } = this.fields;
    return {
      file: this.file.files?.[0],
      instances: { prefill: prefill.valueAsNumber, decode: decode.valueAsNumber },
      ...{ speed: speed.valueAsNumber, ttftMs: 1000 * ttft.valueAsNumber, tbtMs: tbt.valueAsNumber },
    };
  }

  private run(): void {
    const wrong = Object.values(this.fields).find((field) => !field.reportValidity());
    if (wrong) return;
    this.problem.textContent = "";
    this.rows = { modes: [], selections: [] };
    for (const name of schedulerNames) this.lanes[name].clear();
    this.tables.replaceChildren();
    this.timeField.hidden = true;
    this.show(true);
    this.worker = new Worker(new URL("../compare/replay-worker.ts", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }: MessageEvent<FromWorker>) => this.take(data);
    this.worker.onerror = ({ message }) => this.fail(message || "the replay's worker could not start");
    this.worker.postMessage({ kind: "cluster", settings: this.read() } satisfies ForCluster);
  }

  private take(message: FromWorker): void {
    switch (message.kind) {
      case "trace": {
        const { name, requests, perSecond, inputTokens } = message;
        const tokens = numberText(Math.round(inputTokens));
        this.said.textContent = `${name}: ${numberText(requests)} requests, ${perSecond.toFixed(1)} a second, ${tokens} tokens of prompt each on average.`;
        return;
      }
      case "progress":
        this.bar.value = message.share;
        this.bar.title = message.words;
        return;
      case "mode":
        this.lanes[message.row.scheduler].tally = message.tally;
        this.rows.modes.push(message.row);
        return this.update();
      case "selection":
        this.rows.selections.push(message.row);
        return this.update();
      case "done":
        return this.end();
      case "failed":
        return this.fail(message.message);
    }
  }

  private fail(problem: string): void {
    this.problem.textContent = `The replay failed: ${problem}.`;
    this.end();
  }

  private end(words?: string): void {
    this.worker?.terminate();
    this.worker = undefined;
    if (words !== undefined) this.said.textContent = words;
    this.show(false);
  }

  private show(isRunning: boolean): void {
    this.start.hidden = isRunning;
    this.stop.hidden = this.bar.hidden = !isRunning;
    (isRunning ? this.stop : this.start).focus();
    for (const field of [...Object.values(this.fields), this.file]) field.disabled = isRunning;
  }

  private update(): void {
    if (this.timeField.hidden) this.time.value = String(BINS >> 1);
    this.timeField.hidden = false;
    this.draw();
    const { modes, selections } = this.rows;
    this.tables.replaceChildren(
      modesTable(modes),
      ...(selections.length > 0 ? [selectionsTable(selections)] : []),
    );
  }

  private draw(): void {
    const tallies = schedulerNames.flatMap((name) => this.lanes[name].tally ?? []);
    const [first] = tallies;
    if (!first || !this.isSeen) return;
    const chosen = Number(this.time.value);
    this.time.setAttribute("aria-valuetext", `from second ${((chosen * first.binMs) / 1000).toFixed(0)} on`);
    const most = (of: (bin: Bin) => number): number =>
      Math.max(...tallies.flatMap(({ bins }) => bins.map(of)));
    const scales: Scales = {
      requests: most(({ kept, late, rejected, wasted }) => kept + late + rejected + wasted),
      ...{ prefillLoad: most((bin) => bin.prefillLoad), decodeLoad: most((bin) => bin.decodeLoad) },
    };
    for (const name of schedulerNames) this.lanes[name].draw(chosen, scales);
  }
}

const share = (count: number, all: number): string =>
  `${numberText(count)} (${((100 * count) / all).toFixed(1)}%)`;

function modesTable(rows: readonly ClusterRow[]): HTMLElement {
  return table(
    "Rejected requests",
    [
      "rejected",
      "in Mooncake's paper",
      "of ours, computed in vain",
      "kept objectives",
      "first token, mean",
      "deviation of prefill load",
    ],
    rows.map((row) => [
      MODES[row.scheduler],
      share(row.rejected, row.requests),
      share(PAPER_REJECTED[row.scheduler], PAPER_REQUESTS),
      ...[numberText(row.wasted), share(row.goodput, row.requests), secondsText(row.ttftMs.mean)],
      row.loadDeviation.toFixed(3),
    ]),
  );
}

const SELECTIONS: Readonly<Record<ClusterRow["selection"], string>> = {
  random: "Random instance",
  load: "Shortest queue",
  "cache-aware": "Aware of its own cache",
  kvcache: "Aware of all caches (Mooncake)",
};

function selectionsTable(rows: readonly ClusterRow[]): HTMLElement {
  const known = selectionNames.flatMap((name) => rows.filter(({ selection }) => selection === name));
  return table(
    "Choice of the prefill instance, without rejection",
    ["first token, mean", "in Mooncake's paper", "nine in ten within", "prompt tokens cached"],
    known.map(({ selection, ttftMs, tokenHitRate }) => [
      SELECTIONS[selection],
      ...[secondsText(ttftMs.mean), `${PAPER_TTFT_SECONDS[selection]} s`, secondsText(ttftMs.p90)],
      `${(100 * tokenHitRate).toFixed(1)}%`,
    ]),
  );
}

function table(caption: string, heads: readonly string[], rows: readonly (readonly string[])[]): HTMLElement {
  const head = el("tr", {}, el("td", {}), ...heads.map((name) => el("th", { scope: "col" }, name)));
  const body = rows.map(([name = "", ...cells]) =>
    el("tr", {}, el("th", { scope: "row" }, name), ...cells.map((cell) => el("td", {}, cell))),
  );
  const made = el(
    "table",
    { class: "numbers" },
    el("caption", {}, caption),
    el("thead", {}, head),
    el("tbody", {}, ...body),
  );
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, made);
}
