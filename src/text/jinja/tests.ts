/** Jinja's tests: what may stand behind `is`, and behind `select`, `reject`, `selectattr` and `rejectattr`. */
import { isIn } from "./operators.ts";
import { str } from "./print.ts";
import {
  Callable,
  Float,
  Undefined,
  areEqual,
  compare,
  itemsIfAny,
  numberOf,
  typeName,
  unsupported,
} from "./values.ts";
import type { Value } from "./values.ts";

type Test = (value: Value, args: readonly Value[]) => boolean;

const isNumber: Test = (value) =>
  typeof value === "number" || typeof value === "boolean" || value instanceof Float;

const remainder = (value: Value, by: Value | undefined): number => {
  const [number, divisor] = [numberOf(value), numberOf(by)];
  if (number === undefined || divisor === undefined) {
    throw new Error(`unsupported operand type(s) for %: '${typeName(value)}' and '${typeName(by ?? null)}'`);
  }
  return ((number % divisor) + divisor) % divisor;
};

const compared = (operator: string, holds: (order: number) => boolean): Test => {
  return (value, [other = null]) => holds(compare(value, other, operator));
};

const equal: Test = (value, [other = null]) => areEqual(value, other);
const unequal: Test = (value, [other = null]) => !areEqual(value, other);
const greater = compared(">", (order) => order > 0);
const less = compared("<", (order) => order < 0);
const atLeast = compared(">=", (order) => order >= 0);
const atMost = compared("<=", (order) => order <= 0);

const TESTS: Readonly<Record<string, Test>> = {
  boolean: (value) => typeof value === "boolean",
  callable: (value) => value instanceof Callable,
  defined: (value) => !(value instanceof Undefined),
  divisibleby: (value, [by]) => remainder(value, by) === 0,
  escaped: () => false,
  even: (value) => remainder(value, 2) === 0,
  odd: (value) => remainder(value, 2) === 1,
  false: (value) => value === false,
  true: (value) => value === true,
  float: (value) => value instanceof Float,
  in: (value, [container = null]) => isIn(value, container),
  integer: (value) => typeof value === "number",
  iterable: (value) => itemsIfAny(value) !== undefined,
  lower: (value) => str(value) === str(value).toLowerCase() && str(value) !== str(value).toUpperCase(),
  upper: (value) => str(value) === str(value).toUpperCase() && str(value) !== str(value).toLowerCase(),
  mapping: (value) => value instanceof Map,
  none: (value) => value === null,
  number: isNumber,
  sameas: (value, [other = null]) => value === other,
  sequence: (value) => itemsIfAny(value) !== undefined,
  string: (value) => typeof value === "string",
  undefined: (value) => value instanceof Undefined,
  eq: equal,
  equalto: equal,
  "==": equal,
  ne: unequal,
  "!=": unequal,
  gt: greater,
  greaterthan: greater,
  ">": greater,
  lt: less,
  lessthan: less,
  "<": less,
  ge: atLeast,
  ">=": atLeast,
  le: atMost,
  "<=": atMost,
};

/** @throws TidepoolError `unsupported` naming the test */
export function applyTest(name: string, value: Value, args: readonly Value[]): boolean {
  const test = Object.hasOwn(TESTS, name) ? TESTS[name] : undefined;
  if (test === undefined) throw unsupported(`the test "${name}"`);
  return test(value, args);
}
