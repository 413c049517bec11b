/**
 * What the engine's worker and the text worker say to each other, as plain data, and the bounds on it. One question is under
 * way at a time, so that answers need no numbers.
 */
import type { WireError } from "../../errors.ts";
import type { ModelFile } from "../../load/model-file.ts";
import type { TemplateParts } from "../../text/chat.ts";
import type { TokenizerParts } from "../../text/tokenizer.ts";
import type { TokenTable } from "../../text/vocabulary.ts";
import type { RequestInput } from "../../wire/protocol.ts";

/** Tokens that one text may become; more than any model's context. */
export const MAX_PROMPT_TOKENS = 4 * 1024 * 1024;

/** Characters of one text that is taken for tokenising. */
export const MAX_PROMPT_CHARS = 16 * 1024 * 1024;

/** What a model file says about text; it survives structured cloning. */
export type TextParts = { file: string } & TokenizerParts & TemplateParts;

/** A prompt in tokens; `keep` leading ones survive truncation (BOS, the system prompt). */
export interface EncodedPrompt {
  tokens: number[];
  protectedTokens: number;
  /** Tokens at the end that survive truncation: those that the tokenizer puts behind a whole text. */
  trailingTokens?: number;
  /** What was encoded, if the question asks for it. */
  text?: string;
}

export type TextQuestion =
  /** A prompt: with BOS where the model wants one. */
  | { kind: "text"; text: string }
  /** A text with all that the tokenizer puts around one. */
  | { kind: "whole"; text: string }
  /** A text alone, without BOS. */
  | { kind: "plain"; text: string }
  | (Extract<RequestInput, { kind: "chat" }> & { withText?: true });

/** What can be done with a model's text; a problem says why not. */
export interface TextFacts {
  tokenizer: { table: TokenTable } | { problem: WireError };
  /** Absent: the chat template is ready. */
  templateProblem?: WireError;
  /** Whether the chat template has a place for reasoning, between `<think>` and `</think>`. */
  reasons?: boolean;
}

export type ToText = { type: "open"; parts: TextParts } | { type: "ask"; question: TextQuestion };

export type FromText =
  /** The worker has started. */
  | { type: "ready" }
  | { type: "opened"; facts: TextFacts }
  | { type: "answer"; prompt: EncodedPrompt }
  | { type: "refused"; error: WireError };

/** The parts of an open model file that text is made with. */
export function textParts(file: ModelFile): TextParts {
  if (file.format === "gguf") {
    const wanted = [...file.metadata].filter(([key]) => key.startsWith("tokenizer."));
    return { file: file.name, format: "gguf", metadata: new Map(wanted) };
  }
  const { name, format, config, tokenizerJson, tokenizerConfig, generationConfig, chatTemplate } = file;
  return { file: name, format, config, tokenizerJson, tokenizerConfig, generationConfig, chatTemplate };
}

/** Whether the file has a tokenizer at all. */
export function hasTokenizer(parts: TextParts): boolean {
  return parts.format === "gguf"
    ? parts.metadata.has("tokenizer.ggml.model")
    : parts.tokenizerJson !== undefined;
}
