/**
 * The comparison's questions: trace, model, policies, capacities. It reads and writes Settings and calls when they
 * change; it runs nothing.
 */
import type { LengthOf, PolicyName, Workload } from "../../src/sim/index.ts";
import { defaultWorkloads, policyNames } from "../../src/sim/index.ts";
import { background } from "../page/background.ts";
import { button, el } from "../page/dom.ts";
import { choiceOf, modelChoices } from "./models.ts";
import { clearRecorded, recordedCount } from "./recorded.ts";
import type { Settings, TraceKind } from "./settings.ts";
import { limits, traceKinds } from "./settings.ts";
import { swatch } from "./plot.ts";

const traceLabels: Record<TraceKind, string> = {
  ...{ chat: "Generated: chats with system prompts", agents: "Generated: agents" },
  ...{ documents: "Generated: questions over documents", "few-shot": "Generated: few-shot prompts" },
  ...{ recorded: "Recorded on this page", file: "A file" },
};

const policyHints: Record<PolicyName, string> = {
  lru: "evicts what was used least recently",
  lfu: "evicts what was used least often",
  "length-aware": "like lfu, but later blocks of a prompt first",
  vllm: "lru, with a snapshot at every block",
  sglang: "lru, with snapshots at branches",
  marconi: "weighs recency and FLOPs saved per byte",
  offline: "an upper bound that knows the future",
};

/** Names of a workload's numbers. */
const fieldLabels: Record<string, string> = {
  ...{
    seed: "Seed",
    sessions: "Sessions",
    sessionsPerSecond: "Sessions per second",
    pauseSeconds: "Pause, s",
  },
  ...{
    systemPrompts: "System prompts",
    systemTokens: "System prompt",
    turns: "Turns",
    userTokens: "User text",
  },
  ...{ outputTokens: "Answer", instructionTokens: "Instruction", taskTokens: "Task", documents: "Documents" },
  ...{ observationTokens: "Observation", observationsKept: "Observations kept", documentTokens: "Document" },
  ...{ questionTokens: "Question", templates: "Templates", shots: "Examples", shotTokens: "Example" },
  queryTokens: "Query",
};

export class SettingsForm {
  readonly element: HTMLElement;
  files: readonly File[] = [];
  private readonly settings: Settings;
  private readonly changed: () => void;
  private readonly traceExtra = el("div", { class: "trace-extra" });
  private readonly from = numberInput("compare-from", "any");
  private readonly to = numberInput("compare-to", "any");

  /** @param settings is written to */
  constructor(settings: Settings, changed: () => void) {
    this.settings = settings;
    this.changed = changed;
    this.element = el(
      "div",
      { class: "compare-form" },
      group("Trace", this.traceSelect(), this.traceExtra),
      group("Policies", this.policyBoxes()),
      group("Model and capacity", this.modelSelect(), this.capacityFields()),
    );
    this.showTrace();
  }

  /** Files that were dropped on the view. */
  takeFiles(files: readonly File[]): void {
    this.files = files;
    this.settings.trace = "file";
    this.element.querySelector<HTMLSelectElement>("#compare-trace")!.value = "file";
    this.showTrace();
    this.changed();
  }

  private traceSelect(): HTMLElement {
    const select = el(
      "select",
      { id: "compare-trace" },
      ...traceKinds.map((kind) => option(kind, traceLabels[kind])),
    );
    select.value = this.settings.trace;
    select.addEventListener("change", () => {
      const kind = select.value as TraceKind;
      this.settings.trace = kind;
      if (kind !== "recorded" && kind !== "file") this.settings.workload = defaultWorkloads[kind];
      this.showTrace();
      this.changed();
    });
    return field("Requests", select);
  }

  private showTrace(): void {
    const { trace } = this.settings;
    if (trace === "file") this.traceExtra.replaceChildren(this.fileField());
    else if (trace === "recorded") background(this.showRecorded());
    else this.traceExtra.replaceChildren(this.workloadFields());
  }

  private fileField(): HTMLElement {
    const input = el("input", { type: "file", id: "compare-file", multiple: true });
    input.addEventListener("change", () => this.takeFiles([...(input.files ?? [])]));
    const names = this.files.map(({ name }) => name).join(", ");
    const hint =
      "Mooncake's JSONL, a chat trace, or a SWE schedule with its sessions; also .gz. You can also drop files anywhere on this page.";
    return field("Trace file", input, names === "" ? hint : names);
  }

  private async showRecorded(): Promise<void> {
    const count = await recordedCount();
    const words = el("p", { class: "plot-note" }, recordedWords(count));
    const forget = async (): Promise<void> => {
      await clearRecorded();
      await this.showRecorded();
    };
    const clear = button("Forget it", () => background(forget()), { class: "quiet" });
    this.traceExtra.replaceChildren(words, ...(count > 0 ? [clear] : []));
  }

  /** Every number of the generated workload. */
  private workloadFields(): HTMLElement {
    const entries = Object.entries(this.settings.workload).filter(([name]) => name !== "kind");
    const first = entries.filter(([name]) => name === "seed" || name === "sessions");
    const rest = entries.filter((entry) => !first.includes(entry));
    const words = "Lengths are in tokens: a median, and the spread of the logarithm.";
    return el(
      "div",
      { class: "workload" },
      el(
        "div",
        { class: "pair" },
        ...first.reverse().map(([name, value]) => this.workloadField(name, value)),
      ),
      el(
        "details",
        {},
        el("summary", {}, "All parameters"),
        el("p", { class: "plot-note" }, words),
        el("div", { class: "pair" }, ...rest.map(([name, value]) => this.workloadField(name, value))),
      ),
    );
  }

  private workloadField(name: string, value: number | LengthOf): HTMLElement {
    const label = fieldLabels[name] ?? name;
    const set = (next: number | LengthOf): void => {
      this.settings.workload = { ...this.settings.workload, [name]: next } as Workload;
      this.changed();
    };
    if (typeof value === "number") {
      const input = numberInput(
        `workload-${name}`,
        name === "seed" || name === "sessions" ? "1" : "any",
        value,
      );
      if (name === "sessions") input.max = String(limits.sessions);
      input.addEventListener("change", () => set(Number(input.value)));
      return field(label, input);
    }
    const median = numberInput(`workload-${name}`, "any", value.median);
    const sigma = numberInput(`workload-${name}-sigma`, "any", value.sigma);
    sigma.ariaLabel = `${label}, spread`;
    for (const input of [median, sigma]) {
      input.addEventListener("change", () =>
        set({ median: Number(median.value), sigma: Number(sigma.value) }),
      );
    }
    return field(label, el("div", { class: "length" }, median, sigma), "", median);
  }

  private policyBoxes(): HTMLElement {
    const boxes = policyNames.map((policy) => {
      const box = el("input", { type: "checkbox", checked: this.settings.policies.includes(policy) });
      box.addEventListener("change", () => {
        const chosen = new Set(this.settings.policies);
        if (box.checked) chosen.add(policy);
        else chosen.delete(policy);
        this.settings.policies = policyNames.filter((name) => chosen.has(name));
        this.changed();
      });
      const words = el("span", {}, policy, el("small", {}, policyHints[policy]));
      return el("label", { class: "policy" }, box, swatch(policy), words);
    });
    return el("div", { class: "policies" }, ...boxes);
  }

  private modelSelect(): HTMLElement {
    const select = el(
      "select",
      { id: "compare-model" },
      ...modelChoices.map(({ name, label }) => option(name, label)),
    );
    select.value = this.settings.model;
    select.addEventListener("change", () => {
      const { name, from, to } = choiceOf(select.value);
      Object.assign(this.settings, { model: name, from, to });
      this.from.value = String(from);
      this.to.value = String(to);
      this.changed();
    });
    return field("What a token costs", select);
  }

  private capacityFields(): HTMLElement {
    const steps = numberInput("compare-steps", "1", this.settings.steps);
    const rate = numberInput("compare-rate", "any", this.settings.rate);
    rate.placeholder = "chosen for the trace";
    this.from.value = String(this.settings.from);
    this.to.value = String(this.settings.to);
    const read = (): void => {
      const numbers = {
        from: Number(this.from.value),
        to: Number(this.to.value),
        steps: Number(steps.value),
      };
      Object.assign(this.settings, numbers, { rate: rate.value === "" ? undefined : Number(rate.value) });
      this.changed();
    };
    for (const input of [this.from, this.to, steps, rate]) input.addEventListener("change", read);
    return el(
      "div",
      {},
      el(
        "div",
        { class: "triple" },
        field("From, GB", this.from),
        field("To, GB", this.to),
        field("Capacities", steps),
      ),
      field("Prefill speed, tokens per second", rate),
    );
  }
}

function recordedWords(count: number): string {
  return count === 0
    ? "Nothing is recorded yet. Requests under Chat are recorded as lengths and salted hashes, without their text."
    : `${count} requests, as lengths and salted hashes, without their text.`;
}

function group(title: string, ...children: Node[]): HTMLElement {
  return el("fieldset", {}, el("legend", {}, title), ...children);
}

function option(value: string, label: string): HTMLOptionElement {
  return el("option", { value }, label);
}

function numberInput(id: string, step: string, value?: number): HTMLInputElement {
  const input = el("input", { type: "number", id, step, min: 0, inputmode: "decimal" });
  if (value !== undefined) input.value = String(value);
  return input;
}

function field(label: string, control: HTMLElement, hint = "", target = control): HTMLElement {
  const parts: Node[] = [el("label", { for: target.id }, label), control];
  if (hint !== "") {
    const id = `${target.id}-hint`;
    target.setAttribute("aria-describedby", id);
    parts.push(el("small", { id }, hint));
  }
  return el("div", { class: "field" }, ...parts);
}
