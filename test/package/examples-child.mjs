/**
 * Runs the modules that test/support/examples.ts has written, one after another in one process with one engine, in the current
 * folder; prints a JSON array of what each printed and of its error. Arguments: the modules' addresses.
 */
import { format } from "node:util";
import { Engine } from "tidepool";
import { defaultWorkloads, generate, namedModel } from "tidepool/sim";

/** An example that is not done by then hangs. */
const LIMIT_MS = 30_000;

const engine = await Engine.load("tide-dense.gguf", { cache: { directory: "engine-kv" } });
const trace = generate({ ...defaultWorkloads.chat, sessions: 20, seed: 1 });
const cost = namedModel("nvidia-hybrid-7b");

async function run(address) {
  const printed = {};
  const logAt = (line, ...values) => {
    printed[line] ??= format(...values);
  };
  try {
    const { default: example } = await import(address);
    const late = new Promise((_, reject) =>
      setTimeout(() => reject(new Error(`not done after ${LIMIT_MS} ms`)), LIMIT_MS).unref(),
    );
    await Promise.race([example({ engine, trace, cost, logAt }), late]);
    return { printed };
  } catch (error) {
    return { printed, error: `${error?.code ?? ""} ${error?.stack ?? error}` };
  }
}

const results = [];
for (const address of process.argv.slice(2)) results.push(await run(address));
await engine.close();
process.stdout.write(JSON.stringify(results));
