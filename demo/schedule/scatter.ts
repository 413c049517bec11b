/** Predicted against measured time to first token, a dot for each prompt, both axes logarithmic and equal. */
import { cssColour } from "../page/colours.ts";
import { el } from "../page/dom.ts";
import { prepared } from "../experts/strip.ts";
import type { Tally } from "./tally.ts";

const HEIGHT = 130;
/** Dots that are drawn; of more, every n-th. */
const MOST_DOTS = 1500;
const FROM_MS = 50;
const TO_MS = 60_000;
const MARKS_MS = [100, 1000, 10_000];

export class Scatter {
  readonly element = el("canvas", { role: "img", "aria-label": "Nothing yet" });

  draw({ prompts }: Tally, words: string): void {
    const width = this.element.clientWidth;
    if (width === 0) return;
    const context = prepared(this.element, width, HEIGHT);
    const share = (ms: number): number =>
      Math.log(Math.min(TO_MS, Math.max(FROM_MS, ms)) / FROM_MS) / Math.log(TO_MS / FROM_MS);
    const [x, y] = [(ms: number) => share(ms) * width, (ms: number) => HEIGHT - share(ms) * HEIGHT];
    context.font = "9px system-ui, sans-serif";
    for (const ms of MARKS_MS) {
      context.fillStyle = cssColour("--line");
      context.fillRect(x(ms), 0, 1, HEIGHT);
      context.fillRect(0, y(ms), width, 1);
      context.fillStyle = cssColour("--soft");
      context.fillText(ms < 1000 ? `${ms} ms` : `${ms / 1000} s`, x(ms) + 3, HEIGHT - 3);
    }
    context.strokeStyle = cssColour("--edge");
    context.beginPath();
    context.moveTo(0, HEIGHT);
    context.lineTo(width, 0);
    context.stroke();
    context.fillStyle = cssColour("--accent");
    context.globalAlpha = 0.5;
    const step = Math.ceil(prompts.length / MOST_DOTS);
    for (let i = 0; i < prompts.length; i += step) {
      const { predictedTtftMs, ttftMs } = prompts[i]!;
      context.fillRect(x(predictedTtftMs) - 1, y(ttftMs) - 1, 2.5, 2.5);
    }
    this.element.ariaLabel = words;
  }
}
