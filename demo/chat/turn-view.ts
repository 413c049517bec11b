/** One turn on the page: what was asked, the answer as it streams, its numbers, and what can be done with it. */
import { background } from "../page/background.ts";
import type { Answer, Turn } from "./conversation/conversation.ts";
import { button, el, iconButton } from "../page/dom.ts";
import { bytesText, countedTokens, secondsText } from "../page/format.ts";
import { MarkdownStream } from "./markdown.ts";
import { originView } from "./origin-view.ts";

/** How long the copy button says what became of it. */
const SAID_MS = 2000;

export interface TurnView {
  element: HTMLElement;
  /** Shows what is awaited before the first text. */
  wait(what: string): void;
  add(text: string): void;
  finish(answer: Answer): void;
  /** Shows why there is no answer, or no more of it. */
  fail(reason: string): void;
  /** Puts a button beside the answer's others. */
  offer(action: HTMLButtonElement): void;
  /** Puts a form in the question's place until it is closed; the question then has the focus again. */
  edit(save: (prompt: string) => void): void;
}

/** @param edit is called when the question's edit button is pressed. */
export function turnView(turn: Turn, edit: () => void): TurnView {
  const { shape } = turn;
  const name = shape === "answer" ? "Answer" : "Continuation";
  const text = shape === "answer" ? markdownText() : plainText(turn.prompt);
  const note = el("p", { class: "note" });
  const origin = el("div", { class: "origins" });
  const actions = el("div", { class: "actions" });
  const answer = el("div", { class: "answer", role: "article", "aria-label": name, "aria-busy": "true" });
  answer.append(el("p", { class: "spoken" }, name), text.element, note, origin, actions);
  const question = questionView(turn, edit);
  const element = el("div", { class: "turn" }, ...(shape === "answer" ? [question.element] : []), answer);
  const end = (): void => {
    text.finish();
    answer.removeAttribute("aria-busy");
    if (text.given() !== "") actions.prepend(copyButton(() => text.copied()));
  };
  return {
    element,
    wait: (what) => (note.textContent = what),
    add(added) {
      if (added !== "") note.textContent = "";
      text.add(added);
    },
    finish(result) {
      text.set(result.text);
      note.textContent = numbersOf(result);
      origin.replaceChildren(...originView(result.usage));
      end();
    },
    fail(reason) {
      note.replaceWith(el("p", { class: "problem", role: "alert" }, reason));
      end();
    },
    offer: (action) => actions.append(action),
    edit: (save) => question.edit(save),
  };
}

interface TextView {
  element: HTMLElement;
  add(text: string): void;
  set(text: string): void;
  finish(): void;
  /** What the model gave, as it gave it. */
  given(): string;
  /** What the copy button copies. */
  copied(): string;
}

/** The prompt and how it goes on, as they are. */
function plainText(prompt: string): TextView {
  const body = el("span", { class: "text" });
  const element = el("p", { class: "passage plain" }, el("span", { class: "given" }, prompt), body);
  return {
    element,
    add: (text) => body.append(text),
    set: (text) => (body.textContent = text),
    finish: () => {},
    given: () => body.textContent,
    copied: () => element.textContent,
  };
}

/** An answer as Markdown, drawn at most once a frame. */
function markdownText(): TextView {
  const element = el("div", { class: "passage text" });
  const stream = new MarkdownStream(element);
  let given = "";
  let frame = 0;
  const draw = (): void => {
    frame = 0;
    stream.show(given);
  };
  return {
    element,
    add(text) {
      given += text;
      if (frame === 0) frame = requestAnimationFrame(draw);
    },
    set: (text) => (given = text),
    finish() {
      cancelAnimationFrame(frame);
      stream.finish(given);
    },
    given: () => given,
    copied: () => given,
  };
}

function questionView({ prompt, documents }: Turn, onEdit: () => void) {
  const attached = documents.map(({ name, text }) =>
    el("li", { class: "document" }, `${name} · ${bytesText(new Blob([text]).size)}`),
  );
  const files =
    attached.length > 0 ? [el("ul", { class: "documents", "aria-label": "Attached" }, ...attached)] : [];
  const change = iconButton("pencil", "Edit this message", onEdit, {
    class: "plain square small",
    bare: true,
  });
  const bubble = el("div", { class: "prompt" }, el("span", { class: "spoken" }, "You: "), ...files, prompt);
  const row = el("div", { class: "asked" }, change, bubble);
  const element = el("div", { class: "question" }, row);
  return {
    element,
    edit(save: (prompt: string) => void) {
      const close = (): void => {
        element.replaceChildren(row);
        change.focus();
      };
      element.replaceChildren(editForm(prompt, save, close));
      element.querySelector("textarea")?.focus();
    },
  };
}

function editForm(prompt: string, save: (prompt: string) => void, close: () => void): HTMLElement {
  const input = el("textarea", { "aria-label": "Edit this message", rows: 3 });
  input.value = prompt;
  const form = el(
    "form",
    { class: "edit" },
    input,
    el("small", {}, "The conversation continues from here; later messages are removed."),
    el(
      "div",
      { class: "actions" },
      el("button", { type: "submit", class: "main" }, "Ask again"),
      button("Cancel", close),
    ),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (input.value.trim() !== "") save(input.value);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  return form;
}

const ENDINGS: Record<Answer["finishReason"], string> = {
  stop: "",
  length: "cut at the token limit",
  aborted: "stopped",
};

function numbersOf({ usage, timing, finishReason, seed }: Answer): string {
  const tokens = usage.completionTokens;
  const parts = [countedTokens(tokens)];
  if (tokens > 1) parts.push(`${timing.decodeTokensPerSecond.toFixed(1)} tokens/s`);
  if (tokens > 0) parts.push(`first after ${secondsText(timing.ttftMs)}`);
  if (seed !== undefined) parts.push(`seed ${seed}`);
  return [...parts, ENDINGS[finishReason]].filter((part) => part !== "").join(" · ");
}

function copyButton(text: () => string): HTMLButtonElement {
  const label = (): HTMLSpanElement | null => made.querySelector("span");
  const say = (what: string): void => label()?.replaceChildren(what);
  const copy = async (): Promise<void> => {
    const copied = await navigator.clipboard.writeText(text()).then(
      () => "Copied",
      () => "The browser refused",
    );
    say(copied);
    setTimeout(() => say("Copy"), SAID_MS);
  };
  const made = iconButton("copy", "Copy", () => background(copy()), { class: "quiet" });
  return made;
}
