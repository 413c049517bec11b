/**
 * Model files with something wrong in them, made from whole ones by a seed: bits and bytes changed, cut short, and, by a walk
 * through the header, lengths, counts, types, dimensions and offsets set to what hurts; JSON files likewise by value.
 * A mutant is a function of (seed, number), so that one can be made again alone.
 */
import { Random } from "../../src/base.ts";
import type { Files } from "./load-target.ts";

export interface Mutant {
  files: Files;
  /** What was done, for a report. */
  what: string;
}

/** Mutant `number` of the models. Each mutation kind is as likely as the others; some mutants get several. */
export function mutantOf(models: readonly Files[], seed: number, number: number): Mutant {
  const random = new Random((seed ^ Math.imul(number + 1, 0x9e3779b1)) >>> 0);
  const files: Record<string, Uint8Array> = { ...random.pick(models) };
  const done: string[] = [];
  for (let left = random.below(4) === 0 ? 3 : 1; left > 0; left--) {
    const name = random.pick(Object.keys(files));
    const { bytes, what } = mutateFile(name, files[name] as Uint8Array, random);
    files[name] = bytes;
    done.push(`${name}: ${what}`);
  }
  if (random.below(40) === 0 && Object.keys(files).length > 1) {
    const name = random.pick(Object.keys(files));
    delete files[name];
    done.push(`${name} removed`);
  }
  return { files, what: done.join("; ") };
}

interface Mutated {
  bytes: Uint8Array;
  what: string;
}

type Mutate = (bytes: Uint8Array, random: Random) => Mutated;

function mutateFile(name: string, bytes: Uint8Array, random: Random): Mutated {
  const own: readonly Mutate[] = name.endsWith(".gguf")
    ? [ggufField, ggufField, ggufField, ggufField, ggufValue, ggufValue]
    : name.endsWith(".safetensors")
      ? [safetensorsHeader, safetensorsHeader, safetensorsHeader, safetensorsLength]
      : name.endsWith(".json")
        ? [jsonFile, jsonFile, jsonFile, jsonFile]
        : [];
  return random.pick([flipBits, byteRun, truncate, ...own])(bytes, random);
}

/** The front of a file is where the structure is: three of four places lie there. */
function place(bytes: Uint8Array, random: Random): number {
  const front = Math.min(bytes.length, 64 * 1024);
  return random.below(4) === 0 ? random.below(bytes.length) : random.below(front);
}

function flipBits(bytes: Uint8Array, random: Random): Mutated {
  if (bytes.length === 0) return { bytes, what: "empty" };
  const copy = bytes.slice();
  const count = 1 + random.below(8);
  for (let i = 0; i < count; i++) {
    const at = place(copy, random);
    copy[at] = (copy[at] as number) ^ (1 << random.below(8));
  }
  return { bytes: copy, what: `${count} bits flipped` };
}

function byteRun(bytes: Uint8Array, random: Random): Mutated {
  if (bytes.length === 0) return { bytes, what: "empty" };
  const copy = bytes.slice();
  const at = place(copy, random);
  const length = Math.min(copy.length - at, 1 + random.below(32));
  const kind = random.below(3);
  for (let i = at; i < at + length; i++) copy[i] = kind === 0 ? 0 : kind === 1 ? 0xff : random.below(256);
  return { bytes: copy, what: `${length} bytes at ${at} overwritten` };
}

function truncate(bytes: Uint8Array, random: Random): Mutated {
  const length = random.below(2) === 0 ? place(bytes, random) : random.below(bytes.length + 1);
  return { bytes: bytes.slice(0, length), what: `cut to ${length} bytes` };
}

const HOSTILE_INTEGERS: readonly bigint[] = [
  ...[0n, 1n, 2n, 3n, 7n, 31n, 63n, 64n, 255n, 256n, 65_535n, 65_536n],
  ...[2n ** 20n, 2n ** 24n, 2n ** 30n, 2n ** 31n - 1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 32n],
  ...[2n ** 40n, 2n ** 53n - 1n, 2n ** 53n, 2n ** 62n, 2n ** 63n - 1n, 2n ** 63n, 2n ** 64n - 1n],
];

/** An integer of a GGUF header that says how the rest is to be read. */
interface Field {
  what: string;
  at: number;
  bytes: 4 | 8;
}

interface Walk {
  fields: Field[];
  /** Scalar values of metadata. */
  values: { what: string; at: number; bytes: number }[];
}

/** By the bytes of the whole file it was made for: the walk is the same for all its mutants. */
const walks = new WeakMap<Uint8Array, Walk>();

function walkOf(bytes: Uint8Array): Walk | undefined {
  let walk = walks.get(bytes);
  if (walk) return walk;
  try {
    walk = walkGguf(bytes);
    walks.set(bytes, walk);
    return walk;
  } catch {
    return undefined; // a mutant of a mutant
  }
}

function ggufField(bytes: Uint8Array, random: Random): Mutated {
  const walk = walkOf(bytes);
  if (!walk || walk.fields.length === 0) return flipBits(bytes, random);
  // Fields of the directory and of short keys are as likely as the lengths of a thousand tokens.
  const field = random.pick(walk.fields);
  const copy = bytes.slice();
  const view = new DataView(copy.buffer);
  const old = field.bytes === 8 ? view.getBigUint64(field.at, true) : BigInt(view.getUint32(field.at, true));
  const value = field.what === "type" ? BigInt(random.below(45)) : integerNear(old, random);
  if (field.bytes === 8) view.setBigUint64(field.at, BigInt.asUintN(64, value), true);
  else view.setUint32(field.at, Number(BigInt.asUintN(32, value)), true);
  return { bytes: copy, what: `${field.what} at ${field.at}: ${old} -> ${value}` };
}

function integerNear(old: bigint, random: Random): bigint {
  const kind = random.below(4);
  if (kind === 0) return old + BigInt(random.below(7) - 3);
  if (kind === 1) return old * BigInt(1 + random.below(5));
  return random.pick(HOSTILE_INTEGERS);
}

function ggufValue(bytes: Uint8Array, random: Random): Mutated {
  const walk = walkOf(bytes);
  if (!walk || walk.values.length === 0) return flipBits(bytes, random);
  const value = random.pick(walk.values);
  const copy = bytes.slice();
  const view = new DataView(copy.buffer);
  const integer = random.pick(HOSTILE_INTEGERS);
  const float = random.pick([0, -1, 1e-30, 1e30, NaN, Infinity, -Infinity]);
  if (value.bytes === 8) view.setBigUint64(value.at, integer, true);
  else if (value.bytes === 4 && random.below(2) === 0) view.setFloat32(value.at, float, true);
  else if (value.bytes === 4) view.setUint32(value.at, Number(BigInt.asUintN(32, integer)), true);
  else copy[value.at] = Number(integer & 255n);
  return { bytes: copy, what: `value of ${value.what} at ${value.at}` };
}

const FIXED_BYTES: readonly number[] = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];

/** Where the integers of a GGUF header stand. Strings of arrays are visited by sample, since vocabularies are long. */
function walkGguf(bytes: Uint8Array): Walk {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const walk: Walk = { fields: [], values: [] };
  let at = 4;
  const u32 = (what: string): number => {
    walk.fields.push({ what, at, bytes: 4 });
    at += 4;
    return view.getUint32(at - 4, true);
  };
  const u64 = (what: string, isKept = true): number => {
    if (isKept) walk.fields.push({ what, at, bytes: 8 });
    at += 8;
    return Number(view.getBigUint64(at - 8, true));
  };
  const fixedBytes = (type: number): number => {
    const size = FIXED_BYTES[type] ?? 0;
    if (size === 0 || at > bytes.length) throw new Error("the walk lost its way");
    return size;
  };
  const string = (what: string, isKept = true): string => {
    const length = u64(what, isKept);
    at += length;
    return new TextDecoder().decode(bytes.subarray(at - length, at));
  };
  u32("version");
  const tensors = u64("tensor count");
  const keys = u64("key count");
  for (let i = 0; i < keys; i++) {
    const key = string("key length");
    const type = u32("type");
    if (type === 8) string("string length");
    else if (type !== 9) {
      const size = fixedBytes(type);
      walk.values.push({ what: key, at, bytes: size });
      at += size;
    } else {
      const itemType = u32("type");
      const count = u64("array length");
      for (let item = 0; item < count; item++) {
        const isKept = item < 2 || item === count - 1;
        if (itemType === 8) string("item length", isKept);
        else {
          const size = fixedBytes(itemType);
          if (isKept) walk.values.push({ what: `${key}[${item}]`, at, bytes: size });
          at += size;
        }
      }
    }
  }
  for (let i = 0; i < tensors; i++) {
    string("name length");
    const dimensions = u32("dimensions");
    for (let d = 0; d < dimensions; d++) u64("dimension");
    u32("type");
    u64("offset");
  }
  return walk;
}

function safetensorsLength(bytes: Uint8Array, random: Random): Mutated {
  if (bytes.length < 8) return { bytes, what: "too short" };
  const copy = bytes.slice();
  const view = new DataView(copy.buffer);
  const value = integerNear(view.getBigUint64(0, true), random);
  view.setBigUint64(0, BigInt.asUintN(64, value), true);
  return { bytes: copy, what: `header length ${value}` };
}

function safetensorsHeader(bytes: Uint8Array, random: Random): Mutated {
  if (bytes.length < 8) return { bytes, what: "too short" };
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  if (length > bytes.length - 8) return flipBits(bytes, random);
  const { text, what } = mutateJson(new TextDecoder().decode(bytes.subarray(8, 8 + length)), random);
  const header = new TextEncoder().encode(text);
  const out = new Uint8Array(8 + header.length + bytes.length - 8 - length);
  new DataView(out.buffer).setBigUint64(0, BigInt(header.length), true);
  out.set(header, 8);
  out.set(bytes.subarray(8 + length), 8 + header.length);
  return { bytes: out, what };
}

function jsonFile(bytes: Uint8Array, random: Random): Mutated {
  const { text, what } = mutateJson(new TextDecoder().decode(bytes), random);
  return { bytes: new TextEncoder().encode(text), what };
}

type Box = Record<string, unknown>;

function mutateJson(text: string, random: Random): { text: string; what: string } {
  try {
    return mutateValue(text, random);
  } catch (error) {
    // A mutant of a mutant may be nested deeper than can be written again: it is hostile enough.
    if (error instanceof RangeError) return { text, what: "too deep to change" };
    throw error;
  }
}

function mutateValue(text: string, random: Random): { text: string; what: string } {
  let root: unknown;
  try {
    root = JSON.parse(text);
  } catch {
    return { text: text.slice(0, random.below(text.length + 1)), what: "cut JSON" };
  }
  if (typeof root !== "object" || root === null) return { text: "[[", what: "broken JSON" };
  const { box, key, path } = randomPlace(root as Box, random);
  const old = JSON.stringify(box[key])?.slice(0, 30);
  switch (random.below(6)) {
    case 0:
      delete box[key];
      return { text: JSON.stringify(root), what: `${path} removed` };
    case 1:
      box[`${key}${random.below(10)}`] = box[key];
      return { text: JSON.stringify(root), what: `${path} under another name, too` };
    case 2:
      box[key] = structuredClone(randomPlace(root as Box, random).box);
      return { text: JSON.stringify(root), what: `${path} from elsewhere` };
    default: {
      const value = hostileValue(box[key], random);
      box[key] = value.json === undefined ? value.value : "\u0000RAW";
      const out = JSON.stringify(root);
      const raw = value.json === undefined ? out : out.replace('"\\u0000RAW"', () => value.json as string);
      return { text: raw, what: `${path}: ${old} -> ${value.what}` };
    }
  }
}

/** Half of the walks end early, so that the outer levels are hit as often as a thousand tokens. */
function randomPlace(root: Box, random: Random): { box: Box; key: string; path: string } {
  let box = root;
  let path = "";
  for (;;) {
    const key = random.pick(Object.keys(box).length > 0 ? Object.keys(box) : ["absent"]);
    path += `.${key}`;
    const value = box[key];
    const canGoOn = typeof value === "object" && value !== null && Object.keys(value).length > 0;
    if (!canGoOn || random.below(5) === 0) return { box, key, path };
    box = value as Box;
  }
}

/** A piece removed, repeated, or something put in that templates and regular expressions are made of. */
function editedText(text: string, random: Random): string {
  const from = random.below(text.length + 1);
  const to = Math.min(text.length, from + 1 + random.below(12));
  const put = random.pick([
    ...[
      "",
      text.slice(from, to).repeat(3),
      "{{",
      "}}",
      "{%",
      "%}",
      "endfor",
      "messages",
      "|",
      "(",
      ")",
      "+",
      "*",
    ],
    ...[
      "{% for a in range(999999) %}",
      "{{ messages * 9 }}",
      "\\p{L}",
      "[",
      "{2,}",
      "(?<=",
      "\u0000",
      "\udc00",
    ],
  ]);
  return text.slice(0, from) + put + text.slice(random.below(2) === 0 ? to : from);
}

interface HostileValue {
  what: string;
  value?: unknown;
  /** JSON that JSON.stringify would not write. */
  json?: string;
}

function hostileValue(old: unknown, random: Random): HostileValue {
  if (typeof old === "number" && random.below(2) === 0) {
    const value = old + random.below(5) - 2;
    return { value, what: String(value) };
  }
  if (typeof old === "string" && random.below(2) === 0) {
    const value = editedText(old, random);
    return { value, what: JSON.stringify(value.slice(0, 200)) };
  }
  const integers = HOSTILE_INTEGERS.map((value): HostileValue => ({
    json: String(value),
    what: String(value),
  }));
  const values = [
    null,
    true,
    false,
    "",
    "x",
    "__proto__",
    [],
    {},
    [[]],
    [null],
    { type: "Sequence" },
    -1,
    0.5,
  ];
  const special: HostileValue[] = [
    { json: "1e999", what: "Infinity" },
    { json: "-1e30", what: "-1e30" },
    { json: "[".repeat(3000) + "]".repeat(3000), what: "3,000 brackets" },
    { json: '{"a":'.repeat(20_000) + "1" + "}".repeat(20_000), what: "20,000 braces" },
    { json: '{"__proto__":{"type":"x"},"type":"ByteLevel"}', what: "a prototype" },
    { value: "(a+)+b", what: "a regular expression" },
    { value: "(", what: "a broken regular expression" },
    { value: "\ud800", what: "half a character" },
    { value: "x".repeat(100_000), what: "100,000 characters" },
  ];
  const plain = values.map((value): HostileValue => ({ value, what: JSON.stringify(value) }));
  return random.pick([random.pick(integers), random.pick(plain), random.pick(special)]);
}
