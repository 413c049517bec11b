/** Text files that come with a message: which files count as such, and how they are read. No DOM. */
import type { AttachedDocument } from "./conversation/conversation.ts";
import { bytesText } from "../page/format.ts";

const DOCUMENT_BYTES_LIMIT = 4_000_000;
const EXTENSIONS = [
  ".txt",
  ".text",
  ".md",
  ".markdown",
  ".csv",
  ".tsv",
  ".log",
  ".srt",
  ".tex",
  ".html",
  ".xml",
];

/** For a file input. */
export const DOCUMENT_TYPES = `text/*,${EXTENSIONS.join(",")}`;

/** Whether a dropped file is something to be read rather than a model. */
export function isDocument({ name, type }: File): boolean {
  return type.startsWith("text/") || EXTENSIONS.some((extension) => name.toLowerCase().endsWith(extension));
}

/** @throws Error naming the file, and why it cannot be read. */
export async function readDocument(file: File): Promise<AttachedDocument> {
  const { name, size } = file;
  if (size > DOCUMENT_BYTES_LIMIT)
    throw new Error(
      `${name} has ${bytesText(size)}, but at most ${bytesText(DOCUMENT_BYTES_LIMIT)} can be attached: attach a part of it`,
    );
  const text = textOf(new Uint8Array(await file.arrayBuffer()));
  if (text === undefined)
    throw new Error(`${name} is not text in UTF-8: save it as plain text or Markdown first`);
  if (text.trim() === "") throw new Error(`${name} is empty`);
  return { name, text: text.replaceAll("\r\n", "\n") };
}

function textOf(bytes: Uint8Array): string | undefined {
  if (bytes.includes(0)) return undefined;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return undefined;
  }
}
