/**
 * The tree on a canvas: each run of tokens a bar of blocks, coloured and patterned by the fastest place that has them, with a
 * strip below where slower places have copies; snapshots as marks. Bars glide to where they belong, new ones appear, gone ones
 * fade; with reduced motion they are simply there. Where blocks are too narrow to tell apart they merge into bars, and rows
 * into lines. It draws only while something moves, and knows nothing of engines.
 */
import { TIER_DISK, TIER_GPU, TIER_RAM, type CacheTree } from "../../src/index.ts";
import { layoutOf, type Placed } from "./layout.ts";
import { paintsOf, type Paints } from "./paints.ts";

/** How quickly bars come to their places: what is left of the way after this time is 1/e. */
const GLIDE_MS = 140;
/** How long a bar that has changed is lit. */
const LIT_MS = 1200;
/** Blocks narrower than this merge; rows lower than this have no gaps and no marks. */
const MIN_BLOCK_PX = 4;
const MIN_ROW_PX = 5;
const MAX_ROW_PX = 22;
const PAD_PX = 10;

/** A bar where it is, and where it should be. */
interface Bar {
  placed: Placed;
  y: number;
  fromY: number;
  end: number;
  alpha: number;
  isGone: boolean;
  litUntilMs: number;
}

export interface FrameTimes {
  frames: number;
  medianMs: number;
  slowestMs: number;
}

export class TreeCanvas {
  readonly element: HTMLCanvasElement;
  private readonly context: CanvasRenderingContext2D;
  private readonly bars = new Map<number, Bar>();
  /** Taken from the style anew when that changes. */
  private paints: Paints | undefined;
  private rows = 1;
  private tokens = 1;
  private blockTokens = 32;
  private shownTokens = 1;
  private shownRows = 1;
  private frame: number | undefined;
  private beforeMs = 0;
  private readonly still = matchMedia("(prefers-reduced-motion: reduce)");
  private times: number[] = [];

  constructor(element: HTMLCanvasElement) {
    this.element = element;
    const context = element.getContext("2d");
    if (!context) throw new Error("this browser draws on no canvas");
    this.context = context;
    new ResizeObserver(() => this.ask()).observe(element);
    const repaint = (): void => {
      this.paints = undefined;
      this.ask();
    };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
    new MutationObserver(repaint).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  }

  /** Takes in the tree as it is now. */
  show(tree: CacheTree): void {
    const { placed, rows, tokens } = layoutOf(tree);
    const nowMs = performance.now();
    const isFirst = this.bars.size === 0;
    this.rows = Math.max(1, rows);
    this.tokens = Math.max(tree.blockTokens, tokens);
    this.blockTokens = tree.blockTokens;
    if (isFirst || this.still.matches) [this.shownRows, this.shownTokens] = [this.rows, this.tokens];
    for (const bar of this.bars.values()) bar.isGone = true;
    for (const one of placed) this.place(one, nowMs, isFirst);
    this.ask();
  }

  /** Draws when the next frame comes. */
  ask(): void {
    this.frame ??= requestAnimationFrame((nowMs) => this.draw(nowMs));
  }

  /** How long drawing took since the last question, without what the browser does after it. */
  takeTimes(): FrameTimes {
    const sorted = [...this.times].sort((a, b) => a - b);
    this.times = [];
    return {
      frames: sorted.length,
      medianMs: sorted[sorted.length >> 1] ?? 0,
      slowestMs: sorted.at(-1) ?? 0,
    };
  }

  /** The run at a place of the canvas, in CSS pixels. */
  at(x: number, y: number): Placed | undefined {
    const { rowPx, left, scale } = this.geometry();
    const row = Math.floor((y - PAD_PX) / rowPx);
    const token = (x - left) / scale;
    for (const { placed, isGone } of this.bars.values()) {
      if (isGone || placed.row !== row) continue;
      if (placed.node.start <= token && token < placed.node.end) return placed;
    }
    return undefined;
  }

  private place(placed: Placed, nowMs: number, isFirst: boolean): void {
    const { node, row, fromRow } = placed;
    const known = this.bars.get(node.id);
    if (!known) {
      const litUntilMs = isFirst ? 0 : nowMs + LIT_MS;
      const alpha = isFirst || this.still.matches ? 1 : 0;
      this.bars.set(node.id, {
        ...{
          placed,
          y: row,
          fromY: fromRow,
          end: isFirst ? node.end : node.start,
          alpha,
          isGone: false,
          litUntilMs,
        },
      });
      return;
    }
    if (hasChanged(known.placed, placed)) known.litUntilMs = nowMs + LIT_MS;
    known.placed = placed;
    known.isGone = false;
  }

  private geometry() {
    const { clientWidth: width, clientHeight: height } = this.element;
    const rowPx = Math.min(MAX_ROW_PX, (height - 2 * PAD_PX) / this.shownRows);
    return { width, height, rowPx, left: PAD_PX, scale: (width - 2 * PAD_PX) / this.shownTokens };
  }

  private draw(nowMs: number): void {
    this.frame = undefined;
    if (this.element.clientWidth === 0 || this.element.clientHeight === 0) return; // nobody sees it: its size tells when
    const began = performance.now();
    const paints = (this.paints ??= paintsOf(this.element, this.context));
    const moves = this.advance(nowMs);
    const { width, height, rowPx, left, scale } = this.geometry();
    if (width === 0 || height === 0) return; // not seen now; and a canvas without pixels makes no patterns
    const { context, element } = this;
    const ratio = devicePixelRatio;
    const [pixelWidth, pixelHeight] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (element.width !== pixelWidth) element.width = pixelWidth;
    if (element.height !== pixelHeight) element.height = pixelHeight;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.translate(left, PAD_PX);
    context.globalAlpha = rowPx < MIN_ROW_PX ? 0.35 : 1;
    this.drawLines(paints, rowPx, scale);
    for (const bar of this.bars.values()) this.drawBar(bar, paints, rowPx, scale, nowMs);
    context.globalAlpha = 1;
    for (const bar of this.bars.values()) this.drawSnapshot(bar, paints, rowPx, scale);
    context.globalAlpha = 1;
    this.times.push(performance.now() - began);
    if (this.times.length > 1000) this.times.shift();
    if (moves) this.ask();
    else this.beforeMs = 0;
  }

  /** Brings everything nearer to its place; whether something still moves. */
  private advance(nowMs: number): boolean {
    const sinceMs = this.beforeMs === 0 ? 16 : Math.min(64, nowMs - this.beforeMs);
    this.beforeMs = nowMs;
    const part = this.still.matches ? 1 : 1 - Math.exp(-sinceMs / GLIDE_MS);
    let moves = false;
    const near = (from: number, to: number, enough: number): number => {
      if (Math.abs(to - from) < enough) return to;
      if (part < 1) moves = true;
      return from + (to - from) * part;
    };
    this.shownRows = near(this.shownRows, this.rows, 0.01);
    this.shownTokens = near(this.shownTokens, this.tokens, 1);
    for (const [id, bar] of this.bars) {
      const { node, row, fromRow } = bar.placed;
      bar.y = near(bar.y, row, 0.01);
      bar.fromY = near(bar.fromY, fromRow, 0.01);
      bar.end = near(bar.end, node.end, 0.5);
      bar.alpha = near(bar.alpha, bar.isGone ? 0 : 1, 0.02);
      if (bar.isGone && bar.alpha === 0) this.bars.delete(id);
      if (!this.still.matches && bar.litUntilMs > nowMs) moves = true;
    }
    return moves;
  }

  /** From each parent's row to the rows that branch off it. */
  private drawLines(paints: Paints, rowPx: number, scale: number): void {
    const { context } = this;
    context.strokeStyle = paints.edge;
    context.lineWidth = 1;
    context.beginPath();
    for (const { placed, y, fromY } of this.bars.values()) {
      if (placed.row === placed.fromRow) continue;
      const x = placed.node.start * scale - 0.5;
      context.moveTo(x, (fromY + 0.5) * rowPx);
      context.lineTo(x, (y + 0.5) * rowPx);
      context.lineTo(x + 3, (y + 0.5) * rowPx);
    }
    context.stroke();
  }

  private drawBar(bar: Bar, paints: Paints, rowPx: number, scale: number, nowMs: number): void {
    const { context } = this;
    const { node } = bar.placed;
    const isLow = rowPx < MIN_ROW_PX;
    const top = bar.y * rowPx + (isLow ? 0 : 1.5);
    const tall = isLow ? Math.max(rowPx, 0.75) : rowPx - 3;
    context.globalAlpha = bar.alpha;
    const blockPx = this.blockTokens * scale;
    const firstBlock = Math.floor(node.start / this.blockTokens);
    // Tokens that fill no block here: they belong to a snapshot, or to a block that ends further on.
    if (!isLow || node.tiers.length === 0) {
      context.fillStyle = paints.begun;
      const thin = isLow ? tall : 3;
      const length = Math.max(1, (bar.end - node.start) * scale);
      context.fillRect(node.start * scale, top + (tall - thin) / 2, length, thin);
    }
    for (let from = 0; from < node.tiers.length;) {
      const bits = node.tiers[from] as number;
      let to = from + 1;
      if (blockPx < MIN_BLOCK_PX) while (to < node.tiers.length && node.tiers[to] === bits) to++;
      const start = Math.max(node.start, (firstBlock + from) * this.blockTokens) * scale;
      const end = Math.min(bar.end, (firstBlock + to) * this.blockTokens) * scale;
      const gap = blockPx < MIN_BLOCK_PX || isLow ? 0 : 1;
      if (end > start) this.fillBlocks(paints, bits, start, top, Math.max(0.75, end - start - gap), tall);
      from = to;
    }
    const lit = this.still.matches ? 0 : (bar.litUntilMs - nowMs) / LIT_MS;
    if (lit <= 0 && node.pins === 0) return;
    context.globalAlpha = bar.alpha * (node.pins > 0 ? 1 : lit);
    context.strokeStyle = node.pins > 0 ? paints.used : paints.ink;
    context.lineWidth = isLow ? 1 : 1.5;
    context.strokeRect(node.start * scale, top, Math.max(1, (bar.end - node.start) * scale - 1), tall);
  }

  private fillBlocks(
    paints: Paints,
    bits: number,
    x: number,
    y: number,
    width: number,
    height: number,
  ): void {
    const { context } = this;
    const fastest = (bits & TIER_GPU) !== 0 ? "gpu" : (bits & TIER_RAM) !== 0 ? "ram" : "disk";
    const isLow = height < 3;
    context.fillStyle = bits === 0 ? paints.begun : isLow ? paints.plain[fastest] : paints.patterned[fastest];
    context.fillRect(x, y, width, height);
    const copies = bits & ~(fastest === "gpu" ? TIER_GPU : fastest === "ram" ? TIER_RAM : TIER_DISK);
    if (copies === 0 || height < 8) return;
    const strip = Math.max(2, Math.round(height * 0.22));
    context.fillStyle = (copies & TIER_DISK) !== 0 ? paints.patterned.disk : paints.patterned.ram;
    context.fillRect(x, y + height - strip, width, strip);
    if ((copies & TIER_DISK) === 0 || (copies & TIER_RAM) === 0) return;
    context.fillStyle = paints.patterned.ram;
    context.fillRect(x, y + height - 2 * strip, width, strip);
  }

  /** A flag at the position of a recurrent state. */
  private drawSnapshot({ placed, y, end, alpha }: Bar, paints: Paints, rowPx: number, scale: number): void {
    const { node } = placed;
    if (node.snapshot === 0) return;
    const { context } = this;
    const x = end * scale;
    context.globalAlpha = alpha;
    context.fillStyle = paints.ink;
    if (rowPx < MIN_ROW_PX) {
      context.fillRect(x - 1, y * rowPx, 1.5, Math.max(1, rowPx));
      return;
    }
    const size = Math.min(6, rowPx / 3);
    const middle = (y + 0.5) * rowPx;
    context.beginPath();
    context.moveTo(x, middle - size);
    context.lineTo(x + size, middle);
    context.lineTo(x, middle + size);
    context.lineTo(x - size, middle);
    context.closePath();
    context.fill();
    context.fillStyle =
      (node.snapshot & TIER_GPU) !== 0
        ? paints.plain.gpu
        : (node.snapshot & TIER_RAM) !== 0
          ? paints.plain.ram
          : paints.plain.disk;
    const core = size / 2.5;
    context.fillRect(x - core, middle - core, 2 * core, 2 * core);
  }
}

function hasChanged({ node: a }: Placed, { node: b }: Placed): boolean {
  if (a.end !== b.end || a.snapshot !== b.snapshot || a.tiers.length !== b.tiers.length) return true;
  return a.tiers.some((bits, index) => bits !== b.tiers[index]);
}
