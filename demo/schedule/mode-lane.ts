/** One rejection mode of the lab: requests by outcome and the loads over time, a Gantt chart, and predictions against measurements. */
import { el } from "../page/dom.ts";
import { Strip } from "../experts/strip.ts";
import type { ClusterRow } from "../../src/sim/cluster/index.ts";
import { Gantt } from "./gantt.ts";
import { Scatter } from "./scatter.ts";
import { medianError, type Bin, type Tally } from "./tally.ts";

export const MODES: Readonly<Record<ClusterRow["scheduler"], string>> = {
  none: "Rejected when it is too late",
  early: "Rejected early, by the load now",
  predicted: "Rejected early, by the load predicted",
};

/** What the highest bars of strips stand for, so that those of all modes can be compared. */
export interface Scales {
  requests: number;
  prefillLoad: number;
  decodeLoad: number;
}

const OUTCOMES = [
  { name: "kept", colour: "--gpu", of: ({ kept }: Bin) => kept },
  { name: "late", colour: "--disk", of: ({ late }: Bin) => late },
  { name: "rejected", colour: "--wrong", of: ({ rejected }: Bin) => rejected },
  { name: "rejected, computed in vain", colour: "--ink", of: ({ wasted }: Bin) => wasted },
];
const PREFILL = [{ name: "of the objective", colour: "--gpu", of: ({ prefillLoad }: Bin) => prefillLoad }];
const DECODE = [{ name: "of the objective", colour: "--ram", of: ({ decodeLoad }: Bin) => decodeLoad }];

const percent = (share: number): string => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;

export class ModeLane {
  readonly element: HTMLElement;
  private readonly outcomes = new Strip("Requests by arrival", OUTCOMES);
  private readonly prefill = new Strip("Prefill load", PREFILL);
  private readonly decode = new Strip("Decode load", DECODE);
  private readonly words = el("p", { class: "note" });
  private readonly gantt = new Gantt();
  private readonly scatter = new Scatter();
  private readonly predictions = el("p", { class: "note" });
  private readonly drawn = el("div", { class: "lane-drawn", hidden: true });
  tally: Tally | undefined;

  constructor(mode: ClusterRow["scheduler"]) {
    this.drawn.append(
      ...[this.outcomes, this.prefill, this.decode].map(({ element }) => element),
      this.words,
      el("h3", {}, "Prompts and decodes, then"),
      this.gantt.element,
      el("h3", {}, "First token: predicted (across), measured (up)"),
      this.scatter.element,
      this.predictions,
    );
    this.element = el(
      "article",
      { class: "tier lane", "aria-label": MODES[mode] },
      el("h3", {}, MODES[mode]),
      this.drawn,
    );
  }

  clear(): void {
    this.tally = undefined;
    this.drawn.hidden = true;
  }

  draw(chosen: number, scales: Scales): void {
    const { tally } = this;
    if (!tally) return;
    this.drawn.hidden = false;
    const { bins, binMs, prompts } = tally;
    const seconds = (binMs / 1000).toFixed(1);
    this.outcomes.draw(bins, chosen, (most) => `at most ${most} requests in ${seconds} s`, scales.requests);
    const shareText = (most: number): string => `the highest bar: ${percent(most)}`;
    this.prefill.draw(bins, chosen, shareText, scales.prefillLoad);
    this.decode.draw(bins, chosen, shareText, scales.decodeLoad);
    this.words.textContent = wordsOf(bins[chosen]);
    this.gantt.draw(tally, chosen);
    const error = medianError(prompts);
    const off = error === undefined ? "" : `; half of the predictions are off by at most ${percent(error)}`;
    this.predictions.textContent = `${prompts.length} prompts computed${off}.`;
    this.scatter.draw(tally, `Predicted and measured times to first token: ${this.predictions.textContent}`);
  }
}

function wordsOf(bin: Bin | undefined): string {
  if (!bin) return "";
  const { kept, late, rejected, wasted, prefillLoad, decodeLoad } = bin;
  const requests = `${kept} kept their objectives, ${late} were late, ${rejected + wasted} were rejected (${wasted} computed in vain)`;
  return `Of those that arrived then, ${requests}; prefill load ${percent(prefillLoad)}, decode load ${percent(decodeLoad)}.`;
}
