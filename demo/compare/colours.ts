/** One line style for each policy: colours that colour-blind readers tell apart (after Okabe and Ito), and dashes. */
import type { PolicyName } from "../../src/sim/index.ts";

/** Pixels of line and gap; empty: one line. */
const dashes: Record<PolicyName, number[]> = {
  ...{
    lru: [],
    lfu: [7, 3],
    "length-aware": [2, 3],
    vllm: [9, 3, 2, 3],
    sglang: [5, 2],
    marconi: [],
    offline: [1, 4],
  },
};

export function dashOf(policy: PolicyName): number[] {
  return dashes[policy];
}

/** The colour as it is now, in light or dark. */
export function colourOf(policy: PolicyName): string {
  return cssColour(`--policy-${policy}`);
}

/** A custom property of the page as a colour that a canvas understands. */
export function cssColour(property: string): string {
  const known = colours.get(property) ?? computed(property);
  colours.set(property, known);
  return known;
}

/** Light has become dark, or dark light. */
export function forgetColours(): void {
  colours.clear();
}

const colours = new Map<string, string>();
/** light-dark() is resolved only where it is used. */
let probe: HTMLElement | undefined;

function computed(property: string): string {
  probe ??= document.body.appendChild(Object.assign(document.createElement("i"), { hidden: true }));
  probe.style.color = `var(${property})`;
  return getComputedStyle(probe).color;
}
