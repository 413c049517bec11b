/**
 * A parser for the header of a safetensors file: an 8-byte length, a JSON object of tensors, then the data without gaps.
 * It checks what the reference implementation checks (safetensors/src/tensor.rs) and trusts nothing.
 * It does not join shards nor read model configuration (model-file.ts).
 */
import { TidepoolError } from "../errors.ts";
import { endOfString, parseJson } from "./json.ts";
import type { Source } from "./source.ts";

/** The format's own limit. */
const MAX_HEADER_BYTES = 100_000_000;
const MAX_TENSORS = 1_048_576;
const MAX_DIMENSIONS = 16;

/** Bits of an element by dtype; the format packs sub-byte types. */
const DTYPE_BITS: Readonly<Record<string, number>> = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
};

export interface SafeTensor {
  name: string;
  /** The dtype; of what is computed, only F32, F16 and BF16 are (model/matrix/formats.ts). */
  type: string;
  /** Dimensions in GGUF's order: the contiguous one first, so that a matrix is [in, out]. */
  shape: number[];
  /** From the start of the file, bytes. */
  offset: number;
  sizeBytes: number;
}

export interface SafetensorsFile {
  metadata: Map<string, string>;
  tensors: SafeTensor[];
  dataOffset: number;
}

/** Reads the header of a safetensors file. Throws `invalid_file` naming the field. */
export async function readSafetensors(source: Source, signal?: AbortSignal): Promise<SafetensorsFile> {
  const header = await readHeader(source, signal);
  const dataOffset = 8 + header.length;
  const dataBytes = source.sizeBytes - dataOffset;
  const entries = parseHeader(header, source.name);
  const metadata = metadataOf(entries, source.name);
  const raw = entries
    .filter(([name]) => name !== "__metadata__")
    .map(([name, value]) => rawTensor(name, value, source.name));
  if (raw.length > MAX_TENSORS) fail(source.name, `header has ${raw.length} tensors, at most ${MAX_TENSORS}`);
  checkCoverage(raw, dataBytes, source.name);
  return { metadata, tensors: raw.map((tensor) => placed(tensor, dataOffset)), dataOffset };
}

interface RawTensor {
  name: string;
  dtype: string;
  shape: number[];
  begin: number;
  end: number;
}

async function readHeader(source: Source, signal?: AbortSignal): Promise<Uint8Array> {
  if (source.sizeBytes < 8) fail(source.name, `has ${source.sizeBytes} bytes, too few for a header length`);
  const prefix = await source.read(0, 8, signal);
  const length = new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) {
    fail(source.name, `header length ${length} is over the limit of ${MAX_HEADER_BYTES}`);
  }
  if (Number(length) > source.sizeBytes - 8) {
    fail(source.name, `header length ${length} runs past the end of the file of ${source.sizeBytes} bytes`);
  }
  return source.read(8, Number(length), signal);
}

function parseHeader(header: Uint8Array, file: string): [string, unknown][] {
  if (header[0] !== 0x7b) fail(file, `header does not begin with "{"`);
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(header);
  } catch {
    return fail(file, "header is not UTF-8");
  }
  const parsed = parseJson(text, file, "header");
  const repeated = repeatedKey(text);
  if (repeated !== undefined) fail(file, `header has the name "${repeated}" twice`);
  return Object.entries(parsed as Record<string, unknown>);
}

/**
 * The first key of the outermost object that occurs twice. JSON.parse keeps the last of them silently, so that two readers
 * could see two different models in one file. `text` is JSON that has parsed as an object.
 */
function repeatedKey(text: string): string | undefined {
  const seen = new Set<string>();
  let depth = 0;
  for (let at = 0; at < text.length; at++) {
    const char = text[at];
    if (char === "{" || char === "[") depth++;
    else if (char === "}" || char === "]") depth--;
    else if (char === '"') {
      const start = at;
      at = endOfString(text, at);
      if (depth !== 1 || !isKeyEnd(text, at)) continue;
      const key = JSON.parse(text.slice(start, at + 1)) as string;
      if (seen.has(key)) return key;
      seen.add(key);
    }
  }
  return undefined;
}

function isKeyEnd(text: string, at: number): boolean {
  const colon = /\s*:/y;
  colon.lastIndex = at + 1;
  return colon.test(text);
}

function metadataOf(entries: [string, unknown][], file: string): Map<string, string> {
  const metadata = new Map<string, string>();
  const value = entries.find(([name]) => name === "__metadata__")?.[1];
  if (value === undefined) return metadata;
  if (!isRecord(value)) fail(file, "__metadata__ is not an object");
  for (const [key, item] of Object.entries(value)) {
    if (typeof item !== "string") fail(file, `__metadata__ "${key}" is not a string`);
    metadata.set(key, item);
  }
  return metadata;
}

function rawTensor(name: string, value: unknown, file: string): RawTensor {
  const field = `tensor "${name}"`;
  if (!isRecord(value)) fail(file, `${field} is not an object`);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== "string" || !Object.hasOwn(DTYPE_BITS, dtype)) {
    fail(file, `${field} has the unknown dtype ${JSON.stringify(dtype)}`);
  }
  if (!Array.isArray(shape) || shape.length > MAX_DIMENSIONS || !shape.every(isCount)) {
    fail(file, `${field} has no valid shape: ${JSON.stringify(shape)?.slice(0, 100)}`);
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    fail(file, `${field} has no valid data_offsets: ${JSON.stringify(offsets)?.slice(0, 100)}`);
  }
  const tensor = { name, dtype, shape, begin: offsets[0] as number, end: offsets[1] as number };
  checkLength(tensor, DTYPE_BITS[dtype] as number, file);
  return tensor;
}

function checkLength(tensor: RawTensor, bits: number, file: string): void {
  const { name, begin, end, shape } = tensor;
  if (end < begin)
    fail(file, `tensor "${name}" has data_offsets [${begin}, ${end}] that end before they begin`);
  const wanted = shape.reduce((product, dimension) => product * BigInt(dimension), BigInt(bits));
  if (wanted % 8n !== 0n) fail(file, `tensor "${name}" does not fill whole bytes`);
  if (wanted / 8n !== BigInt(end - begin)) {
    fail(
      file,
      `tensor "${name}" of shape [${shape.join(", ")}] needs ${wanted / 8n} bytes, has ${end - begin}`,
    );
  }
}

/** Sorted by offset, the tensors must follow each other from byte 0 to the last byte of the file. */
function checkCoverage(tensors: RawTensor[], dataBytes: number, file: string): void {
  let at = 0;
  for (const { name, begin, end } of [...tensors].sort((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (begin !== at) fail(file, `tensor "${name}" begins at byte ${begin} of the data, expected ${at}`);
    at = end;
  }
  if (at !== dataBytes) fail(file, `data has ${dataBytes} bytes, the tensors cover ${at}`);
}

function placed({ name, dtype, shape, begin, end }: RawTensor, dataOffset: number): SafeTensor {
  return {
    name,
    type: dtype,
    shape: shape.toReversed(),
    offset: dataOffset + begin,
    sizeBytes: end - begin,
  };
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function fail(file: string, what: string): never {
  throw new TidepoolError("invalid_file", `${file}: ${what}`, { file });
}
