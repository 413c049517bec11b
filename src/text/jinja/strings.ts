/** Python's methods of `str` that templates call, and what filters share with them. */
import { checkChars } from "./bounds.ts";
import { braceFormat, pad } from "./format.ts";
import {
  Tuple,
  charsOf,
  intOf,
  itemsOf,
  bind,
  hasPairs,
  lengthOf,
  numberOf,
  textOf,
  typeName,
} from "./values.ts";
import type { Named, Value } from "./values.ts";

type Method = (text: string, args: readonly Value[], named: Named) => Value;

/** What Python takes for white space: not quite what JavaScript does. */
const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const LEADING = new RegExp(`^[${SPACE}]+`, "u");
const IS_SPACE = new RegExp(`^[${SPACE}]$`, "u");
const NOT_SPACE = new RegExp(`[^${SPACE}]+`, "gu");
const LINE_END = /\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/gu;

/** `str.strip`, `lstrip` and `rstrip`. @param chars the characters to take away; white space if missing */
export function strip(text: string, chars?: Value, sides: "both" | "left" | "right" = "both"): string {
  if (chars === undefined || chars === null) {
    const left = sides === "right" ? text : text.replace(LEADING, "");
    return sides === "left" ? left : trimEnd(left);
  }
  const set = new Set(charsOf(textOf(chars, "strip()'s argument")));
  const all = charsOf(text);
  let [start, end] = [0, all.length];
  while (sides !== "right" && start < end && set.has(all[start] as string)) start++;
  while (sides !== "left" && end > start && set.has(all[end - 1] as string)) end--;
  return all.slice(start, end).join("");
}

/** By hand: a regular expression for white space at the end takes quadratic time in the middle of a text of blanks. */
function trimEnd(text: string): string {
  let end = text.length;
  while (end > 0 && IS_SPACE.test(text.charAt(end - 1))) end--;
  return text.slice(0, end);
}

/** `str.splitlines`. */
export function splitLines(text: string, keepEnds = false): string[] {
  const lines: string[] = [];
  let at = 0;
  for (const { 0: end, index } of text.matchAll(LINE_END)) {
    lines.push(text.slice(at, keepEnds ? index + end.length : index));
    at = index + end.length;
  }
  if (at < text.length) lines.push(text.slice(at));
  return lines;
}

/** `str.capitalize`. */
export function capitalize(text: string): string {
  const [first = "", ...rest] = charsOf(text);
  return first.toUpperCase() + rest.join("").toLowerCase();
}

/** `str.replace`. */
export function replaceText(text: string, old: string, by: string, count = -1): string {
  if (count === 0) return text;
  const pieces = old === "" ? ["", ...charsOf(text), ""] : text.split(old);
  checkChars(text.length + (pieces.length - 1) * by.length);
  if (count < 0 || count >= pieces.length - 1) return pieces.join(by);
  return [...pieces.slice(0, count), pieces.slice(count).join(old)].join(by);
}

/** `str.split` and `rsplit`. */
function split(text: string, args: readonly Value[], named: Named, fromRight: boolean): string[] {
  const { sep, maxsplit } = bind("split()", ["sep", "maxsplit"], args, named);
  const most = intOf(maxsplit, -1, "maxsplit");
  if (sep === undefined || sep === null) return splitAtSpace(text, most, fromRight);
  const separator = textOf(sep, "sep");
  if (separator === "") throw new Error("empty separator");
  const parts = text.split(separator);
  const extra = most < 0 ? 0 : parts.length - 1 - most;
  if (extra <= 0) return parts;
  return fromRight
    ? [parts.slice(0, extra + 1).join(separator), ...parts.slice(extra + 1)]
    : [...parts.slice(0, most), parts.slice(most).join(separator)];
}

function splitAtSpace(text: string, most: number, fromRight: boolean): string[] {
  const words = [...text.matchAll(NOT_SPACE)];
  if (most < 0 || words.length <= most + 1) return words.map(([word]) => word);
  if (fromRight) {
    const kept = words.slice(words.length - most);
    const end = most === 0 ? text.length : (kept[0] as RegExpExecArray).index;
    return [strip(text.slice(0, end)), ...kept.map(([word]) => word)];
  }
  const rest = strip(text.slice((words[most] as RegExpExecArray).index), undefined, "left");
  return [...words.slice(0, most).map(([word]) => word), rest];
}

function partition(text: string, separator: Value | undefined, fromRight: boolean): Tuple {
  const sep = textOf(separator, "partition()'s separator");
  if (sep === "") throw new Error("empty separator");
  const at = fromRight ? text.lastIndexOf(sep) : text.indexOf(sep);
  if (at < 0) return new Tuple(fromRight ? ["", "", text] : [text, "", ""]);
  return new Tuple([text.slice(0, at), sep, text.slice(at + sep.length)]);
}

function startsOrEnds(name: "startsWith" | "endsWith"): Method {
  return (text, [wanted, start, end]) => {
    const part = within(text, start, end);
    const all = wanted instanceof Tuple ? wanted.items : [wanted];
    return all.some((item) => part[name](textOf(item, `${name.toLowerCase()}()'s argument`)));
  };
}

/** The text between two positions, counted in code points. */
function within(text: string, start: Value | undefined, end: Value | undefined): string {
  if (start === undefined && end === undefined) return text;
  const chars = charsOf(text);
  return chars.slice(intOf(start, 0, "start"), intOf(end, chars.length, "end")).join("");
}

function indexIn(find: "indexOf" | "lastIndexOf", mustExist: boolean): Method {
  return (text, [wanted, start, end]) => {
    const chars = charsOf(text);
    const from = intOf(start, 0, "start");
    const part = within(text, start, end);
    const at = part[find](textOf(wanted, "the text to find"));
    if (at < 0 && mustExist) throw new Error("substring not found");
    return at < 0 ? -1 : lengthOf(part.slice(0, at)) + (from < 0 ? Math.max(0, chars.length + from) : from);
  };
}

function isAll(pattern: RegExp): Method {
  return (text) => text !== "" && pattern.test(text);
}

function aligned(align: "<" | ">"): Method {
  return (text, [width, fill]) =>
    pad(text, intOf(width, 0, "width"), fill === undefined ? " " : textOf(fill, "fillchar"), align);
}

function zeroFilled(text: string, width: number): string {
  const sign = /^[-+]/.exec(text)?.[0] ?? "";
  return sign + pad(text.slice(sign.length), width - sign.length, "0", ">");
}

const IS_CASED = /[\p{Lu}\p{Ll}\p{Lt}]/u;

/** `str.join`. */
function joined(separator: string, values: Value): string {
  const items = itemsOf(values).map((item, i) => {
    if (typeof item === "string") return item;
    throw new Error(`sequence item ${i}: expected str instance, ${typeName(item)} found`);
  });
  return items.join(separator);
}

function countOf(text: string, wanted: string): number {
  return wanted === "" ? lengthOf(text) + 1 : text.split(wanted).length - 1;
}

/** Methods by name. @param look reads an attribute or item of a value, for `format` */
export function stringMethods(
  look: (value: Value, name: string, isItem: boolean) => Value,
): Readonly<Record<string, Method>> {
  return {
    upper: (text) => text.toUpperCase(),
    lower: (text) => text.toLowerCase(),
    casefold: (text) => text.toLowerCase().replaceAll("ß", "ss"),
    swapcase: (text) =>
      charsOf(text)
        .map((char) => (char === char.toUpperCase() ? char.toLowerCase() : char.toUpperCase()))
        .join(""),
    title: (text) => text.replace(/\p{L}+/gu, capitalize),
    capitalize: (text) => capitalize(text),
    strip: (text, [chars]) => strip(text, chars),
    lstrip: (text, [chars]) => strip(text, chars, "left"),
    rstrip: (text, [chars]) => strip(text, chars, "right"),
    startswith: startsOrEnds("startsWith"),
    endswith: startsOrEnds("endsWith"),
    removeprefix: (text, [prefix]) => {
      const start = textOf(prefix, "removeprefix()'s argument");
      return text.startsWith(start) ? text.slice(start.length) : text;
    },
    removesuffix: (text, [suffix]) => {
      const end = textOf(suffix, "removesuffix()'s argument");
      return end !== "" && text.endsWith(end) ? text.slice(0, -end.length) : text;
    },
    split: (text, args, named) => split(text, args, named, false),
    rsplit: (text, args, named) => split(text, args, named, true),
    splitlines: (text, args, named) =>
      splitLines(text, bind("splitlines()", ["keepends"], args, named).keepends === true),
    partition: (text, [separator]) => partition(text, separator, false),
    rpartition: (text, [separator]) => partition(text, separator, true),
    replace: (text, args, named) => {
      const { old, new: by, count } = bind("replace()", ["old", "new", "count"], args, named);
      return replaceText(text, textOf(old, "old"), textOf(by, "new"), intOf(count, -1, "count"));
    },
    join: (text, [values = []]) => joined(text, values),
    find: indexIn("indexOf", false),
    rfind: indexIn("lastIndexOf", false),
    index: indexIn("indexOf", true),
    rindex: indexIn("lastIndexOf", true),
    count: (text, [wanted, start, end]) =>
      countOf(within(text, start, end), textOf(wanted, "count()'s argument")),
    format: (text, args, named) => braceFormat(text, args, named, look),
    isdigit: isAll(/^[\p{Nd}\u00b2\u00b3\u00b9]+$/u),
    isdecimal: isAll(/^\p{Nd}+$/u),
    isnumeric: isAll(/^\p{N}+$/u),
    isalpha: isAll(/^\p{L}+$/u),
    isalnum: isAll(/^[\p{L}\p{N}]+$/u),
    isspace: isAll(new RegExp(`^[${SPACE}]+$`, "u")),
    isupper: (text) => IS_CASED.test(text) && text === text.toUpperCase(),
    islower: (text) => IS_CASED.test(text) && text === text.toLowerCase(),
    isascii: (text) => /^[\x00-\x7f]*$/.test(text),
    zfill: (text, [width]) => zeroFilled(text, intOf(width, 0, "width")),
    // Unlike `format`, it puts an odd space before a text if the width is odd.
    center: (text, [width, fill = " "]) => {
      const [size, char] = [intOf(width, 0, "width"), textOf(fill, "fillchar")];
      const missing = Math.max(0, size - lengthOf(text));
      const before = Math.floor(missing / 2) + (missing & size & 1);
      return pad(pad(text, lengthOf(text) + before, char, ">"), size, char, "<");
    },
    ljust: aligned("<"),
    rjust: aligned(">"),
  };
}

/** `text * times`. @throws TidepoolError `too_long` */
export function repeatText(text: string, times: Value): string {
  const count = Math.max(0, numberOf(times) ?? 0);
  checkChars(text.length * count);
  return text.repeat(count);
}

/** A text's characters, without making a list of them where positions are UTF-16 units anyway. */
export function charAt(text: string, index: number): string | undefined {
  if (!hasPairs(text)) return text.at(index);
  return charsOf(text).at(index);
}
