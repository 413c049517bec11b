/** The models that the browser keeps after a download: load, check, remove; those that were cut off can be gone on with. */
import { models, type StoredModel } from "../../../src/index.ts";
import { background } from "../background.ts";
import { button, el } from "../dom.ts";
import { bytesOfText, bytesText, errorText } from "../format.ts";
import type { Choice } from "./host.ts";

export interface KeptModels {
  element: HTMLElement;
  /** Reads the list anew. */
  refresh(): void;
}

export function keptModels(load: (choice: Choice) => void): KeptModels {
  const rows = el("ul", { class: "kept" });
  const said = el("p", { class: "note", role: "status" });
  const problem = el("p", { class: "problem", role: "alert" });
  const element = el("section", { "aria-label": "Models kept here", hidden: true });
  element.append(el("h3", {}, "Kept here"), rows, said, problem);
  /** Does something with the kept models, says what came of it, and shows them as they are then. */
  const act = async (work: () => Promise<string>): Promise<void> => {
    problem.textContent = "";
    try {
      said.textContent = await work();
      const kept = await models.list();
      element.hidden = kept.length === 0;
      rows.replaceChildren(...kept.map((model) => rowOf(model, load, (next) => background(act(next)))));
    } catch (error) {
      element.hidden = false;
      said.textContent = "";
      problem.textContent = errorText(error);
    }
  };
  const refresh = (): void => background(act(() => Promise.resolve("")));
  return { element, refresh };
}

type Act = (work: () => Promise<string>) => void;

function rowOf(model: StoredModel, load: (choice: Choice) => void, act: Act): HTMLElement {
  const { name, isComplete, bytesKept, sizeBytes } = model;
  const size = isComplete ? bytesText(sizeBytes) : `${bytesOfText(bytesKept, sizeBytes)}, cut off`;
  const use = button(isComplete ? "Load" : "Go on", () => load({ name, model: modelOf(name) }), {
    class: "quiet",
  });
  const check = button("Check", () => act(() => verified(name)), { class: "quiet" });
  const remove = button("Remove", () => act(() => removed(name)), { class: "quiet" });
  for (const one of [use, check, remove]) one.ariaLabel = `${one.textContent} ${name}`;
  return el(
    "li",
    {},
    el("span", {}, name),
    el("small", {}, size),
    el("div", { class: "actions" }, use, check, remove),
  );
}

/** A Hub id or an address. */
const modelOf = (name: string): string | URL => (/^https?:\/\//.test(name) ? new URL(name) : name);

async function verified(name: string): Promise<string> {
  const { checked, bad, partial } = await models.verify(name);
  if (bad.length > 0)
    return `${name}: ${bad.map(({ file, problem }) => `${file} ${problem}`).join("; ")}. Removed: load it again.`;
  return `${name}: ${checked} files are intact${partial > 0 ? `, ${partial} incomplete` : ""}.`;
}

async function removed(name: string): Promise<string> {
  const { bytesFreed } = await models.remove(name);
  return `${name} is removed: ${bytesText(bytesFreed)} freed.`;
}
