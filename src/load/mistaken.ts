/**
 * What stands in place of a model's file when a download went wrong, told from its first bytes: a Git LFS pointer, a web page, or a
 * model of the other format. It repairs nothing.
 */
import { TidepoolError } from "../errors.ts";
import type { Source } from "./source.ts";

const START_BYTES = 64;

const KINDS: readonly { start: RegExp; what: string }[] = [
  {
    start: /^version https:\/\/git-lfs/,
    what: "is a Git LFS pointer in place of the file: fetch it with git lfs pull",
  },
  { start: /^\s*<(!doctype|html|\?xml)/i, what: "is a web page in place of the file: download it again" },
  { start: /^GGUF/, what: "is a GGUF file: its name should end in .gguf" },
  { start: /^PK\x03\x04/, what: "is a zip archive, as of PyTorch: expected GGUF or safetensors" },
  { start: /^[^]{8}\{"/, what: "is a safetensors file: its name should end in .safetensors" },
];

/** The error of a header, or a better one if the file is something known that is not of its kind. */
export async function notOfItsKind(source: Source, error: unknown, signal?: AbortSignal): Promise<unknown> {
  if (!(error instanceof TidepoolError) || error.code !== "invalid_file") return error;
  const bytes = await source.read(0, Math.min(START_BYTES, source.sizeBytes), signal).catch(() => undefined);
  if (!bytes) return error;
  const start = String.fromCharCode(...bytes);
  const isItself = source.name.endsWith(".gguf") ? /^GGUF/ : /^[^]{8}\{"/;
  const kind = isItself.test(start) ? undefined : KINDS.find((each) => each.start.test(start));
  return kind
    ? new TidepoolError("invalid_file", `${source.name} ${kind.what}`, { file: source.name })
    : error;
}
