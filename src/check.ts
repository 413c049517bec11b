/**
 * Checks of what callers hand over: a rule for each kind of value, objects whose unknown names are refused, and one error
 * that names the option by its path, its value, and what was expected. It knows no option; wire/arguments.ts lists them.
 * Own code, because of a schema library's messages nothing would be left: path, value, expectation and nearest name are ours.
 */
import { TidepoolError } from "./errors.ts";

/** What a value must be to pass as a `T`. */
export interface Rule<in out T> {
  /** The rest of a sentence that begins with "expected". */
  readonly expected: string;
  /** The value as the engine takes it. @throws TidepoolError `invalid_argument` */
  read(value: unknown, path: string): T;
  /** Makes a rule's type exact: one for fewer values than `T` has is no rule for `T`. */
  readonly exactly?: (value: T) => T;
}

/** A rule for each property of `T`. */
export type Fields<T> = { [K in keyof T]-?: Rule<Exclude<T[K], undefined>> };

/** The properties that `T` cannot be without. */
export type Needed<T> = { [K in keyof T as undefined extends T[K] ? never : K]-?: true };

/** Characters of a value that an error shows. */
const MAX_SHOWN = 60;

/** Names that an error lists where none is near. */
const MAX_LISTED = 24;

/** Levels of a JSON value. */
const MAX_DEPTH = 32;

/** A rule by a test of the value. */
export function rule<T>(expected: string, isOne: (value: unknown) => boolean, isSecret = false): Rule<T> {
  return {
    expected,
    read(value, path) {
      if (isOne(value)) return value as T;
      throw badValue(path, isSecret ? secret(value) : shown(value), expected);
    },
  };
}

/** A whole number in a range. */
export function integer(min: number, max: number): Rule<number> {
  const isOne = (value: unknown) => Number.isInteger(value) && isWithin(value as number, min, max);
  return rule(`a whole number ${range(min, max)}`, isOne);
}

/** A finite number; `range` says in words what `isOne` allows. */
export function number(range: string, isOne: (value: number) => boolean): Rule<number> {
  return rule(`a number ${range}`, (value) => Number.isFinite(value) && isOne(value as number));
}

export const flag: Rule<boolean> = rule("true or false", (value) => typeof value === "boolean");

/** Text of a length in a range. */
export function text(min = 0, max = Infinity): Rule<string> {
  const lengths = max === Infinity ? "" : ` of at most ${max} characters`;
  return rule(`${min > 0 ? "a non-empty string" : "a string"}${lengths}`, (value) => isText(value, min, max));
}

/** Text that no error shows. */
export const secretText: Rule<string> = rule("a string", (value) => typeof value === "string", true);

/** One of some words. */
export function oneOf<T extends string>(words: Readonly<Record<T, true>>): Rule<T> {
  const listed = Object.keys(words).map((word) => JSON.stringify(word));
  return rule(inWords(listed), (value) => typeof value === "string" && Object.hasOwn(words, value));
}

/** One of some numbers. */
export function oneNumberOf<T extends number>(...numbers: readonly T[]): Rule<T> {
  return rule(inWords(numbers.map(String)), (value) => (numbers as readonly unknown[]).includes(value));
}

/** A function. */
export function callback<T extends (...given: never[]) => unknown>(): Rule<T> {
  return rule("a function", (value) => typeof value === "function");
}

/** By its methods: signals of other realms and of polyfills are signals. */
export const signal: Rule<AbortSignal> = rule("an AbortSignal", (value) => {
  if (typeof value !== "object" || value === null) return false;
  const { aborted, addEventListener } = value as Partial<AbortSignal>;
  return typeof aborted === "boolean" && typeof addEventListener === "function";
});

export const bytes: Rule<Uint8Array> = rule("a Uint8Array", (value) => value instanceof Uint8Array);

/** Whole numbers, in an array or in a typed one. */
export function integers(what: string, max = 2 ** 32 - 1): Rule<readonly number[]> {
  const expected = `${what}: an array of whole numbers ${range(0, max)}`;
  const isOne = (value: unknown): boolean => Number.isInteger(value) && isWithin(value as number, 0, max);
  return {
    expected,
    read(value, path) {
      const list = isTyped(value) ? Array.from(value as ArrayLike<number>) : value;
      if (!Array.isArray(list)) throw badValue(path, shown(value), expected);
      const at = list.findIndex((each) => !isOne(each));
      if (at < 0) return list as number[];
      throw badValue(`${path}[${at}]`, shown(list[at]), `a whole number ${range(0, max)}`);
    },
  };
}

/** An array of what one rule allows. */
export function list<T>(what: string, each: Rule<T>, min = 0, max = Infinity): Rule<readonly T[]> {
  const expected = `${min > 0 ? "a non-empty array" : "an array"} of ${max < Infinity ? `at most ${max} ` : ""}${what}`;
  return {
    expected,
    read(value, path) {
      if (!Array.isArray(value) || value.length < min || value.length > max)
        throw badValue(path, shown(value), expected);
      return Array.from(value, (item: unknown, index) => each.read(item, `${path}[${index}]`));
    },
  };
}

/** An array, or one value alone, which becomes an array of one. */
export function orOne<T>(each: Rule<T>, many: Rule<readonly T[]>): Rule<T | readonly T[]> {
  return {
    expected: `${each.expected}, or ${many.expected}`,
    read(value, path) {
      if (Array.isArray(value)) return many.read(value, path);
      if (typeof value === "object" || value === undefined) throw badValue(path, shown(value), this.expected);
      return [each.read(value, path)];
    },
  };
}

/** A string, or what `isOther` tells from one. */
export function stringOr<T>(
  expected: string,
  strings: Rule<string>,
  isOther: (value: unknown) => boolean,
  other: Rule<T>,
): Rule<string | T> {
  return {
    expected,
    read(value, path) {
      if (typeof value === "string") return strings.read(value, path);
      if (isOther(value)) return other.read(value, path);
      throw badValue(path, shown(value), expected);
    },
  };
}

/** An object of known names. Those that are undefined count as not given. */
export function object<T extends object>(
  what: string,
  fields: Fields<T>,
  ...[needed]: {} extends Needed<T> ? [] : [Needed<T>]
): Rule<T> {
  const names = Object.keys(fields);
  const expected = `an object with ${what}`;
  return {
    expected,
    read(value, path) {
      if (!isObject(value)) throw badValue(path, shown(value), expected);
      const given: Record<string, unknown> = {};
      // Inherited ones too: options that are made from defaults by Object.create are options.
      for (const name in value) {
        if (!Object.hasOwn(fields, name)) throw unknownName(join(path, name), name, names);
        const property = value[name];
        if (property !== undefined) given[name] = fields[name as keyof T].read(property, join(path, name));
      }
      for (const name in needed) {
        if (!(name in given)) throw badValue(join(path, name), "missing", fields[name].expected);
      }
      return given as T;
    },
  };
}

/** One of several kinds of objects, told apart by the word in one property. */
export function variants<T extends object, K extends keyof T & string>(
  key: K,
  kinds: { [W in T[K] & string]: Rule<Extract<T, Readonly<Record<K, W>>>> },
): Rule<T> {
  const expected = `an object whose ${key} is ${inWords(Object.keys(kinds).map((word) => JSON.stringify(word)))}`;
  return {
    expected,
    read(value, path) {
      if (!isObject(value)) throw badValue(path, shown(value), expected);
      const word = value[key];
      if (typeof word === "string" && Object.hasOwn(kinds, word))
        return (kinds as unknown as Record<string, Rule<T>>)[word]!.read(value, path);
      throw badValue(join(path, key), shown(word), inWords(Object.keys(kinds)));
    },
  };
}

/** A property that says which of several kinds its object is. */
export function word<T extends string>(only: T): Rule<T> {
  return rule(JSON.stringify(only), (value) => value === only);
}

/** An object whose names follow a pattern. */
export function map<T>(
  what: string,
  max: number,
  names: RegExp,
  each: Rule<T>,
): Rule<Readonly<Record<string, T>>> {
  const expected = `an object of ${what}`;
  return {
    expected,
    read(value, path) {
      if (!isObject(value)) throw badValue(path, shown(value), expected);
      const given = Object.entries(value);
      if (given.length > max) throw badValue(path, `an object of ${given.length} names`, expected);
      const bad = given.find(([name]) => !names.test(name));
      if (bad) throw badValue(path, `an object with the name ${shown(bad[0])}`, expected);
      return Object.fromEntries(given.map(([name, one]) => [name, each.read(one, join(path, name))]));
    },
  };
}

/** An object of JSON values under any names. */
export const json: Rule<Record<string, unknown>> = {
  expected: "an object of JSON values",
  read(value, path) {
    if (!isObject(value)) throw badValue(path, shown(value), json.expected);
    checkJson(value, path, 0);
    return value;
  },
};

/** @throws TidepoolError `invalid_argument`, always */
export function refuseValue(path: string, value: unknown, expected: string): never {
  throw badValue(path, shown(value), expected);
}

function checkJson(value: unknown, path: string, depth: number): void {
  if (value === null || value === undefined) return;
  // A `Number` object is a number too: one that is printed as a float.
  if (["string", "boolean", "number"].includes(typeof value) || value instanceof Number) return;
  if (depth > MAX_DEPTH) throw badValue(path, "nested too deeply", `at most ${MAX_DEPTH} levels`);
  if (Array.isArray(value)) value.forEach((each, index) => checkJson(each, `${path}[${index}]`, depth + 1));
  else if (isObject(value) && isPlain(value))
    for (const name of Object.keys(value)) checkJson(value[name], join(path, name), depth + 1);
  else throw badValue(path, shown(value), "a JSON value");
}

function isPlain(value: object): boolean {
  return Object.prototype.toString.call(value) === "[object Object]";
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** An array of numbers such as Int32Array. */
export function isTyped(value: unknown): boolean {
  return ArrayBuffer.isView(value) && !(value instanceof DataView);
}

function isText(value: unknown, min: number, max: number): boolean {
  return typeof value === "string" && isWithin(value.length, min, max);
}

function isWithin(value: number, min: number, max: number): boolean {
  return value >= min && value <= max;
}

function range(min: number, max: number): string {
  return max >= Number.MAX_SAFE_INTEGER ? `of ${min} or more` : `from ${min} to ${max}`;
}

function inWords(words: readonly string[]): string {
  if (words.length < 2) return words.join("");
  return `${words.slice(0, -1).join(", ")} or ${words.at(-1)}`;
}

function join(path: string, name: string): string {
  const last = shortened(name);
  return path === "" ? last : `${path}.${last}`;
}

/** A value in an error: short, and without what an object holds. */
function shown(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(shortened(value));
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "function") return "a function";
  if (typeof value === "symbol") return "a symbol";
  if (Array.isArray(value)) return shownArray(value);
  if (typeof value === "object" && value !== null) return shownObject(value);
  return String(value);
}

function shownArray(value: readonly unknown[]): string {
  const isShort = value.length < 8 && value.every((each) => typeof each !== "object" || each === null);
  return isShort ? shortened(`[${value.map(shown).join(", ")}]`) : `an array of ${value.length}`;
}

function shownObject(value: object): string {
  const kind = Object.prototype.toString.call(value).slice(8, -1);
  if (kind !== "Object") return /^[AEIO]/.test(kind) ? `an ${kind}` : `a ${kind}`;
  const names = Object.keys(value);
  return names.length === 0 ? "an object without properties" : shortened(`an object of ${names.join(", ")}`);
}

function secret(value: unknown): string {
  return typeof value === "object" ? shown(value) : `of type ${typeof value}`;
}

function shortened(text: string): string {
  return text.length <= MAX_SHOWN ? text : `${text.slice(0, MAX_SHOWN)}...`;
}

/** @param path empty: of the options themselves */
function badValue(path: string, value: string, expected: string): TidepoolError {
  const option = path === "" ? "options" : path;
  const message = `${option} is ${value}, expected ${expected}`;
  return new TidepoolError("invalid_argument", message, { option, value, expected });
}

function unknownName(path: string, name: string, names: readonly string[]): TidepoolError {
  const near = nearest(name, names);
  const listed = names.slice(0, MAX_LISTED).join(", ");
  const hint = near === undefined ? `expected one of ${listed}` : `did you mean ${near}?`;
  return new TidepoolError("invalid_argument", `${path} is not an option: ${hint}`, {
    option: path,
    ...(near !== undefined && { nearest: near }),
    known: names,
  });
}

/** The name that was meant, perhaps: the same but for case and hyphens, an abbreviation, or few letters away. */
export function nearest(name: string, names: readonly string[]): string | undefined {
  if (name.length > MAX_SHOWN) return undefined;
  const wanted = bare(name);
  const far = (each: string): number => {
    const known = bare(each);
    if (known === wanted) return -1;
    if (wanted.length > 2 && known.startsWith(wanted)) return 0;
    return distance(wanted, known) / Math.max(wanted.length, known.length);
  };
  const sorted = names.map((each) => ({ each, far: far(each) })).sort((a, b) => a.far - b.far);
  return sorted[0] && sorted[0].far <= MAX_DISTANCE ? sorted[0].each : undefined;
}

/** Share of the letters of two names that may differ. */
const MAX_DISTANCE = 0.4;

function bare(name: string): string {
  return name.toLowerCase().replace(/[^a-z0-9]/g, "");
}

/** Letters to put in, take out or change (Levenshtein). */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(change, (row[j] as number) + 1, (next[j - 1] as number) + 1));
    }
    row = next;
  }
  return row[b.length] as number;
}
