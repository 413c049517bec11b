/** What fits and what the overflow policies make of what does not. */
import { describe, expect, it } from "vitest";
import { fitPrompt } from "../../src/worker/limits.ts";

const tokens = (count: number) => Array.from({ length: count }, (_, index) => index);

describe("fitPrompt", () => {
  it("lets what fits through, to the end of the context by default", () => {
    expect(fitPrompt({ tokens: tokens(10), keep: 0, limit: 16, params: {} })).toEqual({
      prompt: tokens(10),
      maxNewTokens: 6,
    });
    expect(fitPrompt({ tokens: tokens(10), keep: 0, limit: 16, params: { maxTokens: 6 } }).maxNewTokens).toBe(
      6,
    );
  });

  it("refuses what does not, with the numbers", () => {
    const call = () => fitPrompt({ tokens: tokens(10), keep: 0, limit: 16, params: { maxTokens: 7 } });
    expect(call).toThrow("10 prompt tokens and 7 new ones are over the limit of 16 tokens");
    expect(() => fitPrompt({ tokens: [], keep: 0, limit: 16, params: {} })).toThrow("prompt is empty");
  });

  it("stop: ends where the context does", () => {
    const params = { maxTokens: 50, overflow: "stop" } as const;
    expect(fitPrompt({ tokens: tokens(10), keep: 0, limit: 16, params }).maxNewTokens).toBe(6);
    expect(() => fitPrompt({ tokens: tokens(16), keep: 0, limit: 16, params })).toThrow("over the limit");
  });

  it("truncateStart: keeps the system prompt and the newest tokens", () => {
    const params = { maxTokens: 4, overflow: "truncateStart" } as const;
    const { prompt, maxNewTokens } = fitPrompt({ tokens: tokens(30), keep: 3, limit: 16, params });
    expect(prompt).toEqual([0, 1, 2, ...tokens(30).slice(21)]);
    expect(maxNewTokens).toBe(4);
    expect(() => fitPrompt({ tokens: tokens(30), keep: 14, limit: 16, params })).toThrow("over the limit");
  });
});
