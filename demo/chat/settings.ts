/**
 * The settings: the system prompt of the open conversation, and the sampling settings, one number a field, read when a
 * message is sent and kept for the next visit.
 */
import { el, labelled } from "../page/dom.ts";
import { readSetting, writeSetting } from "../page/kept-settings.ts";

/** Above every seed that the engine takes. */
const SEEDS = 2 ** 32;

const FIELDS = [
  {
    id: "temperature",
    label: "Temperature",
    min: 0,
    max: 2,
    step: 0.01,
    value: 0.7,
    hint: "0 always takes the likeliest token",
  },
  { id: "top-p", label: "Top-p", min: 0.01, max: 1, step: 0.01, value: 0.9, hint: "1 is off" },
  { id: "min-p", label: "Min-p", min: 0, max: 0.99, step: 0.01, value: 0.05, hint: "0 is off" },
  { id: "top-k", label: "Top-k", min: 0, max: 1000, step: 1, value: 0, hint: "0 is off" },
  {
    id: "max-tokens",
    label: "Max tokens",
    min: 1,
    max: 1_000_000,
    step: 1,
    value: 256,
    hint: "most new tokens per answer",
  },
] as const;

type FieldId = (typeof FIELDS)[number]["id"];

/** The parameters of one request, its seed included. */
export type Sampling = Record<"temperature" | "topP" | "minP" | "topK" | "maxTokens" | "seed", number>;

export interface Settings {
  element: HTMLElement;
  /** The settings as they stand; without any where a field is wrong, which the page then shows. */
  read(): Sampling | undefined;
  /** Shows the system prompt of the conversation that is open now. */
  showSystem(text: string): void;
  /** Told when the user has changed it. */
  onSystem: (text: string) => void;
}

/** @param more goes at the end of the panel. */
export function settings(more: HTMLElement): Settings {
  const inputs = Object.fromEntries(FIELDS.map((field) => [field.id, numberInput(field)])) as Record<
    FieldId,
    HTMLInputElement
  >;
  const seed = numberInput({ id: "seed", min: 0, max: SEEDS - 1, step: 1, value: "" });
  seed.placeholder = "random";
  for (const [id, input] of [...Object.entries(inputs), ["seed", seed] as const]) keep(id, input);
  const system = el("textarea", { id: "system", rows: 2 });
  const form = el(
    "form",
    { class: "fields", "aria-label": "Sampling settings" },
    ...FIELDS.map(({ id, label, hint }) => labelled(label, inputs[id], hint)),
    labelled("Seed", seed, "empty: a new one each time"),
  );
  form.addEventListener("submit", (event) => event.preventDefault());
  const systemHint = "For this conversation. After a change the whole conversation is read again.";
  const element = el("details", { class: "panel" }, el("summary", {}, "Settings"));
  element.append(labelled("System prompt", system, systemHint), form, more);
  const made: Settings = {
    element,
    read: () => read(element, form, inputs, seed),
    showSystem: (text) => (system.value = text),
    onSystem: () => {},
  };
  system.addEventListener("input", () => made.onSystem(system.value));
  return made;
}

/** Fills a field as it was left, and remembers what is right. */
function keep(id: string, input: HTMLInputElement): void {
  const kept = readSetting(`sampling.${id}`);
  if (kept !== undefined) input.value = kept;
  if (!input.checkValidity()) input.value = input.defaultValue;
  input.addEventListener("input", () => {
    if (input.checkValidity()) writeSetting(`sampling.${id}`, input.value);
  });
}

function numberInput(field: { id: string; min: number; max: number; step: number; value: number | string }) {
  const { id, min, max, step, value } = field;
  const required = value !== "";
  return el("input", { id, type: "number", inputmode: "decimal", min, max, step, value, required });
}

function read(
  element: HTMLDetailsElement,
  form: HTMLFormElement,
  inputs: Record<FieldId, HTMLInputElement>,
  seed: HTMLInputElement,
): Sampling | undefined {
  if (!form.checkValidity()) {
    element.open = true;
    form.reportValidity();
    return undefined;
  }
  return {
    temperature: inputs.temperature.valueAsNumber,
    topP: inputs["top-p"].valueAsNumber,
    minP: inputs["min-p"].valueAsNumber,
    topK: inputs["top-k"].valueAsNumber,
    maxTokens: inputs["max-tokens"].valueAsNumber,
    seed: seed.value === "" ? randomSeed() : seed.valueAsNumber,
  };
}

function randomSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;
}
