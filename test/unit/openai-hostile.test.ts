/** Bodies that nobody means well with: whatever they are, the answer is JSON that says what is wrong, and nothing crashes. */
import { describe, expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { handle } from "../../src/openai/http.ts";
import { OpenAi } from "../../src/openai/openai.ts";
import { oneModel } from "../../src/openai/source.ts";
import { IS_FULL } from "../support/full.ts";
import { ScriptedSpeaker } from "../support/scripted-speaker.ts";
import { testSeed } from "../support/seed.ts";

describe("hostile bodies", () => {
  const FULL = 10_000;
  const QUICK = 2000;
  const valid: [string, object][] = [
    [
      "chat/completions",
      {
        messages: [{ role: "user", content: "x" }],
        tools: [],
        stop: ["a"],
        logit_bias: { "3": 1 },
        stream: true,
        n: 2,
      },
    ],
    [
      "chat/completions",
      {
        messages: [
          { role: "system", content: [{ type: "text", text: "Be brief." }] },
          {
            role: "assistant",
            content: null,
            tool_calls: [{ id: "1", type: "function", function: { name: "f", arguments: "{}" } }],
          },
          { role: "tool", tool_call_id: "1", content: "x" },
        ],
        chat_template_kwargs: { a: { b: [1] } },
        stream_options: { include_usage: true },
        tidepool: { cache: "off" },
      },
    ],
    ["completions", { prompt: ["a", [1, 2]], max_tokens: 3, logprobs: 2, seed: 1 }],
    ["embeddings", { input: ["a", "b"], dimensions: 2, encoding_format: "base64" }],
    ["tokenize", { content: "a" }],
  ];

  test(`${IS_FULL ? FULL : QUICK} mutations are answered with JSON, and none crashes`, async () => {
    const seed = testSeed("hostile bodies");
    const random = new Random(seed);
    const api = new OpenAi(oneModel(new ScriptedSpeaker()));
    const statuses = new Map<number, number>();
    for (let i = 0; i < (IS_FULL ? FULL : QUICK); i++) {
      const [path, body] = random.pick(valid);
      const bytes = mutated(body, random);
      const url = `http://e/v1/${path}`;
      const response = await handle(api, new Request(url, { method: "POST", body: bytes }));
      const text = await response.text();
      const said = `seed ${seed}, ${i}: ${path} ${new TextDecoder().decode(bytes.subarray(0, 300))}: ${text}`;
      statuses.set(response.status, (statuses.get(response.status) ?? 0) + 1);
      if (response.status === 200) continue;
      expect([400, 404, 413], said).toContain(response.status);
      const { error } = JSON.parse(text) as { error: Record<string, unknown> };
      expect(Object.keys(error).sort(), said).toEqual(["code", "message", "param", "type"]);
    }
    expect(statuses.get(200)).toBeGreaterThan(20);
    expect(statuses.get(400)).toBeGreaterThan(1000);
  });

  const STRANGE: readonly unknown[] = [
    ...[null, true, -1, 0.5, 1e308, 2 ** 53, "", "\ud800", "x".repeat(5000), [], {}, [null], [[[]]]],
    ...[{ __proto__: null, constructor: 1 }, { toString: 1 }, -0, "NaN", [1e999], { length: 1e9 }],
  ];

  /** A value somewhere in it is another, or a name; or the text is broken. */
  function mutated(body: object, random: Random): Uint8Array<ArrayBuffer> {
    const copy = structuredClone(body) as Record<string, unknown>;
    for (let i = random.below(3); i >= 0; i--) change(copy, random);
    let text = JSON.stringify(copy);
    if (random.below(10) === 0) text = text.replace("{", `{"deep":${"[".repeat(9000)}${"]".repeat(9000)},`);
    const bytes = new TextEncoder().encode(text);
    if (random.below(4) === 0) bytes[random.below(bytes.length)] = random.below(256);
    return random.below(10) === 0 ? bytes.slice(0, random.below(bytes.length)) : bytes;
  }

  function change(at: Record<string, unknown>, random: Random): void {
    const names = Object.keys(at);
    if (names.length === 0) return;
    const name = random.pick(names);
    const value = at[name];
    if (typeof value === "object" && value !== null && random.below(2) === 0)
      change(value as Record<string, unknown>, random);
    else if (random.below(5) === 0)
      at[random.pick(["__proto__", "constructor", "stream", "x", "9"])] = structuredClone(
        random.pick(STRANGE),
      );
    else if (random.below(8) === 0) delete at[name];
    else at[name] = structuredClone(random.pick(STRANGE));
  }
});
