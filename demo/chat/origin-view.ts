/** Why an answer started when it did: a bar of the prompt's tokens by where they came from, and the same in words. */
import type { PromptUsage } from "../../src/index.ts";
import { el } from "../page/dom.ts";
import { countedTokens, sourceText, tokensBySource } from "../page/format.ts";

export function originView(usage: PromptUsage): HTMLElement[] {
  const parts = tokensBySource(usage);
  const bar = el("div", { class: "tokens-bar", "aria-hidden": "true" });
  for (const [source, tokens] of parts) {
    const part = el("span", { class: `from-${source}` });
    part.style.flexGrow = String(tokens);
    bar.append(part);
  }
  const words = el("p", { class: "origin" }, `prompt ${countedTokens(usage.promptTokens)}: `);
  parts.forEach(([source, tokens], i) => {
    const dot = el("i", { class: `dot from-${source}`, "aria-hidden": "true" });
    words.append(i > 0 ? ", " : "", el("span", { class: "source" }, dot, sourceText(source, tokens)));
  });
  return [bar, words];
}
