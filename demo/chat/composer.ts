/** Where a message is written: the text, the documents that go with it, and the buttons to send and to stop. */
import { background } from "../page/background.ts";
import type { AttachedDocument } from "./conversation/conversation.ts";
import { DOCUMENT_TYPES, readDocument } from "./documents.ts";
import { button, el, iconButton } from "../page/dom.ts";
import { cutDocuments, fits, type Room } from "./document-room.ts";
import { bytesText, countedTokens, errorText, numberText } from "../page/format.ts";
import { icon } from "../page/icons.ts";

export interface Draft {
  prompt: string;
  documents: readonly AttachedDocument[];
}

export interface ComposerState {
  label: string;
  isRunning: boolean;
  canSend: boolean;
  /** A model without a chat template reads no documents. */
  takesDocuments: boolean;
  /** What the model is for, in a sentence; may be empty. */
  purpose: string;
}

export interface ComposerActions {
  submit(): void;
  stop(): void;
  /** Tokens of a text, if a model is loaded. */
  countTokens(text: string): Promise<number | undefined>;
  /** Room for the message with these documents, if a model is loaded. */
  roomFor(documents: readonly AttachedDocument[], prompt: string): Promise<Room | undefined>;
}

export class Composer {
  readonly element: HTMLElement;
  private readonly input = el("textarea", { id: "message", rows: 1, enterkeyhint: "send" });
  private readonly label = el("label", { for: "message", class: "spoken" });
  private readonly attached = el("ul", { class: "documents", "aria-label": "Attached", hidden: true });
  private readonly problem = el("p", { class: "problem", role: "alert" });
  /** Says that the documents do not fit, with a way on. */
  private readonly tight = el("div", { class: "problem tight", role: "alert" });
  /** What the model that answers is for, if it is one of the small ones that come with the page. */
  private readonly purpose = el("small", { class: "purpose" });
  private readonly picker = el("input", {
    type: "file",
    multiple: true,
    accept: DOCUMENT_TYPES,
    hidden: true,
  });
  private readonly attachButton: HTMLButtonElement;
  private readonly send = el("button", {
    type: "submit",
    class: "main round",
    "aria-label": "Send",
    title: "Send",
  });
  private readonly stop: HTMLButtonElement;
  private readonly actions: ComposerActions;
  private documents: AttachedDocument[] = [];
  private canSend = false;
  /** Counts the changes of the documents: an answer about earlier ones is dropped. */
  private changes = 0;

  constructor(actions: ComposerActions) {
    this.actions = actions;
    this.attachButton = iconButton("clip", "Attach a document", () => this.picker.click(), {
      class: "plain square",
      bare: true,
    });
    this.stop = iconButton("stop", "Stop", actions.stop, { class: "main round", bare: true });
    this.send.append(icon("send"));
    this.picker.ariaLabel = "Documents";
    this.picker.addEventListener("change", () => {
      const files = [...(this.picker.files ?? [])];
      this.picker.value = "";
      background(this.attach(files));
    });
    this.element = this.form();
  }

  private form(): HTMLElement {
    const line = el("div", { class: "line" }, this.attachButton, this.input, this.send, this.stop);
    const box = el("div", { class: "box" }, this.attached, this.label, line);
    const form = el("form", { class: "composer" }, this.problem, this.tight, box, this.purpose, this.picker);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.actions.submit();
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (this.canSend) form.requestSubmit();
    });
    return form;
  }

  get draft(): Draft {
    return { prompt: this.input.value, documents: this.documents };
  }

  show({ label, isRunning, canSend, takesDocuments, purpose }: ComposerState): void {
    const hadFocus = [this.send, this.stop].some((one) => one === document.activeElement);
    this.canSend = canSend;
    this.label.textContent = label;
    this.input.placeholder = label === "Message" ? "Write a message" : "Write a text to continue";
    this.send.hidden = isRunning;
    this.stop.hidden = !isRunning;
    this.send.disabled = !canSend;
    this.attachButton.hidden = !takesDocuments;
    this.purpose.textContent = purpose;
    if (hadFocus) this.focus(); // the button that had the focus may be gone
  }

  focus(): void {
    this.input.focus();
  }

  /** Puts a draft in the place of what is written. */
  write({ prompt, documents }: Draft): void {
    this.input.value = prompt;
    this.documents = [...documents];
    this.problem.textContent = "";
    this.showDocuments();
  }

  clear(): void {
    this.write({ prompt: "", documents: [] });
  }

  /** Reads files and attaches them to the message; files that cannot be read are reported. */
  async attach(files: readonly File[]): Promise<void> {
    const read = await Promise.allSettled(files.map(readDocument));
    const failed = read.flatMap((one) => (one.status === "rejected" ? [errorText(one.reason)] : []));
    this.documents.push(...read.flatMap((one) => (one.status === "fulfilled" ? [one.value] : [])));
    this.problem.textContent = failed.join(" ");
    this.showDocuments();
    this.focus();
  }

  /** Shows the documents with their sizes; called again when another model counts them. */
  showDocuments(): void {
    this.attached.hidden = this.documents.length === 0;
    this.attached.replaceChildren(...this.documents.map((one) => this.chip(one)));
    background(this.checkRoom());
  }

  /** Says at once if the documents do not fit the model, and not when they are sent. */
  private async checkRoom(): Promise<void> {
    const change = ++this.changes;
    this.tight.replaceChildren();
    if (this.documents.length === 0) return;
    try {
      const room = await this.actions.roomFor(this.documents, this.input.value);
      if (change === this.changes && room && !fits(room)) this.sayTight(room);
    } catch (error) {
      if (change === this.changes) this.tight.replaceChildren(el("span", {}, errorText(error)));
    }
  }

  private sayTight({ neededTokens, roomTokens }: Room): void {
    const words = `With the conversation so far this needs ${countedTokens(neededTokens)}; ${numberText(roomTokens)} fit and leave room for an answer.`;
    const cut = button("Keep the part that fits", () => background(this.cut(neededTokens - roomTokens)));
    this.tight.replaceChildren(el("span", {}, words), cut);
  }

  private async cut(excess: number): Promise<void> {
    const change = this.changes;
    const count = async (text: string): Promise<number> => (await this.actions.countTokens(text)) ?? 0;
    const kept = await cutDocuments(this.documents, excess, count);
    if (change !== this.changes) return;
    this.documents = kept;
    if (kept.length === 0) this.problem.textContent = "No part of the documents fits into this conversation.";
    this.showDocuments();
    this.focus();
  }

  private chip(attached: AttachedDocument): HTMLElement {
    const size = el("span", { class: "size" }, bytesText(new Blob([attached.text]).size));
    const remove = (): void => {
      this.documents = this.documents.filter((one) => one !== attached);
      this.showDocuments();
      this.focus();
    };
    const cross = iconButton("close", `Remove ${attached.name}`, remove, {
      class: "plain square small",
      bare: true,
    });
    const count = async (): Promise<void> => {
      const tokens = await this.actions.countTokens(attached.text).catch(() => undefined); // `checkRoom` shows why
      if (tokens !== undefined) size.textContent = countedTokens(tokens);
    };
    background(count());
    return el(
      "li",
      { class: "document" },
      icon("page"),
      el("span", { class: "name" }, attached.name),
      size,
      cross,
    );
  }
}
