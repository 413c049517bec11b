/**
 * Values as text, the way Python prints them: `str`, `repr` and `json.dumps`. A prompt differs from the one that a model was
 * trained on if None becomes "null" here or 1.0 becomes "1".
 */
import { Callable, Float, Namespace, Tuple, Undefined, compare, numberOf, typeName } from "./values.ts";
import type { Key, Value } from "./values.ts";

/** Python's `str()`. */
export function str(value: Value): string {
  if (typeof value === "string") return value;
  return value instanceof Undefined ? "" : repr(value);
}

/** Python's `repr()`. */
export function repr(value: Value): string {
  if (value === null) return "None";
  if (typeof value === "string") return quoted(value);
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "number") return intText(value);
  if (value instanceof Float) return floatText(value.value);
  if (value instanceof Undefined) return "Undefined";
  if (value instanceof Tuple) return tupleText(value.items);
  if (value instanceof Callable) return `<function ${value.name}>`;
  if (value instanceof Namespace) return `<Namespace ${dictText(value.fields)}>`;
  return Array.isArray(value) ? `[${value.map(repr).join(", ")}]` : dictText(value);
}

function tupleText(items: readonly Value[]): string {
  return items.length === 1 ? `(${repr(items[0] as Value)},)` : `(${items.map(repr).join(", ")})`;
}

function dictText(dict: ReadonlyMap<Key, Value>): string {
  return `{${[...dict].map(([key, value]) => `${repr(key)}: ${repr(value)}`).join(", ")}}`;
}

function intText(value: number): string {
  return Math.abs(value) >= 1e21 ? BigInt(value).toString() : String(value);
}

/** The shortest digits that give the number back: JavaScript's, in Python's notation. */
export function floatText(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (value === 0) return Object.is(value, -0) ? "-0.0" : "0.0";
  const [digits = "", power = "0"] = value.toExponential().split("e");
  const exponent = Number(power);
  if (exponent < -4 || exponent >= 16) {
    return `${digits}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  const text = String(value);
  return text.includes(".") ? text : `${text}.0`;
}

const ESCAPES: Readonly<Record<string, string>> = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/** A string literal; double quotes only around a text that holds a single quote and no double one. */
function quoted(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const inside = text.replace(/[\\'"\p{C}\p{Z}]/gu, (char) => {
    if (char === " ") return char;
    if (char === quote) return `\\${char}`;
    if (char === "'" || char === '"') return char;
    return ESCAPES[char] ?? escapedCode(char.codePointAt(0) as number);
  });
  return quote + inside + quote;
}

function escapedCode(code: number): string {
  const hex = code.toString(16);
  if (code < 0x100) return `\\x${hex.padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
}

export interface JsonStyle {
  indent?: string | undefined;
  /** Between items, and between a key and its value. */
  separators?: readonly [string, string] | undefined;
  ensureAscii?: boolean;
  sortKeys?: boolean;
}

/** Python's `json.dumps()`. */
export function json(value: Value, style: JsonStyle = {}, depth = 0): string {
  if (value === null) return "null";
  if (typeof value === "boolean") return String(value);
  if (typeof value === "string") return jsonText(value, style);
  if (value instanceof Float) return jsonFloat(value.value);
  if (typeof value === "number") return intText(value);
  if (Array.isArray(value) || value instanceof Tuple) {
    const items = Array.isArray(value) ? value : value.items;
    const parts = items.map((item) => json(item, style, depth + 1));
    return enclosed("[", parts, "]", style, depth);
  }
  if (value instanceof Map) return enclosed("{", jsonFields(value, style, depth), "}", style, depth);
  throw new Error(`Object of type ${typeName(value)} is not JSON serializable`);
}

function jsonFields(dict: ReadonlyMap<Key, Value>, style: JsonStyle, depth: number): string[] {
  const [, colon] = separatorsOf(style);
  const entries = [...dict];
  if (style.sortKeys === true) entries.sort(([a], [b]) => compare(a, b));
  return entries.map(([key, value]) => {
    const name = typeof key === "string" ? key : json(numberOf(key) === undefined ? null : key);
    return jsonText(name, style) + colon + json(value, style, depth + 1);
  });
}

function separatorsOf({ indent, separators }: JsonStyle): readonly [string, string] {
  return separators ?? (indent === undefined ? [", ", ": "] : [",", ": "]);
}

function enclosed(
  open: string,
  parts: readonly string[],
  close: string,
  style: JsonStyle,
  depth: number,
): string {
  const [comma] = separatorsOf(style);
  const { indent } = style;
  if (indent === undefined || parts.length === 0) return open + parts.join(comma) + close;
  const line = `\n${indent.repeat(depth + 1)}`;
  return `${open}${line}${parts.join(comma + line)}\n${indent.repeat(depth)}${close}`;
}

function jsonFloat(value: number): string {
  if (Number.isFinite(value)) return floatText(value);
  return Number.isNaN(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
}

function jsonText(text: string, { ensureAscii = false }: JsonStyle): string {
  const quotedText = JSON.stringify(text);
  if (!ensureAscii) return quotedText;
  return quotedText.replace(
    /[^ -~]/g,
    (char) => `\\u${(char.codePointAt(0) as number).toString(16).padStart(4, "0")}`,
  );
}
