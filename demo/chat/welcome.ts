/** What an empty conversation shows: what can be done here, and first messages that a shipped model answers well. */
import { button, el, iconButton } from "../page/dom.ts";
import type { Draft } from "./composer.ts";
import type { HostState } from "../page/model/host.ts";
import { SAMPLE_LOG } from "./sample-log.ts";

const STARTERS = ["Who are you?", "Tell me about the harbour.", "Tell me a story."];
const SAMPLE_QUESTION = "What is the berth of the Garwick?";

export interface Welcome {
  element: HTMLElement;
  show(state: HostState, usual: string | undefined, isShipped: boolean): void;
}

/** @param ask sends a draft as the first message; `propose` puts it in the composer. */
export function welcomeView(ask: (draft: Draft) => void, propose: (draft: Draft) => void): Welcome {
  const words = el("p", { class: "empty" });
  const sample: Draft = {
    prompt: SAMPLE_QUESTION,
    documents: [{ name: "harbour-log.md", text: SAMPLE_LOG }],
  };
  const starters = el(
    "div",
    { class: "starters" },
    ...STARTERS.map((prompt) => button(prompt, () => ask({ prompt, documents: [] }), { class: "starter" })),
    iconButton("page", "Attach a sample log book and ask about it", () => propose(sample), {
      class: "starter",
    }),
  );
  const element = el("div", { class: "welcome" }, el("h2", {}, "Ask, and ask again"), words, starters);
  return {
    element,
    show(state, usual, isShipped) {
      words.textContent = invitation(state, usual);
      starters.hidden = !isShipped;
    },
  };
}

function invitation({ engine, loading }: HostState, usual: string | undefined): string {
  if (loading) return "One moment: the model is loading.";
  if (engine && !engine.info.model.generates)
    return "This model makes vectors of texts, for search and comparison, and does not answer. Developers call engine.embed(); to chat, load another model.";
  if (engine && engine.info.chatTemplate !== "ready")
    return "This model has no chat template: it continues what you write, each text on its own.";
  if (engine)
    return "What the model has read is kept: a second question starts at once, even after a reload. Below each answer you see where its tokens came from.";
  return usual === undefined
    ? "Choose a model to begin: a file or an address."
    : `Choose a model, or just write: the first message loads ${usual}. It runs on your own GPU, and what it has read is kept, so that a second question starts at once.`;
}
