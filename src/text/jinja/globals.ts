/** What templates find besides their variables: the functions of Jinja and those that chat templates are given by custom. */
import { checkItems } from "./bounds.ts";
import { str } from "./print.ts";
import { Callable, Namespace, bind, intOf, itemsOf, keyOf, typeName } from "./values.ts";

import type { Key, Named, Value } from "./values.ts";

type Call = (args: readonly Value[], named: Named) => Value;

const FUNCTIONS: Readonly<Record<string, Call>> = {
  raise_exception: ([message = ""]) => {
    throw new Error(str(message));
  },
  range: (args) => boundedRange(args),
  dict: (args, named) => dictOf(args, named),
  namespace: (args, named) => {
    const space = new Namespace();
    for (const [key, value] of dictOf(args, named)) space.fields.set(String(key), value);
    return space;
  },
  strftime_now: ([format = ""]) => dateText(new Date(), str(format)),
  joiner: (args, named) => {
    const { sep = ", " } = bind("joiner", ["sep"], args, named);
    let isFirst = true;
    return new Callable("joiner", () => {
      const text = isFirst ? "" : sep;
      isFirst = false;
      return text;
    });
  },
};

/** A variable of the same name goes before. */
export const GLOBALS: Readonly<Record<string, Value>> = {
  true: true,
  false: false,
  none: null,
  True: true,
  False: false,
  None: null,
  ...Object.fromEntries(Object.entries(FUNCTIONS).map(([name, call]) => [name, new Callable(name, call)])),
};

/** Python's `dict()`: a mapping or pairs, and keywords. */
function dictOf(args: readonly Value[], named: Named): Map<Key, Value> {
  const [source] = args;
  const dict = new Map<Key, Value>(source instanceof Map ? source : []);
  if (source !== undefined && !(source instanceof Map)) {
    for (const pair of itemsOf(source)) {
      const [key, value, ...more] = itemsOf(pair);
      if (key === undefined || value === undefined || more.length > 0) {
        throw new Error("a dict is made of a mapping or of pairs");
      }
      dict.set(keyOf(key), value);
    }
  }
  for (const [key, value] of named) dict.set(key, value);
  return dict;
}

/** Python's range as a list. */
function boundedRange(args: readonly Value[]): number[] {
  for (const value of args) {
    if (typeof value !== "number") throw new Error(`range() needs ints, got a ${typeName(value)}`);
  }
  const [first, second, third] = args;
  const [start, stop] =
    second === undefined
      ? [0, intOf(first, 0, "stop")]
      : [intOf(first, 0, "start"), intOf(second, 0, "stop")];
  const step = intOf(third, 1, "step");
  if (step === 0) throw new Error("range() needs a step that is not 0");
  const length = Math.max(0, Math.ceil((stop - start) / step));
  checkItems(length);
  return Array.from({ length }, (_, index) => start + index * step);
}

/** Python's strftime for what templates print: dates in English, which is what models were trained on. */
function dateText(date: Date, format: string): string {
  const named = (options: Intl.DateTimeFormatOptions): string =>
    new Intl.DateTimeFormat("en-US", options).format(date);
  const two = (value: number): string => String(value).padStart(2, "0");
  const hours12 = date.getHours() % 12 === 0 ? 12 : date.getHours() % 12;
  const startOfYear = new Date(date.getFullYear(), 0, 1);
  const fields: Record<string, () => string> = {
    "%Y": () => String(date.getFullYear()),
    "%y": () => two(date.getFullYear() % 100),
    "%m": () => two(date.getMonth() + 1),
    "%-m": () => String(date.getMonth() + 1),
    "%d": () => two(date.getDate()),
    "%-d": () => String(date.getDate()),
    "%e": () => String(date.getDate()).padStart(2, " "),
    "%b": () => named({ month: "short" }),
    "%B": () => named({ month: "long" }),
    "%a": () => named({ weekday: "short" }),
    "%A": () => named({ weekday: "long" }),
    "%H": () => two(date.getHours()),
    "%I": () => two(hours12),
    "%p": () => (date.getHours() < 12 ? "AM" : "PM"),
    "%M": () => two(date.getMinutes()),
    "%S": () => two(date.getSeconds()),
    "%j": () =>
      String(Math.round((date.getTime() - startOfYear.getTime()) / 86_400_000 + 0.5)).padStart(3, "0"),
    "%F": () => dateText(date, "%Y-%m-%d"),
    "%T": () => dateText(date, "%H:%M:%S"),
    "%%": () => "%",
  };
  return format.replace(/%-?./g, (field) => fields[field]?.() ?? field);
}
