/**
 * What a model's header answers without an engine: what the model is, a text's tokens, a conversation's prompt. Each call
 * starts a worker of its own, which ends with the answer.
 */
import { headerOptions, model as modelRule } from "./arguments.ts";
import { RUNTIME } from "../base.ts";
import { text as textRule } from "../check.ts";
import type { HeaderOptions, Model, RenderOptions } from "./options.ts";
import type {
  ChatMessage,
  HeaderQuestion,
  ModelReport,
  ModelSpec,
  RenderedChat,
  RequestInput,
} from "../wire/protocol.ts";
import { chatMessages, templateVariables, tools as toolsRule } from "../wire/arguments.ts";
import { askWorker } from "../wire/port.ts";

/**
 * What a model is, what it needs, and whether it would run here. Reads only the model's header.
 * @throws TidepoolError
 *
 * @example
 * ```ts
 * const report = await inspect("tide-dense.gguf");
 * console.log(report.architecture, report.runs, report.problems); // qwen3 true []
 * ```
 */
export async function inspect(model: Model, options: HeaderOptions = {}): Promise<ModelReport> {
  return (await askHeader(model, options, { ask: "inspect" })) as ModelReport;
}

/**
 * The token ids of a text, without BOS. The names of special tokens in the text are plain text. Reads only the model's header.
 *
 * @example
 * ```ts
 * console.log((await tokenize("tide-dense.gguf", "The tide was low")).length); // 4
 * ```
 */
export async function tokenize(model: Model, text: string, options: HeaderOptions = {}): Promise<number[]> {
  const given = textRule().read(text, "text");
  return (await askHeader(model, options, { ask: "tokenize", text: given })) as number[];
}

/**
 * The prompt that a conversation becomes through the model's chat template. Reads only the model's header.
 *
 * @example
 * ```ts
 * const { text, tokens } = await render("tide-dense.gguf", [{ role: "user", content: "Hello." }]);
 * console.log(text.includes("Hello."), tokens.length > 0); // true true
 * ```
 */
export async function render(
  model: Model,
  messages: readonly ChatMessage[],
  options: RenderOptions = {},
): Promise<RenderedChat> {
  const { template, tools, ...rest } = options;
  const input = chatInput(messages, { template, tools });
  return (await askHeader(model, rest, { ask: "render", input })) as RenderedChat;
}

/** A conversation as the worker takes it. @throws TidepoolError `invalid_argument` naming what is wrong by its path */
export function chatInput(
  messages: readonly ChatMessage[],
  { template, tools }: Pick<RenderOptions, "template" | "tools">,
  path = "messages",
): Extract<RequestInput, { kind: "chat" }> {
  return {
    kind: "chat",
    messages: chatMessages.read(messages, path),
    ...(template !== undefined && { template: templateVariables.read(template, "template") }),
    ...(tools !== undefined && { tools: toolsRule.read(tools, "tools") }),
  };
}

function askHeader(model: Model, given: HeaderOptions, question: HeaderQuestion): Promise<unknown> {
  const { onProgress, signal, ...options } = headerOptions.read(given, "");
  return askWorker({ type: "header", model: modelSpec(model), options, question }, { onProgress, signal });
}

/** A model as the worker takes it. @throws TidepoolError `invalid_argument` for what is no model */
export function modelSpec(given: Model): ModelSpec {
  const model = modelRule.read(given, "model");
  if (model instanceof URL) {
    const isFile = model.protocol === "file:" && RUNTIME !== "browser";
    return isFile ? process.getBuiltinModule("node:url").fileURLToPath(model) : model.href;
  }
  if (typeof model === "string") {
    const isOnSite = RUNTIME === "browser" && /^\.{0,2}\//.test(model);
    return isOnSite ? new URL(model, globalThis.document?.baseURI ?? location.href).href : model;
  }
  const files = model instanceof File ? [model] : model;
  return files.map((file) => ({ name: file.name, blob: file }));
}
