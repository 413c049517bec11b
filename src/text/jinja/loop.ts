/** Jinja's `loop`: where a `for` is. Its fields are made when they are asked for, since most loops ask for one or none. */
import { Callable, Namespace, Tuple, areEqual } from "./values.ts";
import type { Value } from "./values.ts";

export class Loop extends Namespace {
  private readonly items: readonly Value[];
  private at = -1;
  private last: Value | undefined;

  constructor(items: readonly Value[]) {
    super();
    this.items = items;
  }

  /** Goes to the next item. */
  next(): this {
    this.at++;
    return this;
  }

  override get(name: string): Value | undefined {
    const { at, items } = this;
    const { length } = items;
    switch (name) {
      case "index":
        return at + 1;
      case "index0":
        return at;
      case "revindex":
        return length - at;
      case "revindex0":
        return length - at - 1;
      case "first":
        return at === 0;
      case "last":
        return at === length - 1;
      case "length":
        return length;
      // Only recursive loops are deeper.
      case "depth":
        return 1;
      case "depth0":
        return 0;
      case "previtem":
        return items[at - 1];
      case "nextitem":
        return items[at + 1];
      case "cycle":
        return new Callable(name, (args) => this.cycle(args));
      case "changed":
        return new Callable(name, (args) => this.changed(new Tuple(args)));
      default:
        return undefined;
    }
  }

  private cycle(args: readonly Value[]): Value {
    if (args.length === 0) throw new Error("no items for cycling given");
    return args[this.at % args.length] as Value;
  }

  private changed(value: Tuple): boolean {
    const { last } = this;
    this.last = value;
    return last === undefined || !areEqual(last, value);
  }
}
