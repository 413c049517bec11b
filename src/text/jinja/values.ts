/**
 * Python's values as a template sees them, in JavaScript: None is null, an int is a number, a str a string, a list an array, a
 * dict a `Map`. Floats, tuples and undefined values have classes of their own, because printing tells them apart.
 * It does not print them (print.ts), nor call their methods (methods.ts).
 */
import { TidepoolError } from "../../errors.ts";

export type Value =
  null | boolean | number | string | Float | Undefined | Tuple | Namespace | Callable | Value[] | Dict;

/** What a dict can be indexed by. */
export type Key = string | number | boolean | null;

export type Dict = Map<Key, Value>;

/** Arguments by keyword. */
export type Named = ReadonlyMap<string, Value>;

/** A float, even if its value is a whole number: 1.0 prints as "1.0". */
export class Float {
  readonly value: number;

  constructor(value: number) {
    this.value = value;
  }
}

/** A name or attribute that is not there. It prints as nothing, holds nothing, and any other use of it fails. */
export class Undefined {
  /** What is missing, as the error says it: "'x' is undefined". */
  readonly problem: string;

  constructor(problem: string) {
    this.problem = problem;
  }
}

export class Tuple {
  readonly items: readonly Value[];

  constructor(items: readonly Value[]) {
    this.items = items;
  }
}

/** Attributes without methods: `namespace()`, whose attributes can be set, and `loop` (loop.ts). */
export class Namespace {
  readonly fields = new Map<string, Value>();

  get(name: string): Value | undefined {
    return this.fields.get(name);
  }
}

/** A function, macro or method. */
export class Callable {
  readonly name: string;
  readonly call: (args: readonly Value[], named: Named) => Value;

  constructor(name: string, call: (args: readonly Value[], named: Named) => Value) {
    this.name = name;
    this.call = call;
  }
}

/** A construct of Jinja or Python that is not implemented here. */
export function unsupported(construct: string): TidepoolError {
  return new TidepoolError("unsupported", `the chat template uses ${construct}, which is not supported`, {
    construct,
  });
}

/** A plain value from a message or variable. A `Number` object is a float, also if it is whole (json-floats.ts makes them). */
export function fromPlain(input: unknown): Value {
  if (input === undefined) return new Undefined("a value is undefined");
  if (input === null || typeof input === "string" || typeof input === "boolean") return input;
  if (typeof input === "number") return Number.isInteger(input) ? input : new Float(input);
  if (input instanceof Number) return new Float(input.valueOf());
  if (input instanceof Callable) return input;
  if (Array.isArray(input)) return input.map(fromPlain);
  if (typeof input === "object") {
    const entries = Object.entries(input).filter(([, value]) => value !== undefined);
    return new Map(entries.map(([key, value]): [Key, Value] => [key, fromPlain(value)]));
  }
  throw new Error(`a template cannot be given a ${typeof input}`);
}

/** A number's value; undefined for what is no number. Booleans count as 0 and 1. */
export function numberOf(value: Value | undefined): number | undefined {
  if (typeof value === "number") return value;
  if (typeof value === "boolean") return Number(value);
  return value instanceof Float ? value.value : undefined;
}

/** The name of the value's Python type, as errors print it. */
export function typeName(value: Value): string {
  if (value === null) return "NoneType";
  if (typeof value === "boolean") return "bool";
  if (typeof value === "number") return "int";
  if (typeof value === "string") return "str";
  if (value instanceof Float) return "float";
  if (value instanceof Undefined) return "Undefined";
  if (value instanceof Tuple) return "tuple";
  if (value instanceof Namespace) return "Namespace";
  if (value instanceof Callable) return "function";
  return Array.isArray(value) ? "list" : "dict";
}

export function truthOf(value: Value): boolean {
  if (value instanceof Undefined) return false;
  if (value instanceof Float) return value.value !== 0;
  if (value instanceof Tuple) return value.items.length > 0;
  if (Array.isArray(value)) return value.length > 0;
  if (value instanceof Map) return value.size > 0;
  return typeof value === "object" ? value !== null : Boolean(value);
}

/** A text's characters by code points, as Python counts them. */
export function charsOf(text: string): string[] {
  return Array.from(text);
}

export function lengthOf(value: Value): number {
  if (value instanceof Undefined) return 0;
  if (typeof value === "string") return hasPairs(value) ? charsOf(value).length : value.length;
  if (value instanceof Map) return value.size;
  if (value instanceof Tuple) return value.items.length;
  if (Array.isArray(value)) return value.length;
  throw new Error(`object of type '${typeName(value)}' has no len()`);
}

export function hasPairs(text: string): boolean {
  return /[\ud800-\udfff]/.test(text);
}

/** What a loop over the value meets. @throws Error where it cannot be iterated over */
export function itemsOf(value: Value): readonly Value[] {
  const items = itemsIfAny(value);
  if (items !== undefined) return items;
  throw new Error(`'${typeName(value)}' object is not iterable`);
}

export function itemsIfAny(value: Value): readonly Value[] | undefined {
  if (value instanceof Undefined) return [];
  if (Array.isArray(value)) return value;
  if (value instanceof Tuple) return value.items;
  if (value instanceof Map) return [...value.keys()];
  return typeof value === "string" ? charsOf(value) : undefined;
}

/** @throws Error for what a dict cannot be indexed by */
export function keyOf(value: Value): Key {
  if (value instanceof Float) return value.value;
  if (value === null || typeof value !== "object") return value;
  throw new Error(`unhashable type: '${typeName(value)}'`);
}

/** Python's `==`. */
export function areEqual(a: Value, b: Value): boolean {
  const [x, y] = [numberOf(a), numberOf(b)];
  if (x !== undefined && y !== undefined) return x === y;
  if (a instanceof Undefined) return b instanceof Undefined;
  if (a instanceof Tuple) return b instanceof Tuple && areItemsEqual(a.items, b.items);
  if (Array.isArray(a)) return Array.isArray(b) && areItemsEqual(a, b);
  if (a instanceof Map) {
    if (!(b instanceof Map) || a.size !== b.size) return false;
    return [...a].every(([key, item]) => b.has(key) && areEqual(item, b.get(key) as Value));
  }
  return a === b;
}

function areItemsEqual(a: readonly Value[], b: readonly Value[]): boolean {
  return a.length === b.length && a.every((item, i) => areEqual(item, b[i] as Value));
}

/** Python's order: below 0, 0, or above 0. @throws Error for values that have none */
export function compare(a: Value, b: Value, operator = "<"): number {
  const [x, y] = [numberOf(a), numberOf(b)];
  if (x !== undefined && y !== undefined) return x - y;
  if (typeof a === "string" && typeof b === "string") return compareTexts(a, b);
  const [left, right] = [sequenceOf(a), sequenceOf(b)];
  if (left && right && typeName(a) === typeName(b)) return compareItems(left, right, operator);
  if (a instanceof Undefined) throw new Error(a.problem);
  if (b instanceof Undefined) throw new Error(b.problem);
  const types = `'${typeName(a)}' and '${typeName(b)}'`;
  throw new Error(`'${operator}' not supported between instances of ${types}`);
}

function sequenceOf(value: Value): readonly Value[] | undefined {
  if (value instanceof Tuple) return value.items;
  return Array.isArray(value) ? value : undefined;
}

function compareItems(a: readonly Value[], b: readonly Value[], operator: string): number {
  for (const [i, item] of a.entries()) {
    if (i >= b.length) return 1;
    const other = b[i] as Value;
    if (!areEqual(item, other)) return compare(item, other, operator);
  }
  return a.length - b.length;
}

/** By code points, not by UTF-16 units. */
function compareTexts(a: string, b: string): number {
  if (!hasPairs(a) && !hasPairs(b)) return a < b ? -1 : Number(a > b);
  return compareItems(
    charsOf(a).map((char) => char.codePointAt(0) as number),
    charsOf(b).map((char) => char.codePointAt(0) as number),
    "<",
  );
}

/** Arguments by position or keyword, under the names of the parameters. */
export function bind<Name extends string>(
  what: string,
  names: readonly Name[],
  args: readonly Value[],
  named: Named = new Map(),
): Partial<Record<Name, Value>> {
  const bound: Partial<Record<Name, Value>> = {};
  if (args.length > names.length) {
    throw new Error(`${what} takes at most ${names.length} arguments, ${args.length} were given`);
  }
  args.forEach((value, i) => (bound[names[i] as Name] = value));
  for (const [name, value] of named) {
    const known = names.find((candidate) => candidate === name);
    if (known === undefined) throw new Error(`${what} got an unexpected keyword argument '${name}'`);
    bound[known] = value;
  }
  return bound;
}

/** @throws Error naming the argument */
export function intOf(value: Value | undefined, otherwise: number, what: string): number {
  if (value === undefined || value === null) return otherwise;
  if (typeof value === "number" || typeof value === "boolean") return Number(value);
  throw new Error(`${what} is a ${typeName(value)}, expected an int`);
}

/** @throws Error naming the argument */
export function textOf(value: Value | undefined, what: string): string {
  if (typeof value === "string") return value;
  if (value === undefined) throw new Error(`${what} is missing`);
  if (value instanceof Undefined) throw new Error(value.problem);
  throw new Error(`${what} is a ${typeName(value)}, expected a str`);
}
