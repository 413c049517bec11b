/** Residency as a grid: a row for each layer, a cell for each expert. It draws what the history says and remembers nothing. */
import { el } from "../page/dom.ts";
import { cssColour } from "../page/colours.ts";
import { ARRIVING, RESIDENT, type ExpertHistory } from "./history.ts";
import { prepared } from "./strip.ts";

/** Pixels of the layers' numbers, and of a cell with its gap. */
const LABEL = 22;
const MOST_CELL = 22;
const LEAST_CELL = 2;
const LEAST_ROW = 9;

export class Grid {
  readonly element = el("canvas", { class: "expert-grid", role: "img", "aria-label": "No experts yet" });

  /** @param step by its place in the history */
  draw(history: ExpertHistory, step: number): void {
    const width = this.element.clientWidth;
    if (width === 0) return;
    const { layers, experts } = history;
    const cell = Math.max(LEAST_CELL, Math.min(MOST_CELL, (width - LABEL) / experts));
    const row = Math.max(LEAST_ROW, cell);
    const context = prepared(this.element, width, layers * row);
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    const seen = history.seen(step);
    for (let layer = 0; layer < layers; layer++) {
      context.fillStyle = cssColour("--soft");
      if (row > LEAST_ROW || layer % 4 === 0) context.fillText(String(layer + 1), 0, (layer + 0.5) * row);
      for (let expert = 0; expert < experts; expert++)
        drawCell(context, seen, layer, expert, history.experts, {
          x: LABEL + expert * cell,
          y: layer * row,
          cell,
          row,
        });
    }
    this.element.ariaLabel = wordsOf(history, seen.places);
  }
}

function drawCell(
  context: CanvasRenderingContext2D,
  seen: ReturnType<ExpertHistory["seen"]>,
  layer: number,
  expert: number,
  experts: number,
  { x, y, cell, row }: { x: number; y: number; cell: number; row: number },
): void {
  const gap = cell > 6 ? 2 : cell > 3 ? 1 : 0;
  const [width, height] = [cell - gap, row - Math.max(gap, 1)];
  const at = layer * experts + expert;
  const place = seen.places[at];
  context.fillStyle = cssColour(place === RESIDENT ? "--gpu" : "--sunken");
  context.fillRect(x, y, width, height);
  if (place === ARRIVING) {
    context.fillStyle = cssColour("--ram");
    context.fillRect(x, y + height / 2, width, height / 2);
  }
  if (seen.predicted[at] === 1) {
    context.strokeStyle = cssColour("--disk");
    context.lineWidth = Math.min(2, width / 3);
    context.strokeRect(x + 1, y + 1, width - 2, height - 2);
  }
  if (!seen.chosen[layer]?.includes(expert)) return;
  context.fillStyle = cssColour("--ink");
  const size = Math.max(1, Math.min(width, height) / 2.6);
  context.fillRect(x + (width - size) / 2, y + (height - size) / 2, size, size);
}

function wordsOf({ layers, experts }: ExpertHistory, places: Uint8Array): string {
  const rows = Array.from({ length: layers }, (_, layer) => {
    const row = places.subarray(layer * experts, (layer + 1) * experts);
    return row.filter((place) => place === RESIDENT).length;
  });
  return `Experts on the GPU by layer, of ${experts} each: ${rows.join(", ")}`;
}
