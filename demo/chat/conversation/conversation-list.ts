/** The list of conversations: open, begin, rename, delete, import; and what to do when they cannot be kept. */
import { background } from "../../page/background.ts";
import type { Head } from "./conversation-db.ts";
import type { Conversations, ListState } from "./conversations.ts";
import { button, el, iconButton } from "../../page/dom.ts";
import { dayText, storageText } from "../../page/format.ts";

export interface ListActions {
  begin(): void;
  open(id: string): void;
  rename(id: string, title: string): Promise<void>;
  remove(id: string): Promise<void>;
  importFiles(files: File[]): Promise<void>;
}

export interface ListView {
  element: HTMLElement;
  /** Marks the conversation that is open. */
  mark(id: string): void;
}

export function conversationList(conversations: Conversations, actions: ListActions): ListView {
  const rows = el("ul", { class: "conversations" });
  const problem = problemView(conversations);
  const begin = iconButton("plus", "New conversation", actions.begin, { class: "begin" });
  const element = el("nav", { class: "list", id: "conversations", "aria-label": "Conversations" });
  element.append(begin, problem.element, rows, importView(actions));
  let state: ListState = { heads: [], unsaved: new Set() };
  let open = "";
  let busy: { id: string; row: HTMLElement } | undefined;
  const setBusy = (id: string, row: HTMLElement | undefined): void => {
    busy = row && { id, row };
    draw();
    (row ?? rows.querySelector<HTMLElement>(`[data-id="${id}"]`))
      ?.querySelector<HTMLElement>("input, button, a")
      ?.focus();
  };
  const draw = (): void => {
    const focused = rows.querySelector<HTMLElement>("a:focus")?.closest("li")?.dataset["id"];
    const views = state.heads.map((head) =>
      busy?.id === head.id
        ? busy.row
        : rowView(head, head.id === open, state.unsaved.has(head.id), actions, setBusy),
    );
    rows.replaceChildren(...views);
    if (focused !== undefined) rows.querySelector<HTMLElement>(`[data-id="${focused}"] a`)?.focus();
  };
  conversations.watch((next) => {
    state = next;
    problem.show(next);
    draw();
  });
  return {
    element,
    mark(id) {
      open = id;
      draw();
    },
  };
}

type SetBusy = (id: string, row: HTMLElement | undefined) => void;

function rowView(
  head: Head,
  isOpen: boolean,
  isUnsaved: boolean,
  actions: ListActions,
  setBusy: SetBusy,
): HTMLElement {
  const { id, title } = head;
  const link = el("a", { href: `#/chat/${id}`, ...(isOpen && { "aria-current": "true" }) });
  const when = isUnsaved ? "on this page only" : dayText(head.updatedAtMs);
  link.append(el("span", { class: "title" }, title), el("small", {}, when));
  link.addEventListener("click", () => actions.open(id));
  const small = { class: "plain square small", bare: true };
  const rename = iconButton(
    "pencil",
    `Rename ${title}`,
    () => setBusy(id, renameRow(head, actions, setBusy)),
    small,
  );
  const remove = iconButton(
    "bin",
    `Delete ${title}`,
    () => setBusy(id, removeRow(head, actions, setBusy)),
    small,
  );
  return el("li", { "data-id": id }, link, el("div", { class: "tools" }, rename, remove));
}

function renameRow({ id, title }: Head, actions: ListActions, setBusy: SetBusy): HTMLElement {
  const input = el("input", { "aria-label": "New title", value: title, required: true, maxlength: 200 });
  const form = el("form", {}, input, el("button", { type: "submit", class: "quiet" }, "Rename"));
  const close = (): void => setBusy(id, undefined);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    background(actions.rename(id, input.value.trim()).then(close));
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
  });
  return el("li", { "data-id": id, class: "busy" }, form);
}

function removeRow({ id, title }: Head, actions: ListActions, setBusy: SetBusy): HTMLElement {
  const keep = button("Keep", () => setBusy(id, undefined), { class: "quiet" });
  const remove = (): void => {
    setBusy(id, undefined);
    background(actions.remove(id));
  };
  const ask = el("p", {}, `Delete “${title}” for good?`);
  return el(
    "li",
    { "data-id": id, class: "busy" },
    ask,
    el("div", { class: "actions" }, button("Delete", remove, { class: "danger" }), keep),
  );
}

function problemView(conversations: Conversations) {
  const words = el("p", { class: "problem", role: "alert" });
  const retry = button("Try again", () => background(conversations.retry()), { class: "quiet" });
  const element = el("div", { class: "storage-problem", hidden: true }, words, retry);
  return {
    element,
    show({ problem, unsaved }: ListState) {
      const said = problem ? storageText(problem) : "";
      if (words.textContent !== said) words.textContent = said; // screen readers hear it once
      element.hidden = problem === undefined;
      retry.hidden = unsaved.size === 0;
    },
  };
}

function importView({ importFiles }: ListActions): HTMLElement {
  const picker = el("input", { type: "file", multiple: true, accept: ".json", hidden: true });
  picker.ariaLabel = "Conversation files";
  picker.addEventListener("change", () => {
    const files = [...(picker.files ?? [])];
    picker.value = "";
    background(importFiles(files));
  });
  return el(
    "div",
    { class: "foot" },
    iconButton("in", "Import", () => picker.click(), { class: "quiet" }),
    picker,
  );
}
