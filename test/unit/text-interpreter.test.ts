/** Chat templates under bounds: hostile ones stop with a typed error, and honest ones do not notice. */
import { describe, expect, test } from "vitest";
import { TidepoolError } from "../../src/errors.ts";
import { createChatTemplate, type TemplateMessage } from "../../src/text/chat.ts";

const USER: TemplateMessage[] = [{ role: "user", content: "hi" }];

function failure(source: string, messages = USER): TidepoolError {
  try {
    createChatTemplate(source).render(messages);
  } catch (error) {
    expect(error).toBeInstanceOf(TidepoolError);
    return error as TidepoolError;
  }
  throw new Error("it rendered");
}

const LOOPS = "{% for a in range(100000) %}{% for b in range(100000) %}";
const ENDS = "{% endfor %}{% endfor %}";

const HOSTILE: [name: string, source: string, code: string, message: RegExp][] = [
  ["an endless loop", `${LOOPS}{% set x = 1 %}${ENDS}`, "timed_out", /more than 2000000 steps/],
  ["an endless output", `${LOOPS}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx${ENDS}`, "timed_out", /steps/],
  [
    "a huge output",
    "{% set ns = namespace(s='x') %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
    "too_long",
    /a text of more than 16777216 characters/,
  ],
  [
    "a huge range",
    "{% for i in range(1000000000) %}x{% endfor %}",
    "too_long",
    /a list of more than 1048576/,
  ],
  ["a step of 0", "{{ range(0, 10, 0) }}", "invalid_argument", /range\(\)/],
  [
    "a list that doubles",
    "{% set ns = namespace(l=[1]) %}{% for i in range(40) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
    "timed_out",
    /steps/,
  ],
  [
    "many lists",
    "{% for i in range(1000) %}{% set x = range(1000000) %}{% endfor %}",
    "timed_out",
    /more than 2000000 steps/,
  ],
  [
    "many texts",
    "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(19) %}{% set ns.s = ns.s + ns.s %}" +
      "{% endfor %}{% for i in range(1000) %}{% set y = ns.s | upper %}{% endfor %}",
    "timed_out",
    /steps/,
  ],
  [
    "a macro that calls itself",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "invalid_argument",
    /failed: /,
  ],
  [
    "a macro that calls itself twice",
    "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "timed_out",
    /steps/,
  ],
];

describe("hostile templates", { timeout: 60_000 }, () => {
  test.each(HOSTILE)("%s", (_name, source, code, message) => {
    const error = failure(source);
    expect([error.code, error.message]).toEqual([code, expect.stringMatching(message)]);
  });
});

test("a conversation of a thousand messages stays far from the bounds", () => {
  const source =
    "{% for m in messages %}{% if loop.first or m.role != messages[loop.index0 - 1].role %}" +
    "<|{{ m.role }}|>{{ m.content | trim }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|a|>{% endif %}";
  const messages = Array.from({ length: 1000 }, (_, i): TemplateMessage => ({
    role: i % 2 === 0 ? "user" : "assistant",
    content: ` message ${i} `.repeat(100),
  }));
  const text = createChatTemplate(source).render(messages);
  expect(text).toContain("<|assistant|>message 999");
  expect(text.length).toBeGreaterThan(1_000_000);
});

test("what templates find besides their variables", () => {
  const render = (source: string, variables = {}) => createChatTemplate(source).render(USER, { variables });
  expect(
    render("{{ range(3) | join(',') }} {{ range(5, 1, -2) | join(',') }} {{ range(4, 2) | length }}"),
  ).toBe("0,1,2 5,3 0");
  expect(render("{{ none is none }} {{ True }} {{ missing is defined }}")).toBe("True True False");
  expect(render("{{ strftime_now('%Y-%m-%d %% %b %q') }}")).toMatch(/^\d{4}-\d\d-\d\d % [A-Z][a-z]{2} %q$/);
  expect(render("{{ range }}", { range: "mine" })).toBe("mine");
  expect(failure("{{ raise_exception('no') }}").message).toBe("the chat template failed: no");
});
