/**
 * Makes DOM elements. Text goes in as text nodes only, so nothing that a model or a file says can become markup.
 * No framework yet: there are two views and one shared value; live views that redraw often will want a small one.
 */

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

/** An input with its label before it. */
export function labelled(label: string, input: HTMLInputElement, hint = ""): HTMLElement {
  assertId(input);
  const parts: Node[] = [el("label", { for: input.id }, label), input];
  if (hint !== "") {
    const id = `${input.id}-hint`;
    input.setAttribute("aria-describedby", id);
    parts.push(el("small", { id }, hint));
  }
  return el("div", { class: "field" }, ...parts);
}

function assertId(input: HTMLInputElement): void {
  if (input.id === "") throw new Error("assertion failed: a labelled input needs an id");
}
