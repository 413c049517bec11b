/**
 * Chat templates: choosing a model's template and rendering a conversation with it, by the interpreter in jinja/.
 * A hostile template is stopped by the interpreter's bounds (jinja/bounds.ts), or by the end of the worker that it runs in.
 * It knows no ids (chat.ts).
 */
import { TidepoolError } from "../errors.ts";
import { runTemplate } from "./jinja/interpreter.ts";
import { parseTemplate, type Node } from "./jinja/syntax.ts";
import type { Tokenizer, TokenizerParts } from "./tokenizer.ts";
import { isRecord } from "./vocabulary.ts";

/** The longest template source that is parsed; those in use have up to 30,000 characters. */
const MAX_TEMPLATE_CHARS = 1024 * 1024;

/** A message as the template sees it. Other fields (tool_calls, reasoning_content, ...) are handed to the template. */
export interface TemplateMessage {
  role: string;
  content: unknown;
  [field: string]: unknown;
}

export interface RenderOptions {
  /** Ends the text with the beginning of an assistant's turn. Default true. */
  addGenerationPrompt?: boolean;
  /** Tool definitions for the template. */
  tools?: readonly unknown[];
  /** Template variables such as enable_thinking. */
  variables?: Readonly<Record<string, unknown>>;
}

export interface ChatTemplate {
  readonly source: string;
  /**
   * Throws `invalid_argument` with the template's own message where it refuses the conversation, `timed_out` or `too_long`
   * where it goes over a bound.
   */
  render(messages: readonly TemplateMessage[], options?: RenderOptions): string;
}

/** Spellings of special tokens, by the names that templates use: bos_token, eos_token. */
export type TemplateTokens = Readonly<Record<string, string | undefined>>;

/** Parses a template. Throws `invalid_file` where it is no valid template. */
export function createChatTemplate(source: string, tokens: TemplateTokens = {}): ChatTemplate {
  const template = parse(source);
  const render = (messages: readonly TemplateMessage[], options: RenderOptions = {}): string => {
    const values: Record<string, unknown> = { ...definedOf(tokens), ...valuesOf(options), messages };
    const tools = values["tools"];
    const isNone = tools === undefined || tools === null || (Array.isArray(tools) && tools.length === 0);
    return isNone ? renderWithoutTools(template, values) : renderOrThrow(template, values);
  };
  return { source, render };
}

/** The variables; what an option says goes before a variable of the same meaning. */
function valuesOf({ addGenerationPrompt, tools, variables = {} }: RenderOptions): Record<string, unknown> {
  if (variables["messages"] !== undefined) {
    throw new TidepoolError(
      "invalid_argument",
      'the template variable "messages" is the conversation, expected another name',
    );
  }
  return {
    ...variables,
    add_generation_prompt: addGenerationPrompt ?? variables["add_generation_prompt"] ?? true,
    tools: tools ?? variables["tools"],
  };
}

/**
 * "No tools" is none in the templates' reference implementation, and Llama 3's template prints a tools header for an empty
 * list. A few templates go through `tools` without asking, which this interpreter refuses for none: those get the empty list.
 */
function renderWithoutTools(template: readonly Node[], values: Record<string, unknown>): string {
  try {
    return renderOrThrow(template, { ...values, tools: null });
  } catch (error) {
    if (isBound(error)) throw error;
    try {
      return renderOrThrow(template, { ...values, tools: [] });
    } catch (second) {
      throw isBound(second) ? second : error;
    }
  }
}

/** Whether a bound was met, as against a template that refused its input. */
function isBound(error: unknown): boolean {
  return error instanceof TidepoolError && error.code !== "invalid_argument";
}

function renderOrThrow(template: readonly Node[], values: Record<string, unknown>): string {
  try {
    return runTemplate(template, values);
  } catch (error) {
    if (error instanceof TidepoolError) throw error;
    throw new TidepoolError("invalid_argument", `the chat template failed: ${(error as Error).message}`);
  }
}

function parse(source: string): readonly Node[] {
  if (source.length > MAX_TEMPLATE_CHARS) {
    const size = `${source.length} characters, at most ${MAX_TEMPLATE_CHARS}`;
    throw new TidepoolError("invalid_file", `the chat template has ${size}`);
  }
  try {
    return parseTemplate(source);
  } catch (error) {
    throw new TidepoolError("invalid_file", `the chat template is malformed: ${(error as Error).message}`);
  }
}

function definedOf(tokens: TemplateTokens): Record<string, string> {
  return Object.fromEntries(
    Object.entries(tokens).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
}

/** Where a template may be found: the fields of a model file of either format. */
export type TemplateParts =
  | Extract<TokenizerParts, { format: "gguf" }>
  | {
      format: "safetensors";
      tokenizerConfig?: Record<string, unknown> | undefined;
      chatTemplate?: string | undefined;
    };

/**
 * The template that a model file brings: `tokenizer.chat_template`, chat_template.jinja, or tokenizer_config.json.
 * `name` picks one of several (tool_use, rag, ...). Throws `unsupported` where the model has none of that name.
 */
export function chatTemplateOf(parts: TemplateParts, tokenizer: Tokenizer, name?: string): ChatTemplate {
  return createChatTemplate(sourceOf(parts, name), {
    bos_token: spelling(tokenizer, tokenizer.bosId),
    eos_token: spelling(tokenizer, tokenizer.eosId),
  });
}

/** Throws like `chatTemplateOf` for what can be known without a tokenizer. */
export function checkChatTemplate(parts: TemplateParts): void {
  createChatTemplate(sourceOf(parts));
}

function sourceOf(parts: TemplateParts, name?: string): string {
  const source = parts.format === "gguf" ? ggufTemplate(parts.metadata, name) : jsonTemplate(parts, name);
  if (source !== undefined) return source;
  const which = name === undefined ? "no chat template" : `no chat template named "${name}"`;
  throw new TidepoolError("unsupported", `the model has ${which}: it can continue text, but not chat`);
}

function spelling(tokenizer: Tokenizer, id: number | undefined): string | undefined {
  return id === undefined ? undefined : tokenizer.idToToken(id);
}

function ggufTemplate(metadata: ReadonlyMap<string, unknown>, name?: string): string | undefined {
  const key = "tokenizer.chat_template" + (name === undefined ? "" : `.${name}`);
  const source = metadata.get(key);
  return typeof source === "string" ? source : undefined;
}

function jsonTemplate(
  parts: Extract<TemplateParts, { format: "safetensors" }>,
  name?: string,
): string | undefined {
  if (name === undefined && parts.chatTemplate !== undefined) return parts.chatTemplate;
  const given = parts.tokenizerConfig?.["chat_template"];
  if (typeof given === "string") return name === undefined ? given : undefined;
  if (!Array.isArray(given)) return undefined;
  const found: unknown = given.find((item) => isRecord(item) && item["name"] === (name ?? "default"));
  return isRecord(found) && typeof found["template"] === "string" ? found["template"] : undefined;
}
