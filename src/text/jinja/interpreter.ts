/**
 * Runs a parsed chat template with Python's values and within bounds (bounds.ts), so that the text is the one that Python's
 * Jinja2 would render. It holds control flow, names and calls; what values do is in the files beside it.
 */
import { Budget, checkChars } from "./bounds.ts";
import { applyFilter } from "./filters.ts";
import { GLOBALS } from "./globals.ts";
import { TUPLE_FILTER } from "./literals.ts";
import { Loop } from "./loop.ts";
import { attributeOf, itemOf, sliceOf } from "./members.ts";
import { applyBinary, applySign } from "./operators.ts";
import { str } from "./print.ts";
import { NEGATED_PREFIX, TEST_PREFIX, type Node } from "./syntax.ts";
import { applyTest } from "./tests.ts";
import {
  Callable,
  Float,
  Namespace,
  Tuple,
  Undefined,
  fromPlain,
  itemsOf,
  keyOf,
  textOf,
  truthOf,
  typeName,
  unsupported,
} from "./values.ts";
import type { Key, Named, Value } from "./values.ts";

/** The names of one block: a template, a macro's body, one round of a loop. What is not here is looked for outside. */
class Scope {
  readonly names = new Map<string, Value>();
  private readonly outer: Scope | undefined;

  constructor(outer?: Scope) {
    this.outer = outer;
  }

  find(name: string): Value {
    for (let scope: Scope | undefined = this; scope !== undefined; scope = scope.outer) {
      const value = scope.names.get(name);
      if (value !== undefined) return value;
    }
    return new Undefined(`'${name}' is undefined`);
  }
}

/** The shapes that nodes have, by their types. */
interface Nodes {
  text: { value: string };
  number: { value: number };
  list: { value: Node[] };
  dict: { value: ReadonlyMap<Node, Node> };
  name: { value: string };
  member: { object: Node; property: Node; computed: boolean };
  slice: { start?: Node; stop?: Node; step?: Node };
  call: { callee: Node; args: Node[] };
  unary: { operator: { value: string }; argument: Node };
  binary: { operator: { value: string }; left: Node; right: Node };
  filter: { operand: Node; filter: Node };
  select: { lhs: Node; test: Node };
  ternary: { condition: Node; trueExpr: Node; falseExpr: Node };
  keyword: { key: { value: string }; value: Node };
  spread: { argument: Node };
  set: { assignee: Node; value: Node | null; body: Node[] };
  if: { test: Node; body: Node[]; alternate: Node[] };
  for: { loopvar: Node; iterable: Node; body: Node[]; defaultBlock: Node[] };
  macro: { name: { value: string }; args: Node[]; body: Node[] };
  callBlock: { call: Node; callerArgs: Node[] | null; body: Node[] };
  filterBlock: { filter: Node; body: Node[] };
}

const as = <Kind extends keyof Nodes>(_kind: Kind, node: Node): Nodes[Kind] => node as unknown as Nodes[Kind];

/** How a block ended: to its end, or by a `break` or `continue`. */
type Ending = undefined | "break" | "continue";

/** The text that a template makes of the values. @throws TidepoolError `timed_out`, `too_long` or `unsupported` */
export function runTemplate(body: readonly Node[], values: Readonly<Record<string, unknown>>): string {
  const globals = new Scope();
  for (const [name, value] of Object.entries(GLOBALS)) globals.names.set(name, value);
  const scope = new Scope(globals);
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined) scope.names.set(name, fromPlain(value));
  }
  return new Interpreter().text(body, scope);
}

class Interpreter {
  private readonly budget = new Budget();

  /** A block's text. */
  text(body: readonly Node[], scope: Scope): string {
    const out = new Output(this.budget);
    this.run(body, scope, out);
    return out.text;
  }

  private run(body: readonly Node[], scope: Scope, out: Output): Ending {
    for (const node of body) {
      this.budget.take(1);
      const ending = this.statement(node, scope, out);
      if (ending !== undefined) return ending;
    }
    return undefined;
  }

  private statement(node: Node, scope: Scope, out: Output): Ending {
    switch (node.type) {
      case "Comment":
        return undefined;
      case "Break":
        return "break";
      case "Continue":
        return "continue";
      case "Set":
        return this.set(as("set", node), scope);
      case "If": {
        const { test, body, alternate } = as("if", node);
        return this.run(truthOf(this.evaluate(test, scope)) ? body : alternate, scope, out);
      }
      case "For":
        return this.loop(as("for", node), scope, out);
      case "Macro":
        return this.macro(as("macro", node), scope);
      case "CallStatement":
        out.add(str(this.callBlock(as("callBlock", node), scope)));
        return undefined;
      case "FilterStatement": {
        const { filter, body } = as("filterBlock", node);
        out.add(str(this.filtered(this.text(body, new Scope(scope)), filter, scope)));
        return undefined;
      }
      default:
        out.add(str(this.evaluate(node, scope)));
        return undefined;
    }
  }

  private set({ assignee, value, body }: Nodes["set"], scope: Scope): undefined {
    const given = value === null ? this.text(body, new Scope(scope)) : this.evaluate(value, scope);
    if (assignee.type !== "MemberExpression") return assign(assignee, given, scope);
    const { object, property, computed } = as("member", assignee);
    const target = this.evaluate(object, scope);
    if (computed || !(target instanceof Namespace))
      throw new Error("cannot assign attribute on non-namespace object");
    target.fields.set(as("name", property).value, given);
    return undefined;
  }

  private loop(
    { loopvar, iterable, body, defaultBlock }: Nodes["for"],
    scope: Scope,
    out: Output,
  ): undefined {
    const rounds = this.rounds(loopvar, iterable, scope);
    if (rounds.length === 0) this.run(defaultBlock, new Scope(scope), out);
    const loop = new Loop(rounds);
    for (const item of rounds) {
      const round = new Scope(scope);
      round.names.set("loop", loop.next());
      assign(loopvar, item, round);
      if (this.run(body, round, out) === "break") break;
    }
    return undefined;
  }

  /** What a loop goes through: all items, or those that the condition behind `if` holds for. */
  private rounds(loopvar: Node, iterable: Node, scope: Scope): readonly Value[] {
    if (iterable.type !== "SelectExpression") return itemsOf(this.evaluate(iterable, scope));
    const { lhs, test } = as("select", iterable);
    return itemsOf(this.evaluate(lhs, scope)).filter((item) => {
      const round = new Scope(scope);
      assign(loopvar, item, round);
      return truthOf(this.evaluate(test, round));
    });
  }

  private macro({ name, args, body }: Nodes["macro"], scope: Scope): undefined {
    scope.names.set(name.value, this.macroOf(name.value, args, body, scope));
    return undefined;
  }

  private macroOf(name: string, parameters: readonly Node[], body: readonly Node[], scope: Scope): Callable {
    return new Callable(name, (args, named) => {
      const inner = new Scope(scope);
      this.bindParameters(parameters, args, named, inner);
      return this.text(body, inner);
    });
  }

  /** Any macro takes surplus arguments, as `varargs` and `kwargs`; Jinja refuses them in those that name neither. */
  private bindParameters(
    parameters: readonly Node[],
    args: readonly Value[],
    named: Named,
    scope: Scope,
  ): void {
    const rest = new Map(named);
    const defaults: [string, Node][] = [];
    for (const [i, parameter] of parameters.entries()) {
      const isKeyword = parameter.type === "KeywordArgumentExpression";
      const key = isKeyword ? as("keyword", parameter).key.value : as("name", parameter).value;
      const value = i < args.length ? args[i] : rest.get(key);
      if (value === undefined && isKeyword) defaults.push([key, as("keyword", parameter).value]);
      scope.names.set(
        key,
        value === undefined ? new Undefined(`parameter '${key}' was not provided`) : value,
      );
      rest.delete(key);
    }
    for (const [key, node] of defaults) scope.names.set(key, this.evaluate(node, scope));
    const caller = rest.get("caller");
    if (caller !== undefined) scope.names.set("caller", caller);
    rest.delete("caller");
    scope.names.set("varargs", new Tuple(args.slice(parameters.length)));
    scope.names.set("kwargs", new Map<Key, Value>(rest));
  }

  private callBlock({ call, callerArgs, body }: Nodes["callBlock"], scope: Scope): Value {
    const caller = this.macroOf("caller", callerArgs ?? [], body, scope);
    const { callee, args } = as("call", call);
    const { values, named } = this.arguments(args, scope);
    return this.invoke(this.evaluate(callee, scope), values, new Map([...named, ["caller", caller]]));
  }

  /** An expression's value; its size counts against the bounds if the node makes it. */
  private evaluate(node: Node, scope: Scope): Value {
    this.budget.take(1);
    const value = this.valueOf(node, scope);
    if (!MAKERS.has(node.type)) return value;
    if (typeof value === "string") {
      if (node.type !== "MemberExpression") this.budget.takeText(value.length);
    } else if (Array.isArray(value)) this.budget.takeItems(value.length);
    return value;
  }

  private valueOf(node: Node, scope: Scope): Value {
    switch (node.type) {
      case "StringLiteral":
        return as("text", node).value;
      case "IntegerLiteral":
        return as("number", node).value;
      case "FloatLiteral":
        return new Float(as("number", node).value);
      case "ArrayLiteral":
        return as("list", node).value.map((item) => this.evaluate(item, scope));
      case "TupleLiteral":
        return new Tuple(as("list", node).value.map((item) => this.evaluate(item, scope)));
      case "ObjectLiteral":
        return this.dict(as("dict", node).value, scope);
      case "Identifier":
        return scope.find(as("name", node).value);
      case "MemberExpression":
        return this.member(as("member", node), scope);
      case "CallExpression": {
        const { callee, args } = as("call", node);
        const target = this.evaluate(callee, scope);
        const { values, named } = this.arguments(args, scope);
        return this.invoke(target, values, named);
      }
      case "FilterExpression": {
        const { operand, filter } = as("filter", node);
        return this.filtered(this.evaluate(operand, scope), filter, scope);
      }
      case "UnaryExpression": {
        const { operator, argument } = as("unary", node);
        const value = this.evaluate(argument, scope);
        return operator.value === "not" ? !truthOf(value) : applySign(operator.value, value);
      }
      case "BinaryExpression":
        return this.binary(as("binary", node), scope);
      case "Ternary": {
        const { condition, trueExpr, falseExpr } = as("ternary", node);
        return this.evaluate(truthOf(this.evaluate(condition, scope)) ? trueExpr : falseExpr, scope);
      }
      case "SelectExpression": {
        const { lhs, test } = as("select", node);
        if (truthOf(this.evaluate(test, scope))) return this.evaluate(lhs, scope);
        return new Undefined("the inline if-expression evaluated to false and no else section was defined");
      }
      default:
        throw unsupported(`a node of type ${node.type}`);
    }
  }

  private dict(entries: ReadonlyMap<Node, Node>, scope: Scope): Value {
    const dict = new Map<Key, Value>();
    for (const [key, value] of entries) {
      dict.set(keyOf(this.evaluate(key, scope)), this.evaluate(value, scope));
    }
    return dict;
  }

  private member({ object, property, computed }: Nodes["member"], scope: Scope): Value {
    const value = this.evaluate(object, scope);
    if (property.type === "SliceExpression") {
      const { start, stop, step } = as("slice", property);
      const [from, to, by] = [start, stop, step].map((part) => (part ? this.evaluate(part, scope) : null));
      return sliceOf(value, from ?? null, to ?? null, by ?? null);
    }
    if (computed) return itemOf(value, this.evaluate(property, scope));
    if (property.type === "IntegerLiteral") return itemOf(value, as("number", property).value);
    return attributeOf(value, as("name", property).value);
  }

  private binary({ operator, left, right }: Nodes["binary"], scope: Scope): Value {
    const a = this.evaluate(left, scope);
    if (operator.value === "and") return truthOf(a) ? this.evaluate(right, scope) : a;
    if (operator.value === "or") return truthOf(a) ? a : this.evaluate(right, scope);
    return applyBinary(operator.value, a, this.evaluate(right, scope));
  }

  /** Applies the filter, or what syntax.ts and literals.ts have made a filter of. */
  private filtered(value: Value, filter: Node, scope: Scope): Value {
    const call = filter.type === "CallExpression" ? as("call", filter) : { callee: filter, args: [] };
    if (call.callee.type !== "Identifier") throw unsupported(`a filter that is a ${call.callee.type}`);
    const name = as("name", call.callee).value;
    const { values, named } = this.arguments(call.args, scope);
    if (name === TUPLE_FILTER) return new Tuple(itemsOf(value));
    if (name.startsWith(NEGATED_PREFIX)) return !applyTest(name.slice(NEGATED_PREFIX.length), value, values);
    if (name.startsWith(TEST_PREFIX)) return applyTest(name.slice(TEST_PREFIX.length), value, values);
    return applyFilter(name, value, values, named);
  }

  private arguments(nodes: readonly Node[], scope: Scope): { values: Value[]; named: Map<string, Value> } {
    const values: Value[] = [];
    const named = new Map<string, Value>();
    for (const node of nodes) {
      if (node.type === "KeywordArgumentExpression") {
        const { key, value } = as("keyword", node);
        named.set(key.value, this.evaluate(value, scope));
      } else if (node.type === "SpreadExpression") {
        for (const item of itemsOf(this.evaluate(as("spread", node).argument, scope))) values.push(item);
      } else if (node.type === "KeywordSpreadExpression") {
        this.spreadNamed(this.evaluate(as("spread", node).argument, scope), named);
      } else values.push(this.evaluate(node, scope));
    }
    return { values, named };
  }

  private spreadNamed(value: Value, named: Map<string, Value>): void {
    if (!(value instanceof Map))
      throw new Error(`argument after ** must be a mapping, not ${typeName(value)}`);
    for (const [key, item] of value) named.set(textOf(key, "a keyword"), item);
  }

  private invoke(target: Value, args: readonly Value[], named: Named): Value {
    if (target instanceof Undefined) throw new Error(target.problem);
    if (!(target instanceof Callable)) throw new Error(`'${typeName(target)}' object is not callable`);
    return target.call(args, named);
  }
}

/** Kinds of nodes that make new values; the others hand on what is there. A member that is a text was there before. */
const MAKERS: ReadonlySet<string> = new Set([
  "CallExpression",
  "FilterExpression",
  "BinaryExpression",
  "MemberExpression",
]);

/** The text of a block as it grows. */
class Output {
  text = "";
  private readonly budget: Budget;

  constructor(budget: Budget) {
    this.budget = budget;
  }

  add(piece: string): void {
    this.text += piece;
    this.budget.take(1);
    checkChars(this.text.length);
  }
}

/** Gives a name, or the names of a tuple, their values. */
function assign(target: Node, value: Value, scope: Scope): undefined {
  if (target.type === "Identifier") {
    scope.names.set(as("name", target).value, value);
    return undefined;
  }
  if (target.type !== "TupleLiteral") throw unsupported(`an assignment to a ${target.type}`);
  const targets = as("list", target).value;
  const items = itemsOf(value);
  if (items.length !== targets.length) {
    const problem = items.length < targets.length ? "not enough" : "too many";
    throw new Error(`${problem} values to unpack (expected ${targets.length}, got ${items.length})`);
  }
  for (const [i, inner] of targets.entries()) assign(inner, items[i] as Value, scope);
  return undefined;
}
