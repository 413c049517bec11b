/** What fits and what the overflow policies make of what does not. */
import { describe, expect, it } from "vitest";
import { boundInput, fitPrompt } from "../../src/worker/request/fit-prompt.ts";

const tokens = (count: number) => Array.from({ length: count }, (_, index) => index);

describe("fitPrompt", () => {
  it("lets what fits through, to the end of the context by default", () => {
    expect(fitPrompt({ tokens: tokens(10), protectedTokens: 0, limit: 16, params: {} })).toEqual({
      prompt: tokens(10),
      maxNewTokens: 6,
    });
    expect(
      fitPrompt({ tokens: tokens(10), protectedTokens: 0, limit: 16, params: { maxTokens: 6 } }).maxNewTokens,
    ).toBe(6);
  });

  it("refuses what does not, with the numbers", () => {
    const call = () =>
      fitPrompt({ tokens: tokens(10), protectedTokens: 0, limit: 16, params: { maxTokens: 7 } });
    expect(call).toThrow("10 prompt tokens and 7 new ones are over the limit of 16 tokens");
    expect(() => fitPrompt({ tokens: [], protectedTokens: 0, limit: 16, params: {} })).toThrow(
      "prompt is empty",
    );
  });

  it("stop: ends where the context does", () => {
    const params = { maxTokens: 50, overflow: "stop" } as const;
    expect(fitPrompt({ tokens: tokens(10), protectedTokens: 0, limit: 16, params }).maxNewTokens).toBe(6);
    expect(() => fitPrompt({ tokens: tokens(16), protectedTokens: 0, limit: 16, params })).toThrow(
      "over the limit",
    );
  });

  it("truncateStart: keeps the system prompt and the newest tokens", () => {
    const params = { maxTokens: 4, overflow: "truncateStart" } as const;
    const { prompt, maxNewTokens } = fitPrompt({ tokens: tokens(30), protectedTokens: 3, limit: 16, params });
    expect(prompt).toEqual([0, 1, 2, ...tokens(30).slice(21)]);
    expect(maxNewTokens).toBe(4);
    expect(() => fitPrompt({ tokens: tokens(30), protectedTokens: 14, limit: 16, params })).toThrow(
      "over the limit",
    );
  });
});

describe("before a text is encoded", () => {
  const bound = (overflow?: "error" | "stop" | "truncateStart") => ({ limit: 10, longestToken: 5, overflow });
  const text = (chars: number) => ({ kind: "text", text: "x".repeat(chars - 1) + "y" }) as const;
  const chat = (...contents: string[]) =>
    ({ kind: "chat", messages: contents.map((content) => ({ role: "user" as const, content })) }) as const;

  it("what may fit passes as it is", () => {
    for (const input of [
      text(200),
      chat("x".repeat(100), "x".repeat(100)),
      { kind: "tokens", tokens: [1] },
    ] as const) {
      expect(boundInput(input, bound())).toBe(input);
    }
    const answer = { kind: "chat", messages: [{ role: "assistant", content: "x".repeat(1000) }] } as const;
    expect(boundInput(answer, bound())).toBe(answer);
  });

  it("what cannot fit is refused with the numbers, or its end is left", () => {
    const message = "the prompt has 201 characters, at most 200 can fit into the limit of 10 tokens";
    for (const input of [text(201), chat("x".repeat(100), "x".repeat(101))]) {
      for (const overflow of [undefined, "error", "stop"] as const) {
        expect(() => boundInput(input, bound(overflow))).toThrow(
          expect.objectContaining({ code: "too_long", message }) as Error,
        );
      }
    }
    expect(boundInput(text(1_500_000), bound("truncateStart"))).toEqual(text(200));
  });
});
