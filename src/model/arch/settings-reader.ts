/**
 * Reads a model's settings by name: checks each value against a bound, complains by name, and remembers every name that was
 * asked for. What is left over can then be told from what was understood. It does not know what settings mean.
 */
import { TidepoolError } from "../../errors.ts";

/** Settings by key: GGUF metadata, or a config.json with nested objects flattened. Integers may arrive as bigint. */
export type Settings = ReadonlyMap<string, unknown>;

export class Reader {
  /** Every key asked for, present or not. */
  readonly asked = new Set<string>();
  private readonly settings: Settings;
  private readonly where: string;
  /** Put before every key. */
  private readonly prefix: string;
  private readonly defaults: Readonly<Record<string, unknown>>;

  /**
   * @param where names the settings in errors
   * @param prefix put before every key, such as "llama."
   * @param defaults values of keys that are absent
   */
  constructor(
    settings: Settings,
    where: string,
    prefix = "",
    defaults: Readonly<Record<string, unknown>> = {},
  ) {
    this.settings = settings;
    this.where = where;
    this.prefix = prefix;
    this.defaults = defaults;
  }

  /** The keys of the settings that nobody asked for. */
  unread(): string[] {
    return [...this.settings.keys()].filter((key) => !this.asked.has(key));
  }

  /** The raw value; undefined if the key is absent. */
  value(name: string): unknown {
    const key = this.prefix + name;
    this.asked.add(key);
    return this.settings.has(key) ? this.settings.get(key) : this.defaults[name];
  }

  optional(name: string): number | undefined {
    const value = this.value(name);
    if (value === undefined || value === null) return undefined;
    const number = typeof value === "bigint" ? Number(value) : value;
    if (typeof number !== "number" || !Number.isFinite(number)) throw this.bad(name, value, "a number");
    return number;
  }

  integer(name: string, max: number, fallback?: number, min = 1): number {
    const value = this.optional(name) ?? fallback;
    if (value === undefined) throw this.missing(name);
    if (!Number.isInteger(value) || value < min || value > max)
      throw this.bad(name, value, `an integer from ${min} to ${max}`);
    return value;
  }

  positive(name: string, fallback?: number): number {
    const value = this.optional(name) ?? fallback;
    if (value === undefined) throw this.missing(name);
    if (!(value > 0)) throw this.bad(name, value, "a positive number");
    return value;
  }

  /** A number of which 0 means none. */
  positiveOrZero(name: string, fallback = 0): number {
    const value = this.optional(name) ?? fallback;
    if (value < 0) throw this.bad(name, value, "a positive number, or 0 for none");
    return value;
  }

  flag(name: string, fallback: boolean): boolean {
    const value = this.value(name) ?? fallback;
    if (typeof value !== "boolean") throw this.bad(name, value, "true or false");
    return value;
  }

  text(name: string): string | undefined {
    const value = this.value(name) ?? undefined;
    if (value !== undefined && typeof value !== "string") throw this.bad(name, value, "a string");
    return value;
  }

  /** A number from 0 on for all layers, or a list with one a layer: 0 where a layer has no such part. */
  perLayer(name: string, layers: number, max: number, fallback?: readonly number[]): number[] {
    const listed = this.list(name, layers);
    if (!listed) return this.sameForAll(name, layers, max, fallback);
    return listed.map((entry) => {
      const number = Number(entry);
      if (!Number.isInteger(number) || number < 0 || number > max)
        throw this.bad(name, entry, `integers from 0 to ${max}`);
      return number;
    });
  }

  private sameForAll(name: string, layers: number, max: number, fallback?: readonly number[]): number[] {
    if (this.optional(name) === undefined && fallback) return [...fallback];
    return Array<number>(layers).fill(this.integer(name, max, undefined, 0));
  }

  /** A list of true and false (or 1 and 0), one a layer; undefined if the value is absent or no list. */
  flags(name: string, layers: number): boolean[] | undefined {
    return this.list(name, layers)?.map((entry) => {
      if (entry !== true && entry !== false && entry !== 0 && entry !== 1)
        throw this.bad(name, entry, "true or false for each layer");
      return Boolean(entry);
    });
  }

  /** A number for all layers, or a list with one a layer. */
  numbers(name: string, layers: number): number[] {
    const listed = this.list(name, layers) ?? Array<unknown>(layers).fill(this.optional(name));
    return listed.map((entry) => {
      if (entry === undefined) throw this.missing(name);
      if (typeof entry !== "number" || !Number.isFinite(entry))
        throw this.bad(name, entry, "a number for each layer");
      return entry;
    });
  }

  /** The first `layers` entries of a list; undefined if the value is absent or no list. */
  list(name: string, layers: number): unknown[] | undefined {
    const value = listOf(this.value(name));
    if (value && value.length < layers)
      throw this.bad(name, `a list of ${value.length}`, `one entry for each of ${layers} layers`);
    return value?.slice(0, layers);
  }

  /** A list of exactly so many positive numbers. */
  positives(name: string, count: number): number[] {
    const list = listOf(this.value(name)) ?? [];
    const isGood = (entry: unknown) => typeof entry === "number" && entry > 0 && Number.isFinite(entry);
    if (list.length === count && list.every(isGood)) return list as number[];
    throw this.bad(name, this.value(name), `a list of ${count} positive numbers`);
  }

  bad(name: string, value: unknown, expected: string): TidepoolError {
    const key = this.prefix + name;
    return new TidepoolError(
      "invalid_file",
      `${this.where}: ${key} is ${shown(value)}, expected ${expected}`,
      {
        key,
      },
    );
  }

  /** A value that is valid but that no code here computes with. */
  unsupported(name: string, value: unknown, expected: string): TidepoolError {
    const key = this.prefix + name;
    return new TidepoolError(
      "unsupported",
      `${this.where}: ${key} ${shown(value)} does not run here, only ${expected}`,
      { key },
    );
  }

  private missing(name: string): TidepoolError {
    const key = this.prefix + name;
    return new TidepoolError("invalid_file", `${this.where}: ${key} is missing`, { key });
  }
}

const SHOWN_CHARS = 80;

/** A value in an error message. */
export function shown(value: unknown): string {
  const text =
    typeof value === "object" && value !== null && !ArrayBuffer.isView(value)
      ? JSON.stringify(value)
      : String(value);
  return text.length > SHOWN_CHARS ? `${text.slice(0, SHOWN_CHARS)}...` : text;
}

/** A list as an array; GGUF's lists of numbers may be typed arrays. */
function listOf(value: unknown): unknown[] | undefined {
  if (Array.isArray(value)) return value;
  return ArrayBuffer.isView(value) ? Array.from(value as Int32Array) : undefined;
}
