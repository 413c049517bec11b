/**
 * GPU test cases as data, so that one list runs on Dawn in Node (two drivers), in Deno and in Chromium. A case throws
 * to fail. The runners in test/runtime open the device, run the cases, and print one JSON line for each.
 */
import type { Gpu } from "../../src/gpu/device.ts";

export interface CaseEnv {
  /** A device with every feature that the adapter has. Cases must not destroy it. */
  gpu: Gpu;
  /** Reads a file under ../shared; the runner does it by path or over HTTP. */
  shared(path: string): Promise<Uint8Array>;
  /** Reads a file under demo/models, likewise. */
  shipped(path: string): Promise<Uint8Array>;
}

/** What the adapter must have for a case to exist there; the number that exist is compared with a committed count. */
export interface CaseNeeds {
  f16?: boolean;
  subgroups?: boolean;
}

export const CASE_LIMIT_MS = 120_000;
export const LONGEST_CASE_MS = 900_000;

export interface Case {
  /** "file/what/setting", unique: `kernel/matvec/q4_0 f16 subgroups`. */
  name: string;
  needs?: CaseNeeds;
  /** true: runs in `npm run test:full` only. */
  full?: boolean;
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

/** One case for each of the four settings. */
export function inEverySetting(name: string, run: (env: CaseEnv, setting: Setting) => Promise<void>): Case[] {
  return SETTINGS.map((setting) => ({
    name: `${name} ${setting.label}`,
    needs: { f16: setting.f16, subgroups: setting.subgroups },
    run: (env) => run(env, setting),
  }));
}

/** Whether a case exists on an adapter with these features. */
export function runsOn(
  testCase: Case,
  features: { f16: boolean; subgroups: boolean },
  full: boolean,
): boolean {
  const { needs } = testCase;
  if (testCase.full && !full) return false;
  return !(needs?.f16 && !features.f16) && !(needs?.subgroups && !features.subgroups);
}
