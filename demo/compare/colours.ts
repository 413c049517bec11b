/** One line style for each policy: colours that colour-blind readers tell apart (after Okabe and Ito), and dashes. */
import type { PolicyName } from "../../src/sim/index.ts";
import { cssColour } from "../page/colours.ts";

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
