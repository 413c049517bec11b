/**
 * A process that closes engines at random moments of whatever they do, twice; prints each round as a line of JSON.
 * Arguments: model, seed, rounds, folder of the store.
 */
import { Engine } from "../../dist/lib/index.js";

const [, , model, seed, rounds, directory] = process.argv;
/** The longest pause before the close. */
const PAUSE_MS = 500;
const LOADING_MS = 1500;

let state = Number(seed) >>> 0;
function random() {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 32;
}

const text = "the tide came in and went out ".repeat(30);
const tokens = Array.from({ length: 900 }, (_, index) => index % 200);
const work = {
  prefill: (engine) => engine.generate(tokens, { maxTokens: 1 }).result(),
  decode: (engine) => engine.generate(tokens.slice(0, 8), { maxTokens: 400 }).result(),
  chat: (engine) => engine.chat([{ role: "user", content: text }], { maxTokens: 100 }).result(),
  score: (engine) => engine.score(tokens),
  warm: (engine) => engine.warm(text),
  export: (engine) => engine.warm(text).then(() => engine.cache.export(text)),
  tokenize: (engine) => engine.tokenize(text.repeat(10)),
};
const names = Object.keys(work);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const outcome = (promise) =>
  promise.then(
    (value) => value?.finishReason ?? "done",
    (error) => error.code ?? String(error),
  );

async function endLoad() {
  const stop = new AbortController();
  const options = { dtype: "f32", cache: { directory }, signal: stop.signal };
  const loading = Engine.load(model, options).then((engine) => engine.close());
  const pauseMs = random() * LOADING_MS;
  setTimeout(() => stop.abort(), pauseMs);
  const startMs = performance.now();
  const outcomes = [await outcome(loading)];
  return { what: ["load"], outcomes, closeMs: performance.now() - startMs - pauseMs };
}

async function endWork(first) {
  const engine = await Engine.load(model, { dtype: "f32", cache: { directory } });
  const what = [first, names[Math.floor(random() * names.length)]];
  const working = what.map((name) => outcome(work[name](engine)));
  await pause(random() * PAUSE_MS);
  const startMs = performance.now();
  await Promise.all([engine.close(), engine.close()]);
  await engine.close();
  const closeMs = performance.now() - startMs;
  const outcomes = await Promise.all(working);
  return { what, outcomes, closeMs, state: engine.state, after: await outcome(engine.tokenize("x")) };
}

for (let round = 0; round < Number(rounds); round++) {
  const index = round % (names.length + 1);
  console.log(JSON.stringify(index === 0 ? await endLoad() : await endWork(names[index - 1])));
}
