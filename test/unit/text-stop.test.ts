/** Stop strings against a naive model: the whole text at once. */
import { expect, test } from "vitest";
import { Random } from "../../src/base.ts";
import { StopMatcher } from "../../src/text/stop.ts";
import { testSeed } from "../support/seed.ts";

/** The text before the stop string that is complete first; of those that end together, the longest. */
function naive(text: string, stops: string[]): { text: string; stopped: string | undefined } {
  for (let end = 1; end <= text.length; end++) {
    const found = stops
      .filter((stop) => text.slice(0, end).endsWith(stop))
      .sort((a, b) => b.length - a.length)[0];
    if (found !== undefined) return { text: text.slice(0, end - found.length), stopped: found };
  }
  return { text, stopped: undefined };
}

test("any cutting of a text into pushes gives what the whole gives, and never takes text back", () => {
  const random = new Random(testSeed("stop strings"));
  const word = (length: number): string =>
    Array.from({ length }, () => random.pick(["a", "b", "c"])).join("");
  for (let i = 0; i < 3000; i++) {
    const stops = Array.from({ length: random.below(4) }, () => word(1 + random.below(4)));
    const text = word(random.below(20));
    const matcher = new StopMatcher(stops);
    let got = "";
    let stopped: string | undefined;
    for (let at = 0; at < text.length && stopped === undefined;) {
      const length = 1 + random.below(4);
      const result = matcher.push(text.slice(at, at + length));
      got += result.text;
      stopped = result.stopped;
      at += length;
    }
    got += matcher.end().text;
    expect({ text: got, stopped }, JSON.stringify({ text, stops })).toEqual(naive(text, stops));
  }
});

test("text is held back only while it may be the beginning of a stop string", () => {
  const matcher = new StopMatcher(["\nUser:"]);
  expect(matcher.push("hello\nUs")).toEqual({ text: "hello", stopped: undefined });
  expect(matcher.push("ual")).toEqual({ text: "\nUsual", stopped: undefined });
  expect(matcher.push("\n")).toEqual({ text: "", stopped: undefined });
  expect(matcher.push("User: x")).toEqual({ text: "", stopped: "\nUser:" });
  expect(matcher.push("more")).toEqual({ text: "", stopped: "\nUser:" });
  expect(matcher.end()).toEqual({ text: "", stopped: "\nUser:" });
});

test("the end of the text releases what was held", () => {
  const matcher = new StopMatcher(["stop"]);
  expect(matcher.push("a sto").text).toBe("a ");
  expect(matcher.end()).toEqual({ text: "sto", stopped: undefined });
});

test("stop strings that the table of arguments refuses are a mistake of ours", () => {
  expect(() => new StopMatcher([""])).toThrow(/assertion/);
  expect(() => new StopMatcher(["x".repeat(1025)])).toThrow(/assertion/);
  expect(() => new StopMatcher(new Array<string>(65).fill("x"))).toThrow(/assertion/);
});
