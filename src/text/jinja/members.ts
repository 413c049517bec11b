/**
 * Attributes and items of values, as Jinja's immutable sandbox gives them: `a.b` is a method or field first and an item then,
 * `a["b"]` the other way round. What would change a dict is refused, as there.
 */
import { charAt, stringMethods } from "./strings.ts";
import {
  Callable,
  Float,
  Namespace,
  Tuple,
  Undefined,
  areEqual,
  bind,
  charsOf,
  intOf,
  itemsOf,
  keyOf,
  textOf,
  typeName,
  unsupported,
} from "./values.ts";
import type { Dict, Key, Named, Value } from "./values.ts";

type Method<T> = (self: T, args: readonly Value[], named: Named) => Value;

const STRING_METHODS = stringMethods((value, name, isItem) =>
  isItem ? itemOf(value, /^\d+$/.test(name) ? Number(name) : name) : attributeOf(value, name),
);

const DICT_METHODS: Readonly<Record<string, Method<Dict>>> = {
  get: (dict, args, named) => {
    const { key = null, default: otherwise = null } = bind("get()", ["key", "default"], args, named);
    const found = dict.get(keyOf(key));
    return found === undefined ? otherwise : found;
  },
  items: (dict) => [...dict].map(([key, value]) => new Tuple([key, value])),
  keys: (dict) => [...dict.keys()],
  values: (dict) => [...dict.values()],
  copy: (dict) => new Map(dict),
};

const LIST_METHODS: Readonly<Record<string, Method<readonly Value[]>>> = {
  index: (list, [wanted = null]) => {
    const at = list.findIndex((item) => areEqual(item, wanted));
    if (at < 0) throw new Error("the value is not in the list");
    return at;
  },
  count: (list, [wanted = null]) => list.filter((item) => areEqual(item, wanted)).length,
  copy: (list) => [...list],
};

/**
 * Changes of a list that published templates make (`{% set _ = names.append(x) %}`). Python's sandbox for templates refuses
 * them, other engines do not; nobody else sees the list, since values are copied in.
 */
const LIST_CHANGES: Readonly<Record<string, Method<Value[]>>> = {
  append: (list, [item = null]) => {
    list.push(item);
    return null;
  },
  extend: (list, [more = []]) => {
    for (const item of [...itemsOf(more)]) list.push(item);
    return null;
  },
  insert: (list, [at, item = null]) => {
    list.splice(intOf(at, 0, "index"), 0, item);
    return null;
  },
  pop: (list, [at]) => {
    const [item] = list.splice(intOf(at, -1, "index"), 1);
    if (item === undefined) throw new Error("pop index out of range");
    return item;
  },
};

/** Other methods that would change a value: Python's sandbox for templates refuses them too. */
const MUTATORS: Readonly<Record<string, readonly string[]>> = {
  list: ["clear", "remove", "reverse", "sort"],
  dict: ["clear", "pop", "popitem", "setdefault", "update"],
};

/** `value.name`. */
export function attributeOf(value: Value, name: string): Value {
  if (value instanceof Undefined) throw new Error(value.problem);
  const field = fieldOf(value, name);
  if (field !== undefined) return field;
  const item = itemIfAny(value, name);
  return item === undefined ? missing(value, name) : item;
}

/** `value[key]`. */
export function itemOf(value: Value, key: Value): Value {
  if (value instanceof Undefined) throw new Error(value.problem);
  const found = itemIfAny(value, key);
  if (found !== undefined) return found;
  const field = typeof key === "string" ? fieldOf(value, key) : undefined;
  return field === undefined ? missing(value, key) : field;
}

/** The value at the end of a path such as "function.name", as the filters' `attribute` means it. */
export function atPath(value: Value, path: Value): Value {
  if (typeof path === "number") return itemOf(value, path);
  let found = value;
  for (const part of textOf(path, "attribute").split(".")) {
    found = itemOf(found, /^\d+$/.test(part) ? Number(part) : part);
  }
  return found;
}

function fieldOf(value: Value, name: string): Value | undefined {
  if (value instanceof Namespace) return value.get(name);
  if (typeof value === "string") return methodOf(value, name, STRING_METHODS);
  if (value instanceof Map) return methodOf(value, name, DICT_METHODS) ?? mutator(value, name);
  if (Array.isArray(value)) {
    const method = methodOf(value, name, LIST_METHODS) ?? methodOf(value, name, LIST_CHANGES);
    return method ?? mutator(value, name);
  }
  if (value instanceof Tuple) return methodOf(value.items, name, LIST_METHODS);
  if (value instanceof Callable && name === "name") return value.name;
  if (value instanceof Float && name === "is_integer") {
    return new Callable(name, () => Number.isInteger(value.value));
  }
  return undefined;
}

function methodOf<T>(
  self: T,
  name: string,
  methods: Readonly<Record<string, Method<T>>>,
): Callable | undefined {
  const method = Object.hasOwn(methods, name) ? methods[name] : undefined;
  return method && new Callable(name, (args, named) => method(self, args, named));
}

function mutator(value: Value, name: string): Callable | undefined {
  const type = typeName(value);
  if (MUTATORS[type]?.includes(name) !== true) return undefined;
  return new Callable(name, () => {
    throw unsupported(`${type}.${name}(), which would change a value in place`);
  });
}

function itemIfAny(value: Value, key: Value): Value | undefined {
  if (value instanceof Map) return value.get(keyIfAny(key) as Key);
  if (typeof key === "boolean") return itemIfAny(value, Number(key));
  if (typeof key !== "number") return undefined;
  if (typeof value === "string") return charAt(value, key);
  if (value instanceof Tuple) return value.items.at(key);
  return Array.isArray(value) ? value.at(key) : undefined;
}

function keyIfAny(key: Value): Key | undefined {
  return key === null || typeof key !== "object" || key instanceof Float ? keyOf(key) : undefined;
}

function missing(value: Value, name: Value): Undefined {
  const shown = typeof name === "string" ? `'${name}'` : String(name);
  const owner = value === null ? "None" : `'${typeName(value)} object'`;
  return new Undefined(`${owner} has no attribute ${shown}`);
}

/** `value[start:stop:step]`. */
export function sliceOf(value: Value, start: Value, stop: Value, step: Value): Value {
  if (typeof value === "string") return sliced(charsOf(value), start, stop, step).join("");
  if (value instanceof Tuple) return new Tuple(sliced(value.items, start, stop, step));
  if (value instanceof Undefined) throw new Error(value.problem);
  if (!Array.isArray(value)) throw new Error(`'${typeName(value)}' object cannot be sliced`);
  return sliced(itemsOf(value), start, stop, step);
}

function sliced<T>(items: readonly T[], from: Value, to: Value, by: Value): T[] {
  const step = positionOf(by) ?? 1;
  if (step === 0) throw new Error("slice step cannot be zero");
  const [low, high] = step > 0 ? [0, items.length] : [-1, items.length - 1];
  const clamp = (value: Value, otherwise: number): number => {
    const position = positionOf(value);
    if (position === undefined) return otherwise;
    return Math.min(high, Math.max(low, position < 0 ? position + items.length : position));
  };
  const [start, stop] = step > 0 ? [clamp(from, low), clamp(to, high)] : [clamp(from, high), clamp(to, low)];
  const out: T[] = [];
  for (let i = start; step > 0 ? i < stop : i > stop; i += step) out.push(items[i] as T);
  return out;
}

function positionOf(value: Value): number | undefined {
  if (value === null || value instanceof Undefined) return undefined;
  if (typeof value === "number" || typeof value === "boolean") return Number(value);
  throw new Error(`slice indices must be integers or None, not ${typeName(value)}`);
}
