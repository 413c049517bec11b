/**
 * Makes smollm2.json: the greedy tokens of llama.cpp for the prompts of prompts.json, for conversations through the model's chat
 * template, and for a prompt that fills the context. It needs node-llama-cpp, installed anywhere, and reference.py's Python.
 *
 *   node test/real/reference.mjs MODEL.gguf FOLDER_WITH_NODE_MODULES PYTHON
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const NEW_TOKENS = 32;
/** A prompt that fills so many positions but for those of its answer. */
const LONG_TOKENS = 1024;
const LEFT = 8;
const here = new URL("./", import.meta.url);

const [modelPath, packages, python] = process.argv.slice(2);
const require = createRequire(pathToFileURL(join(resolve(packages), "x.js")));
const { getLlama } = await import(pathToFileURL(require.resolve("node-llama-cpp")));
const work = mkdtempSync(join(tmpdir(), "reference-"));

/** Conversations in, rendered texts out. */
const renderer = spawn(python, [new URL("reference.py", here).pathname, modelPath, work], {
  stdio: ["pipe", "pipe", "inherit"],
});
const lines = createInterface(renderer.stdout)[Symbol.asyncIterator]();
async function render(conversation) {
  renderer.stdin.write(`${JSON.stringify(conversation)}\n`);
  return JSON.parse((await lines.next()).value);
}
await render({ messages: [] }); // f32.gguf is written by then

const llama = await getLlama({ gpu: false, build: "never", maxThreads: 1 });
const { chats } = JSON.parse(readFileSync(join(work, "chats.json"), "utf8"));

async function open(path, contextSize) {
  const model = await llama.loadModel({ modelPath: path, gpuLayers: 0 });
  const kinds = { experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32" };
  const context = await model.createContext({ contextSize, flashAttention: false, ...kinds });
  const sequence = context.getSequence();
  /** Greedy tokens behind a prompt; those that end the text included. */
  async function greedy(tokens, count) {
    await sequence.clearHistory();
    const out = [];
    for await (const token of sequence.evaluate(tokens, { temperature: 0, yieldEogToken: true })) {
      if (model.isEogToken(token)) break;
      out.push(token);
      if (out.length === count) break;
    }
    return out;
  }
  return { model, greedy, context };
}

const exact = await open(join(work, "f32.gguf"), LONG_TOKENS + 64);
const { model } = exact;
console.log(`context ${model.trainContextSize}, BOS ${model.tokens.shouldPrependBosToken}`);
const encode = (text, special) => {
  const tokens = model.tokenize(text, special);
  return model.tokens.shouldPrependBosToken ? [model.tokens.bos, ...tokens] : tokens;
};

const prompts = [];
for (const { language, prompt } of JSON.parse(readFileSync(new URL("prompts.json", here), "utf8"))) {
  const promptTokens = encode(prompt, false);
  prompts.push({ language, prompt, promptTokens, tokens: await exact.greedy(promptTokens, NEW_TOKENS) });
  console.log(language, JSON.stringify(prompt + model.detokenize(prompts.at(-1).tokens)));
}

const told = [];
for (const { messages, tools, follows } of chats) {
  const before = follows ? told.at(-1) : undefined;
  const said = before ? [...before.messages, { role: "assistant", content: before.answerText }] : [];
  const conversation = { messages: [...said, ...messages], ...(tools && { tools }) };
  const text = await render(conversation);
  const answer = await exact.greedy(model.tokenize(text, true), NEW_TOKENS);
  told.push({ ...conversation, text, answer, answerText: model.detokenize(answer) });
  console.log("chat", JSON.stringify(text), "->", told.at(-1).answerText);
}

const sentence = "The harbour master wrote down the name, the cargo and the berth of every ship. ";
const wanted = LONG_TOKENS - LEFT;
let times = 1;
while (encode(sentence.repeat(times + 1), false).length <= wanted) times++;
const promptTokens = encode(sentence.repeat(times), false);
const count = LONG_TOKENS - promptTokens.length;
const long = {
  sentence,
  times,
  context: LONG_TOKENS,
  promptTokens: promptTokens.length,
  tokens: await exact.greedy(promptTokens, count),
};
await exact.context.dispose();

const quantised = await open(modelPath, 512);
let same = 0;
for (const each of prompts) {
  const tokens = await quantised.greedy(each.promptTokens, NEW_TOKENS);
  if (tokens.join() === each.tokens.join()) same++;
}
const sha256 = createHash("sha256").update(readFileSync(modelPath)).digest("hex");
const llamaCpp = `${llama.llamaCppRelease.repo} ${llama.llamaCppRelease.release}`;
const note = `greedy text of llama.cpp (${llamaCpp}) on the CPU, weights dequantised to float32, keys and values in float32; ${same} of ${prompts.length} prompts are the same when it computes with the quantised weights, for which it rounds activations to 8 bits`;
const result = { model: "SmolLM2-135M-Instruct.Q4_1.gguf", sha256, note, prompts, chats: told, long };
writeFileSync(new URL("smollm2.json", here), `${JSON.stringify(result, undefined, 1)}\n`);
console.log(note);
renderer.kill();
rmSync(work, { recursive: true, force: true });
process.exit(0);
