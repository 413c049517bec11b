/**
 * The page's shell: header, navigation by the address's hash (#/chat, #/cache, #/compare), and one place for each view.
 * A view's code is loaded when it is first opened; it then stays, so that nothing stops when another is looked at.
 */
import { background } from "./background.ts";
import { el } from "./dom.ts";
import { errorText } from "./format.ts";
import type { Host, HostState } from "./model/host.ts";
import { icon } from "./icons.ts";
import { themeButton } from "./theme.ts";

export interface View {
  element: HTMLElement;
  /** Called with what follows the view's name in the address, each time it is shown. */
  open?(rest: string | undefined): Promise<void> | void;
  setSeen?(seen: boolean): void;
}

export interface Route {
  name: string;
  label: string;
  load(): Promise<View>;
}

interface Place {
  route: Route;
  link: HTMLAnchorElement;
  slot: HTMLElement;
  view: Promise<View> | undefined;
}

/** Header and main of the page. */
export function shell(routes: readonly [Route, ...Route[]], host: Host): HTMLElement[] {
  const places = routes.map(placeOf);
  const main = el("main", { id: "main", tabindex: -1 }, ...places.map(({ slot }) => slot));
  const go = (): void => background(show(places));
  addEventListener("hashchange", go);
  go();
  return [skipLink(main), header(places, host), main];
}

export function brand(): HTMLElement {
  return el("h1", {}, el("i", { class: "mark", "aria-hidden": "true" }), "Tidepool");
}

function placeOf(route: Route): Place {
  const link = el("a", { href: `#/${route.name}` }, route.label);
  const slot = el("div", { class: "view", "data-view": route.name, hidden: true });
  return { route, link, slot, view: undefined };
}

function skipLink(main: HTMLElement): HTMLElement {
  const link = el("a", { class: "skip", href: "#main" }, "Skip to the content");
  link.addEventListener("click", (event) => {
    event.preventDefault(); // the hash is the view's
    main.focus();
  });
  return link;
}

function header(places: readonly Place[], host: Host): HTMLElement {
  const nav = el("nav", { class: "views", "aria-label": "Views" }, ...places.map(({ link }) => link));
  return el("header", {}, brand(), nav, el("div", { class: "right" }, modelChip(host), themeButton()));
}

/** Which model is there, seen from every view. */
function modelChip(host: Host): HTMLElement {
  const words = el("span");
  const chip = el("p", { class: "model-chip" }, icon("chip"), words);
  host.watch((state) => {
    words.textContent = chipText(state);
    chip.classList.toggle("ready", state.engine?.state === "ready" && !state.loading);
  });
  return chip;
}

function chipText({ engine, loading }: HostState): string {
  if (engine && engine.state !== "ready" && !loading)
    return engine.state === "failed" ? "stopped" : "GPU lost…";
  if (!loading) return engine ? engine.info.model.name : "no model";
  const { progress } = loading;
  const part =
    progress && progress.total > 0 ? ` ${Math.floor((100 * progress.done) / progress.total)}%` : "";
  return `loading${part}`;
}

/** "#/chat/ID?x" -> ["chat", "ID"]. */
function parts(): [string, string | undefined] {
  const [name = "", rest] = location.hash.replace(/^#\/?/, "").replace(/\?.*$/, "").split("/", 2);
  return [name, rest];
}

async function show(places: readonly Place[]): Promise<void> {
  const [name, rest] = parts();
  const place = places.find(({ route }) => route.name === name) ?? places[0];
  if (!place) return;
  for (const one of places) {
    const isShown = one === place;
    one.slot.hidden = !isShown;
    if (isShown) one.link.setAttribute("aria-current", "page");
    else one.link.removeAttribute("aria-current");
    if (!isShown && one.view) background(one.view.then((view) => view.setSeen?.(false)));
  }
  document.title = `${place.route.label} · Tidepool`;
  const view = await loaded(place);
  if (!view) return;
  await view.open?.(rest);
  if (!place.slot.hidden) view.setSeen?.(true);
}

/** The view in its place; where its code cannot be loaded, the reason, until the next try. */
async function loaded(place: Place): Promise<View | undefined> {
  const isFirst = place.view === undefined;
  place.view ??= place.route.load();
  try {
    const view = await place.view;
    if (isFirst) place.slot.replaceChildren(view.element);
    return view;
  } catch (error) {
    place.view = undefined;
    const words = `This part of the page could not be loaded: ${errorText(error)} Check the connection and open it again.`;
    place.slot.replaceChildren(el("p", { class: "absent problem", role: "alert" }, words));
    return undefined;
  }
}
