/** The policy comparison's place among the views: loaded when it is first looked at. */
import { el } from "../page/dom.ts";

interface Comparison {
  compareView(): HTMLElement;
}

const found = import.meta.glob<Comparison>("./index.ts");

export async function compareTab(): Promise<HTMLElement> {
  const load = found["./index.ts"];
  if (!load) return el("p", { class: "absent" }, "This build of the page has no policy comparison.");
  return (await load()).compareView();
}
