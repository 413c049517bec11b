/** Python's operators on template values. What Python refuses ("a" + none, say) is refused here with Python's words. */
import { checkItems } from "./bounds.ts";
import { percentFormat } from "./format.ts";
import { str } from "./print.ts";
import { repeatText } from "./strings.ts";
import {
  Float,
  Tuple,
  Undefined,
  areEqual,
  compare,
  itemsIfAny,
  keyOf,
  numberOf,
  typeName,
} from "./values.ts";
import type { Value } from "./values.ts";

/** Any operator but `and` and `or`, which do not always look at their right side. */
export function applyBinary(operator: string, left: Value, right: Value): Value {
  switch (operator) {
    case "==":
      return areEqual(left, right);
    case "!=":
      return !areEqual(left, right);
    case "in":
      return isIn(left, right);
    case "not in":
      return !isIn(left, right);
    case "~":
      return str(left) + str(right);
    case "<":
      return compare(left, right, "<") < 0;
    case ">":
      return compare(left, right, ">") > 0;
    case "<=":
      return compare(left, right, "<=") <= 0;
    case ">=":
      return compare(left, right, ">=") >= 0;
    default:
      return calculate(operator, left, right);
  }
}

/** Python's `in`. */
export function isIn(item: Value, container: Value): boolean {
  if (container instanceof Map) return container.has(keyOf(item));
  if (typeof container === "string") {
    if (typeof item === "string") return container.includes(item);
    if (item instanceof Undefined) throw new Error(item.problem);
    throw new Error(`'in <string>' requires string as left operand, not ${typeName(item)}`);
  }
  const items = itemsIfAny(container);
  if (items === undefined) throw new Error(`argument of type '${typeName(container)}' is not iterable`);
  return items.some((candidate) => areEqual(candidate, item));
}

function calculate(operator: string, left: Value, right: Value): Value {
  if (left instanceof Undefined) throw new Error(left.problem);
  if (operator === "%" && typeof left === "string") return percentFormat(left, right);
  if (right instanceof Undefined) throw new Error(right.problem);
  const [a, b] = [numberOf(left), numberOf(right)];
  if (a !== undefined && b !== undefined) return arithmetic(operator, left, right);
  if (operator === "+") return joined(left, right) ?? refused(operator, left, right);
  if (operator === "*")
    return repeated(left, right) ?? repeated(right, left) ?? refused(operator, left, right);
  return refused(operator, left, right);
}

function joined(left: Value, right: Value): Value | undefined {
  if (typeof left === "string" && typeof right === "string") return left + right;
  if (Array.isArray(left) && Array.isArray(right)) return [...left, ...right];
  return left instanceof Tuple && right instanceof Tuple
    ? new Tuple([...left.items, ...right.items])
    : undefined;
}

function repeated(value: Value, times: Value): Value | undefined {
  if (typeof times !== "number" && typeof times !== "boolean") return undefined;
  if (typeof value === "string") return repeatText(value, times);
  if (!Array.isArray(value) && !(value instanceof Tuple)) return undefined;
  const items = Array.isArray(value) ? value : value.items;
  const count = Math.max(0, Number(times));
  checkItems(items.length * count);
  const all = Array.from({ length: count }, () => items).flat();
  return Array.isArray(value) ? all : new Tuple(all);
}

function refused(operator: string, left: Value, right: Value): never {
  if (operator === "+" && typeof left === "string") {
    throw new Error(`can only concatenate str (not "${typeName(right)}") to str`);
  }
  const types = `'${typeName(left)}' and '${typeName(right)}'`;
  throw new Error(`unsupported operand type(s) for ${operator}: ${types}`);
}

function arithmetic(operator: string, left: Value, right: Value): Value {
  const [a, b] = [numberOf(left) as number, numberOf(right) as number];
  const isFloat = left instanceof Float || right instanceof Float;
  if ((operator === "/" || operator === "//" || operator === "%") && b === 0)
    throw new Error("division by zero");
  const of = (value: number): Value => (isFloat ? new Float(value) : value);
  switch (operator) {
    case "+":
      return of(a + b);
    case "-":
      return of(a - b);
    case "*":
      return of(a * b);
    case "/":
      return new Float(a / b);
    case "//":
      return of(Math.floor(a / b));
    case "%":
      return of(a - b * Math.floor(a / b));
    case "**":
      return isFloat || b < 0 ? new Float(a ** b) : a ** b;
    default:
      throw new Error(`unknown operator ${operator}`);
  }
}

/** `-value` and `+value`. */
export function applySign(operator: string, value: Value): Value {
  const number = numberOf(value);
  if (value instanceof Undefined) throw new Error(value.problem);
  if (number === undefined) throw new Error(`bad operand type for unary ${operator}: '${typeName(value)}'`);
  const result = operator === "-" ? -number : number;
  return value instanceof Float ? new Float(result) : result === 0 ? 0 : result;
}
