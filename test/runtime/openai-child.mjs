/**
 * OpenAI's own client, unmodified, on an engine of the built library by way of `engine.fetch`, in Node or Deno: prints what came of it
 * as one line of JSON. Usage: openai-child.mjs MODEL ENCODER
 */
import OpenAI from "openai";
import { Engine } from "../../dist/lib/index.js";

const [path, encoderPath] = process.argv.slice(2);
const messages = [{ role: "user", content: "What is the cargo of the Marlow?" }];

const clientOf = (engine) =>
  new OpenAI({ baseURL: "http://engine/v1", apiKey: "none", fetch: engine.fetch, maxRetries: 0 });

async function chats(engine) {
  const client = clientOf(engine);
  const model = (await client.models.list()).data[0].id;
  const asked = { model, messages, temperature: 0, max_tokens: 12 };
  const whole = await client.chat.completions.create({ ...asked, logprobs: true, top_logprobs: 2 });
  let streamed = "";
  for await (const { choices } of await client.chat.completions.create({ ...asked, stream: true }))
    streamed += choices[0].delta.content ?? "";
  const { text } = await engine.chat(messages, { maxTokens: 12 }).result();
  const pair = await client.chat.completions.create({ ...asked, temperature: 1, seed: 1, n: 2 });
  const error = await client.chat.completions.create({ ...asked, max_tokens: 1e6 }).catch((e) => e);
  return {
    ...{ model, text, streamed, answer: whole.choices[0].message.content, usage: whole.usage },
    logprobs: whole.choices[0].logprobs.content.map(({ token }) => token).join(""),
    pair: pair.choices.map(({ index }) => index),
    error: [error.constructor.name, error.status, error.code],
    ...(await aborts(engine, client, { ...asked, max_tokens: 2000 })),
  };
}

/** What is left of requests that were left, in each of three ways. */
async function aborts(engine, client, asked) {
  for await (const _ of await client.chat.completions.create({ ...asked, stream: true })) break;
  const stop = new AbortController();
  const whole = client.chat.completions.create(asked, { signal: stop.signal });
  setTimeout(() => stop.abort(), 20);
  const aborted = (await whole.catch((e) => e)).constructor.name;
  const body = JSON.stringify({ ...asked, stream: true });
  const { body: bytes } = await engine.fetch("http://engine/v1/chat/completions", { method: "POST", body });
  await bytes.cancel();
  let left = await engine.debug.check();
  for (let i = 0; i < 100 && left.requests > 0; i++) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    left = await engine.debug.check();
  }
  return { aborted, left };
}

async function vectors(engine) {
  const client = clientOf(engine);
  const input = ["A boat", "A ship at sea"];
  const { data, usage } = await client.embeddings.create({ model: engine.info.model.name, input });
  const own = await engine.embed(input);
  return { same: own.every((vector, i) => data[i].embedding.every((x, j) => x === vector[j])), usage };
}

const engine = await Engine.load(path);
const encoder = await Engine.load(encoderPath);
console.log(JSON.stringify({ ...(await chats(engine)), vectors: await vectors(encoder) }));
await Promise.all([engine.close(), encoder.close()]);
