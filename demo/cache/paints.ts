/**
 * The canvas's colours, taken from the page's style, and the patterns that tell places apart without colour: plain for the GPU,
 * stripes for memory, dots for the disk. The legend's swatches are drawn with the same patterns.
 */
import { el } from "../page/dom.ts";

export const PLACES = ["gpu", "ram", "disk"] as const;
export type Place = (typeof PLACES)[number];

export interface Paints {
  plain: Record<Place, string>;
  patterned: Record<Place, string | CanvasPattern>;
  ink: string;
  edge: string;
  /** Around what a request uses now. */
  used: string;
  /** Tokens that fill no block. */
  begun: string;
}

/** @param near an element whose style counts */
export function paintsOf(near: HTMLElement, context: CanvasRenderingContext2D): Paints {
  const probe = el("i", { hidden: true });
  (near.parentElement ?? document.body).append(probe);
  const colour = (name: string): string => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const plain = { gpu: colour("gpu"), ram: colour("ram"), disk: colour("disk") };
  const ground = colour("raised");
  const patterned = {
    gpu: plain.gpu,
    ram: pattern(context, plain.ram, ground, "stripes"),
    disk: pattern(context, plain.disk, ground, "dots"),
  };
  const paints = {
    plain,
    patterned,
    ink: colour("ink"),
    edge: colour("edge"),
    used: colour("wrong"),
    begun: colour("computed"),
  };
  probe.remove();
  return paints;
}

function pattern(
  context: CanvasRenderingContext2D,
  colour: string,
  ground: string,
  shape: "stripes" | "dots",
): CanvasPattern | string {
  const SIZE = 6;
  const tile = el("canvas", { width: SIZE, height: SIZE });
  const drawing = tile.getContext("2d");
  if (!drawing) return colour;
  drawing.fillStyle = colour;
  drawing.fillRect(0, 0, SIZE, SIZE);
  drawing.strokeStyle = drawing.fillStyle = ground;
  drawing.globalAlpha = 0.55;
  drawing.lineWidth = 1.4;
  drawing.beginPath();
  if (shape === "stripes") {
    for (const shift of [-SIZE, 0, SIZE]) {
      drawing.moveTo(shift, SIZE);
      drawing.lineTo(shift + SIZE, 0);
    }
    drawing.stroke();
  } else {
    drawing.arc(1.5, 1.5, 1.1, 0, 2 * Math.PI);
    drawing.arc(4.5, 4.5, 1.1, 0, 2 * Math.PI);
    drawing.fill();
  }
  return context.createPattern(tile, "repeat") ?? colour;
}

/** A small drawing of a place's paint, for the legend. */
export function swatch(place: Place): HTMLCanvasElement {
  const [width, height] = [22, 12];
  const canvas = el("canvas", { class: "swatch", "aria-hidden": "true", width, height });
  const paint = (): void => {
    const context = canvas.getContext("2d");
    if (!context || !canvas.isConnected) return;
    context.clearRect(0, 0, width, height);
    context.fillStyle = paintsOf(canvas, context).patterned[place];
    context.fillRect(0, 0, width, height);
  };
  requestAnimationFrame(paint);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  new MutationObserver(paint).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  return canvas;
}
