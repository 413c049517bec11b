/** OpenAI's API without a model: what fields become, what leaves, errors, and streams that are left. */
import OpenAI from "openai";
import { describe, expect, test } from "vitest";
import { TidepoolError } from "../../src/errors.ts";
import type { ChatBody, EmbeddingsBody, TextBody } from "../../src/openai/bodies.ts";
import { fetchOf, handle } from "../../src/openai/http.ts";
import type {
  ChatCompletion,
  ChatCompletionChunk,
  EmbeddingList,
  ModelEntry,
  TextCompletion,
  TextCompletionChunk,
} from "../../src/openai/objects.ts";
import { OpenAi } from "../../src/openai/openai.ts";
import { endsInReasoning, ReasoningSplit } from "../../src/openai/reasoning.ts";
import { oneModel } from "../../src/openai/source.ts";
import type { ChatMessage } from "../../src/wire/protocol.ts";
import { ScriptedSpeaker, type Script } from "../support/scripted-speaker.ts";

/** What leaves has the official package's types, and what may be asked may have them; wrong here does not compile. */
export const ours = (
  whole: ChatCompletion,
  chunk: ChatCompletionChunk,
  text: TextCompletion | TextCompletionChunk,
  vectors: EmbeddingList,
  model: ModelEntry,
): [OpenAI.ChatCompletion, OpenAI.ChatCompletionChunk, OpenAI.CreateEmbeddingResponse, OpenAI.Model] => {
  const whose: Omit<OpenAI.Completion, "choices" | "usage"> = text;
  return [whole, chunk, vectors, whose && model];
};
export const theirs = (
  chat: OpenAI.ChatCompletionCreateParamsNonStreaming,
  text: OpenAI.CompletionCreateParamsNonStreaming,
  vectors: OpenAI.EmbeddingCreateParams,
): [ChatBody, TextBody | null, EmbeddingsBody] => [
  chat,
  text.prompt === null ? null : { ...text, prompt: text.prompt },
  vectors,
];

const user = (content: unknown = "Hello.") => ({ role: "user", content });

function door(script?: Script) {
  const speaker = new ScriptedSpeaker(script);
  const api = new OpenAi(oneModel(speaker));
  const client = new OpenAI({
    baseURL: "http://engine/v1",
    apiKey: "none",
    fetch: fetchOf(api),
    maxRetries: 0,
  });
  return { speaker, api, client };
}

const BODY = { model: "scripted", messages: [{ role: "user" as const, content: "Hello." }] };

describe("chat.completions", () => {
  test("an answer has OpenAI's shape, and tells tiers beside its usage", async () => {
    const { client } = door();
    const { id, created, usage, ...answer } = await client.chat.completions.create(BODY);
    expect(id).toMatch(/^chatcmpl-[0-9a-f]{24}$/);
    expect(created).toBeGreaterThan(1.7e9);
    expect(answer).toEqual({
      object: "chat.completion",
      model: "scripted",
      choices: [
        {
          index: 0,
          message: { role: "assistant", content: "Hello.", refusal: null },
          logprobs: null,
          finish_reason: "stop",
        },
      ],
    });
    expect(usage).toEqual({
      ...{ prompt_tokens: 70, completion_tokens: 2, total_tokens: 72 },
      prompt_tokens_details: { cached_tokens: 64 },
      tidepool: { computed_tokens: 6, cached_tokens: { gpu: 32, ram: 0, disk: 32 }, ttft_ms: 1 },
    });
  });

  test("a stream begins with the role, ends with a reason, and has its usage if that is asked for", async () => {
    const { client } = door();
    const asked = { ...BODY, stream: true as const, max_completion_tokens: 1 };
    const chunks = async (more: object) => {
      const all = [];
      for await (const chunk of await client.chat.completions.create({ ...asked, ...more })) all.push(chunk);
      return all;
    };
    const plain = await chunks({});
    expect(plain.map(({ choices }) => [choices[0]!.delta, choices[0]!.finish_reason])).toEqual([
      [{ role: "assistant", content: "" }, null],
      [{ content: "Hello" }, null],
      [{}, "length"],
    ]);
    expect(plain.some((chunk) => "usage" in chunk)).toBe(false);
    const counted = await chunks({ stream_options: { include_usage: true } });
    expect(counted.map(({ usage }) => usage?.completion_tokens)).toEqual([
      undefined,
      undefined,
      undefined,
      1,
    ]);
    expect(counted.at(-1)?.choices).toEqual([]);
    expect(new Set(counted.map(({ id }) => id)).size).toBe(1);
  });

  test("fields become the engine's", async () => {
    const { api, speaker } = door();
    await api.chat.completions.create({
      ...{ messages: [user()], temperature: 0.5, top_p: 0, frequency_penalty: 1, presence_penalty: -1 },
      ...{ logit_bias: { "5": -100 }, seed: -1, stop: "x", max_tokens: 5, logprobs: true, top_logprobs: 3 },
      ...{ top_k: -1, min_p: 0.1, repetition_penalty: 1.1, tidepool: { cache: "memory", ttftMs: 5 } },
      ...{ reasoning_effort: "none", chat_template_kwargs: { when: "now" }, user: "me", stream: null },
    });
    const { signal: _signal, ...options } = speaker.asked[0]!.options;
    expect(options).toEqual({
      ...{ temperature: 0.5, topP: 1e-6, frequencyPenalty: 1, presencePenalty: -1, logitBias: { 5: -100 } },
      ...{ seed: 2 ** 32 - 1, stop: ["x"], maxTokens: 5, logprobs: 3, topK: 0, minP: 0.1 },
      ...{ repetitionPenalty: 1.1, cache: "memory", ttftMs: 5 },
      template: { reasoning_effort: "none", enable_thinking: false, when: "now" },
    });
  });

  test("without settings it samples as OpenAI does, each time with another seed", async () => {
    const { api, speaker } = door();
    for (let i = 0; i < 2; i++) await api.chat.completions.create({ messages: [user()] });
    const [first, second] = speaker.asked.map(({ options }) => options);
    expect(first).toMatchObject({ temperature: 1 });
    expect(first?.seed).not.toBe(second?.seed);
  });

  test("n choices have seeds of their own, and one prompt's usage", async () => {
    const { api, speaker } = door();
    const { choices, usage } = await api.chat.completions.create({ messages: [user()], n: 3, seed: 7 });
    expect(choices.map(({ index }) => index)).toEqual([0, 1, 2]);
    expect(speaker.asked.map(({ options }) => options.seed)).toEqual([7, 8, 9]);
    expect([usage.prompt_tokens, usage.completion_tokens]).toEqual([70, 6]);
  });

  test("log-probabilities have bytes, and no infinity", async () => {
    const { client } = door({ says: ["é", "!"] });
    const { choices } = await client.chat.completions.create({ ...BODY, logprobs: true, top_logprobs: 1 });
    expect(choices[0]!.logprobs?.content?.[0]).toEqual({
      ...{ token: "é", bytes: [0xc3, 0xa9], logprob: -1 },
      top_logprobs: [{ token: "é", bytes: [0xc3, 0xa9], logprob: -9999 }],
    });
  });

  test("an answer that is sent back as it came has the tokens that were computed; an edited one has not", async () => {
    const { client, speaker } = door();
    const { choices } = await client.chat.completions.create(BODY);
    const { message } = choices[0]!;
    const next = { role: "user" as const, content: "More." };
    await client.chat.completions.create({ ...BODY, messages: [...BODY.messages, message, next] });
    const edited = { role: "assistant" as const, content: "Hello!" };
    await client.chat.completions.create({ ...BODY, messages: [...BODY.messages, edited, next] });
    const sent = speaker.asked.slice(1).map(({ prompt }) => (prompt as readonly ChatMessage[])[1]?.tokens);
    expect(sent).toEqual([[0, 1], undefined]);
  });
});

describe("reasoning", () => {
  const parts = (text: string, starts: boolean, cuts: readonly number[]) => {
    const split = new ReasoningSplit(starts);
    const out = { reasoning: "", content: "" };
    const add = (part: typeof out) => {
      out.reasoning += part.reasoning;
      out.content += part.content;
    };
    let at = 0;
    for (const cut of [...cuts, text.length]) {
      add(split.push(text.slice(at, cut)));
      at = cut;
    }
    add(split.end());
    return out;
  };

  test.each([
    ["<think>\nwhy < 2\n</think>\n\nYes.", false, "\nwhy < 2\n", "Yes."],
    ["why</think>\nYes.", true, "why", "Yes."],
    ["\n <think>why", false, "why", ""],
    ["Yes <think>no</think>", false, "", "Yes <think>no</think>"],
    [" <thin ice", false, "", " <thin ice"],
    ["why </thin", true, "why </thin", ""],
    ["<think></think>\n\n", false, "", ""],
    ["", false, "", ""],
  ])("%j is split alike wherever it is cut", (text, starts, reasoning, content) => {
    for (let a = 0; a <= text.length; a++)
      for (let b = a; b <= text.length; b++)
        expect([a, b, parts(text, starts, [a, b])]).toEqual([a, b, { reasoning, content }]);
  });

  test("the prompt's end says whether the model begins with it", () => {
    expect(endsInReasoning("<|assistant|><think>\n")).toBe(true);
    expect(endsInReasoning("<|assistant|><think>\n\n</think>\n\n")).toBe(false);
    expect(endsInReasoning("<|assistant|>")).toBe(false);
  });

  const says = ["<th", "ink>a", "b</think>", "\n\nc"];

  test("is a field of its own, whole and streamed, and counted", async () => {
    const { api } = door({ says, reasons: true });
    const { choices, usage } = await api.chat.completions.create({ messages: [user()] });
    expect(choices[0]!.message).toMatchObject({ content: "c", reasoning_content: "ab" });
    expect(usage.completion_tokens_details).toEqual({ reasoning_tokens: 1 });
    const deltas = [];
    for await (const chunk of await api.chat.completions.create({ messages: [user()], stream: true }))
      deltas.push(chunk.choices[0]!.delta);
    expect(deltas).toEqual([
      { role: "assistant", content: "" },
      { reasoning_content: "a" },
      { reasoning_content: "b" },
      { content: "c" },
      {},
    ]);
  });

  test("is text for a model whose template has no place for it", async () => {
    const { api } = door({ says });
    const { choices } = await api.chat.completions.create({ messages: [user()] });
    expect(choices[0]!.message).toEqual({ role: "assistant", content: says.join(""), refusal: null });
  });
});

describe("completions and embeddings", () => {
  test("several prompts, texts and tokens", async () => {
    const { client, speaker } = door();
    const asked = { model: "scripted", prompt: ["a", "b"], n: 2, logprobs: 1 };
    const { choices, usage } = await client.completions.create(asked);
    expect(choices.map(({ index, text }) => [index, text])).toEqual([0, 1, 2, 3].map((i) => [i, "Hello."]));
    expect(choices[0]!.logprobs).toEqual({
      ...{ tokens: ["Hello", "."], token_logprobs: [-1, -1], text_offset: [0, 5] },
      top_logprobs: [{ Hello: -9999 }, { ".": -9999 }],
    });
    expect(usage).toMatchObject({ prompt_tokens: 140, completion_tokens: 8 });
    expect(speaker.asked.map(({ prompt }) => prompt)).toEqual(["a", "a", "b", "b"]);
    speaker.asked.length = 0;
    await client.completions.create({ model: "scripted", prompt: [1, 2] });
    await client.completions.create({ model: "scripted", prompt: [[1], [2]] });
    expect(speaker.asked.map(({ prompt }) => prompt)).toEqual([[1, 2], [1], [2]]);
    expect(speaker.asked[0]!.options.maxTokens).toBe(16);
  });

  test("offsets of streamed log-probabilities go on", async () => {
    const { client } = door();
    const stream = await client.completions.create({
      model: "scripted",
      prompt: "a",
      logprobs: 0,
      stream: true,
    });
    const offsets = [];
    for await (const { choices } of stream) offsets.push(...(choices[0]!.logprobs?.text_offset ?? []));
    expect(offsets).toEqual([0, 5]);
  });

  test("vectors come as the client asks for them, which is in base64 unless told otherwise", async () => {
    const { client } = door();
    for (const more of [{}, { encoding_format: "float" as const }]) {
      const { data, usage } = await client.embeddings.create({
        model: "scripted",
        input: ["a", "bcd"],
        ...more,
      });
      expect(data.map(({ embedding }) => [...embedding])).toEqual([
        [1, 0.5],
        [3, 0.5],
      ]);
      expect(usage).toEqual({ prompt_tokens: 4, total_tokens: 4 });
    }
    expect((await client.embeddings.create({ model: "scripted", input: [1, 2, 3] })).data).toHaveLength(1);
  });

  test("tokens of a text and of a conversation", async () => {
    const { api } = door();
    expect(await api.tokenize({ content: "ab" })).toEqual({ tokens: [97, 98], count: 2, max_model_len: 512 });
    expect((await api.tokenize({ messages: [user()] })).tokens).toEqual([1, 2]);
    await expect(api.tokenize({})).rejects.toThrow("content is missing");
  });
});

describe("errors", () => {
  test.each([
    [{ messages: 5 }, "messages"],
    [{ messages: [] }, "messages"],
    [{ messages: [{ role: "robot", content: "x" }] }, "messages[0].role"],
    [{ messages: [user([{ type: "image_url", image_url: { url: "x" } }])] }, "messages[0].content[0].type"],
    [{ n: 17 }, "n"],
    [{ temperature: "hot" }, "temperature"],
    [{ top_logprobs: 21 }, "top_logprobs"],
    [{ logit_bias: { x: 1 } }, "logit_bias"],
    [{ stop: [""] }, "stop[0]"],
    [{ stream_options: { usage: true } }, "stream_options.usage"],
    [{ max_tokens: 0 }, "max_tokens"],
    [{ audio: {} }, "audio"],
    [{ tools: [{ type: "function", function: { name: "f" } }] }, "tools"],
    [{ response_format: { type: "json_object" } }, "response_format.type"],
    [{ tidepool: { cache: "never" } }, "tidepool.cache"],
    [{ temprature: 1 }, "temprature"],
  ])("%j is a 400 that names %s", async (more, param) => {
    const { client, speaker } = door();
    const error: unknown = await client.chat.completions
      .create({ ...BODY, ...(more as object) })
      .catch((e: unknown) => e);
    expect(error).toBeInstanceOf(OpenAI.BadRequestError);
    expect(error).toMatchObject({ status: 400, param, type: "invalid_request_error" });
    expect(speaker.asked).toEqual([]);
  });

  test("a model that is not here is a 404 that lists those that are", async () => {
    const { client } = door();
    const error: unknown = await client.chat.completions
      .create({ ...BODY, model: "other" })
      .catch((e: unknown) => e);
    expect(error).toBeInstanceOf(OpenAI.NotFoundError);
    expect(error).toMatchObject({ code: "model_not_found", param: "model" });
    expect(String(error)).toContain('expected "scripted"');
    expect((await client.models.list()).data.map(({ id }) => id)).toEqual(["scripted"]);
    expect((await client.models.retrieve("scripted")).object).toBe("model");
    await expect(client.models.retrieve("a/b")).rejects.toBeInstanceOf(OpenAI.NotFoundError);
  });

  test("what is refused before its first token is no stream; 429 says when there is room", async () => {
    const fails = new TidepoolError("rejected", "too busy", { retryAfterMs: 1500 });
    const { api, client } = door({ fails });
    const body = JSON.stringify({ ...BODY, stream: true });
    const response = await handle(api, new Request("http://e/v1/chat/completions", { method: "POST", body }));
    expect([response.status, response.headers.get("retry-after")]).toEqual([429, "2"]);
    const error: unknown = await client.chat.completions.create(BODY).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(OpenAI.RateLimitError);
  });

  test("what is not the asker's to know is not told", async () => {
    const { client } = door({ fails: new Error("secret path") });
    const error: unknown = await client.chat.completions.create(BODY).catch((e: unknown) => e);
    expect(error).toMatchObject({ status: 500, type: "server_error" });
    expect(String(error)).not.toContain("secret");
  });

  test.each([
    ["/v1/nothing", "POST", 404],
    ["/v1/chat/completions", "GET", 405],
    ["/v1/models", "POST", 405],
    ["/elsewhere/v1/models/", "GET", 200],
    ["/v1/__proto__", "POST", 404],
  ])("%s with %s is a %i", async (path, method, status) => {
    const { api } = door();
    expect((await handle(api, new Request(`http://e${path}`, { method }))).status).toBe(status);
  });

  test("a body that is too large, or no JSON in UTF-8", async () => {
    const { api } = door();
    const ask = (body: BodyInit) =>
      handle(api, new Request("http://e/v1/completions", { method: "POST", body }), { maxBodyBytes: 100 });
    expect((await ask("x".repeat(101))).status).toBe(413);
    expect((await ask("{")).status).toBe(400);
    expect((await ask(Uint8Array.of(0x22, 0xff, 0x22))).status).toBe(400);
    expect((await ask("null")).status).toBe(400);
  });
});

describe("a request ends", () => {
  const says = Array.from({ length: 200 }, () => "word ");

  test("when its stream is left, and when the signal fires", async () => {
    const { client, speaker } = door({ says: ["Hello"], hangs: true });
    let chunks = 0; // the two openings and the first word: then none is there
    for await (const _ of await client.chat.completions.create({ ...BODY, stream: true, n: 2 }))
      if (++chunks > 2) break;
    const { signal, ...stop } = stopper();
    const whole = client.chat.completions.create(BODY, { signal });
    setTimeout(stop.fire, 5);
    await expect(whole).rejects.toBeInstanceOf(OpenAI.APIUserAbortError);
    await settled();
    expect(speaker.open).toBe(0);
  });

  test("when the body of its response is cancelled while it waits for a chunk", async () => {
    const { api, speaker } = door({ says: ["Hello"], hangs: true });
    const body = JSON.stringify({ ...BODY, stream: true });
    const response = await handle(api, new Request("http://e/v1/chat/completions", { method: "POST", body }));
    const reader = response.body!.getReader();
    for (let i = 0; i < 2; i++) await reader.read();
    const last = reader.read();
    await settled();
    expect(speaker.open).toBe(1);
    await reader.cancel();
    await last;
    await settled();
    expect(speaker.open).toBe(0);
  });

  test("and its model is given back, however it ends", async () => {
    for (const script of [{ says }, { fails: new Error("no") }, { says, hangs: true }]) {
      const speaker = new ScriptedSpeaker(script);
      let held = 0;
      const release = () => void held--;
      const open = () => (held++, Promise.resolve({ name: "scripted", speaker, release }));
      const api = new OpenAi({ names: ["scripted"], open });
      const answer = async () => {
        for await (const _ of await api.chat.completions.create({ messages: [user()], stream: true }))
          if ("hangs" in script) break;
      };
      await answer().catch(() => {});
      expect(held).toBe(0);
    }
  });

  test("a reader that is slow does not let chunks pile up", async () => {
    const { api } = door({ says });
    const chunks = await api.chat.completions.create({ messages: [user()], stream: true });
    let taken = 0;
    const next = chunks.next.bind(chunks);
    chunks.next = () => (taken++, next());
    const slow = new OpenAi({ ...oneModel(new ScriptedSpeaker({ says })) });
    slow.chat.completions.create = (() => Promise.resolve(chunks)) as never;
    const request = new Request("http://e/v1/chat/completions", {
      method: "POST",
      body: JSON.stringify(BODY),
    });
    const reader = (await handle(slow, request)).body!.getReader();
    await reader.read();
    await settled();
    expect(taken).toBeLessThanOrEqual(2);
    await reader.cancel();
  });
});

function stopper() {
  const controller = new AbortController();
  return { signal: controller.signal, fire: () => controller.abort() };
}

const settled = () => new Promise((resolve) => setTimeout(resolve, 20));
