/** Files that are dropped anywhere on the page: models are loaded, documents attached, exported conversations taken in. */
import { isDocument } from "../chat/documents.ts";

export interface DropActions {
  loadModel(files: File[]): void;
  attach(files: File[]): void;
  importConversations(files: File[]): void;
}

/** Keeps the browser from opening what is dropped. */
export function acceptDrops(actions: DropActions): void {
  const mark = (on: boolean) => document.body.classList.toggle("dropping", on);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    mark(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) mark(false);
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    mark(false);
    const files = [...(event.dataTransfer?.files ?? [])];
    if (files.length > 0) give(files, actions);
  });
}

/** A model may come with JSON files; JSON files alone are conversations. */
function give(files: File[], { loadModel, attach, importConversations }: DropActions): void {
  if (files.every(isDocument)) attach(files);
  else if (files.every(({ name }) => name.toLowerCase().endsWith(".json"))) importConversations(files);
  else loadModel(files);
}
