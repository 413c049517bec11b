/**
 * Python's two ways to fill in a text: `"%s is %d" % values` and `"{} is {n:>4}".format(...)`. Types of numbers that no
 * template prints (`%e`, `%g`) are refused by name.
 */
import { checkChars } from "./bounds.ts";
import { floatText, repr, str } from "./print.ts";
import { Float, Tuple, charsOf, numberOf, typeName, unsupported } from "./values.ts";
import type { Named, Value } from "./values.ts";

/** How one value is to be printed. */
interface Spec {
  fill: string;
  /** "=": between sign and digits. */
  align: "<" | ">" | "^" | "=" | undefined;
  sign: string;
  alternate: boolean;
  width: number;
  /** The separator of thousands, if any. */
  thousands: string;
  precision: number | undefined;
  type: string;
}

const PERCENT =
  /%(?:\((?<key>[^)]*)\))?(?<flags>[-+ #0]*)(?<width>\d*)(?:\.(?<precision>\d+))?(?<type>.?)/gsu;

/** `template % values`: a tuple's items one by one, a dict's by key, anything else as the one value. */
export function percentFormat(template: string, values: Value): string {
  const items = values instanceof Tuple ? values.items : [values];
  let next = 0;
  const text = template.replace(PERCENT, (...match: unknown[]) => {
    const { key, flags = "", width, precision, type } = match.at(-1) as Record<string, string | undefined>;
    if (type === "%") return "%";
    if (type === undefined || type === "") throw new Error("incomplete format");
    const value = key === undefined ? items[next++] : fieldOf(values, key);
    if (value === undefined) throw new Error("not enough arguments for format string");
    const spec: Spec = {
      fill: flags.includes("0") ? "0" : " ",
      align: flags.includes("-") ? "<" : flags.includes("0") ? "=" : ">",
      sign: flags.includes("+") ? "+" : flags.includes(" ") ? " " : "-",
      alternate: flags.includes("#"),
      width: Number(width ?? 0),
      thousands: "",
      precision: precision === undefined ? undefined : Number(precision),
      type,
    };
    return percentField(value, spec);
  });
  if (next < items.length && !(values instanceof Map) && (values instanceof Tuple || next === 0)) {
    throw new Error("not all arguments converted during string formatting");
  }
  return text;
}

function fieldOf(values: Value, key: string): Value {
  if (!(values instanceof Map)) throw new Error("format requires a mapping");
  const value = values.get(key);
  if (value === undefined) throw new Error(`'${key}'`);
  return value;
}

function percentField(value: Value, spec: Spec): string {
  if (spec.type === "s" || spec.type === "r" || spec.type === "a") {
    const text = spec.type === "s" ? str(value) : repr(value);
    return padded(cut(text, spec.precision), { ...spec, fill: " " }, ">");
  }
  if (spec.type === "i" || spec.type === "u") return percentField(value, { ...spec, type: "d" });
  const number = numberOf(value);
  if (number === undefined)
    throw new Error(`%${spec.type} format: a real number is required, not ${typeName(value)}`);
  return numberText(spec.type === "d" ? Math.trunc(number) : number, spec);
}

const FIELD =
  /\{\{|\}\}|\{(?<name>[^{}!:]*)(?:!(?<conversion>[rsa]))?(?::(?<spec>(?:[^{}]|\{[^{}]*\})*))?\}|[{}]/gu;

/** `template.format(...args, **named)`. @param look reads an attribute or item of a value */
export function braceFormat(
  template: string,
  args: readonly Value[],
  named: Named,
  look: (value: Value, name: string, isItem: boolean) => Value,
): string {
  let next = 0;
  const find = (path: string): Value => {
    const [, root = "", rest = ""] = /^([^.[]*)(.*)$/su.exec(path) ?? [];
    const place = root === "" ? next++ : /^\d+$/.test(root) ? Number(root) : undefined;
    let value = place === undefined ? named.get(root) : args[place];
    if (value === undefined)
      throw new Error(place === undefined ? `'${root}'` : "Replacement index out of range");
    for (const [, attribute, item] of rest.matchAll(/\.([^.[]+)|\[([^\]]+)\]/gu)) {
      value = look(value, attribute ?? (item as string), attribute === undefined);
    }
    return value;
  };
  return template.replace(FIELD, (whole: string, ...match: unknown[]) => {
    if (whole === "{{" || whole === "}}") return whole.charAt(0);
    if (whole === "{" || whole === "}") throw new Error(`Single '${whole}' encountered in format string`);
    const { name = "", conversion, spec = "" } = match.at(-1) as Record<string, string | undefined>;
    const value = find(name);
    const filled = spec.replace(/\{([^{}]*)\}/gu, (_, path: string) => str(find(path)));
    return formatted(
      conversion === undefined ? value : conversion === "s" ? str(value) : repr(value),
      filled,
    );
  });
}

const SPEC =
  /^(?:(?<fill>.)?(?<align>[<>^=]))?(?<sign>[-+ ])?(?<alternate>#)?(?<zero>0)?(?<width>\d+)?(?<thousands>[,_])?(?:\.(?<precision>\d+))?(?<type>[a-zA-Z%])?$/su;

/** `format(value, spec)`. */
function formatted(value: Value, text: string): string {
  if (text === "") return str(value);
  const groups = SPEC.exec(text)?.groups as Record<string, string | undefined> | undefined;
  if (groups === undefined) throw new Error(`Invalid format specifier '${text}'`);
  const spec: Spec = {
    fill: groups["fill"] ?? (groups["zero"] === undefined ? " " : "0"),
    align: (groups["align"] ?? (groups["zero"] === undefined ? undefined : "=")) as Spec["align"],
    sign: groups["sign"] ?? "-",
    alternate: groups["alternate"] !== undefined,
    width: Number(groups["width"] ?? 0),
    thousands: groups["thousands"] ?? "",
    precision: groups["precision"] === undefined ? undefined : Number(groups["precision"]),
    type: groups["type"] ?? "",
  };
  const number = typeof value === "boolean" && spec.type === "" ? undefined : numberOf(value);
  if (number === undefined) {
    if (spec.type !== "" && spec.type !== "s") {
      throw new Error(`Unknown format code '${spec.type}' for object of type '${typeName(value)}'`);
    }
    return padded(cut(str(value), spec.precision), spec, "<");
  }
  if (spec.type !== "") return numberText(number, spec);
  if (value instanceof Float && spec.precision !== undefined)
    throw unsupported(`the format specifier "${text}"`);
  return signed(
    number < 0,
    group(value instanceof Float ? floatText(Math.abs(number)) : String(Math.abs(number)), spec),
    spec,
  );
}

/** Digits of a number by the specifier's type. */
function numberText(number: number, spec: Spec): string {
  const size = Math.abs(number);
  const isNegative = number < 0 || Object.is(number, -0);
  const bases: Readonly<Record<string, [number, string]>> = {
    x: [16, "0x"],
    X: [16, "0X"],
    o: [8, "0o"],
    b: [2, "0b"],
  };
  const base = bases[spec.type];
  if (base) {
    const digits = size.toString(base[0]);
    const mark = spec.alternate ? base[1] : "";
    return signed(number < 0, mark + (spec.type === "X" ? digits.toUpperCase() : digits), spec);
  }
  if (spec.type === "d" || spec.type === "n") return signed(number < 0, group(String(size), spec), spec);
  if (spec.type === "f" || spec.type === "F") {
    return signed(isNegative, group(fixed(size, spec.precision ?? 6), spec), spec);
  }
  if (spec.type === "%") return signed(isNegative, `${fixed(size * 100, spec.precision ?? 6)}%`, spec);
  if (spec.type === "c") return padded(String.fromCodePoint(number), spec, "<");
  throw unsupported(`the number format "${spec.type}"`);
}

function fixed(value: number, digits: number): string {
  if (digits > 100) throw unsupported(`a precision of ${digits} digits`);
  return value.toFixed(digits);
}

function group(digits: string, { thousands }: Spec): string {
  if (thousands === "") return digits;
  const [whole = "", ...rest] = digits.split(".");
  return [whole.replace(/\B(?=(?:\d{3})+$)/g, thousands), ...rest].join(".");
}

function signed(isNegative: boolean, digits: string, spec: Spec): string {
  const sign = isNegative ? "-" : spec.sign === "-" ? "" : spec.sign;
  if (spec.align !== "=") return padded(sign + digits, spec, ">");
  return sign + padded(digits, { ...spec, align: ">", width: spec.width - sign.length }, ">");
}

function cut(text: string, length: number | undefined): string {
  return length === undefined ? text : charsOf(text).slice(0, length).join("");
}

function padded(text: string, { fill, align, width }: Spec, otherwise: "<" | ">"): string {
  return pad(text, width, fill, align === undefined || align === "=" ? otherwise : align);
}

/** Text brought to a width. @throws TidepoolError `too_long` */
export function pad(text: string, width: number, fill: string, align: "<" | ">" | "^"): string {
  const missing = width - charsOf(text).length;
  if (missing <= 0) return text;
  checkChars(width);
  const before = align === "<" ? 0 : align === ">" ? missing : Math.floor(missing / 2);
  return fill.repeat(before) + text + fill.repeat(missing - before);
}
