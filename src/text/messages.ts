/**
 * Messages in OpenAI's form as a model's chat template wants them. Templates differ: some go through lists of content parts, others
 * expect a string; some take a tool call's arguments as an object, others as JSON text; some print "None" for no content. What
 * a template does is found out by rendering a probe with it, once.
 */
import { TidepoolError } from "../errors.ts";
import { parseJson } from "../json-floats.ts";
import { json } from "./jinja/print.ts";
import { fromPlain } from "./jinja/values.ts";
import type { TemplateMessage, ChatTemplate } from "./template.ts";
import { isRecord } from "./vocabulary.ts";

/** The messages as the template wants them. @throws TidepoolError `invalid_argument` naming the part that is no text */
export function adaptMessages(
  template: ChatTemplate,
  messages: readonly TemplateMessage[],
): TemplateMessage[] {
  return messages.map((message, index) => {
    const content = adaptContent(template, message, index);
    const calls = message["tool_calls"];
    if (!Array.isArray(calls)) return { ...message, content };
    return { ...message, content, tool_calls: calls.map((call: unknown) => adaptCall(template, call)) };
  });
}

/** The text of a message's content: that of its parts in one string. Undefined if it has none. */
export function textOfContent(content: unknown, index = 0): string | undefined {
  if (typeof content === "string") return content;
  return Array.isArray(content) ? content.map((part, at) => textOfPart(part, index, at)).join("") : undefined;
}

function textOfPart(part: unknown, index: number, at: number): string {
  if (isRecord(part) && part["type"] === "text" && typeof part["text"] === "string") return part["text"];
  const what =
    isRecord(part) && part["type"] !== "text"
      ? `has the type ${JSON.stringify(part["type"])}`
      : "has no text";
  throw new TidepoolError(
    "invalid_argument",
    `messages[${index}].content[${at}] ${what}, expected a part { type: "text", text: string }`,
  );
}

function adaptContent(template: ChatTemplate, { role, content }: TemplateMessage, index: number): unknown {
  if (content === null || content === undefined) return takes(template, "no content") ? content : "";
  const text = textOfContent(content, index);
  if (text === undefined) {
    const given = typeof content;
    throw new TidepoolError(
      "invalid_argument",
      `messages[${index}].content is of the type ${given}, expected a string or a list of text parts`,
    );
  }
  if (Array.isArray(content) && takes(template, `parts of ${role}`)) return content;
  const onlyAsPart = !takes(template, `text of ${role}`) && takes(template, `part of ${role}`);
  return onlyAsPart ? [{ type: "text", text }] : text;
}

function adaptCall(template: ChatTemplate, call: unknown): unknown {
  if (!isRecord(call) || !isRecord(call["function"])) return call;
  const given: unknown = call["function"]["arguments"];
  const wantsObject = takes(template, "arguments");
  if (typeof given === "string" && wantsObject) {
    return { ...call, function: { ...call["function"], arguments: objectOf(given) ?? given } };
  }
  if (!isRecord(given) || wantsObject) return call;
  return { ...call, function: { ...call["function"], arguments: json(fromPlain(given)) } };
}

function objectOf(text: string): object | undefined {
  try {
    const value = parseJson(text);
    return isRecord(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** What a template may or may not take: for messages of a role several parts, one part or a string. */
type Ability = `${"parts" | "part" | "text"} of ${string}` | "arguments" | "no content";

/** What is known of each template. */
const known = new WeakMap<ChatTemplate, Map<Ability, boolean>>();

function takes(template: ChatTemplate, ability: Ability): boolean {
  const abilities = known.get(template) ?? new Map<Ability, boolean>();
  known.set(template, abilities);
  const answer = abilities.get(ability) ?? probe(template, ability);
  abilities.set(ability, answer);
  return answer;
}

function probe(template: ChatTemplate, ability: Ability): boolean {
  if (ability === "arguments") return takesObjects(template);
  if (ability === "no content") return takesNoContent(template);
  const [form, role = ""] = ability.split(" of ");
  const words = form === "parts" ? [FIRST, SECOND] : [FIRST];
  const content = form === "text" ? FIRST : words.map((text) => ({ type: "text", text }));
  const text = renderIfPossible(template, around({ role, content }));
  // Not as JSON or as Python prints a list.
  return text !== undefined && words.every((word) => isBare(text, word));
}

/** Words that no template prints by itself. */
const [FIRST, SECOND] = ["tidepool-probe-one", "tidepool-probe-two"];

const USER: TemplateMessage = { role: "user", content: "question" };

/** Python's own way to print an object, in single quotes, is not what any model was trained on. */
function takesObjects(template: ChatTemplate): boolean {
  const text = renderIfPossible(template, [USER, called({ [FIRST]: SECOND }), RESULT]);
  if (text !== undefined) return !text.includes(`'${FIRST}'`);
  return renderIfPossible(template, [USER, called(`{"${FIRST}": "${SECOND}"}`), RESULT]) === undefined;
}

function takesNoContent(template: ChatTemplate): boolean {
  const call = called({ [FIRST]: SECOND });
  const [none, empty] = [null, ""].map((content) =>
    renderIfPossible(template, [USER, { ...call, content }, RESULT]),
  );
  return none !== undefined && countOfNone(none) <= countOfNone(empty ?? "");
}

function countOfNone(text: string): number {
  return text.split(/None|null/).length;
}

const RESULT: TemplateMessage = { role: "tool", tool_call_id: "abcdefghi", name: "probe", content: "answer" };

function called(given: unknown): TemplateMessage {
  const call = { id: "abcdefghi", type: "function", function: { name: "probe", arguments: given } };
  return { role: "assistant", content: "", tool_calls: [call] };
}

/** A conversation that is as good as any, with the message in it. */
function around(message: TemplateMessage): TemplateMessage[] {
  switch (message.role) {
    case "user":
      return [message];
    case "assistant":
      return [USER, message, USER];
    case "tool":
      return [USER, called({}), { ...RESULT, ...message }];
    default:
      return [message, USER];
  }
}

function isBare(text: string, word: string): boolean {
  return text.includes(word) && !text.includes(`'${word}`) && !text.includes(`"${word}`);
}

function renderIfPossible(template: ChatTemplate, messages: readonly TemplateMessage[]): string | undefined {
  try {
    return template.render(messages);
  } catch {
    return undefined;
  }
}
