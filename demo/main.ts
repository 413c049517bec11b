/** The page's entry: puts its views together, or says why it cannot run here. */
import { ChatView } from "./chat-view.ts";
import { el } from "./dom.ts";
import { Host } from "./host.ts";
import { modelView } from "./model-view.ts";
import { settings } from "./settings.ts";

function page(): HTMLElement[] {
  const host = new Host();
  const sampling = settings();
  const side = el(
    "section",
    { class: "side", "aria-label": "Model and settings" },
    modelView(host),
    sampling.element,
  );
  return [header(), el("main", {}, side, new ChatView(host, sampling).element)];
}

function header(): HTMLElement {
  const tagline = el("p", {}, "Language models on your own GPU, in this page");
  return el("header", {}, el("h1", {}, "Tidepool"), tagline);
}

/** The one sentence for browsers that cannot run it. */
function absence(): string | undefined {
  if ("gpu" in navigator && navigator.gpu) return undefined;
  return isSecureContext
    ? "This browser has no WebGPU, which Tidepool computes with: open the page in a current Chrome, Edge, Safari or Firefox with hardware acceleration on."
    : "This page was not opened over https or from localhost, and only there do browsers offer WebGPU, which Tidepool computes with.";
}

const missing = absence();
document.body.append(
  ...(missing === undefined
    ? page()
    : [header(), el("main", { class: "absence" }, el("p", { role: "alert" }, missing))]),
);
