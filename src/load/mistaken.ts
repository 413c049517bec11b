/**
 * What stands in place of a model's file when a download went wrong, told from its first bytes: a Git LFS pointer, a web page, or a
 * model of the other format. It repairs nothing.
 */
import { TidepoolError } from "../errors.ts";
import { fileKind, KIND_BYTES } from "../file-kind.ts";
import type { Source } from "./source.ts";

/** What helps where the kind itself does not say. */
const REMEDIES: Readonly<Record<string, string>> = {
  "a GGUF file": "its name should end in .gguf",
  "a safetensors file": "its name should end in .safetensors",
  "a zip archive": "PyTorch writes such files; expected GGUF or safetensors",
};

/** The error of a header, or a better one if the file is something known that is not of its kind. */
export async function notOfItsKind(source: Source, error: unknown, signal?: AbortSignal): Promise<unknown> {
  if (!(error instanceof TidepoolError) || error.code !== "invalid_file") return error;
  const bytes = await source.read(0, Math.min(KIND_BYTES, source.sizeBytes), signal).catch(() => undefined);
  const kind = bytes && fileKind(bytes);
  const own = source.name.endsWith(".gguf") ? "a GGUF file" : "a safetensors file";
  if (!kind || kind.what === own) return error;
  const { what, remedy = REMEDIES[what] ?? "expected GGUF or safetensors" } = kind;
  return new TidepoolError("invalid_file", `${source.name} is ${what}: ${remedy}`, { file: source.name });
}
