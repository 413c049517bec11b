/** One turn on the page: what was asked, the answer as it streams, its numbers, and what can be done with it. */
import type { GenerationResult } from "../src/index.ts";
import { background } from "./background.ts";
import { button, el } from "./dom.ts";
import { countedTokens, errorText, promptText, secondsText } from "./format.ts";

/** How long the copy button says what became of it. */
const SAID_MS = 2000;

export interface AnswerView {
  element: HTMLElement;
  /** Shows what is awaited before the first text. */
  wait(what: string): void;
  add(text: string): void;
  /** @param seed what chance began with, where there was any. */
  finish(result: GenerationResult, seed: number | undefined): void;
  fail(error: unknown): void;
  /** Puts a button beside the others. */
  offer(action: HTMLButtonElement): void;
}

/** The shape of a turn: an answer below its question, or a text that goes on where the prompt ended. */
export type TurnShape = "answer" | "continuation";

export function answerView(prompt: string, shape: TurnShape): AnswerView {
  const name = shape === "answer" ? "Answer" : "Continuation";
  const given = shape === "answer" ? [] : [el("span", { class: "given" }, prompt)];
  const body = el("span", { class: "text" });
  const passage = el("p", { class: "passage" }, ...given, body);
  const note = el("p", { class: "note" });
  const origin = el("p", { class: "origin" });
  const actions = el("div", { class: "actions" });
  const answer = el("div", { class: "answer", role: "article", "aria-label": name, "aria-busy": "true" });
  answer.append(el("p", { class: "who" }, name), passage, note, origin, actions);
  const element = el("div", { class: "turn" }, ...(shape === "answer" ? [question(prompt)] : []), answer);
  const end = (): void => {
    answer.removeAttribute("aria-busy");
    if (body.textContent !== "") actions.prepend(copyButton(() => passage.textContent));
  };
  return {
    element,
    wait: (what) => (note.textContent = what),
    add(text) {
      if (text !== "") note.textContent = "";
      body.append(text);
    },
    finish(result, seed) {
      body.textContent = result.text;
      note.textContent = numbersOf(result, seed);
      origin.textContent = promptText(result.usage);
      end();
    },
    fail(error) {
      note.replaceWith(el("p", { class: "problem", role: "alert" }, errorText(error)));
      end();
    },
    offer: (action) => actions.append(action),
  };
}

function question(prompt: string): HTMLElement {
  return el("p", { class: "prompt" }, el("span", { class: "spoken" }, "You: "), prompt);
}

const ENDINGS: Record<GenerationResult["finishReason"], string> = {
  stop: "",
  length: "cut at the token limit",
  aborted: "stopped",
};

function numbersOf({ usage, timing, finishReason }: GenerationResult, seed: number | undefined): string {
  const tokens = usage.completionTokens;
  const parts = [countedTokens(tokens)];
  if (tokens > 1) parts.push(`${timing.decodeTokensPerSecond.toFixed(1)} tokens/s`);
  if (tokens > 0) parts.push(`first after ${secondsText(timing.ttftMs)}`);
  if (seed !== undefined) parts.push(`seed ${seed}`);
  return [...parts, ENDINGS[finishReason]].filter((part) => part !== "").join(" · ");
}

function copyButton(text: () => string): HTMLButtonElement {
  const copy = async (): Promise<void> => {
    const copied = await navigator.clipboard.writeText(text()).then(
      () => "Copied",
      () => "The browser refused",
    );
    made.textContent = copied;
    setTimeout(() => (made.textContent = "Copy"), SAID_MS);
  };
  const made = button("Copy", () => background(copy()), { class: "quiet" });
  return made;
}
