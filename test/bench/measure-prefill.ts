/**
 * Measures the time to the first token of a long prompt: computed here, and by a prefill service in another process over loopback.
 * Both share this machine's cores and adapter, so that the service can be no faster than this engine: what is shown is the price of the
 * way, and what a service saves that has a prompt cached.
 */
import { spawn, execFileSync, type ChildProcess } from "node:child_process";
import { pathToFileURL } from "node:url";
import type { Engine } from "../../src/index.ts";
import type { Measurement } from "./report.ts";

const MODEL = "demo/models/tide-dense.gguf";
const PROMPT_TOKENS = 2000;
const KEY = "bench";

/** An engine with and without a service, and with an engine on a second device of the adapter. @param repeats prompts of each kind, all different */
export async function measurePrefill(name: string, repeats: number): Promise<Measurement[]> {
  execFileSync(process.execPath, ["test/support/fresh.mjs"], { stdio: "inherit" });
  const { Engine } = (await import(
    pathToFileURL("dist/lib/index.js").href
  )) as typeof import("../../src/index.ts");
  const service = await startService();
  const load = (extra: object): Promise<Engine> => Engine.load(MODEL, { maxRequests: 1, ...extra });
  const local = await load({});
  const remote = await load({ prefill: { url: service.url, key: KEY, when: "always" } });
  const device = await load({ prefillBy: { engine: local, when: "always" } });
  const times: Record<string, number[]> = { here: [], there: [], cached: [], device: [] };
  try {
    for (let round = 0; round <= repeats; round++) {
      const prompt = await promptOf(local, round);
      const here = await firstToken(local, prompt);
      const there = await firstToken(remote, prompt);
      await remote.cache.clear();
      const cached = await firstToken(remote, prompt);
      const other = await firstToken(device, await promptOf(local, repeats + 1 + round));
      if (String(here.tokens) !== String(there.tokens)) throw new Error("the service's tokens are others");
      if (round === 0) continue; // shaders compile, and connections open
      times["here"]!.push(here.ms);
      times["there"]!.push(there.ms);
      times["cached"]!.push(cached.ms);
      times["device"]!.push(other.ms);
    }
  } finally {
    for (const engine of [device, remote, local]) await engine.close();
    service.child.kill("SIGTERM");
  }
  const metric = `first of ${PROMPT_TOKENS} tokens`;
  return [
    { name, metric: `${metric}, computed here`, unit: "ms", values: times["here"]! },
    { name, metric: `${metric}, by the service`, unit: "ms", values: times["there"]! },
    { name, metric: `${metric}, by an engine on another device`, unit: "ms", values: times["device"]! },
    { name, metric: `${metric}, cached by the service`, unit: "ms", values: times["cached"]! },
  ];
}

async function firstToken(
  engine: Engine,
  prompt: readonly number[],
): Promise<{ ms: number; tokens: number[] }> {
  const { tokens, timing } = await engine.generate(prompt, { maxTokens: 8 }).result();
  return { ms: timing.ttftMs, tokens };
}

/** A prompt that nobody has seen. */
async function promptOf(engine: Engine, round: number): Promise<number[]> {
  const lines = Array.from(
    { length: 250 },
    (_, i) => `Log ${round}-${i}: the brig lies at berth ${(i * 7) % 40}.`,
  );
  return (await engine.tokenize(lines.join(" "))).slice(0, PROMPT_TOKENS);
}

async function startService(): Promise<{ url: string; child: ChildProcess }> {
  const words = ["dist/lib/cli.js", "serve", MODEL, "--prefill-service", "--port", "0", "--key", KEY];
  const child = spawn(process.execPath, words, { stdio: ["ignore", "pipe", "ignore"] });
  child.stdout.setEncoding("utf8");
  let told = "";
  for await (const text of child.stdout.iterator({ destroyOnReturn: false }) as AsyncIterable<string>) {
    told += text;
    const url = / at (http:\S+)/.exec(told)?.[1];
    if (url !== undefined) return { url, child };
  }
  throw new Error("the service has ended");
}
