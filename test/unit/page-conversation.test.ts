/** The page's conversations as plain data: requests, titles, files; and Markdown that grows. No DOM and no browser. */
import { describe, expect, test } from "vitest";
import { conversationFile, readConversationFile } from "../../demo/chat/conversation/conversation-file.ts";
import {
  messagesFor,
  newConversation,
  titleOf,
  type Answer,
  type Conversation,
  type Turn,
} from "../../demo/chat/conversation/conversation.ts";
import { blocksOf, settledOf } from "../../demo/chat/markdown.ts";
import { Random } from "../../src/base.ts";
import { testSeed } from "../support/seed.ts";

const answer = (text: string, model = "m"): Answer => ({
  text,
  tokens: [1, 2, 3],
  model,
  finishReason: "stop",
  usage: {
    promptTokens: 4,
    computedTokens: 1,
    completionTokens: 3,
    cachedTokens: { gpu: 1, ram: 1, disk: 1 },
  },
  timing: { ttftMs: 5, prefillTokensPerSecond: 6, decodeTokensPerSecond: 7 },
  seed: 8,
});

const turn = (prompt: string, more: Partial<Turn> = {}): Turn => ({
  shape: "answer",
  prompt,
  documents: [],
  ...more,
});

function conversation(): Conversation {
  const made = newConversation(1000);
  made.system = "Be brief.";
  made.turns = [
    turn("What?", { documents: [{ name: "a.md", text: "Facts.\n" }], answer: answer("It.") }),
    turn("And?"),
  ];
  return made;
}

describe("requests", () => {
  test("answers of the same model carry their tokens, those of another their text alone", () => {
    const { turns, system } = conversation();
    expect(messagesFor(system, turns, "m")).toEqual([
      { role: "system", content: "Be brief." },
      { role: "user", content: "Facts.\n\nWhat?" },
      { role: "assistant", content: "It.", tokens: [1, 2, 3] },
      { role: "user", content: "And?" },
    ]);
    expect(messagesFor("", turns, "other")[1]).toEqual({ role: "assistant", content: "It." });
  });

  test("a turn without an answer is no part of later requests", () => {
    const turns = [turn("lost"), turn("stopped", { answer: { ...answer(""), tokens: [] } }), turn("now")];
    expect(messagesFor(" ", turns, "m")).toEqual([{ role: "user", content: "now" }]);
  });

  test("the title is the first message's first line, until the user names it", () => {
    const made = conversation();
    expect(titleOf(newConversation(0))).toBe("New conversation");
    expect(titleOf(made)).toBe("What?");
    made.turns = [turn(`${"word ".repeat(30)}\nmore`)];
    expect(titleOf(made)).toMatch(/^(word )+w[ord]*…$/);
    expect(titleOf({ ...made, isNamed: true, title: "Mine" })).toBe("Mine");
  });
});

describe("files", () => {
  test("what is exported comes back as it was, under a new id", async () => {
    const made = conversation();
    const { id, updatedAtMs: _now, ...content } = await readConversationFile(conversationFile(made), 2000);
    const { id: before, updatedAtMs: _then, ...expected } = made;
    expect(content).toEqual(expected);
    expect(id).not.toBe(before);
  });

  const read = (text: string): Promise<Conversation> => readConversationFile(new File([text], "x.json"), 0);
  const good = async (): Promise<Record<string, unknown>> =>
    JSON.parse(await conversationFile(conversation()).text()) as Record<string, unknown>;

  test.each([
    ["format", "other", '"format" is not'],
    ["version", 2, '"version" is not 1'],
    ["title", 1, '"title" is not a string'],
    ["turns", {}, '"turns" is not a list'],
    ["turns", [{}], '"turns[0].documents" is not a list'],
    ["turns", [{ ...turn("x"), shape: "poem" }], '"turns[0].shape" is not one of'],
    [
      "turns",
      [turn("x", { answer: { ...answer(""), tokens: [0.5] } })],
      '"turns[0].answer.tokens[0]" is not a token',
    ],
    ["turns", Array.from({ length: 10_001 }, () => turn("x")), "more than 10000 entries"],
  ])("a wrong %s is refused by its name", async (field, value, reason) => {
    const text = JSON.stringify({ ...(await good()), [field]: value });
    await expect(read(text)).rejects.toThrow(reason);
    await expect(read(text)).rejects.toThrow("x.json");
  });

  test("what is no JSON, or no object, is refused", async () => {
    await expect(read("not JSON")).rejects.toThrow("it is not JSON");
    await expect(read("[]")).rejects.toThrow("the file is not an object");
  });
});

const LINES = [
  "",
  "",
  "A line of *text* and `code`.",
  "# Heading",
  "- item",
  "  more of it",
  "1. first",
  "> quoted",
  "```js",
  "```",
  "---",
  "===",
  "| a | b |",
  "|---|---|",
  "    indented",
  "<b>not a tag</b>",
];

describe("Markdown that grows", () => {
  test("parsing from the last block on gives what parsing the whole gives", () => {
    const seed = testSeed("Markdown that grows");
    const random = new Random(seed);
    for (let round = 0; round < 300; round++) {
      const lines = Array.from({ length: 12 }, () => LINES[random.below(LINES.length)]);
      expect(grown(lines.join("\n"), random), `SEED=${seed} round ${round}`).toEqual(kinds(lines.join("\n")));
    }
  });
});

const kinds = (text: string): string[] => blocksOf(text).map(({ tokens }) => shapes(tokens));
const shapes = (tokens: readonly { type: string; content: string }[]): string =>
  tokens.map(({ type, content }) => `${type} ${content}`).join("; ");

/** As MarkdownStream does it: settled blocks are kept as they are. */
function grown(text: string, random: Random): string[] {
  const kept: string[] = [];
  let [tailAt, end] = [0, 0];
  for (;;) {
    end = Math.min(text.length, end + 1 + random.below(9));
    const blocks = blocksOf(text.slice(tailAt, end));
    if (end === text.length) return [...kept, ...blocks.map(({ tokens }) => shapes(tokens))];
    const settled = settledOf(blocks, text.slice(tailAt, end));
    kept.push(...blocks.slice(0, settled).map(({ tokens }) => shapes(tokens)));
    tailAt += blocks[settled]?.start ?? 0;
  }
}
