/** The page's entry: the shell with its views, or why it cannot run here. */
import { el } from "./page/dom.ts";
import { Host } from "./page/model/host.ts";
import { keepOffline } from "./page/offline.ts";
import { brand, shell, type Route } from "./page/shell.ts";

const host = new Host();

const ROUTES: readonly [Route, ...Route[]] = [
  { name: "chat", label: "Chat", load: async () => (await import("./chat/chat-tab.ts")).chatTab(host) },
  {
    name: "cache",
    label: "Cache",
    load: async () => new (await import("./cache/cache-view.ts")).CacheView(host),
  },
  {
    name: "compare",
    label: "Compare",
    load: async () => ({ element: await (await import("./compare/compare-tab.ts")).compareTab() }),
  },
  {
    name: "race",
    label: "Race",
    load: async () => ({ element: (await import("./race/race.ts")).raceView() }),
  },
  {
    name: "experts",
    label: "Experts",
    load: async () => new (await import("./experts/experts-view.ts")).ExpertsView(host),
  },
  {
    name: "schedule",
    label: "Schedule",
    load: async () => new (await import("./schedule/schedule-view.ts")).ScheduleView(host),
  },
];

/** The one sentence for browsers that cannot run it. */
function absence(): string | undefined {
  if ("gpu" in navigator && navigator.gpu) return undefined;
  return isSecureContext
    ? "This browser has no WebGPU, which Tidepool needs: open the page in a current Chrome, Edge, Safari or Firefox with hardware acceleration on."
    : "This page was not opened over https or from localhost. Browsers offer WebGPU, which Tidepool needs, only there.";
}

const missing = absence();
document.body.append(
  ...(missing === undefined
    ? shell(ROUTES, host)
    : [el("header", {}, brand()), el("main", { class: "absence" }, el("p", { role: "alert" }, missing))]),
  keepOffline(),
);
