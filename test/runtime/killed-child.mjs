/** A process whose engine loses its worker in the middle of requests and calls; prints what they came to as JSON. Arguments: model, how it dies. */
import { BroadcastChannel } from "node:worker_threads";
import { Engine } from "../../dist/lib/index.js";

const [, , model, how] = process.argv;
const orders = new BroadcastChannel("tidepool test orders");
const prompt = Array.from({ length: 400 }, (_, index) => index % 200);
const outcome = (promise) =>
  promise.then(
    () => "done",
    (error) => ({ code: error.code, message: error.message }),
  );

const engine = await Engine.load(model, { dtype: "f32" });
const states = [];
const stream = engine.generate(prompt.slice(0, 8), { maxTokens: 400 });
const rest = [
  stream.result(),
  engine.generate(prompt, { maxTokens: 400 }).result(),
  engine.chat([{ role: "user", content: "tell me of the harbour" }], { maxTokens: 400 }).result(),
  ...Array.from({ length: 8 }, () => engine.score(prompt)),
  engine.warm("the tide ".repeat(100)),
].map(outcome);
let chunks = 0;
try {
  for await (const _ of stream) if (++chunks === 3) orders.postMessage({ file: "/worker.js", how });
} catch (error) {
  states.push(error.code, engine.state, engine.failure?.code);
}
const outcomes = await Promise.all(rest);
const after = [
  await outcome(engine.tokenize("x")),
  await outcome(engine.generate([1]).result()),
  await outcome(engine.score([1, 2])),
];
await Promise.all([engine.close(), engine.close()]);
states.push(engine.state);

const next = await Engine.load(model, { dtype: "f32" });
const { tokens } = await next.generate(prompt.slice(0, 8), { maxTokens: 4 }).result();
const before = await next.tokenize("the harbour");
orders.postMessage({ file: "/text-worker.js", how });
await new Promise((resolve) => setTimeout(resolve, 500));
const again = await next.tokenize("the harbour");
await next.close();
orders.close();
console.log(JSON.stringify({ chunks, states, outcomes, after, tokens, before, again }));
