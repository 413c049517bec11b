/**
 * A process that ends while an engine of its own, or of a thread of its own, is at work. Arguments: model, how it ends, folder of
 * the store. "exit", "throw", "reject", "signal", "wait": while tokens are generated, the last by itself, without close(). "load":
 * while the model loads. "thread-...": the engine is in a thread of this process, which lives on unless it is told to exit.
 */
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { Engine } from "../../dist/lib/index.js";

const [model, how, directory] = isMainThread ? process.argv.slice(2) : workerData;
const EXIT_CODE = 3;

const ends = {
  exit: () => process.exit(EXIT_CODE),
  throw: () => {
    throw new Error("thrown by the test");
  },
  reject: () => void Promise.reject(new Error("thrown by the test")),
  signal: () => process.kill(process.pid, "SIGTERM"),
  wait: () => {},
  terminate: () => parentPort.postMessage("now"),
  host: () => parentPort.postMessage("now"),
};

async function endAtWork(end) {
  const engine = await Engine.load(model, { dtype: "f32", cache: { directory } });
  const isShort = end === ends.wait;
  let chunks = 0;
  for await (const _ of engine.generate("The tide was low and ".repeat(12), {
    maxTokens: isShort ? 8 : 400,
  })) {
    if (++chunks === 4) end();
  }
  const { disk } = await engine.cache.stats();
  console.log(JSON.stringify({ records: disk.records + disk.drops, chunks }));
}

async function endWhileLoading() {
  setTimeout(() => process.exit(EXIT_CODE), Math.random() * 600);
  await Engine.load(model, { dtype: "f32" });
  await new Promise(() => setInterval(() => {}, 1000));
}

/** What ends a thread is the host's own doing, or comes to it as an event; then it lives on. */
async function beHost() {
  const thread = new Worker(new URL(import.meta.url), { workerData: [model, how, directory] });
  const ended = new Promise((resolve) => thread.on("exit", resolve).on("error", () => {}));
  if (how === "thread-terminate" || how === "thread-host")
    await new Promise((done) => thread.on("message", done));
  if (how === "thread-host") process.exit(EXIT_CODE);
  if (how === "thread-terminate") await thread.terminate();
  const code = await ended;
  await new Promise((resolve) => setTimeout(resolve, 200));
  console.log(JSON.stringify({ code }));
}

if (isMainThread && how.startsWith("thread-")) await beHost();
else if (how === "load") await endWhileLoading();
else await endAtWork(ends[how.replace("thread-", "")]);
