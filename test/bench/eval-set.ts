/**
 * The committed evaluation set (demo/models/eval, whose README is its schema), and scores as a table. It runs no model.
 */
import { readFileSync } from "node:fs";

export interface PerplexityGroup {
  name: string;
  kind: "perplexity";
  items: { text: string }[];
}

export interface AnswerGroup {
  name: string;
  kind: "answer";
  /** Tokens between a fact and the question about it. */
  distance?: number;
  items: { prompt: string; answer: string }[];
}

/** Beginnings of stories, each to be continued greedily: how much of a continuation repeats itself, and whether it ends. */
export interface LoopsGroup {
  name: string;
  kind: "loops";
  /** Tokens of a continuation at most. */
  tokens: number;
  /** Tokens of the runs that are compared. */
  gram: number;
  items: { prompt: string }[];
}

export type EvalGroup = PerplexityGroup | AnswerGroup | LoopsGroup;

export interface EvalSet {
  schema: 1;
  seed: string;
  maxNewTokens: number;
  groups: EvalGroup[];
}

/** A group's score, in the form of demo/models/results.json. */
export type GroupScore =
  | { items: number; perplexity: number }
  | { items: number; correct: number; accuracy: number }
  | { items: number; repeated: number; ended: number }
  | { skipped: string };

export type Scores = Record<string, GroupScore>;

export interface Selection {
  /** Items a group at most. */
  limit: number;
  /** Only these distances of the needle groups; all where undefined. */
  distances?: readonly number[];
  /** Only these groups; all where undefined. */
  groups?: readonly string[];
}

const FILE = "demo/models/eval/tide-eval.json";

/** Reads the set and takes what is selected. @throws Error naming a group or distance that does not exist. */
export function readEvalSet({ limit, distances, groups }: Selection): EvalSet {
  const set = JSON.parse(readFileSync(FILE, "utf8")) as EvalSet;
  if (set.schema !== 1) throw new Error(`${FILE}: schema is ${String(set.schema)}, expected 1`);
  const known = set.groups.map(({ name }) => name);
  const wanted = [...(groups ?? []), ...(distances ?? []).map((distance) => `needle-${distance}`)];
  const unknown = wanted.find((name) => !known.includes(name));
  if (unknown !== undefined) throw new Error(`no group ${unknown} in ${FILE}; there are ${known.join(", ")}`);
  const chosen = set.groups.filter(
    (group) =>
      (groups?.includes(group.name) ?? true) &&
      (!("distance" in group) || (distances?.includes(group.distance as number) ?? true)),
  );
  return { ...set, groups: chosen.map((group) => cut(group, limit)) };
}

function cut(group: EvalGroup, limit: number): EvalGroup {
  return { ...group, items: group.items.slice(0, limit) } as EvalGroup;
}

/** Runs of `gram` ids that stood before in the same ids, and all runs. */
export function repeats(ids: readonly number[], gram: number): { again: number; grams: number } {
  const grams = Math.max(0, ids.length - gram + 1);
  const seen = new Set(Array.from({ length: grams }, (_, at) => ids.slice(at, at + gram).join(" ")));
  return { again: grams - seen.size, grams };
}

/** What of a continuation is compared with the answer: its first line, without white space around it. */
export function answerIn(text: string): string {
  return (text.trim().split("\n")[0] as string).trim();
}

/** Whether a continuation has said all that is compared. */
export function answerEnded(text: string): boolean {
  return text.trimStart().includes("\n");
}

/** The scores as a Markdown table, one row a group. */
export function markdown(model: string, scores: Scores): string {
  const rows = Object.entries(scores).map(([name, score]) => `| ${name} | ${cells(score).join(" | ")} |`);
  return [`| group | items | ${model} |`, "|---|---|---|", ...rows].join("\n");
}

function cells(score: GroupScore): [string, string] {
  if ("skipped" in score) return ["-", score.skipped];
  if ("perplexity" in score) return [String(score.items), score.perplexity.toFixed(2)];
  if ("repeated" in score) {
    return [String(score.items), `${(100 * score.repeated).toFixed(1)}% repeated, ${score.ended} end`];
  }
  return [String(score.items), `${(100 * score.accuracy).toFixed(1)}%`];
}
