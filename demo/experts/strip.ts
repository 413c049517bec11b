/** One measure of each step as a row of bars, the last steps at the right; stacked where it has two parts. It keeps no history. */
import { el } from "../page/dom.ts";
import { cssColour } from "../page/colours.ts";

/** Pixels of a bar with its gap at least, steps that a strip has room for at least if its bars are wider, and the height. */
const LEAST_BAR = 6;
const ROOM = 66;
const HEIGHT = 44;

export interface Part<T> {
  name: string;
  /** A custom property of the page's colours. */
  colour: string;
  of(step: T): number;
}

/** Its bars are as high as the tallest of a token's steps; those of a prompt may be cut. */
export class Strip<T extends { phase: string }> {
  readonly element: HTMLElement;
  private readonly parts: readonly Part<T>[];
  private readonly canvas = el("canvas", { role: "img" });
  private readonly most = el("span", { class: "note" });

  constructor(title: string, parts: readonly Part<T>[]) {
    this.parts = parts;
    const names = parts.map(({ name, colour }) => {
      const swatch = el("i", { class: "swatch", "aria-hidden": "true" });
      swatch.style.background = `var(${colour})`;
      return el("li", {}, swatch, name);
    });
    const head = el(
      "div",
      { class: "strip-head" },
      el("h3", {}, title),
      el("ul", { class: "legend" }, ...names),
    );
    this.element = el("div", { class: "strip" }, head, this.canvas, this.most);
  }

  /**
   * @param chosen the step that is looked at, by its place in `steps`
   * @param least what the highest bar stands for at least, so that several strips have one scale
   */
  draw(steps: readonly T[], chosen: number, mostText: (most: number) => string, least = 0): void {
    const width = this.canvas.clientWidth;
    if (width === 0) return;
    const tokens = steps.filter(({ phase }) => phase === "decode");
    const most = Math.max(...(tokens.length > 0 ? tokens : steps).map((step) => this.sum(step)), least);
    const context = prepared(this.canvas, width, HEIGHT);
    const bar = Math.max(LEAST_BAR, Math.floor(width / ROOM));
    const first = firstShown(steps.length, chosen, Math.floor(width / bar));
    for (let i = first; i < steps.length && (i - first) * bar < width; i++) {
      const x = (i - first) * bar;
      if (i === chosen) {
        context.fillStyle = cssColour("--sunken");
        context.fillRect(x - 1, 0, bar + 1, HEIGHT);
      }
      this.bar(context, { x, width: bar - 1 }, steps[i] as T, most);
    }
    this.most.textContent = mostText(most);
    this.canvas.ariaLabel = `${this.parts.map(({ name }) => name).join(", ")} of ${steps.length} steps; ${mostText(most)}`;
  }

  private sum(step: T): number {
    return this.parts.reduce((sum, part) => sum + part.of(step), 0);
  }

  private bar(
    context: CanvasRenderingContext2D,
    { x, width }: { x: number; width: number },
    step: T,
    most: number,
  ): void {
    let y = HEIGHT;
    for (const { colour, of } of this.parts) {
      const height = most === 0 ? 0 : (HEIGHT * of(step)) / most;
      context.fillStyle = cssColour(colour);
      context.fillRect(x, y - height, width, height);
      y -= height;
    }
  }
}

/** The first step that is drawn, so that the chosen one is among them. */
function firstShown(steps: number, chosen: number, room: number): number {
  return Math.max(0, Math.min(steps - room, Math.max(0, chosen - 2)));
}

/** A canvas of this size in CSS pixels, empty. */
export function prepared(canvas: HTMLCanvasElement, width: number, height: number): CanvasRenderingContext2D {
  const scale = devicePixelRatio;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.blockSize = `${height}px`;
  const context = canvas.getContext("2d");
  if (!context) throw new Error("this browser draws no canvas");
  context.scale(scale, scale);
  return context;
}
