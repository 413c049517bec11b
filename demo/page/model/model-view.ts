/** The model panel: ways to choose a model, how loading goes, what was loaded, and what went wrong. */
import type {
  Capability,
  Engine,
  EngineInfo,
  EngineState,
  LoadProgress,
  Notice,
} from "../../../src/index.ts";
import { addressChoice } from "./address.ts";
import { background } from "../background.ts";
import { button, el, labelled } from "../dom.ts";
import { bytesOfText, bytesText, countText, errorText, noticeText, numberText } from "../format.ts";
import { hasDownloaded, type Choice, type Host, type HostState } from "./host.ts";
import { keptModels, type KeptModels } from "./kept-models.ts";
import { shippedModels, type Shipped } from "./shipped.ts";

const wide = matchMedia("(min-width: 56rem)");

/** The panel. */
export function modelView(host: Host): HTMLElement {
  const load = (choice: Choice): void => background(host.load(choice));
  const title = el("summary");
  const now = el("div", { class: "now" });
  const kept = keptModels(load);
  const chooser = chooserView(load, kept);
  const panel = el("details", { class: "panel", open: true }, title, now, chooser.element);
  const draw = nowView(host, now);
  host.watch((state) => {
    title.textContent = titleOf(state);
    draw(state);
  });
  host.watch(foldWhenLoaded(panel, chooser));
  let listed: unknown;
  host.watch(({ engine, loading }) => {
    if (!loading && hasDownloaded() && engine !== listed) kept.refresh();
    listed = engine;
  });
  if (hasDownloaded()) kept.refresh();
  return panel;
}

function titleOf({ engine, loading }: HostState): string {
  if (loading) return `Loading ${loading.name}`;
  return engine ? engine.info.model.name : "No model loaded";
}

/** Folds what is no longer needed once a model is there, and shows it again when there is none. */
function foldWhenLoaded(panel: HTMLDetailsElement, { element, title }: Chooser): (state: HostState) => void {
  let loaded: unknown;
  return ({ engine, problem }) => {
    title.textContent = engine ? "Another model" : "Choose a model";
    if (engine !== loaded) {
      loaded = engine;
      element.open = engine === undefined;
      if (engine) panel.open = wide.matches;
    }
    if (problem) panel.open = element.open = true;
    if (engine?.state === "failed") panel.open = true;
  };
}

/** Draws the state: progress while loading, else the problem and the facts. */
function nowView(host: Host, now: HTMLElement): (state: HostState) => void {
  const progress = progressView(() => host.cancel());
  const problem = el("div", { role: "alert" });
  const purpose = el("p", { class: "purpose" });
  const facts = el("dl", { class: "facts" });
  const notices = noticesView();
  const lacks = lacksView();
  const stopped = stoppedView(() => background(host.reload()));
  now.append(progress.element, problem, stopped.element, purpose, facts, lacks.element, notices.element);
  return ({ engine, loading, problem: failed, notices: told = [] }) => {
    notices.show(told);
    progress.element.hidden = loading === undefined;
    if (loading) progress.show(loading.progress);
    problem.replaceChildren(...(failed ? [el("p", { class: "problem" }, failureText(failed))] : []));
    stopped.show(loading ? undefined : engine?.failure);
    facts.hidden = engine === undefined || loading !== undefined;
    purpose.textContent = facts.hidden ? "" : (host.shipped()?.purpose ?? "");
    facts.replaceChildren(...(engine ? factsOf(engine) : []));
    lacks.show(loading ? [] : (engine?.info.capabilities ?? []));
  };
}

/** Why the engine has stopped, and the way on; hidden while there is nothing to say. */
function stoppedView(reload: () => void) {
  const words = el("p", { class: "problem", role: "alert" });
  const element = el("div", { class: "stopped", hidden: true }, words, button("Load again", reload));
  const show = (failure: Error | undefined): void => {
    const said = failure ? `The engine has stopped: ${errorText(failure)}` : "";
    if (words.textContent !== said) words.textContent = said;
    element.hidden = failure === undefined;
  };
  return { element, show };
}

/** What the storage and the device had to say, each as long as it holds. */
function noticesView() {
  const element = el("div", { class: "notices", role: "status" });
  const show = (notices: readonly Notice[]): void => {
    const texts = notices.map(noticeText);
    const shown = [...element.children].map(({ textContent }) => textContent);
    if (texts.join("\n") === shown.join("\n")) return; // screen readers hear each once
    element.replaceChildren(...texts.map((text) => el("p", { class: "notice" }, text)));
  };
  return { element, show };
}

/** What this browser and GPU lack, folded: it is the same at every load. */
function lacksView() {
  const title = el("summary");
  const list = el("ul");
  const element = el("details", { class: "lacks", hidden: true }, title, list);
  const show = (lacks: readonly Capability[]): void => {
    element.hidden = lacks.length === 0;
    title.textContent = `${lacks.length} ${lacks.length === 1 ? "thing" : "things"} this browser or GPU lacks`;
    list.replaceChildren(...lacks.map(({ message }) => el("li", {}, sentence(message))));
  };
  return { element, show };
}

const sentence = (text: string): string => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

const STATES: Record<EngineState, string> = {
  ready: "ready",
  recovering: "the GPU was lost: loading the model again",
  failed: "stopped",
  closed: "closed",
};

const ROLES: Record<EngineInfo["role"], string> = {
  alone: "the model runs for this tab alone",
  owner: "the model runs in this tab, for all tabs that use it",
  guest: "the model runs in another tab, for this one too",
};

/** Most errors of files begin with the file's name, so it is not repeated. */
function failureText({ name, error }: { name: string; error: unknown }): string {
  const said = errorText(error);
  return `Could not load ${said.startsWith(`${name}: `) ? said : `${name}: ${said}`}`;
}

const PHASES: Record<LoadProgress["phase"], string> = {
  header: "Reading the header",
  waiting: "Waiting: another tab is downloading this model",
  retrying: "Trying again",
  download: "Downloading",
  weights: "Uploading weights",
  pipelines: "Compiling kernels",
  finishing: "Finishing: tokenizer and upload",
};

function progressView(cancel: () => void) {
  const phase = el("span", { role: "status" });
  const amount = el("span", { class: "amount" });
  const bar = el("progress", { "aria-label": "Loading" });
  const line = el("p", { class: "phase" }, phase, amount);
  const element = el("div", { class: "progress" }, line, bar, button("Cancel", cancel, { class: "quiet" }));
  const show = (progress: LoadProgress | undefined): void => {
    const said = progress ? phaseText(progress) : "Starting the engine";
    if (phase.textContent !== said) phase.textContent = said; // screen readers hear each phase once
    amount.textContent = progress ? amountText(progress) : "";
    if (progress && progress.total > 0) {
      bar.max = progress.total;
      bar.value = progress.done;
    } else bar.removeAttribute("value");
  };
  return { element, show };
}

/** A server that fails is named, and how. */
function phaseText({ phase, reason }: LoadProgress): string {
  return reason === undefined ? PHASES[phase] : `${reason}. ${PHASES[phase]}`;
}

function amountText({ phase, done, total }: LoadProgress): string {
  if (total === 0) return "";
  return phase === "pipelines" || phase === "retrying" ? `${done} of ${total}` : bytesOfText(done, total);
}

function factsOf({ info, state }: Engine): HTMLElement[] {
  const { model, adapter, kernels, memory, limits, ...text } = info;
  const facts: [string, string][] = [
    ["State", STATES[state]],
    ["Architecture", `${model.architecture}, ${model.layers} layers`],
    ["Parameters", countText(model.parameters)],
    ["Weights", bytesText(memory.weightBytes)],
    ["Context", `${numberText(model.contextTokens)} tokens`],
    ["Adapter", adapter.software ? `${adapter.name} (software: slow)` : adapter.name],
    ["Tabs", ROLES[info.role]],
    ["Arithmetic", `${kernels.dtype}, ${kernels.subgroups ? "with" : "without"} subgroups`],
    model.generates
      ? [
          "KV pool",
          `${numberText(memory.kvPoolTokens)} of ${numberText(limits.poolTokens)} tokens in ${kernels.kvDtype}, now ${bytesText(memory.kvPoolBytes)}`,
        ]
      : ["Vectors", `${model.embedding?.dimensions ?? 0} numbers a text`],
    ["Tokenizer", text.tokenizer],
    ["Chat template", text.chatTemplate],
  ];
  return facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)));
}

interface Chooser {
  element: HTMLDetailsElement;
  title: HTMLElement;
}

function chooserView(load: (choice: Choice) => void, kept: KeptModels): Chooser {
  const ways = [
    ...shippedModels.map((shipped, i) => shippedButton(shipped, i === 0, load)),
    fileForm(load),
    addressForm(load),
    kept.element,
  ];
  const title = el("summary");
  return { element: el("details", { open: true }, title, el("div", { class: "ways" }, ...ways)), title };
}

function shippedButton(
  { name, description, url }: Shipped,
  isFirst: boolean,
  load: (choice: Choice) => void,
): HTMLElement {
  const use = button(`Use ${name}`, () => load({ name, model: url }), { class: isFirst ? "main" : "" });
  return el("div", { class: "field shipped" }, use, el("small", {}, description));
}

function fileForm(load: (choice: Choice) => void): HTMLElement {
  const input = el("input", {
    id: "files",
    type: "file",
    multiple: true,
    accept: ".gguf,.safetensors,.json,.jinja",
  });
  input.addEventListener("change", () => {
    const files = [...(input.files ?? [])];
    input.value = ""; // so that the same file can be chosen again
    if (files.length > 0) load(choiceOf(files));
  });
  const hint =
    "A GGUF file, or safetensors with their JSON files; choose all shards together. You can also drop files anywhere on this page.";
  return el("div", { class: "drop" }, labelled("Model files", input, hint));
}

function addressForm(load: (choice: Choice) => void): HTMLElement {
  const input = el("input", {
    id: "address",
    required: true,
    placeholder: "https://…/model.gguf",
    spellcheck: "false",
  });
  const form = el(
    "form",
    { class: "url" },
    labelled("Or an address, or a Hub id", input, "A Hub id is org/repo or org/repo/file.gguf."),
    el("button", { type: "submit" }, "Load"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    load(addressChoice(input.value));
  });
  return form;
}

export function choiceOf(files: readonly File[]): Choice {
  const [first] = files;
  const name = first === undefined ? "nothing" : first.name;
  return files.length === 1 && first ? { name, model: first } : { name: `${name} and others`, model: files };
}
