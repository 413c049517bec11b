/** What one wants to know when something is odd: adapter, kernels, memory, storage; and a lost device on demand. */
import type { Engine } from "../../src/index.ts";
import { background } from "./background.ts";
import { button, el } from "./dom.ts";
import { bytesOfText, bytesText, errorText, numberText } from "./format.ts";
import type { Host } from "./model/host.ts";
import { offlineText } from "./offline.ts";

/** What an engine may offer beyond its public face, for trying what happens. */
interface WithDebug {
  debug?: { loseDevice?: () => Promise<void> | void };
}

export function debugView(host: Host): HTMLElement {
  const facts = el("dl", { class: "facts-debug" });
  const problem = el("p", { class: "problem", role: "alert" });
  const actions = el("div", { class: "actions" });
  const element = el("details", { class: "debug" }, el("summary", {}, "Debug"), facts, actions, problem);
  const draw = async (): Promise<void> => {
    if (!element.open) return;
    const { engine } = host.state;
    const rows = [...(engine ? engineFacts(engine) : []), ...(await pageFacts())];
    facts.replaceChildren(
      ...rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
    );
    const lose = engine && (engine as WithDebug).debug?.loseDevice;
    const tell = (error: unknown): void => void (problem.textContent = errorText(error));
    const press = (): void =>
      background(Promise.resolve(lose?.call((engine as WithDebug).debug)).catch(tell));
    actions.replaceChildren(...(lose ? [button("Lose the GPU device", press)] : []));
  };
  element.addEventListener("toggle", () => background(draw()));
  host.watch(() => background(draw()));
  return element;
}

type Fact = [string, string];

function engineFacts({ info }: Engine): Fact[] {
  const { adapter, kernels, memory, limits } = info;
  return [
    ["Adapter", adapter.software ? `${adapter.name} (software)` : adapter.name],
    [
      "Kernels",
      `${kernels.dtype}, KV ${kernels.kvDtype}, ${kernels.subgroups ? "with" : "without"} subgroups`,
    ],
    ["Weights", bytesText(memory.weightBytes)],
    ["KV pool", `${bytesText(memory.kvPoolBytes)}, ${numberText(limits.poolTokens)} tokens`],
    ["Workspace", bytesText(memory.workspaceBytes)],
    ["Blocks", `${limits.blockTokens} tokens each, chunks of ${limits.chunkTokens}`],
    ["Text worker", info.textWorker],
  ];
}

async function pageFacts(): Promise<Fact[]> {
  const isolated: Fact = ["Isolated", crossOriginIsolated ? "yes" : "no"];
  const threads: Fact = ["Threads", String(navigator.hardwareConcurrency)];
  const offline: Fact = ["Opens offline", await offlineText()];
  const storage = navigator.storage as StorageManager | undefined;
  if (!storage) return [isolated, threads, offline, ["Storage", "none"]];
  const { usage = 0, quota = 0 } = await storage.estimate();
  const lasts: Fact = ["Lasting", (await storage.persisted()) ? "yes" : "the browser may clear it"];
  return [isolated, threads, offline, ["Storage", bytesOfText(usage, quota)], lasts];
}
