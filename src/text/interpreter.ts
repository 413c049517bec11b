/**
 * Runs a parsed chat template with bounds: a template is a program that came with the model's file, and may loop for ever or
 * write without end. The work is counted by the nodes evaluated and the sizes of what they make, so that the same
 * template stops at the same place everywhere. What the parser itself or a single built-in takes is not counted: for that
 * there is the deadline of the worker in which this runs.
 */
import { Environment, Interpreter, type Template } from "@huggingface/jinja";
import { TidepoolError } from "../errors.ts";

/** Nodes evaluated and items made: some seconds. A conversation of a thousand messages takes some ten thousand. */
export const MAX_TEMPLATE_STEPS = 2_000_000;

/** Characters of the text that a template makes, and of any text on the way there. */
export const MAX_RENDERED_CHARS = 16 * 1024 * 1024;

/** Items of a list on the way. */
const MAX_LIST_ITEMS = 1024 * 1024;

/** Making a text of so many characters counts as one step. */
const CHARS_PER_STEP = 64;

/** Kinds of nodes that make new values; the others hand on what is there. */
const MAKERS: ReadonlySet<string> = new Set([
  "CallExpression",
  "FilterExpression",
  "BinaryExpression",
  "MemberExpression",
  "CallStatement",
  "FilterStatement",
]);

type Program = Template["parsed"];
type Node = Parameters<Interpreter["evaluate"]>[0];
type Value = ReturnType<Interpreter["evaluate"]>;

/** The text that a template makes of the values. @throws TidepoolError `timed_out` or `too_long` naming the bound. */
export function runTemplate(program: Program, values: Readonly<Record<string, unknown>>): string {
  const globals = new Environment();
  for (const [name, value] of Object.entries(GLOBALS)) globals.set(name, value);
  const environment = new Environment(globals);
  for (const [name, value] of Object.entries(values)) environment.set(name, value);
  return String(new BoundedInterpreter(environment).run(program).value);
}

class BoundedInterpreter extends Interpreter {
  private steps = 0;

  override evaluate(node: Node, environment: Environment): Value {
    this.count(1);
    const result = super.evaluate(node, environment);
    const { value } = result;
    if (typeof value === "string") {
      if (value.length > MAX_RENDERED_CHARS) throw tooMuch("a text", MAX_RENDERED_CHARS, "characters");
      if (makesTexts(node)) this.count(value.length / CHARS_PER_STEP);
    } else if (Array.isArray(value)) {
      if (value.length > MAX_LIST_ITEMS) throw tooMuch("a list", MAX_LIST_ITEMS, "items");
      if (node !== undefined && MAKERS.has(node.type)) this.count(value.length);
    }
    return result;
  }

  private count(steps: number): void {
    this.steps += steps;
    if (this.steps <= MAX_TEMPLATE_STEPS) return;
    throw new TidepoolError("timed_out", `the chat template takes more than ${MAX_TEMPLATE_STEPS} steps`, {
      limit: MAX_TEMPLATE_STEPS,
    });
  }
}

/** A member that is a text was there before. */
function makesTexts(node: Node): boolean {
  return node !== undefined && node.type !== "MemberExpression" && MAKERS.has(node.type);
}

function tooMuch(what: string, limit: number, unit: string): TidepoolError {
  return new TidepoolError("too_long", `the chat template makes ${what} of more than ${limit} ${unit}`, {
    limit,
  });
}

/** What templates find besides their variables. A variable of the same name goes before. */
const GLOBALS: Readonly<Record<string, unknown>> = {
  true: true,
  false: false,
  none: null,
  True: true,
  False: false,
  None: null,
  raise_exception: (message: unknown) => {
    throw new Error(String(message));
  },
  range: boundedRange,
  strftime_now: (format: unknown) => dateText(new Date(), String(format)),
};

/** Python's range as a list. */
function boundedRange(first: unknown, second?: unknown, third?: unknown): number[] {
  const [start, stop] = typeof second === "number" ? [Number(first), second] : [0, Number(first)];
  const step = typeof third === "number" ? third : 1;
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (step === 0 || Number.isNaN(length)) throw new Error("range() needs numbers, and a step that is not 0");
  if (length > MAX_LIST_ITEMS) throw tooMuch("a list", MAX_LIST_ITEMS, "items");
  return Array.from({ length }, (_, index) => start + index * step);
}

/** Python's strftime for what templates print: dates in English, which is what models were trained on. */
function dateText(date: Date, format: string): string {
  const named = (options: Intl.DateTimeFormatOptions): string =>
    new Intl.DateTimeFormat("en-US", options).format(date);
  const two = (value: number): string => String(value).padStart(2, "0");
  const fields: Record<string, () => string> = {
    "%Y": () => String(date.getFullYear()),
    "%m": () => two(date.getMonth() + 1),
    "%d": () => two(date.getDate()),
    "%b": () => named({ month: "short" }),
    "%B": () => named({ month: "long" }),
    "%a": () => named({ weekday: "short" }),
    "%A": () => named({ weekday: "long" }),
    "%H": () => two(date.getHours()),
    "%M": () => two(date.getMinutes()),
    "%S": () => two(date.getSeconds()),
    "%%": () => "%",
  };
  return format.replace(/%./g, (field) => fields[field]?.() ?? field);
}
