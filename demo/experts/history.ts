/**
 * What a lane of the experts lab knows: where each expert is, and what each step did, rebuilt from the engine's events. Pure: it
 * draws nothing and asks nobody. Steps beyond a bound are forgotten, the oldest first.
 */
import type { ExpertEvent, ExpertFigures } from "../../src/index.ts";

/** Steps that are remembered. */
export const MAX_STEPS = 512;

/** Where an expert is. */
export const ABSENT = 0;
export const ARRIVING = 1;
export const RESIDENT = 2;

/** One pass over the model: the prompt, or a part of it, or one token. */
export interface StepRecord {
  phase: "prefill" | "decode";
  rows: number;
  ms: number;
  /** Experts that routers chose: there already, computed with low-bit copies, and waited for. */
  hits: number;
  low: number;
  missing: number;
  /** Experts that became whole meanwhile, because a step waited for them, or ahead of that. */
  demanded: number;
  ahead: number;
  stallMs: number;
  /** By layer, the experts that were chosen. */
  chosen: number[][];
  /** Where each expert was at its end, layer by layer, and 1 for each that was predicted. */
  places: Uint8Array;
  predicted: Uint8Array;
}

export class ExpertHistory {
  readonly layers: number;
  /** Of a layer. */
  readonly experts: number;
  /** Where each expert is now, layer by layer. */
  readonly places: Uint8Array;
  readonly steps: StepRecord[] = [];
  /** Steps that were forgotten. */
  forgotten = 0;
  /** Events that the engine no longer had when they were asked for. */
  lost = 0;
  private open: StepRecord;

  constructor({ layers, experts }: Pick<ExpertFigures, "layers" | "experts">) {
    this.layers = layers;
    this.experts = experts;
    this.places = new Uint8Array(layers * experts);
    this.open = this.emptyStep();
  }

  /** @param residents by layer, as they are behind the last of the events */
  take(events: readonly ExpertEvent[], dropped: number, residents: readonly (readonly number[])[]): void {
    this.lost += dropped;
    for (const event of events) this.apply(event);
    this.settle(residents);
  }

  /** What a step left; of the last one, what is there by now. */
  seen(index: number): Pick<StepRecord, "places" | "predicted" | "chosen"> {
    const step = this.steps[index] ?? this.open;
    return index < this.steps.length - 1 ? step : { ...step, places: this.places };
  }

  private apply(event: ExpertEvent): void {
    const { open } = this;
    switch (event.kind) {
      case "chose":
        open.hits += event.resident.length;
        open.missing += event.missing.length;
        open.low += event.low.length;
        open.chosen[event.layer] = [...event.resident, ...event.missing, ...event.low];
        return;
      case "predicted":
        for (const expert of event.experts) open.predicted[this.at(event.layer, expert)] = 1;
        return;
      case "fetched":
        return this.fetched(event);
      case "stalled":
        open.stallMs += event.ms;
        return;
      case "step":
        return this.close(event);
    }
  }

  private fetched({
    layer,
    expert,
    evicted,
    isWhole,
    cause,
  }: Extract<ExpertEvent, { kind: "fetched" }>): void {
    if (evicted) this.places[this.at(evicted.layer, evicted.expert)] = ABSENT;
    this.places[this.at(layer, expert)] = isWhole ? RESIDENT : ARRIVING;
    if (isWhole) this.open[cause === "demand" ? "demanded" : "ahead"]++;
  }

  private close({ phase, rows, ms }: Extract<ExpertEvent, { kind: "step" }>): void {
    this.steps.push({ ...this.open, phase, rows, ms, places: this.places.slice() });
    this.open = this.emptyStep();
    if (this.steps.length <= MAX_STEPS) return;
    this.steps.shift();
    this.forgotten++;
  }

  /** An expert may have left its slot without an event of its own, as when a fetch failed. */
  private settle(residents: readonly (readonly number[])[]): void {
    for (const [layer, list] of residents.entries()) {
      const row = this.places.subarray(layer * this.experts, (layer + 1) * this.experts);
      for (const [expert, place] of row.entries()) if (place === RESIDENT) row[expert] = ABSENT;
      for (const expert of list) row[expert] = RESIDENT;
    }
  }

  private at(layer: number, expert: number): number {
    return layer * this.experts + expert;
  }

  private emptyStep(): StepRecord {
    const counts = { hits: 0, low: 0, missing: 0, demanded: 0, ahead: 0, stallMs: 0, ms: 0, rows: 0 };
    const chosen = Array.from({ length: this.layers }, () => []);
    const predicted = new Uint8Array(this.layers * this.experts);
    return { phase: "decode", ...counts, chosen, places: this.places, predicted };
  }
}
