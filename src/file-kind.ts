/**
 * What a file is that stands where another kind was expected, told from its first bytes: a model of the other format, an archive, a
 * web page. It reads no files, and repairs none.
 */
interface FileKind {
  start: RegExp;
  what: string;
  remedy?: string;
}

const KINDS: readonly FileKind[] = [
  {
    start: /^version https:\/\/git-lfs/,
    what: "a Git LFS pointer in place of the file",
    remedy: "fetch it with git lfs pull",
  },
  {
    start: /^\s*<(!doctype|html|\?xml)/i,
    what: "a web page in place of the file",
    remedy: "download it again",
  },
  { start: /^GGUF/, what: "a GGUF file" },
  { start: /^TPAR/, what: "an archive of keys and values" },
  { start: /^TIDEEXP\d/, what: "an activation trace" },
  { start: /^PK\x03\x04/, what: "a zip archive" },
  { start: /^\x1f\x8b/, what: "a gzip file" },
  { start: /^-----BEGIN /, what: "a key in PEM" },
  { start: /^[^]{8}\{"/, what: "a safetensors file" },
  { start: /^\s*[[{]/, what: "a JSON file" },
];

/** Bytes of a file by which its kind is told. */
export const KIND_BYTES = 64;

/** Of a file's first bytes, or characters. */
export function fileKind(start: Uint8Array | string): FileKind | undefined {
  const text = firstOf(start);
  return KINDS.find((kind) => kind.start.test(text));
}

/** A sentence without its subject: what the file is, what was expected in its place, and what may help. */
export function insteadOf(expected: string, start: Uint8Array | string): string {
  if (start.length === 0) return `is empty, expected ${expected}`;
  const kind = fileKind(start);
  if (!kind) return `begins with ${JSON.stringify(firstOf(start).slice(0, 8))}, expected ${expected}`;
  return `is ${kind.what}, expected ${expected}${kind.remedy === undefined ? "" : `: ${kind.remedy}`}`;
}

/** A character for each byte, as the patterns want it. */
function firstOf(start: Uint8Array | string): string {
  return typeof start === "string"
    ? start.slice(0, KIND_BYTES)
    : String.fromCharCode(...start.subarray(0, KIND_BYTES));
}
