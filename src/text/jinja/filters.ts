/** Jinja's filters, by name, with the arguments and quirks of the original. One that is missing is refused by its name. */
import { checkItems } from "./bounds.ts";
import { percentFormat } from "./format.ts";
import { atPath, attributeOf } from "./members.ts";
import { applyBinary } from "./operators.ts";
import { json, str } from "./print.ts";
import { capitalize, replaceText, splitLines, strip } from "./strings.ts";
import { applyTest } from "./tests.ts";
import {
  Float,
  Tuple,
  Undefined,
  areEqual,
  bind,
  charsOf,
  compare,
  intOf,
  itemsOf,
  lengthOf,
  numberOf,
  textOf,
  truthOf,
  typeName,
  unsupported,
} from "./values.ts";
import type { Key, Named, Value } from "./values.ts";

type Filter = (value: Value, args: readonly Value[], named: Named) => Value;

/** @throws TidepoolError `unsupported` naming the filter */
export function applyFilter(name: string, value: Value, args: readonly Value[], named: Named): Value {
  const filter = Object.hasOwn(FILTERS, name) ? FILTERS[name] : undefined;
  if (filter === undefined) throw unsupported(`the filter "${name}"`);
  return filter(value, args, named);
}

const length: Filter = (value) => lengthOf(value);

const otherwise: Filter = (value, args, named) => {
  const { default_value: given = "", boolean = false } = bind(
    "default",
    ["default_value", "boolean"],
    args,
    named,
  );
  return value instanceof Undefined || (truthOf(boolean) && !truthOf(value)) ? given : value;
};

const escape: Filter = (value) =>
  str(value)
    .replaceAll("&", "&amp;")
    .replaceAll(">", "&gt;")
    .replaceAll("<", "&lt;")
    .replaceAll("'", "&#39;")
    .replaceAll('"', "&#34;");

const int: Filter = (value, args, named) => {
  const { default: missing = 0, base } = bind("int", ["default", "base"], args, named);
  const number = numberOf(value);
  if (number !== undefined) return Number.isFinite(number) ? Math.trunc(number) : missing;
  if (typeof value !== "string") return missing;
  const text = strip(value).replaceAll("_", "");
  const radix = intOf(base, 10, "base");
  if (radix === 10 && /^[-+]?\d+$/.test(text)) return Number(text);
  if (radix !== 10) {
    const parsed = Number.parseInt(text, radix);
    return Number.isNaN(parsed) ? missing : parsed;
  }
  const parsed = floatOf(text);
  return parsed === undefined || !Number.isFinite(parsed) ? missing : Math.trunc(parsed);
};

function floatOf(text: string): number | undefined {
  const trimmed = strip(text);
  if (/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(trimmed)) return Number(trimmed);
  const named = /^([-+]?)(inf|infinity|nan)$/i.exec(trimmed);
  if (!named) return undefined;
  return named[2]?.toLowerCase() === "nan" ? NaN : named[1] === "-" ? -Infinity : Infinity;
}

const float: Filter = (value, args, named) => {
  const { default: missing = new Float(0) } = bind("float", ["default"], args, named);
  const number = typeof value === "string" ? floatOf(value) : numberOf(value);
  return number === undefined ? missing : new Float(number);
};

const round: Filter = (value, args, named) => {
  const { precision, method = "common" } = bind("round", ["precision", "method"], args, named);
  const number = numberOf(value);
  if (number === undefined) throw new Error(`type ${typeName(value)} cannot be rounded`);
  const scale = 10 ** intOf(precision, 0, "precision");
  if (method === "common") return new Float(halfEven(number * scale) / scale);
  return new Float((method === "ceil" ? Math.ceil(number * scale) : Math.floor(number * scale)) / scale);
};

/** Python rounds halves to even numbers. */
function halfEven(value: number): number {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

const indent: Filter = (value, args, named) => {
  const {
    width = 4,
    first = false,
    blank = false,
  } = bind("indent", ["width", "first", "blank"], args, named);
  const margin = typeof width === "string" ? width : str(applyBinary("*", " ", width));
  const [head = "", ...lines] = splitLines(`${str(value)}\n`);
  const rest = lines.map((line) => `\n${line !== "" || truthOf(blank) ? margin + line : line}`);
  return (truthOf(first) ? margin : "") + head + rest.join("");
};

const join: Filter = (value, args, named) => {
  const { d = "", attribute } = bind("join", ["d", "attribute"], args, named);
  const items =
    attribute === undefined ? itemsOf(value) : itemsOf(value).map((item) => atPath(item, attribute));
  return items.map(str).join(str(d));
};

const tojson: Filter = (value, args, named) => {
  const names = ["ensure_ascii", "indent", "separators", "sort_keys"] as const;
  const given = bind("tojson", names, args, named);
  const { indent: width, separators } = given;
  const pair = separators instanceof Tuple || Array.isArray(separators) ? itemsOf(separators) : undefined;
  const margin = typeof width === "number" ? str(applyBinary("*", " ", width)) : width;
  return json(value, {
    indent: typeof margin === "string" ? margin : undefined,
    separators: pair && [textOf(pair[0], "separators[0]"), textOf(pair[1], "separators[1]")],
    ensureAscii: truthOf(given.ensure_ascii ?? false),
    sortKeys: truthOf(given.sort_keys ?? false),
  });
};

/** What to compare an item by: an attribute of it, and texts without their case. */
function orderBy(attribute: Value | undefined, caseSensitive: Value | undefined): (item: Value) => Value {
  return (item) => {
    const value = attribute === undefined || attribute === null ? item : atPath(item, attribute);
    return typeof value === "string" && !truthOf(caseSensitive ?? false) ? value.toLowerCase() : value;
  };
}

const sort: Filter = (value, args, named) => {
  const names = ["reverse", "case_sensitive", "attribute"] as const;
  const { reverse = false, case_sensitive, attribute } = bind("sort", names, args, named);
  const paths = typeof attribute === "string" ? attribute.split(",") : [attribute];
  const keys = paths.map((path) => orderBy(path, case_sensitive));
  const sign = truthOf(reverse) ? -1 : 1;
  return [...itemsOf(value)].sort((a, b) => {
    for (const key of keys) {
      const order = compare(key(a), key(b));
      if (order !== 0) return sign * order;
    }
    return 0;
  });
};

const dictsort: Filter = (value, args, named) => {
  const names = ["case_sensitive", "by", "reverse"] as const;
  const { case_sensitive, by = "key", reverse = false } = bind("dictsort", names, args, named);
  if (by !== "key" && by !== "value") throw new Error('You can only sort by either "key" or "value"');
  const pairs = pairsOf(value);
  const key = orderBy(by === "key" ? 0 : 1, case_sensitive);
  const sign = truthOf(reverse) ? -1 : 1;
  return pairs.sort((a, b) => sign * compare(key(a), key(b)));
};

function pairsOf(value: Value): Tuple[] {
  if (value instanceof Undefined) return [];
  if (!(value instanceof Map)) throw new Error("Can only get item pairs from a mapping.");
  return [...value].map(([key, item]) => new Tuple([key, item]));
}

const unique: Filter = (value, args, named) => {
  const { case_sensitive, attribute } = bind("unique", ["case_sensitive", "attribute"], args, named);
  const key = orderBy(attribute, case_sensitive);
  const seen: Value[] = [];
  return itemsOf(value).filter((item) => {
    const by = key(item);
    if (seen.some((other) => areEqual(other, by))) return false;
    seen.push(by);
    return true;
  });
};

function extreme(name: "min" | "max"): Filter {
  return (value, args, named) => {
    const { case_sensitive, attribute } = bind(name, ["case_sensitive", "attribute"], args, named);
    const key = orderBy(attribute, case_sensitive);
    const [first, ...rest] = itemsOf(value);
    if (first === undefined) return new Undefined("No aggregated item, sequence was empty.");
    const sign = name === "min" ? 1 : -1;
    return rest.reduce<Value>(
      (best, item) => (sign * compare(key(item), key(best)) < 0 ? item : best),
      first,
    );
  };
}

const groupby: Filter = (value, args, named) => {
  const names = ["attribute", "default", "case_sensitive"] as const;
  const { attribute = null, default: missing, case_sensitive } = bind("groupby", names, args, named);
  const find = (item: Value): Value => {
    const found = atPath(item, attribute);
    return found instanceof Undefined && missing !== undefined ? missing : found;
  };
  const key = (item: Value): Value => orderBy(undefined, case_sensitive)(find(item));
  const groups: { grouper: Value; list: Value[] }[] = [];
  for (const item of [...itemsOf(value)].sort((a, b) => compare(key(a), key(b)))) {
    const last = groups.at(-1);
    if (last && areEqual(key(last.list[0] as Value), key(item))) last.list.push(item);
    else groups.push({ grouper: find(item), list: [item] });
  }
  return groups.map(({ grouper, list }) => new Tuple([grouper, list]));
};

const sum: Filter = (value, args, named) => {
  const { attribute, start = 0 } = bind("sum", ["attribute", "start"], args, named);
  const items = itemsOf(value).map((item) => (attribute === undefined ? item : atPath(item, attribute)));
  return items.reduce<Value>((total, item) => applyBinary("+", total, item), start);
};

const map: Filter = (value, args, named) => {
  const attribute = named.get("attribute");
  if (attribute !== undefined) {
    const missing = named.get("default");
    return itemsOf(value).map((item) => {
      const found = atPath(item, attribute);
      return found instanceof Undefined && missing !== undefined ? missing : found;
    });
  }
  const [name, ...rest] = args;
  return itemsOf(value).map((item) => applyFilter(textOf(name, "map()'s filter"), item, rest, named));
};

/** `select`, `reject` and, with an attribute before the test, `selectattr`, `rejectattr`. */
function chooser(keeps: boolean, byAttribute: boolean): Filter {
  return (value, args) => {
    const [attribute, ...others] = byAttribute ? args : [null, ...args];
    const [name, ...rest] = others;
    return itemsOf(value).filter((item) => {
      const tested = byAttribute ? atPath(item, attribute ?? null) : item;
      const holds = name === undefined ? truthOf(tested) : applyTest(textOf(name, "the test"), tested, rest);
      return holds === keeps;
    });
  };
}

const batch: Filter = (value, args, named) => {
  const { linecount, fill_with: fill } = bind("batch", ["linecount", "fill_with"], args, named);
  const size = intOf(linecount, 1, "linecount");
  if (size < 1) throw new Error(`linecount is ${size}, expected at least 1`);
  checkItems(size);
  const items = itemsOf(value);
  const rows = Array.from({ length: Math.ceil(items.length / size) }, (_, i) =>
    items.slice(i * size, (i + 1) * size),
  );
  if (fill === undefined || fill === null) return rows.map((row) => [...row]);
  return rows.map((row) => [...row, ...Array.from({ length: size - row.length }, () => fill)]);
};

const items: Filter = (value) => pairsOf(value);

const replace: Filter = (value, args, named) => {
  const { old, new: by, count } = bind("replace", ["old", "new", "count"], args, named);
  return replaceText(str(value), str(old ?? null), str(by ?? null), intOf(count, -1, "count"));
};

const reverse: Filter = (value) =>
  typeof value === "string" ? charsOf(value).reverse().join("") : [...itemsOf(value)].reverse();

/** Every word capitalised; unlike `str.title`, words end at spaces, hyphens and opening brackets only. */
const title: Filter = (value) =>
  str(value)
    .split(/([-\s({[<]+)/u)
    .map(capitalize)
    .join("");

const abs: Filter = (value) => {
  const number = numberOf(value);
  if (number === undefined) throw new Error(`bad operand type for abs(): '${typeName(value)}'`);
  return value instanceof Float ? new Float(Math.abs(number)) : Math.abs(number);
};

/** The item at an end of the value. */
function end(which: "first" | "last"): Filter {
  return (value) => {
    const item = itemsOf(value).at(which === "first" ? 0 : -1);
    return item === undefined ? new Undefined(`No ${which} item, sequence was empty.`) : item;
  };
}

const format: Filter = (value, args, named) => {
  if (args.length > 0 && named.size > 0)
    throw new Error("can't handle positional and keyword arguments at the same time");
  return percentFormat(str(value), named.size > 0 ? new Map<Key, Value>(named) : new Tuple(args));
};

const FILTERS: Readonly<Record<string, Filter>> = {
  abs,
  attr: (value, [name]) => attributeOf(value, textOf(name, "attr()'s name")),
  batch,
  capitalize: (value) => capitalize(str(value)),
  count: length,
  d: otherwise,
  default: otherwise,
  dictsort,
  e: escape,
  escape,
  first: end("first"),
  float,
  format,
  groupby,
  indent,
  int,
  items,
  join,
  last: end("last"),
  length,
  list: (value) => [...itemsOf(value)],
  lower: (value) => str(value).toLowerCase(),
  map,
  max: extreme("max"),
  min: extreme("min"),
  reject: chooser(false, false),
  rejectattr: chooser(false, true),
  replace,
  reverse,
  round,
  safe: (value) => value,
  select: chooser(true, false),
  selectattr: chooser(true, true),
  sort,
  string: (value) => str(value),
  sum,
  title,
  tojson,
  trim: (value, args, named) => strip(str(value), bind("trim", ["chars"], args, named).chars),
  unique,
  upper: (value) => str(value).toUpperCase(),
  wordcount: (value) => str(value).match(/[\p{L}\p{N}_]+/gu)?.length ?? 0,
};
