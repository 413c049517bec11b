/**
 * One plot in its frame: title, lines with their names at the ends, reading by pointer and by keyboard, a table of the
 * same numbers, export as CSV and PNG. uPlot draws on a canvas; it does not know what it plots (plots.ts does).
 */
import uPlot from "uplot";
import type { PolicyName } from "../../src/sim/index.ts";
import { button, el } from "../page/dom.ts";
import { saveFile } from "../chat/save-file.ts";
import { background } from "../page/background.ts";
import { cssColour, forgetColours, onRecolour } from "../page/colours.ts";
import { colourOf, dashOf } from "./colours.ts";

export interface Line {
  policy: PolicyName;
  /** One for each x; null where nothing is known yet. */
  values: (number | null)[];
}

export interface Drawing {
  title: string;
  /** A sentence below the title. */
  note: string;
  xLabel: string;
  yLabel: string;
  xs: number[];
  lines: Line[];
  xText: (x: number) => string;
  yText: (y: number) => string;
  /** Short forms for the axes. Default: as above. */
  xTick?: (x: number) => string;
  yTick?: (y: number) => string;
  /** Where the x axis has marks. Default: uPlot's choice. */
  xMarks?: number[];
  logX?: boolean;
  logY?: boolean;
  /** Ends of the y axis. Default: from 0 to what is drawn. */
  yEnds?: [number, number];
  /** Indices of `xs` that stand in the table. Default: all. */
  rows?: number[];
}

const height = 290;
/** Below this width the names at the ends of the lines are left to the legend. */
const namesFromWidth = 440;
const nameWidth = 92;
const nameHeight = 15;
/** Between two marks of the x axis. */
const markWidth = 46;
const font = "12px system-ui, sans-serif";

export class PlotCard {
  readonly element: HTMLElement;
  private readonly id: string;
  private readonly heading = el("h3");
  private readonly note = el("p", { class: "plot-note" });
  private readonly stage: HTMLElement;
  private readonly legend = el("ul", { class: "plot-legend", hidden: true });
  private readonly tip = el("div", { class: "plot-tip", hidden: true });
  private readonly spoken = el("p", { class: "spoken", "aria-live": "polite" });
  private readonly table = el("table");
  private readonly details: HTMLDetailsElement;
  private drawing: Drawing | undefined;
  private plot: uPlot | undefined;
  /** What a plot must be made anew for. */
  private shape = "";

  /** @param controls what is chosen about this plot, beside its title */
  constructor(id: string, ...controls: Node[]) {
    this.id = id;
    this.heading.id = `${id}-title`;
    this.stage = el("div", {
      class: "plot-stage",
      tabindex: 0,
      role: "group",
      "aria-labelledby": this.heading.id,
    });
    this.stage.append(this.tip);
    this.stage.addEventListener("keydown", (event) => this.onKey(event));
    this.stage.addEventListener("blur", () => this.point(-1));
    const scroller = el("div", { class: "plot-table", tabindex: 0, role: "region" }, this.table);
    scroller.ariaLabel = "Table of the plot";
    this.details = el("details", {}, el("summary", {}, "Table"), scroller);
    this.details.addEventListener("toggle", () => this.fillTable());
    const actions = el(
      "div",
      { class: "plot-actions" },
      button("CSV", () => this.saveCsv(), { class: "quiet" }),
      button("PNG", () => background(this.savePng()), { class: "quiet" }),
    );
    const head = el("div", { class: "plot-head" }, this.heading, ...controls);
    const foot = el("div", { class: "plot-foot" }, this.details, actions);
    this.element = el(
      "figure",
      { class: "plot", id },
      head,
      this.note,
      this.legend,
      this.stage,
      this.spoken,
      foot,
    );
    new ResizeObserver(() => this.schedule()).observe(this.stage);
    onRecolour(() => this.recolour());
  }

  draw(drawing: Drawing): void {
    this.drawing = drawing;
    this.heading.textContent = drawing.title;
    this.note.textContent = drawing.note;
    this.schedule();
  }

  /** Soon, and not while it cannot be seen. */
  private schedule(): void {
    renderSoon(this, () => {
      if (this.drawing && this.stage.clientWidth > 0) this.render(this.drawing);
    });
  }

  private render(drawing: Drawing): void {
    const width = this.stage.clientWidth;
    const { logX, logY, yEnds, xMarks, yLabel } = drawing;
    const lines = [...drawing.lines].sort((a, b) => widthOf(b.policy) - widthOf(a.policy)); // thin ones above
    const shape = JSON.stringify([
      width,
      logX,
      logY,
      yEnds,
      xMarks,
      yLabel,
      lines.map(({ policy }) => policy),
    ]);
    const data = [drawing.xs, ...lines.map(({ values }) => values)] as uPlot.AlignedData;
    if (this.plot && shape === this.shape) {
      this.plot.setData(data);
      this.showTip(this.plot);
    } else {
      this.plot?.destroy();
      this.shape = shape;
      this.plot = new uPlot(this.options({ ...drawing, lines }, width), data, this.stage);
      this.showLegend(drawing.lines, width < namesFromWidth);
      this.plot.root.ariaHidden = "true";
      this.stage.append(this.tip);
    }
    if (this.details.open) this.fillTable();
  }

  /** Where there is no room for names at the ends of the lines. */
  private showLegend(lines: readonly Line[], isNarrow: boolean): void {
    this.legend.hidden = !isNarrow || lines.length === 0;
    this.legend.replaceChildren(...lines.map(({ policy }) => el("li", {}, swatch(policy), policy)));
  }

  private recolour(): void {
    forgetColours();
    this.shape = "";
    this.schedule();
  }

  private options(drawing: Drawing, width: number): uPlot.Options {
    const { lines, logX, logY, yEnds, xMarks } = drawing;
    const hasNames = width >= namesFromWidth;
    const ink = cssColour("--soft");
    const line = cssColour("--line");
    const axis: uPlot.Axis = { stroke: ink, font, labelFont: font, grid: { stroke: line, width: 1 } };
    axis.ticks = { stroke: line, width: 1, size: 4 };
    return {
      ...{ width, height, legend: { show: false }, padding: [10, hasNames ? nameWidth : 14, 0, 0] },
      scales: {
        x: {
          time: false,
          ...(logX && { distr: 3 }),
          range: (_, min, max) => padded(min, max, logX === true),
        },
        y: { ...(logY && { distr: 3 }), ...(yEnds ? { range: yEnds } : !logY && { range: fromZero }) },
      },
      axes: [
        {
          ...{ ...axis, label: drawing.xLabel, labelSize: 22, size: 32 },
          ...(xMarks && { splits: () => xMarks, filter: (_: uPlot, marks: number[]) => marks }),
          values: (plot, marks) => thinned(plot, marks, drawing.xTick ?? drawing.xText),
        },
        {
          ...{ ...axis, label: drawing.yLabel, labelSize: 22, size: 58 },
          ...(logY && { filter: powersOfTen, grid: { ...axis.grid, filter: powersOfTen } }),
          ...(logY && { ticks: { ...axis.ticks, filter: powersOfTen } }),
          values: (_, marks) =>
            marks.map((mark) => (mark === null ? "" : (drawing.yTick ?? drawing.yText)(mark))),
        },
      ],
      series: [
        {},
        ...lines.map(({ policy }) => ({
          ...{
            label: policy,
            stroke: colourOf(policy),
            width: widthOf(policy),
            dash: dashOf(policy),
          },
          ...{ spanGaps: true, points: { show: drawing.xs.length <= 32, size: 6, fill: colourOf(policy) } },
        })),
      ],
      cursor: { drag: { x: false, y: false }, y: false, points: { size: 8 } },
      hooks: {
        setCursor: [(plot) => this.showTip(plot)],
        draw: [(plot) => hasNames && drawNames(plot, this.drawing?.lines ?? [])],
      },
    };
  }

  /** Reads the value at the pointer, or where the keyboard stands. */
  private showTip(plot: uPlot): void {
    const { idx, left = -1 } = plot.cursor;
    const { drawing, tip } = this;
    tip.hidden = idx === null || idx === undefined || left < 0 || drawing === undefined;
    if (tip.hidden || typeof idx !== "number" || !drawing) return;
    const rows = readings(drawing, idx).map(({ policy, text }) =>
      el("div", { class: "reading" }, swatch(policy), el("span", {}, policy), el("b", {}, text)),
    );
    tip.replaceChildren(el("p", {}, drawing.xText(drawing.xs[idx]!)), ...rows);
    const x = plot.over.offsetLeft + plot.valToPos(drawing.xs[idx]!, "x");
    const isLeft = x > this.stage.clientWidth / 2;
    tip.style.left = isLeft ? "" : `${x + 12}px`;
    tip.style.right = isLeft ? `${this.stage.clientWidth - x + 12}px` : "";
  }

  private onKey(event: KeyboardEvent): void {
    const { plot, drawing } = this;
    if (!plot || !drawing) return;
    const at = plot.cursor.left !== undefined && plot.cursor.left >= 0 ? (plot.cursor.idx ?? -1) : -1;
    const last = drawing.xs.length - 1;
    const targets: Record<string, number> = {
      ...{ ArrowRight: Math.min(last, at + 1), ArrowLeft: at < 0 ? last : Math.max(0, at - 1) },
      ...{ Home: 0, End: last, Escape: -1 },
    };
    const target = targets[event.key];
    if (target === undefined) return;
    event.preventDefault();
    this.point(target);
    const words = target < 0 ? [] : readings(drawing, target).map(({ policy, text }) => `${policy} ${text}`);
    this.spoken.textContent = target < 0 ? "" : `${drawing.xText(drawing.xs[target]!)}: ${words.join(", ")}`;
  }

  /** Puts the reading line on a point; -1: takes it away. */
  private point(index: number): void {
    const { plot, drawing } = this;
    if (!plot || !drawing) return;
    const left = index < 0 ? -10 : plot.valToPos(drawing.xs[index]!, "x");
    plot.setCursor({ left, top: index < 0 ? -10 : plot.over.clientHeight / 2 });
  }

  private cells(text: (x: number, isX: boolean) => string): { head: string[]; rows: string[][] } {
    const { drawing } = this;
    if (!drawing) return { head: [], rows: [] };
    const { xs, lines, xLabel } = drawing;
    const head = [xLabel, ...lines.map(({ policy }) => policy)];
    const rows = (drawing.rows ?? [...xs.keys()]).map((i) => [
      text(xs[i]!, true),
      ...lines.map(({ values }) =>
        values[i] === null || values[i] === undefined ? "" : text(values[i], false),
      ),
    ]);
    return { head, rows };
  }

  private fillTable(): void {
    const { drawing, details, table } = this;
    if (!drawing || !details.open) return;
    const { head, rows } = this.cells((value, isX) => (isX ? drawing.xText(value) : drawing.yText(value)));
    table.replaceChildren(
      el("caption", { class: "spoken" }, `${drawing.title}: ${drawing.yLabel}`),
      el("thead", {}, el("tr", {}, ...head.map((cell) => el("th", { scope: "col" }, cell)))),
      el(
        "tbody",
        {},
        ...rows.map(([first = "", ...rest]) =>
          el("tr", {}, el("th", { scope: "row" }, first), ...rest.map((cell) => el("td", {}, cell))),
        ),
      ),
    );
  }

  private saveCsv(): void {
    const { head, rows } = this.cells(String);
    const text = [head, ...rows].map((cells) => cells.join(",")).join("\n");
    saveFile(new File([`${text}\n`], `${this.id}.csv`, { type: "text/csv" }));
  }

  /** The canvas as it is, on the page's ground, with its title and the names of its lines above it. */
  private async savePng(): Promise<void> {
    const { plot, drawing } = this;
    if (!plot || !drawing) return;
    const source = plot.ctx.canvas;
    const scale = uPlot.pxRatio;
    const headHeight = 56 * scale;
    const canvas = el("canvas", { width: source.width, height: source.height + headHeight });
    const context = canvas.getContext("2d")!;
    context.fillStyle = cssColour("--raised");
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(source, 0, headHeight);
    context.scale(scale, scale);
    drawHead(context, drawing);
    const blob = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, "image/png"));
    if (blob) saveFile(new File([blob], `${this.id}.png`, { type: "image/png" }));
  }
}

/** Plots that wait for their turn: one is drawn in a frame, so that none is long. */
const waiting = new Map<PlotCard, () => void>();
let isFrameAsked = false;

function renderSoon(card: PlotCard, render: () => void): void {
  waiting.set(card, render);
  if (isFrameAsked) return;
  isFrameAsked = true;
  requestAnimationFrame(renderNext);
}

function renderNext(): void {
  const [next] = waiting;
  isFrameAsked = waiting.size > 1;
  if (isFrameAsked) requestAnimationFrame(renderNext);
  if (next === undefined) return;
  waiting.delete(next[0]);
  next[1]();
}

/** A short piece of a policy's line. */
export function swatch(policy: PolicyName): HTMLElement {
  return el("i", { class: `swatch policy-${policy}`, "aria-hidden": "true" });
}

/** The values at one x, the highest first, as in the plot. */
function readings({ lines, yText }: Drawing, index: number): { policy: PolicyName; text: string }[] {
  const known = lines.flatMap(({ policy, values }) => {
    const value = values[index];
    return value === null || value === undefined ? [] : [{ policy, value }];
  });
  return known.sort((a, b) => b.value - a.value).map(({ policy, value }) => ({ policy, text: yText(value) }));
}

function padded(min: number, max: number, isLog: boolean): uPlot.Range.MinMax {
  if (isLog) return min === max ? [min / 2, max * 2] : [min / 1.06, max * 1.06];
  return min === max ? [min - 1, max + 1] : [min, max];
}

function fromZero(_: uPlot, __: number | null, max: number | null): uPlot.Range.MinMax {
  return [0, max === null || max === 0 ? 1 : max * 1.05];
}

/** Names of marks that would stand too close are left out. */
function thinned(plot: uPlot, marks: number[], text: (x: number) => string): string[] {
  let lastAt = -Infinity;
  return marks.map((mark) => {
    const at = plot.valToPos(mark, "x");
    if (mark === null || at - lastAt < markWidth) return "";
    lastAt = at;
    return text(mark);
  });
}

/** The policy of this project under the others, which are compared with it. */
function widthOf(policy: PolicyName): number {
  return policy === "marconi" ? 4 : 2;
}

/** Of a logarithmic axis: only powers of ten. */
function powersOfTen(_: uPlot, marks: number[]): (number | null)[] {
  return marks.map((mark) => (Math.abs(Math.log10(mark) % 1) < 1e-9 ? mark : null));
}

/** Writes each line's name at its end, pushed apart where ends are close. */
function drawNames(plot: uPlot, lines: readonly Line[]): void {
  const { ctx } = plot;
  const ratio = uPlot.pxRatio;
  const ends = lines.flatMap(({ policy, values }) => {
    const last = values.findLast((value) => value !== null);
    return last === undefined || last === null ? [] : [{ policy, at: plot.valToPos(last, "y", true) }];
  });
  ends.sort((a, b) => a.at - b.at);
  const step = nameHeight * ratio;
  ends.forEach((end, i) => (end.at = i === 0 ? end.at : Math.max(end.at, ends[i - 1]!.at + step)));
  const bottom = plot.bbox.top + plot.bbox.height;
  for (let i = ends.length - 1, limit = bottom; i >= 0; i--, limit -= step) {
    ends[i]!.at = Math.min(ends[i]!.at, limit);
  }
  ctx.save();
  ctx.font = `${12 * ratio}px system-ui, sans-serif`;
  ctx.textBaseline = "middle";
  ctx.textAlign = "left";
  const x = plot.bbox.left + plot.bbox.width + 8 * ratio;
  for (const { policy, at } of ends) {
    ctx.fillStyle = colourOf(policy);
    ctx.fillRect(x, at - 2 * ratio, 8 * ratio, 4 * ratio);
    ctx.fillStyle = cssColour("--ink");
    ctx.fillText(policy, x + 12 * ratio, at);
  }
  ctx.restore();
}

function drawHead(context: CanvasRenderingContext2D, { title, lines }: Drawing): void {
  context.fillStyle = cssColour("--ink");
  context.font = "600 15px system-ui, sans-serif";
  context.fillText(title, 12, 22);
  context.font = font;
  let x = 12;
  for (const { policy } of lines) {
    context.fillStyle = colourOf(policy);
    context.fillRect(x, 38, 14, 4);
    context.fillStyle = cssColour("--ink");
    context.fillText(policy, x + 18, 44);
    x += 30 + context.measureText(policy).width;
  }
}
