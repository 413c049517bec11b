/**
 * Chat templates rendered as Python's Jinja2 renders them: the given templates of real models with counts by template, and
 * expressions one by one, with what Jinja2 3.1 prints for them.
 */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { TidepoolError } from "../../src/errors.ts";
import { createChatTemplate, renderConversation, type TemplateMessage } from "../../src/text/chat.ts";
import { parseJson } from "../../src/json-floats.ts";
import { sharedPath, sharedPresent, skipLoudly } from "../support/shared.ts";

const TEMPLATES = 51;
const RENDERINGS = 609;
const FOLDER = "goldens/templates";

interface Conversation {
  messages: TemplateMessage[];
  vars?: Record<string, unknown>;
  tools?: unknown[];
  gen?: boolean;
}

type Expected = Record<string, { text: string } | { raises: string }>;

const read = (name: string): string => readFileSync(sharedPath(`${FOLDER}/${name}`), "utf8");
const given = sharedPresent
  ? {
      conversations: parseJson(read("conversations.json")) as Record<string, Conversation>,
      expected: JSON.parse(read("expected.json")) as Record<string, Expected>,
    }
  : { conversations: {}, expected: {} };

function renderingOf(source: string, { messages, vars, tools, gen }: Conversation): string {
  const template = createChatTemplate(source, { bos_token: "<s>", eos_token: "</s>" });
  return template.render(messages, {
    addGenerationPrompt: gen ?? true,
    ...(tools && { tools }),
    ...(vars && { variables: vars }),
  });
}

/** What holds for every template, whatever it makes of lists of parts and of arguments as JSON text. */
function conversationsAsUsersWriteThem(source: string): void {
  const template = createChatTemplate(source, { bos_token: "<s>", eos_token: "</s>" });
  const { parts, tool_calls: calls } = given.conversations as Record<"parts" | "tool_calls", Conversation>;
  const text = textIfRendered(() => renderConversation(template, parts.messages));
  expect(text).toMatch(/part one[^'"{}[\]]*part two/);
  const tools = calls.tools ?? [];
  const asText = calls.messages.map((message) => withArguments(message, (value) => JSON.stringify(value)));
  const asObjects = textIfRendered(() => renderConversation(template, calls.messages, { tools }));
  const texts = textIfRendered(() => renderConversation(template, asText, { tools }));
  // 1.5 and 2 are the same in JSON text, whatever its spaces.
  expect(texts?.replaceAll(" ", "")).toBe(asObjects?.replaceAll(" ", ""));
}

function textIfRendered(render: () => string): string | undefined {
  try {
    return render();
  } catch (error) {
    expect(error).toMatchObject({ code: "invalid_argument" });
    return undefined;
  }
}

function withArguments(message: TemplateMessage, change: (value: unknown) => unknown): TemplateMessage {
  const calls = message["tool_calls"] as { function: { arguments: unknown } }[] | undefined;
  if (calls === undefined) return message;
  const changed = calls.map((call) => ({
    ...call,
    function: { ...call.function, arguments: change(call.function.arguments) },
  }));
  return { ...message, tool_calls: changed };
}

if (!sharedPresent) skipLoudly("chat templates of real models", RENDERINGS);

describe.skipIf(!sharedPresent)("templates of real models", () => {
  const counts: string[] = [];
  // The date on which the expected texts were made: templates print it.
  beforeAll(() => void vi.useFakeTimers({ now: new Date(2026, 10, 30, 12) }));
  afterAll(() => void vi.useRealTimers());
  afterAll(() => console.log(`templates, renderings equal to Jinja2's:\n${counts.join("\n")}`));

  test("all are there", () => {
    const all = Object.values(given.expected);
    expect([all.length, all.reduce((sum, cases) => sum + Object.keys(cases).length, 0)]).toEqual([
      TEMPLATES,
      RENDERINGS,
    ]);
  });

  test.each(Object.entries(given.expected))("%s", (name, cases) => {
    const source = read(name);
    let equal = 0;
    for (const [conversation, expected] of Object.entries(cases)) {
      const render = (): string => renderingOf(source, given.conversations[conversation] as Conversation);
      if ("raises" in expected) expect(render, conversation).toThrow(expected.raises);
      else expect(render(), conversation).toBe(expected.text);
      equal++;
    }
    conversationsAsUsersWriteThem(source);
    counts.push(`  ${name}: ${equal} of ${Object.keys(cases).length}`);
  });
});

type Row = [source: string, text: string | null, error?: string];

/** Templates over `VARIABLES` with what Jinja2 3.1.6 makes of them, in its sandbox and with `tojson` as transformers has it. */
const ROWS = JSON.parse(readFileSync("test/support/jinja-expressions.json", "utf8")) as Row[];

const VARIABLES = {
  x: null,
  n: 3,
  l: [1, 2],
  m: { a: 1, b: [true, null] },
  s: 'it\'s "q"\n',
  e: "héé🌊x",
  f: new Number(1),
  w: ["b", "A", "c"],
  o: [
    { n: "x", v: 2, g: 1 },
    { n: "y", v: 1, g: 1 },
    { n: "z", g: 0 },
  ],
};

const rendered = (source: string): string => createChatTemplate(source).render([], { variables: VARIABLES });

describe("expressions", () => {
  test.each(ROWS.filter(([, text]) => text !== null))("%s", (source, text) => {
    expect(rendered(source)).toBe(text);
  });

  test.each(ROWS.filter(([, text]) => text === null))("%s is refused, as in Python", (source) => {
    expect(() => rendered(source)).toThrow(TidepoolError);
  });

  test("a construct that is missing is named", () => {
    const refused = (source: string): unknown => {
      try {
        return rendered(source);
      } catch (error) {
        return [(error as TidepoolError).code, (error as Error).message];
      }
    };
    const missing = (what: string) => [
      "unsupported",
      `the chat template uses ${what}, which is not supported`,
    ];
    expect(refused("{{ 'a' | xmlattr }}")).toEqual(missing('the filter "xmlattr"'));
    expect(refused("{{ 'a' is filter }}")).toEqual(missing('the test "filter"'));
    expect(refused("{{ '%e' % 1.5 }}")).toEqual(missing('the number format "e"'));
    expect(refused("{{ l.sort() }}")).toEqual(missing("list.sort(), which would change a value in place"));
  });
});

test("a list can be changed, though Python's sandbox refuses it: templates in use do so", () => {
  const source =
    "{% set ns = namespace(l=[]) %}{% for i in l %}{% set _ = ns.l.append(i * 2) %}{% endfor %}{{ ns.l }}";
  expect(rendered(source)).toBe("[2, 4]");
  expect(rendered("{{ l.pop() }}{{ l.pop(0) }}{{ l }}")).toBe("21[]");
  expect(rendered("{% set _ = l.insert(0, 5) %}{% set _ = l.extend([6]) %}{{ l }}")).toBe("[5, 1, 2, 6]");
});

test("brackets that are nested too deep are refused before they are parsed", () => {
  const source = `{{ ${"(".repeat(300)}1${")".repeat(300)} }}`;
  expect(() => createChatTemplate(source)).toThrow(/malformed: its brackets are nested deeper than 256/);
});

test("JSON text keeps what was written as a float apart", () => {
  const value = parseJson('{"a": 1.0, "b": 1, "c": "1.0, \\"2.5\\"", "d": [-1e-07, 1E3]}');
  const template = createChatTemplate("{{ v | tojson }}");
  expect(template.render([], { variables: { v: value } })).toBe(
    '{"a": 1.0, "b": 1, "c": "1.0, \\"2.5\\"", "d": [-1e-07, 1000.0]}',
  );
  expect(() => parseJson("{")).toThrow(SyntaxError);
});
