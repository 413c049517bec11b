/**
 * A stretch of simulated time as a Gantt chart: prompts on each prefill instance, the cached share of each lighter; below, how
 * many requests decode on each decode instance. It draws what the tally says and remembers nothing.
 */
import { cssColour } from "../page/colours.ts";
import { el } from "../page/dom.ts";
import { prepared } from "../experts/strip.ts";
import type { Tally } from "./tally.ts";

const ROW = 10;
const LABEL = 24;
/** Stretches of the tally that are shown. */
const SHOWN_BINS = 6;
/** Instances of a kind that are drawn. */
const MOST_ROWS = 16;

export class Gantt {
  readonly element = el("canvas", { role: "img", "aria-label": "Nothing yet" });

  draw(tally: Tally, chosen: number): void {
    const width = this.element.clientWidth;
    if (width === 0) return;
    const prefills = Math.min(MOST_ROWS, tally.samples[0]?.prompts.length ?? 0);
    const decodes = Math.min(MOST_ROWS, tally.samples[0]?.batches.length ?? 0);
    const context = prepared(this.element, width, (prefills + decodes) * ROW + 4);
    const fromMs = Math.max(0, chosen - SHOWN_BINS / 2) * tally.binMs;
    const lengthMs = SHOWN_BINS * tally.binMs;
    const x = (ms: number): number =>
      LABEL + (Math.min(lengthMs, Math.max(0, ms - fromMs)) / lengthMs) * (width - LABEL);
    context.font = "9px system-ui, sans-serif";
    context.textBaseline = "middle";
    for (let row = 0; row < prefills + decodes; row++) {
      const y = yOf(row, prefills);
      context.fillStyle = cssColour("--soft");
      context.fillText(row < prefills ? `P${row + 1}` : `D${row - prefills + 1}`, 0, y + ROW / 2);
      context.fillStyle = cssColour("--sunken");
      context.fillRect(LABEL, y, width - LABEL, ROW - 2);
    }
    const prompts = tally.prompts.filter(
      ({ instance, startMs, endMs }) => instance < prefills && endMs > fromMs && startMs < fromMs + lengthMs,
    );
    for (const { instance, startMs, endMs, hitTokens, inputTokens } of prompts) {
      const [left, right] = [x(startMs), x(endMs)];
      context.fillStyle = cssColour("--gpu");
      context.globalAlpha = 1 - (0.65 * hitTokens) / inputTokens;
      context.fillRect(left, yOf(instance, prefills), Math.max(1, right - left - 0.5), ROW - 2);
    }
    const most = Math.max(1, ...tally.samples.flatMap(({ batches }) => batches));
    const samples = tally.samples.filter(({ atMs }) => atMs >= fromMs && atMs < fromMs + lengthMs);
    context.fillStyle = cssColour("--ram");
    samples.forEach(({ atMs, batches }, i) => {
      const untilMs = samples[i + 1]?.atMs ?? atMs + 1000;
      for (let decode = 0; decode < decodes; decode++) {
        context.globalAlpha = (batches[decode] ?? 0) / most;
        context.fillRect(x(atMs), yOf(prefills + decode, prefills), x(untilMs) - x(atMs), ROW - 2);
      }
    });
    const decoding = samples[samples.length >> 1]?.batches.join(", ") ?? "none";
    this.element.ariaLabel = `${prompts.length} prompts in ${(lengthMs / 1000).toFixed(0)} s; requests that decode in the middle of it, by instance: ${decoding}`;
  }
}

function yOf(row: number, prefills: number): number {
  return row * ROW + (row < prefills ? 0 : 4);
}
