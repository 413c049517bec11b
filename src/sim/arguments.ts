/**
 * What the calls of `tidepool/sim` take, as rules (check.ts): TypeScript compares them with the types. Of a trace the outline
 * alone is checked; its requests come from `parseTrace` or `generate`.
 */
import type { Clock } from "../base.ts";
import type { Cost } from "../shape/cost.ts";
import type { PolicyName } from "../cache/policy/policy.ts";
import {
  callback,
  integer,
  number,
  object,
  oneOf,
  rule,
  variants,
  word,
  type Fields,
  type Rule,
} from "../check.ts";
import type { LengthOf, RecorderOptions, ReplayOptions, ServeOptions, Timing, Workload } from "./settings.ts";
import type { Trace } from "./trace.ts";

/** Sessions, documents and the like of a generated trace, at most. */
const MAX_COUNT = 1_000_000;
const MAX_BLOCK_TOKENS = 2 ** 20;
const MAX_SEATS = 2 ** 16;

/** Random bytes of a recorder's salt, at least. */
const MIN_SALT_BYTES = 16;

const count = integer(1, MAX_COUNT);
const positive = number("above 0", (value) => value > 0);
const notNegative = number("of 0 or more", (value) => value >= 0);
const blockTokens = integer(1, MAX_BLOCK_TOKENS);

const policyName = oneOf<PolicyName>({
  ...{ lru: true, lfu: true, "length-aware": true, vllm: true, sglang: true, marconi: true, offline: true },
});

const cost = object<Cost>(
  "costs per token",
  {
    flopsLinear: positive,
    flopsQuadratic: notNegative,
    bytesPerToken: notNegative,
    bytesPerSnapshot: notNegative,
  },
  { flopsLinear: true, flopsQuadratic: true, bytesPerToken: true, bytesPerSnapshot: true },
);

const capacity: Rule<ReplayOptions["capacity"]> = rule(
  '"inf", or an object with a number of bytes or blocks above 0',
  (value) => {
    if (typeof value !== "object" || value === null) return value === "inf";
    const [name, ...more] = Object.keys(value);
    if (more.length > 0 || (name !== "bytes" && name !== "blocks")) return false;
    const size = (value as Record<string, unknown>)[name];
    return typeof size === "number" && size > 0;
  },
);

const clock: Rule<Clock> = rule("a clock with nowMs()", (value) => {
  return typeof (value as Partial<Clock> | null)?.nowMs === "function";
});

const replayFields: Fields<ReplayOptions> = {
  ...{ policy: policyName, capacity, cost, blockTokens, alpha: notNegative, clock, observe: callback() },
};

export const replayOptions = object<ReplayOptions>("policy, capacity and cost", replayFields, {
  policy: true,
  capacity: true,
  cost: true,
});

const timing = object<Timing>(
  "the times of a server's steps",
  { prefillTokensPerSecond: positive, decodeStepMs: notNegative, decodeRowMs: notNegative },
  { prefillTokensPerSecond: true, decodeStepMs: true, decodeRowMs: true },
);

export const serveOptions = object<ServeOptions>(
  "policy, capacity and cost",
  {
    ...replayFields,
    timing,
    chunkTokens: integer(1, MAX_BLOCK_TOKENS),
    seats: integer(1, MAX_SEATS),
    snapshotShare: number("above 0 and below 1", (share) => share > 0 && share < 1),
  },
  { policy: true, capacity: true, cost: true },
);

/** Its requests are looked at when they are replayed. */
export const trace: Rule<Trace> = rule("a trace, as parseTrace and generate make it", (value) => {
  if (typeof value !== "object" || value === null) return false;
  const { name, symbolTokens, requests } = value as Partial<Trace>;
  return (
    typeof name === "string" && Number.isInteger(symbolTokens) && symbolTokens! > 0 && Array.isArray(requests)
  );
});

export const recorderOptions = object<RecorderOptions>(
  "blockTokens and salt",
  {
    blockTokens,
    salt: rule(
      `a Uint8Array of at least ${MIN_SALT_BYTES} bytes`,
      (value) => value instanceof Uint8Array && value.length >= MIN_SALT_BYTES,
      true,
    ),
  },
  { blockTokens: true, salt: true },
);

const length = object<LengthOf>(
  "median and sigma",
  { median: positive, sigma: notNegative },
  { median: true, sigma: true },
);

const common = {
  seed: integer(0, Number.MAX_SAFE_INTEGER),
  sessionsPerSecond: positive,
  pauseSeconds: notNegative,
  sessions: count,
};

/** A workload's parameters, all of which are needed. */
function workloadOf<K extends Workload["kind"]>(
  kind: K,
  fields: Fields<Omit<Extract<Workload, { kind: K }>, keyof typeof common | "kind">>,
): Rule<Extract<Workload, { kind: K }>> {
  const all = { kind: word(kind), ...common, ...fields };
  const needed = Object.fromEntries(Object.keys(all).map((name) => [name, true]));
  const make = object as unknown as (what: string, fields: object, needed: object) => never;
  return make(`the parameters of "${kind}"`, all, needed);
}

export const workload = variants<Workload, "kind">("kind", {
  chat: workloadOf("chat", {
    ...{
      systemPrompts: count,
      systemTokens: length,
      turns: length,
      userTokens: length,
      outputTokens: length,
    },
  }),
  agents: workloadOf("agents", {
    ...{ instructionTokens: length, taskTokens: length, turns: length, observationTokens: length },
    ...{ outputTokens: length, observationsKept: integer(0, MAX_COUNT) },
  }),
  documents: workloadOf("documents", {
    ...{
      documents: count,
      documentTokens: length,
      turns: length,
      questionTokens: length,
      outputTokens: length,
    },
  }),
  "few-shot": workloadOf("few-shot", {
    ...{ templates: count, instructionTokens: length, shots: integer(0, MAX_COUNT), shotTokens: length },
    ...{ queryTokens: length, outputTokens: length },
  }),
});
