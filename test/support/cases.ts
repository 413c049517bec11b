/**
 * GPU test cases as data, so that one list runs on Dawn in Node (two drivers), in Deno and in Chromium. A case throws
 * to fail. The runners in test/runtime open the device, run the cases, and print one JSON line for each.
 */
import type { Gpu } from "../../src/gpu/device.ts";
import { coveringPairs, type Combination } from "./pairs.ts";

export interface CaseEnv {
  /** A device with every feature that the adapter has. Cases must not destroy it. */
  gpu: Gpu;
  /** Reads a file under ../shared, by path or over HTTP; only for cases that say that they need it. */
  shared(path: string): Promise<Uint8Array>;
  /** Reads a file under demo/models, likewise. */
  shipped(path: string): Promise<Uint8Array>;
  /** Reads a file under test/goldens, likewise. */
  golden(path: string): Promise<Uint8Array>;
}

/** What the adapter must have for a case to exist there; the number that exist is compared with a committed count. */
export interface CaseNeeds {
  f16?: boolean;
  subgroups?: boolean;
  /** Files of ../shared: where it is absent, the case is skipped and counted. */
  shared?: boolean;
}

export const CASE_LIMIT_MS = 120_000;
export const LONGEST_CASE_MS = 900_000;

export interface Case {
  /** "file/what/setting", unique: `kernel/matvec/q4_0 f16 subgroups`. */
  name: string;
  needs?: CaseNeeds;
  /** true: runs in `npm run test:full` only. */
  full?: boolean;
  /** What is varied in a group of cases: the normal run takes as few of the group as hold every pair of settings. */
  varied?: { group: string; settings: Combination };
  /** How long it may take before it counts as hung. Default CASE_LIMIT_MS; more than LONGEST_CASE_MS is not waited for. */
  limitMs?: number;
  run(env: CaseEnv): Promise<void>;
}

/** The four settings in which every kernel is tested. */
export const SETTINGS = [
  { f16: false, subgroups: false, label: "f32" },
  { f16: false, subgroups: true, label: "f32 subgroups" },
  { f16: true, subgroups: false, label: "f16" },
  { f16: true, subgroups: true, label: "f16 subgroups" },
] as const;

export type Setting = (typeof SETTINGS)[number];

/**
 * One case for each of the four settings. A group is all whose names begin with the same two parts, in all its forms.
 * @param form what distinguishes these from cases of the same name that are run in another way
 */
export function inEverySetting(
  name: string,
  run: (env: CaseEnv, setting: Setting) => Promise<void>,
  form = "",
): Case[] {
  const group = name.split("/", 2).join("/");
  return SETTINGS.map((setting) => ({
    name: [name, form, setting.label].filter((part) => part !== "").join(" "),
    needs: { f16: setting.f16, subgroups: setting.subgroups },
    varied: { group, settings: [name, form, setting.f16, setting.subgroups] },
    run: (env) => run(env, setting),
  }));
}

/** Cases that read files of ../shared, but for those that say otherwise. */
export const needingShared = (cases: readonly Case[]): Case[] =>
  cases.map((one) => ({ ...one, needs: { shared: true, ...one.needs } }));

/**
 * How much of each group of cases the normal run holds: every pair of settings; every setting; or, in a runtime beside one that
 * has every setting, the rest of the cases that hold the pairs, so that the two share them out.
 */
export type Cover = "pairs" | "settings" | "rest";

/** Which cases run, and which of those that could are left out. */
export interface CaseChoice {
  /** Only cases whose name contains this text, and of these every setting. */
  filter?: string;
  /** Every combination of settings, and the cases that only the full run has. */
  full?: boolean;
  /** How much of each group the normal run holds. Default: "pairs". */
  cover?: Cover;
  /** Leaves out the cases whose names begin with one of these... */
  without?: readonly string[];
  /** ... but for those that begin with one of these. */
  keeping?: readonly string[];
  /** Of all these, every `of`th from the one with this index on. */
  part?: { index: number; of: number };
}

/** What decides whether a case exists: what the adapter has. */
type Features = Pick<Required<CaseNeeds>, "f16" | "subgroups">;

/** The cases of `all` that run on an adapter with these features, in their order. */
export function chooseCases(all: readonly Case[], features: Features, choice: CaseChoice): Case[] {
  const { filter = "", full = false, cover = "pairs", without = [], keeping = [], part } = choice;
  const existing = all.filter(
    ({ needs, full: onlyFull }) =>
      (full || !onlyFull) && !(needs?.f16 && !features.f16) && !(needs?.subgroups && !features.subgroups),
  );
  const taken = full || filter !== "" ? existing : covering(existing, cover);
  const begins = (name: string, prefixes: readonly string[]) =>
    prefixes.some((prefix) => name.startsWith(prefix));
  const chosen = taken.filter(
    ({ name }) => name.includes(filter) && (!begins(name, without) || begins(name, keeping)),
  );
  return part ? chosen.filter((_, index) => index % part.of === part.index) : chosen;
}

/** Of each group as few as hold what is asked for; all cases without a group. */
function covering(cases: readonly Case[], cover: Cover): Case[] {
  const groups = new Map<string, Case[]>();
  for (const one of cases) {
    if (one.varied) groups.set(one.varied.group, [...(groups.get(one.varied.group) ?? []), one]);
  }
  const taken = [...groups.values()].flatMap((group) =>
    indicesOf(
      group.map(({ varied }) => varied?.settings ?? []),
      cover,
    ).map((index) => group[index]),
  );
  const kept = new Set(taken);
  return cases.filter((one) => one.varied === undefined || kept.has(one));
}

function indicesOf(combinations: readonly Combination[], cover: Cover): number[] {
  const settings = cover === "pairs" ? [] : coveringPairs(combinations, 1);
  if (cover === "settings") return settings;
  return coveringPairs(combinations, 2).filter((index) => !settings.includes(index));
}
