/**
 * The committed long set (demo/models/eval, whose README is its schema), the modes that it is answered in, and what is made of the
 * answers: every mode is compared with the first on the same questions. It runs no model.
 */
import { readFileSync } from "node:fs";
import type { EngineOptions } from "../../src/wire/protocol.ts";

export interface LongQuestion {
  /** "needle": one fact; "pair": two. */
  kind: "needle" | "pair";
  question: string;
  answer: string;
}

export interface LongDocument {
  text: string;
  questions: LongQuestion[];
}

export interface LongSet {
  schema: 1;
  seed: string;
  maxNewTokens: number;
  /** Documents of about that many tokens of the shipped models' tokenizer. */
  contexts: { tokens: number; documents: LongDocument[] }[];
}

const FILE = "demo/models/eval/tide-long.json";

/** Reads the set and takes what is selected. @throws Error naming a context that does not exist. */
export function readLongSet(contexts: readonly number[], documents: number): LongSet {
  const set = JSON.parse(readFileSync(FILE, "utf8")) as LongSet;
  if (set.schema !== 1) throw new Error(`${FILE}: schema is ${String(set.schema)}, expected 1`);
  const known = set.contexts.map(({ tokens }) => tokens);
  const unknown = contexts.find((tokens) => !known.includes(tokens));
  if (unknown !== undefined)
    throw new Error(`no documents of ${unknown} tokens in ${FILE}; there are ${known.join(", ")}`);
  const chosen = set.contexts.filter(({ tokens }) => contexts.includes(tokens));
  return {
    ...set,
    contexts: chosen.map((each) => ({ ...each, documents: each.documents.slice(0, documents) })),
  };
}

export interface LongMode {
  name: string;
  options: EngineOptions;
}

/** How a mode is named, and what it asks of the engine; `argument`: what stands behind its "@". */
const MODES: readonly { form: string; options: (argument: number) => EngineOptions }[] = [
  { form: "full", options: () => ({}) },
  ...(["q8", "q4", "q2"] as const).map((kvDtype) => ({ form: kvDtype, options: () => ({ kvDtype }) })),
];

/** The modes of a list such as "full,q8,q4". @throws Error naming one that does not exist. */
export function longModes(list: string): LongMode[] {
  return list.split(",").map((name) => {
    const [kind, argument, ...rest] = name.split("@");
    const mode = MODES.find(({ form }) => form.split("@")[0] === kind);
    const takes = mode?.form.includes("@") ?? false;
    const value = Number(argument);
    if (!mode || rest.length > 0 || takes !== (argument !== undefined) || (takes && !(value > 0)))
      throw new Error(`no mode "${name}"; there are ${MODES.map(({ form }) => form).join(", ")}`);
    return { name, options: mode.options(value) };
  });
}

/** What a mode made of one document. */
export interface DocumentScore {
  /** Whether the answer is right, question by question. */
  right: boolean[];
  /** Mean of -ln p over the document's last tokens. */
  nll: number;
}

export interface ModeScores {
  mode: string;
  /** GPU bytes of keys and values for each token of the pool. */
  kvBytesPerToken: number;
  seconds: number;
  /** By context; what is over the model's context is left out. */
  contexts: { tokens: number; documents: DocumentScore[] }[];
}

/** An estimate and the half-width of its 95% interval. */
export interface Estimate {
  value: number;
  within: number;
}

export interface Comparison {
  questions: number;
  right: number;
  /** Of the questions, those that only the first mode answers, and those that only this one does. */
  lost: number;
  gained: number;
  /** Of the shares of right answers, in points. */
  difference: Estimate;
}

/** 0.975 quantile of Student's t, by its expansion around the normal's. */
function studentT(freedom: number): number {
  const z = 1.959964;
  return z + (z ** 3 + z) / (4 * freedom) + (5 * z ** 5 + 16 * z ** 3 + 3 * z) / (96 * freedom ** 2);
}

/** The mean of independent numbers. */
export function meanOf(numbers: readonly number[]): Estimate {
  const n = numbers.length;
  const value = numbers.reduce((sum, each) => sum + each, 0) / n;
  const squares = numbers.reduce((sum, each) => sum + (each - value) ** 2, 0);
  return { value, within: n < 2 ? Infinity : studentT(n - 1) * Math.sqrt(squares / (n - 1) / n) };
}

/**
 * The answers of a mode beside those of the first, over the questions that `counts` picks. Documents are what is independent: the
 * interval comes from their differences. If no answer differs it is that of the rule of three, 3 / questions.
 */
export function compared(
  mode: readonly DocumentScore[],
  first: readonly DocumentScore[],
  counts: (question: number) => boolean = () => true,
): Comparison {
  let [questions, right, lost, gained] = [0, 0, 0, 0];
  const perDocument = mode.map((document, index) => {
    let [own, difference] = [0, 0];
    document.right.forEach((isRight, question) => {
      if (!counts(question)) return;
      const was = (first[index] as DocumentScore).right[question] as boolean;
      own++;
      if (isRight) right++;
      if (was && !isRight) lost++;
      if (isRight && !was) gained++;
      difference += Number(isRight) - Number(was);
    });
    questions += own;
    return (100 * difference) / own;
  });
  const { value, within } = meanOf(perDocument);
  const differs = lost + gained > 0;
  return {
    questions,
    right,
    lost,
    gained,
    difference: { value, within: differs ? within : 300 / questions },
  };
}

/** Perplexity of a mode, and its ratio to the first's with the interval as a share of it. */
export function perplexities(
  mode: readonly DocumentScore[],
  first: readonly DocumentScore[],
): { perplexity: number; ratio: Estimate } {
  const { value } = meanOf(mode.map(({ nll }) => nll));
  const paired = meanOf(mode.map(({ nll }, index) => nll - (first[index] as DocumentScore).nll));
  return { perplexity: Math.exp(value), ratio: { value: Math.exp(paired.value), within: paired.within } };
}

/** A Markdown table, one row a context and mode, and one for all contexts together. */
export function longTable(set: LongSet, modes: readonly ModeScores[]): string {
  const [first] = modes;
  if (!first) return "";
  const against = [`all, against ${first.mode}`, "lost, gained", "perplexity", `ratio to ${first.mode}`];
  const head = ["context", "mode", "bytes a token", "needles", "pairs", ...against];
  const kinds = set.contexts[0]?.documents[0]?.questions.map(({ kind }) => kind) ?? [];
  const contexts = first.contexts.map(({ tokens }) => tokens);
  const rows = [...contexts, ...(contexts.length > 1 ? [undefined] : [])].flatMap((context) =>
    modes.map((mode) => [
      context === undefined ? "all" : String(context),
      mode.mode,
      mode.kvBytesPerToken.toFixed(0),
      ...cellsOf(documentsOf(mode, context), documentsOf(first, context), kinds, mode === first),
    ]),
  );
  return [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

/** Of one context, or of all. */
function documentsOf({ contexts }: ModeScores, context: number | undefined): DocumentScore[] {
  return contexts.flatMap(({ tokens, documents }) =>
    context === undefined || tokens === context ? documents : [],
  );
}

function cellsOf(
  own: readonly DocumentScore[],
  first: readonly DocumentScore[],
  kinds: readonly LongQuestion["kind"][],
  isFirst: boolean,
): string[] {
  const share = (kind?: LongQuestion["kind"]): string => {
    const { right, questions } = compared(own, first, (at) => kind === undefined || kinds[at] === kind);
    return `${((100 * right) / questions).toFixed(1)}%`;
  };
  const { questions, lost, gained, difference } = compared(own, first);
  const { perplexity, ratio } = perplexities(own, first);
  const points = `${signed(difference.value)} ± ${difference.within.toFixed(1)} points`;
  const answers = isFirst ? [`${share()} of ${questions}`, ""] : [points, `${lost}, ${gained}`];
  const ratios = isFirst ? "" : `${ratio.value.toFixed(4)} ± ${ratio.within.toFixed(4)}`;
  return [share("needle"), share("pair"), ...answers, perplexity.toFixed(2), ratios];
}

function signed(value: number): string {
  return `${value < 0 ? "" : "+"}${value.toFixed(1)}`;
}
