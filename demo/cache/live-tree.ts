/**
 * The live tree's panel: drawing, legend, what is under the pointer, and the same as a table. It is given trees; it asks no
 * engine for them.
 */
import { TIER_DISK, TIER_GPU, TIER_RAM, type CacheTree, type CacheTreeNode } from "../../src/index.ts";
import { button, el } from "../page/dom.ts";
import { numberText } from "../page/format.ts";
import { TreeCanvas } from "./canvas.ts";
import { PLACES, swatch } from "./paints.ts";
import { SampleTree } from "./sample-tree.ts";
import { counted, durationText } from "./words.ts";

/** Rows of the table at most. */
const MAX_TABLE_ROWS = 200;
const SAMPLE_BLOCKS = 10_000;
const SAMPLE_FOR_MS = 5000;
const SAMPLE_EVERY_MS = 400;

const NAMES = { gpu: "GPU", ram: "memory", disk: "disk" } as const;
const BITS = { gpu: TIER_GPU, ram: TIER_RAM, disk: TIER_DISK } as const;

export class LiveTree {
  readonly element: HTMLElement;
  private readonly canvas: TreeCanvas;
  private readonly said = el("p", { class: "note tree-said" });
  private readonly pointed = el("p", { class: "note tree-pointed" });
  private readonly measured = el("p", { class: "note", role: "status" });
  private readonly rows = el("tbody");
  private readonly table = el("details", { class: "tree-table" });
  private tree: CacheTree | undefined;
  private sampling: ReturnType<typeof setInterval> | undefined;

  constructor() {
    const drawing = el("canvas", {
      class: "tree-canvas",
      role: "img",
      "aria-label": "Nothing is computed yet",
    });
    this.canvas = new TreeCanvas(drawing);
    drawing.addEventListener("pointermove", (event) => this.point(event.offsetX, event.offsetY));
    drawing.addEventListener("pointerleave", () => (this.pointed.textContent = HINT));
    this.pointed.textContent = HINT;
    const sample = button(`Try it with ${numberText(SAMPLE_BLOCKS)} blocks`, () => this.sample());
    this.table.append(el("summary", {}, "The tree as a table"), this.tableBody());
    this.table.addEventListener("toggle", () => this.fillTable());
    this.element = el(
      "section",
      { class: "live-tree", "aria-label": "Prefix tree" },
      el("div", { class: "tree-head" }, el("h3", {}, "Cached prompts, by common beginnings"), legend()),
      drawing,
      this.pointed,
      this.said,
      this.table,
      el("div", { class: "actions" }, sample, this.measured),
    );
  }

  show(tree: CacheTree): void {
    this.tree = tree;
    if (this.sampling === undefined) this.draw(tree);
    this.fillTable();
  }

  private draw(tree: CacheTree): void {
    this.canvas.element.style.blockSize = `${heightFor(tree)}px`;
    this.canvas.show(tree);
    const words = summary(tree);
    if (this.said.textContent !== words) this.said.textContent = this.canvas.element.ariaLabel = words;
  }

  /** Draws a made-up tree for a while and says how long a frame took. */
  private sample(): void {
    if (this.sampling !== undefined) return;
    const made = new SampleTree(SAMPLE_BLOCKS);
    this.draw(made.tree());
    this.canvas.takeTimes();
    this.measured.textContent = "Drawing a made-up tree…";
    this.sampling = setInterval(() => this.draw(made.next()), SAMPLE_EVERY_MS);
    setTimeout(() => {
      clearInterval(this.sampling);
      this.sampling = undefined;
      const { frames, medianMs, slowestMs } = this.canvas.takeTimes();
      this.measured.textContent = `${counted(frames, "frame")} drawn, each in ${medianMs.toFixed(1)} ms (median), the slowest in ${slowestMs.toFixed(1)} ms.`;
      if (this.tree) this.draw(this.tree);
    }, SAMPLE_FOR_MS);
  }

  private point(x: number, y: number): void {
    const found = this.canvas.at(x, y);
    this.pointed.textContent = found ? nodeText(found.node) : HINT;
  }

  private tableBody(): HTMLElement {
    const names = [
      "From token",
      "To token",
      "Blocks",
      "On the GPU",
      "In memory",
      "On disk",
      "Snapshot",
      "Last used",
    ];
    const head = el("tr", {}, ...names.map((name) => el("th", { scope: "col" }, name)));
    const table = el("table", {}, el("thead", {}, head), this.rows);
    return el(
      "div",
      { class: "scroll tall", tabindex: 0, role: "region", "aria-label": "Tree as a table" },
      table,
    );
  }

  private fillTable(): void {
    if (!this.table.open || !this.tree) return;
    const nodes = this.tree.nodes.slice(0, MAX_TABLE_ROWS);
    this.rows.replaceChildren(...nodes.map(rowOf));
    if (this.tree.nodes.length > nodes.length)
      this.rows.append(
        el(
          "tr",
          {},
          el("td", { colspan: 8 }, `${numberText(this.tree.nodes.length - nodes.length)} more runs`),
        ),
      );
  }
}

const HINT = "Each row is a conversation, and each block a run of its tokens. Shared blocks are drawn once.";

function heightFor({ nodes }: CacheTree): number {
  const parents = new Set(nodes.map(({ parent }) => parent));
  const leaves = nodes.filter(({ id }) => !parents.has(id)).length;
  return Math.max(72, Math.min(420, leaves * 22 + 20));
}

function legend(): HTMLElement {
  const places = PLACES.map((place) => el("li", {}, swatch(place), NAMES[place]));
  const snapshot = el("li", {}, el("i", { class: "snapshot-mark", "aria-hidden": "true" }), "snapshot");
  const used = el("li", {}, el("i", { class: "used-mark", "aria-hidden": "true" }), "in use");
  return el("ul", { class: "legend", "aria-label": "Legend" }, ...places, snapshot, used);
}

const has = (tiers: Uint8Array, bit: number): number =>
  tiers.reduce((sum, bits) => sum + ((bits & bit) === 0 ? 0 : 1), 0);

function placesOf(bits: number): string {
  return PLACES.filter((place) => (bits & BITS[place]) !== 0)
    .map((place) => NAMES[place])
    .join(", ");
}

function nodeText({ start, end, tiers, snapshot, uses, pins, idleMs }: CacheTreeNode): string {
  const counts = PLACES.map((place) => ({ place, count: has(tiers, BITS[place]) })).filter(
    ({ count }) => count > 0,
  );
  const blocks = counts.map(({ place, count }) =>
    `${numberText(count)} on ${NAMES[place]}`.replace("on memory", "in memory"),
  );
  const parts = [
    `tokens ${numberText(start)} to ${numberText(end)}`,
    `${counted(tiers.length, "block")}${blocks.length > 0 ? ` (${blocks.join(", ")})` : ""}`,
    ...(snapshot ? [`a snapshot at its end (${placesOf(snapshot)})`] : []),
    ...(pins > 0 ? ["in use now"] : idleMs > 0 ? [`last used ${durationText(idleMs)} ago`] : []),
    ...(uses > 1 ? [`used ${counted(uses, "time")}`] : []),
  ];
  return `${parts.join(" · ")}.`.replace(/^t/, "T");
}

function rowOf({ start, end, tiers, snapshot, pins, idleMs }: CacheTreeNode): HTMLElement {
  const used = pins > 0 ? "now" : idleMs < 0 ? "–" : `${durationText(idleMs)} ago`;
  const counts = [tiers.length, has(tiers, TIER_GPU), has(tiers, TIER_RAM), has(tiers, TIER_DISK)].map(
    numberText,
  );
  const cells = [numberText(end), ...counts, snapshot ? placesOf(snapshot) : "–", used];
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, numberText(start)),
    ...cells.map((cell) => el("td", {}, cell)),
  );
}

function summary({ nodes, omittedBlocks, moreStored }: CacheTree): string {
  if (nodes.length === 0) return "Nothing is computed yet: ask something in the chat, and it appears here.";
  const parents = new Set(nodes.map(({ parent }) => parent));
  const ends = nodes.filter(({ id }) => !parents.has(id)).length;
  const children = new Map<number, number>();
  for (const { parent } of nodes) children.set(parent, (children.get(parent) ?? 0) + 1);
  const branches = [...children].filter(([id, count]) => id !== 0 && count > 1).length;
  const count = (bit: number): number => nodes.reduce((sum, { tiers }) => sum + has(tiers, bit), 0);
  const blocks = nodes.reduce((sum, { tiers }) => sum + tiers.length, 0);
  const snapshots = nodes.filter(({ snapshot }) => snapshot !== 0).length;
  const places = `${numberText(count(TIER_GPU))} on the GPU, ${numberText(count(TIER_RAM))} in memory, ${numberText(count(TIER_DISK))} on disk`;
  const more = omittedBlocks > 0 || moreStored ? "; not all of them are drawn" : "";
  const states = snapshots > 0 ? `, ${counted(snapshots, "snapshot")}` : "";
  return `${counted(ends, "sequence")} with ${numberText(branches)} ${branches === 1 ? "branch" : "branches"}: ${counted(blocks, "block")} (${places})${states}${more}.`;
}
