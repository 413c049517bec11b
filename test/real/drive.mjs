/**
 * Drives the built library in a process of its own, in Node or in Deno: reads { model, options, calls } from standard input, makes
 * the calls of the engine one after another (those of an inner list side by side), and prints their results as one line of JSON.
 */
import process from "node:process";
import { Engine, render } from "../../dist/lib/index.js";

const METHODS = {
  generate: async (engine, input, options) => engine.generate(input, options).result(),
  chat: async (engine, messages, options) => engine.chat(messages, options).result(),
  render: (_, messages, options) => render(model, messages, options),
  tokenize: (engine, text) => engine.tokenize(text),
  embed: (engine, texts) => engine.embed(texts),
  drain: (engine) => engine.cache.drain(600_000),
  score: async (engine, tokens, options) => {
    const { logits, ...rest } = await engine.score(tokens, options);
    return { ...rest, ...(logits && { logits: Array.from(logits) }) };
  },
};

/** A call that fails gives its error, so that the others' results are told. */
async function make(engine, [method, ...values]) {
  try {
    return await METHODS[method](engine, ...values);
  } catch (error) {
    return { error: { code: error.code, message: error.message } };
  }
}

async function input() {
  const pieces = [];
  for await (const piece of process.stdin) pieces.push(piece);
  return JSON.parse(Buffer.concat(pieces).toString("utf8"));
}

const { model, options, calls } = await input();
const engine = await Engine.load(model, options);
const results = [];
for (const call of calls) {
  const isGroup = Array.isArray(call[0]);
  results.push(await (isGroup ? Promise.all(call.map((one) => make(engine, one))) : make(engine, call)));
}
await engine.close();
process.stdout.write(`${JSON.stringify(results)}\n`);
