/**
 * Makes DOM elements. Text goes in as text nodes only, so nothing that a model or a file says can become markup. No
 * framework: a view redraws its own few elements, and shared state is told by `watch` functions.
 */
import { icon, type IconName } from "./icons.ts";

type Attributes = Record<string, string | number | boolean>;

/** An element with attributes (true: present, false: absent) and children. */
export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false) element.setAttribute(name, String(value));
  }
  element.append(...children);
  return element;
}

/** A button that does something and submits nothing. */
export function button(label: string, onClick: () => void, attributes: Attributes = {}): HTMLButtonElement {
  const made = el("button", { type: "button", ...attributes }, label);
  made.addEventListener("click", onClick);
  return made;
}

/** A button that shows an icon, with its name beside it or, `bare`, for screen readers and on hovering alone. */
export function iconButton(
  name: IconName,
  label: string,
  onClick: () => void,
  attributes: Attributes & { bare?: boolean } = {},
): HTMLButtonElement {
  const { bare = false, ...rest } = attributes;
  const made = el("button", { type: "button", ...rest }, icon(name));
  if (bare) made.ariaLabel = made.title = label;
  else made.append(el("span", {}, label));
  made.addEventListener("click", onClick);
  return made;
}

/** An input with its label before it. */
export function labelled(
  label: string,
  input: HTMLInputElement | HTMLTextAreaElement,
  hint = "",
): HTMLElement {
  if (input.id === "") throw new Error("assertion failed: a labelled input needs an id");
  const parts: Node[] = [el("label", { for: input.id }, label), input];
  if (hint !== "") {
    const id = `${input.id}-hint`;
    input.setAttribute("aria-describedby", id);
    parts.push(el("small", { id }, hint));
  }
  return el("div", { class: "field" }, ...parts);
}
