/**
 * What is compared: a trace, policies, a model, capacities; and how it is looked at. As plain data, to and from the
 * address, so that a link reproduces the view. It holds no results.
 */
import type { LengthOf, PolicyName, Workload } from "../../src/sim/index.ts";
import { defaultWorkloads, policyNames } from "../../src/sim/index.ts";
import { choiceOf } from "./models.ts";

export type TraceKind = Workload["kind"] | "recorded" | "file";

export interface Settings {
  trace: TraceKind;
  /** Of generated traces; kept while another kind is chosen. */
  workload: Workload;
  policies: PolicyName[];
  model: string;
  /** Capacities in GB of 1e9 bytes: `steps` from `from` to `to` at equal ratios. */
  from: number;
  to: number;
  steps: number;
  /** Prompt tokens a second of the imagined server; undefined: chosen for the trace. */
  rate: number | undefined;
  look: Look;
}

/** What the plots show of the results. */
export interface Look {
  hit: "token" | "block";
  saved: "tokens" | "flops";
  /** Index of the capacity whose times and evictions are drawn. */
  at: number;
}

export const traceKinds: readonly TraceKind[] = [
  ...(Object.keys(defaultWorkloads) as Workload["kind"][]),
  "recorded",
  "file",
];

export const limits = { steps: 16, sessions: 20_000, gigabytes: 1e6 } as const;

function defaultSettings(): Settings {
  const { name: model, from, to } = choiceOf("");
  return {
    trace: "chat",
    workload: defaultWorkloads.chat,
    policies: ["lru", "vllm", "sglang", "marconi", "offline"],
    ...{ model, from, to, steps: 8, rate: undefined },
    look: { hit: "token", saved: "tokens", at: 4 },
  };
}

/** In bytes, ascending. */
export function capacitiesOf({ from, to, steps }: Settings): number[] {
  if (steps === 1) return [from * 1e9];
  const ratio = (to / from) ** (1 / (steps - 1));
  return Array.from({ length: steps }, (_, i) => Number((from * ratio ** i * 1e9).toPrecision(2)));
}

/** What is wrong with the settings, as one sentence; undefined if nothing is. */
export function problemOf(settings: Settings): string | undefined {
  const { policies, from, to, steps, rate, workload } = settings;
  if (policies.length === 0) return "Choose at least one policy.";
  if (!(from > 0) || !(to >= from) || to > limits.gigabytes) {
    return `The first capacity must be above 0, and the last at least the first and at most ${limits.gigabytes} GB.`;
  }
  if (!Number.isInteger(steps) || steps < 1 || steps > limits.steps) {
    return `The number of capacities must be a whole number from 1 to ${limits.steps}.`;
  }
  if (rate !== undefined && !(rate > 0)) return "The prefill speed must be a number above 0, or empty.";
  if (!(workload.sessions >= 1) || workload.sessions > limits.sessions) {
    return `Sessions must be a number from 1 to ${limits.sessions}.`;
  }
  if (!(workload.sessionsPerSecond > 0)) return "Sessions per second must be a number above 0.";
  return undefined;
}

/** "trace=chat&w.seed=2&..."; what is as in the default workload is left out. */
export function toParams(settings: Settings): URLSearchParams {
  const { trace, policies, model, from, to, steps, rate, look } = settings;
  const params = new URLSearchParams({ trace });
  if (trace !== "file" && trace !== "recorded") writeWorkload(params, settings.workload);
  params.set("policies", policies.join(","));
  for (const [name, value] of Object.entries({ model, from, to, steps, ...look }))
    params.set(name, String(value));
  if (rate !== undefined) params.set("rate", String(rate));
  return params;
}

function writeWorkload(params: URLSearchParams, workload: Workload): void {
  const standard = Object.entries(defaultWorkloads[workload.kind]);
  for (const [field, usual] of standard) {
    const value = workload[field as keyof Workload] as unknown as number | LengthOf | string;
    if (typeof value === "string" || JSON.stringify(value) === JSON.stringify(usual)) continue;
    params.set(`w.${field}`, typeof value === "number" ? String(value) : `${value.median},${value.sigma}`);
  }
}

/** Unknown names and bad numbers are left at their defaults. */
export function fromParams(params: URLSearchParams): Settings {
  const settings = defaultSettings();
  const kind = traceKinds.find((known) => known === params.get("trace"));
  if (kind !== undefined) settings.trace = kind;
  if (kind !== undefined && kind in defaultWorkloads)
    settings.workload = readWorkload(kind as Workload["kind"], params);
  const policies = params.get("policies")?.split(",") ?? [];
  const known = policyNames.filter((name) => policies.includes(name));
  if (known.length > 0) settings.policies = known;
  const model = choiceOf(params.get("model") ?? "");
  Object.assign(settings, { model: model.name, from: model.from, to: model.to });
  for (const field of ["from", "to", "steps", "rate"] as const) {
    const value = numberIn(params, field);
    if (value !== undefined) settings[field] = value;
  }
  const { look } = settings;
  if (params.get("hit") === "block") look.hit = "block";
  if (params.get("saved") === "flops") look.saved = "flops";
  look.at = numberIn(params, "at") ?? look.at;
  return settings;
}

function readWorkload(kind: Workload["kind"], params: URLSearchParams): Workload {
  const workload: Record<string, unknown> = { ...defaultWorkloads[kind] };
  for (const [field, usual] of Object.entries(workload)) {
    const numbers = (params.get(`w.${field}`) ?? "").split(",").map(Number);
    if (!params.has(`w.${field}`) || numbers.some((value) => !(value >= 0))) continue;
    if (typeof usual === "number" && numbers.length === 1) workload[field] = numbers[0];
    if (typeof usual === "object" && numbers.length === 2) {
      workload[field] = { median: numbers[0], sigma: numbers[1] };
    }
  }
  return workload as unknown as Workload;
}

function numberIn(params: URLSearchParams, field: string): number | undefined {
  const value = Number(params.get(field) ?? NaN);
  return Number.isFinite(value) ? value : undefined;
}
