/** The page's colours for canvases, which know no custom properties. */

/** A custom property of the page as a colour that a canvas understands, as it is now, in light or dark. */
export function cssColour(property: string): string {
  const known = colours.get(property) ?? computed(property);
  colours.set(property, known);
  return known;
}

/** Light has become dark, or dark light. */
export function forgetColours(): void {
  colours.clear();
}

/** Calls when the page's colours change. */
export function onRecolour(recolour: () => void): void {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  new MutationObserver(recolour).observe(document.documentElement, { attributeFilter: ["data-theme"] });
}

const colours = new Map<string, string>();
/** light-dark() is resolved only where it is used. */
let probe: HTMLElement | undefined;

function computed(property: string): string {
  probe ??= document.body.appendChild(Object.assign(document.createElement("i"), { hidden: true }));
  probe.style.color = `var(${property})`;
  return getComputedStyle(probe).color;
}
